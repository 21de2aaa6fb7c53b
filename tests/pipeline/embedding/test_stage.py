"""The embed stage on small real encoders: what is made, what is taken over, and that both are the
same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import NormalizeSection
from pipeline.core.storage import Stage, open_stage, read_table
from pipeline.embedding.pixels import PixelsEncoder
from pipeline.embedding.stage import embed_chunk, embed_images
from pipeline.sources.scenes.source import ScenesSection
from pipeline.stages.ingest import ingest_chunk, plan_chunks
from pipeline.storage.image_store import owned_images, write_index


class MeanColor:
    """A tiny encoder of pictures and texts that keeps count of its work."""

    batch_images = 4

    def __init__(self, name: str) -> None:
        self.name, self.batches, self.pictures, self.texts = name, [], [], []

    def prepare(self, image: Image.Image) -> Any:
        self.pictures.append(id(image))
        return np.asarray(image, np.float32).mean(axis=(0, 1))

    def encode_images(self, prepared: Sequence[Any]) -> Any:
        self.batches.append(len(prepared))
        return np.stack(prepared)

    def encode_texts(self, texts: Sequence[str]) -> Any:
        self.texts.extend(texts)
        return np.array([[len(text), text.count("e"), 1] for text in texts], np.float32)


class Counted:
    """Stands in for `Encoders`: which ones there are, and which were opened."""

    def __init__(self, **fingerprints: str) -> None:
        self.fingerprints, self.opened = fingerprints, {}

    def open(self, name: str) -> Any:
        return self.opened.setdefault(name, MeanColor(name))

    @property
    def num_images(self) -> int:
        return sum(len(encoder.pictures) for encoder in self.opened.values())

    @property
    def num_texts(self) -> int:
        return sum(len(encoder.texts) for encoder in self.opened.values())


def _embed(
    work: Path, label: str, encoders: Counted, num_pairs: int = 12, chunk_pairs: int = 5
) -> dict[tuple[str, str], Any]:
    """Runs both stages in folders called `label`; returns every vector by (encoder, content id)."""
    source = ScenesSection(kind="scenes", num_pairs=num_pairs, seed=3)
    ingest, stage = open_stage(work, "ingest", label), open_stage(work, "embed", label)
    chunks = plan_chunks([num_pairs], chunk_pairs)
    for chunk in chunks:
        ingest_chunk(ingest, source, NormalizeSection(), chunk)
    write_index(ingest, len(chunks))
    found = {}
    for chunk in chunks:
        embed_chunk(ingest, stage, encoders, chunk.index)
        found |= _vectors(stage, chunk.index)
    return found


def _vectors(stage: Stage, index: int) -> dict[tuple[str, str], Any]:
    found = {}
    for kind in ("images", "texts"):
        table = read_table(stage.part(kind, index))
        for name in table.column_names[1:]:
            found |= {
                (name, key): tuple(row)
                for key, row in zip(
                    table["sha256"].to_pylist(), table[name].to_pylist(), strict=True
                )
            }
    return found


@pytest.mark.slow
def test_an_image_is_embedded_once_also_when_a_source_grows_and_chunks_change(
    tmp_path: Path,
) -> None:
    first = Counted(clip="c1", pixels="p1")
    before = _embed(tmp_path / "work", "one", first)
    assert first.num_images == 2 * 24
    second = Counted(clip="c1", pixels="p1")
    after = _embed(tmp_path / "work", "two", second, num_pairs=20, chunk_pairs=3)
    assert second.num_images == 2 * 16
    assert second.num_texts > 0 and not set(second.opened["clip"].texts) & set(
        first.opened["clip"].texts
    )
    assert after == _embed(
        tmp_path / "elsewhere", "two", Counted(clip="c1", pixels="p1"), num_pairs=20, chunk_pairs=3
    )
    assert before.items() <= after.items()


@pytest.mark.slow
def test_switching_an_encoder_on_opens_no_other(tmp_path: Path) -> None:
    _embed(tmp_path, "one", Counted(pixels="p1"))
    both = Counted(pixels="p1", clip="c1")
    _embed(tmp_path, "two", both)
    assert set(both.opened) == {"clip"} and both.num_images == 24
    again = Counted(pixels="p1", clip="c1")
    _embed(tmp_path, "three", again, chunk_pairs=12)
    assert not again.opened


def test_another_fingerprint_is_another_encoder(tmp_path: Path) -> None:
    _embed(tmp_path, "one", Counted(clip="c1"))
    other = Counted(clip="c2")
    _embed(tmp_path, "two", other)
    assert other.num_images == 24 and other.num_texts


@pytest.mark.slow
def test_a_part_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    whole = _embed(tmp_path, "one", Counted(clip="c1"), num_pairs=16, chunk_pairs=4)
    stage = open_stage(tmp_path, "embed", "one")
    stage.part("images", 0).write_bytes(stage.part("images", 0).read_bytes()[:-100])
    stage.part("images", 1).write_bytes(b"")
    stage.part("images", 2).write_text("no Parquet")
    stage.part("texts", 0).unlink()
    again = Counted(clip="c1")
    assert _embed(tmp_path, "two", again, num_pairs=16, chunk_pairs=4) == whole
    assert again.num_images == 3 * 8
    assert again.num_texts < 32


@pytest.mark.parametrize("column", ["sha256", "clip"])
def test_a_flipped_bit_is_noticed_and_the_part_made_again(column: str, tmp_path: Path) -> None:
    whole = _embed(tmp_path, "one", Counted(clip="c1"), num_pairs=4)
    part = open_stage(tmp_path, "embed", "one").part("images", 0)
    group = pq.ParquetFile(part).metadata.row_group(0)
    place = next(
        group.column(i)
        for i in range(group.num_columns)
        if group.column(i).path_in_schema.split(".")[0] == column
    )
    data = bytearray(part.read_bytes())
    data[
        (place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size - 5
    ] ^= 1
    part.write_bytes(data)
    again = Counted(clip="c1")
    assert _embed(tmp_path, "two", again, num_pairs=4) == whole
    assert again.num_images == 8


def test_one_decode_feeds_all_encoders_in_batches_of_their_own_size(tmp_path: Path) -> None:
    _embed(tmp_path, "one", Counted(clip="c1"))
    images = owned_images(open_stage(tmp_path, "ingest", "one"), 0)
    left, right = MeanColor("left"), MeanColor("right")
    right.batch_images = 3
    found = embed_images(
        images["bytes"],
        {"left": left, "right": right},
        {"left": list(range(10)), "right": [2, 5, 6, 9]},
        num_threads=1,
    )
    assert left.batches == [4, 4, 2] and right.batches == [3, 1]
    assert set(right.pictures) <= set(left.pictures)
    assert np.array_equal(found["left"][[2, 5, 6, 9]], found["right"])


def test_threads_keep_the_order_and_never_run_far_ahead(tmp_path: Path) -> None:
    _embed(tmp_path, "one", Counted(clip="c1"), num_pairs=20, chunk_pairs=20)
    images = owned_images(open_stage(tmp_path, "ingest", "one"), 0)

    class Watched(MeanColor):
        def encode_images(self, prepared: Sequence[Any]) -> Any:
            # While a batch is encoded, at most one more is prepared, and what each thread has
            # begun.
            assert len(self.pictures) <= sum(self.batches) + 2 * self.batch_images + 2
            return super().encode_images(prepared)

    one, many = PixelsEncoder(), Watched("many")
    # the larger batch says how far ahead pictures are prepared
    one.batch_images = many.batch_images
    places = list(range(40))
    found = embed_images(
        images["bytes"], {"one": one, "many": many}, {"one": places, "many": places}, num_threads=2
    )
    alone = [
        embed_images(images["bytes"], {"one": one}, {"one": [place]}, num_threads=1)["one"][0]
        for place in places[::7]
    ]
    assert np.array_equal(found["one"][::7], np.stack(alone))
