"""What the frozen vision tower sees in each image, kept for every run on the same data.

It lies beside a reference table.

`<folder>/features-<split>-00000.parquet`, ... have a row, in a row group of its own, for each
distinct image: the sha256 of its bytes, how many features it has, and their values as they lie in
memory. Nothing is rounded: features that are read are those that were made, bit by bit. The
metadata of each file say what made them.

Shapes: I images, N features of an image, V their width.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.core.recipe import UserError
from pipeline.core.storage import read_json, write_atomically
from training.data.pairs import PairReader
from training.data.reference_table import different_facts
from training.models.packing import Ints
from training.run_plan import REFERENCE_DONE, feature_parts

FACTS = b"svco_features"
SCHEMA = pa.schema(
    [("image_sha256", pa.string()), ("num_features", pa.int64()), ("features", pa.large_binary())]
)
REMEDY = "make it anew with `svco reference store_features=true`"


def write_features(
    path: Path, chunks: Iterable[tuple[Sequence[str], Sequence[Tensor]]], facts: dict[str, str]
) -> None:
    """Writes the hashes of some images and their features, [N, V] each, chunk by chunk.

    The file is whole or not there.
    """

    def write(file: object) -> None:
        schema = SCHEMA.with_metadata({FACTS: json.dumps(facts)})
        # Floats hardly compress, and a row group per image lets any of them be read alone.
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(file, schema, **options) as writer:
            for hashes, features in chunks:
                values = [
                    image_NV.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                    for image_NV in features
                ]
                writer.write_table(
                    pa.table([hashes, list(map(len, features)), values], schema=schema),
                    row_group_size=1,
                )

    write_atomically(path, write)


def stored_features(
    folder: Path, reader: PairReader, facts: dict[str, str]
) -> "FeatureStore | None":
    """The features in a reference table's folder; None if it was made without.

    Raises:
        UserError: They are of another model, processing or type, or do not hold all
            images of the split.
    """
    made = read_json(folder / REFERENCE_DONE) if (folder / REFERENCE_DONE).is_file() else {}
    return FeatureStore(folder, reader, facts) if made.get("has_features") else None


class FeatureStore:
    """Reads the features of a split's images.

    Raises:
        UserError: They are of another model, processing or type, or do not hold all
            images of the split.
    """

    def __init__(self, folder: Path, reader: PairReader, facts: dict[str, str]) -> None:
        self._folder, self._dtype = folder, getattr(torch, facts["features_dtype"])
        places: dict[str, tuple[Path, int]] = {}
        for path in feature_parts(folder, reader.split):
            places |= {name: (path, row) for row, name in enumerate(self._hashes(path, facts))}
        missing = [number for number, name in enumerate(reader.image_hashes) if name not in places]
        if missing:
            raise UserError(
                f"reference={folder}: the features of {len(missing)} of {reader.num_images} images"
                f" of {reader.split!r} are not in it (first that of"
                f" {reader.image_name(missing[0])}); {REMEDY}"
            )
        self._places = [places[name] for name in reader.image_hashes]

    def _hashes(self, path: Path, facts: dict[str, str]) -> list[str]:
        """The images of a file, in order."""
        with self._reading(path), pq.ParquetFile(path) as file:
            made = json.loads((file.schema_arrow.metadata or {}).get(FACTS, b"{}"))
            differences = different_facts(facts, made)
            if differences:
                raise UserError(
                    f"reference={self._folder}: {path.name} was made from something else"
                    f" ({differences}); {REMEDY}"
                )
            return list(file.read(columns=["image_sha256"])["image_sha256"].to_pylist())

    def read(self, images: Sequence[int] | Ints) -> list[Tensor]:
        """The features of some images by their numbers, [N, V] each.

        Raises:
            UserError: A file cannot be read any more.
        """
        features: dict[tuple[Path, int], Tensor] = {}
        places = [self._places[number] for number in images]
        for path in dict.fromkeys(path for path, _ in places):
            rows = [row for at, row in places if at == path]
            with self._reading(path), pq.ParquetFile(path) as file:
                for row in rows:  # each is a row group of its own
                    group = file.read_row_group(row, columns=["num_features", "features"])
                    values = np.frombuffer(group["features"][0].as_buffer(), np.uint8).copy()
                    features[path, row] = (
                        torch.from_numpy(values)
                        .view(self._dtype)
                        .view(group["num_features"][0].as_py(), -1)
                    )
        return [features[place] for place in places]

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"reference={self._folder}: {path.name} cannot be read ({error}); {REMEDY}"
            ) from error
