"""The reference's numbers as a run makes them: in chunks that stay, for itself and for others.

A folder holds chunks of some pairs each, named by what is in them, with NaN in the cells that were
not computed. Each is written whole or not at all, so any number of runs may read and write the same
folder; what several chunks know of a pair is put together.

Shapes: N pairs in a split, P in a chunk.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.recipe import UserError, fingerprint
from pipeline.core.storage import cache_dir
from training.data.pairs import PairReader
from training.data.reference_table import PART_ERRORS, read_part, write_part
from training.models.packing import Ints


def shared_folder(facts: dict[str, str]) -> Path:
    """Where all runs on this machine keep the numbers that depend on these facts and no more."""
    return cache_dir() / "reference" / fingerprint(facts)[:16]


class ReferenceChunks:
    """Reads and writes the chunks of some folders: the run's own, then, where there is one, that of
    all runs.

    Args:
        facts: What the numbers depend on besides a pair's tokens and images.
        say: Tells of a chunk that is broken.
    """

    def __init__(
        self, own: Path, shared: Path | None, facts: dict[str, str], say: Callable[[str], None]
    ) -> None:
        self._own, self._shared, self._facts, self._say = own, shared, facts, say

    def read(self, reader: PairReader) -> Tensor:
        """What is known of a split, [N, 3, 2], NaN where nothing is.

        What this run has used before comes first. Chunks that cannot be read are removed.
        """
        known_N6 = torch.full((len(reader), 6), torch.nan)
        pairs = defaultdict[str, list[int]](list)
        for pair, digest in enumerate(reader.digests):
            pairs[digest].append(pair)
        for path in self._paths():
            try:
                facts, digests, numbers_P6 = read_part(path)
            except PART_ERRORS as error:
                path.unlink(missing_ok=True)
                self._say(f"{path}: cannot be read ({error}); its pairs are computed again")
                continue
            rows = [(pair, row) for row, name in enumerate(digests) for pair in pairs.get(name, ())]
            if rows and facts == self._facts:
                at = torch.tensor(rows)
                there_P6, new_P6 = known_N6[at[:, 0]], torch.from_numpy(numbers_P6)[at[:, 1]]
                known_N6[at[:, 0]] = torch.where(there_P6.isnan(), new_P6, there_P6)
        return known_N6.view(-1, 3, 2)

    def write(self, reader: PairReader, pairs: Ints, logps_P32: Tensor) -> None:
        """Keeps the numbers of some pairs.

        Raises:
            UserError: The disk of the run's folder is full; the shared one is only good to have.
        """
        name = self._write_own(reader, pairs, logps_P32)
        if self._shared is None:
            return
        try:
            write_part(self._shared / name, reader, pairs, logps_P32, self._facts)
        except (OSError, UserError) as error:
            self._say(f"the reference is not kept for other runs: {error}")
            self._shared = None

    def keep(self, reader: PairReader, pairs: Ints, logps_P32: Tensor) -> None:
        """Makes one chunk of all that a run uses, in its own folder, in place of those there.

        So it goes on with these very numbers, whatever becomes of the shared ones.
        """
        before = set(self._own.glob("*.parquet"))
        name = self._write_own(reader, pairs, logps_P32)
        for path in before - {self._own / name}:
            path.unlink()

    def _write_own(self, reader: PairReader, pairs: Ints, logps_P32: Tensor) -> str:
        digests = [reader.digests[pair] for pair in pairs]
        content = f"{digests} {logps_P32.isnan().tolist()}"
        name = f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"
        write_part(self._own / name, reader, pairs, logps_P32, self._facts)
        return name

    def _paths(self) -> list[Path]:
        folders = [self._own, *([self._shared] if self._shared else [])]
        return [path for folder in folders for path in sorted(folder.glob("*.parquet"))]
