#!/usr/bin/env python3
"""How often intervals hold the truth, and how often a difference is claimed where there is none.

Data sets are drawn whose truth is known: groups (people, scenes) differ in how often a model is
right on their pairs, and two models that are equally good on the whole are not so in each group,
where either gains what it loses elsewhere. Scores and differences go through the code that `svco
eval` and `svco compare` use. Prints the table of docs/evaluation.md:

    python bench/coverage.py               # 10,000 data sets a cell
    python bench/coverage.py --sets 500
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.stats.significance import sign_flip_p
from pipeline.core.intervals import SHARE, SHARE_DIFFERENCE, FloatArray, ratio_estimate

NUM_GROUPS = (6, 8, 10, 20, 50, 100)
LEVEL = 0.95
GAIN = 0.15  # spread of what a model gains in a group, as a share of the room that there is


@dataclass(frozen=True, slots=True)
class World:
    """A kind of data set.

    alike: The correlation of two pairs of one group; people whom a model reads well or badly.
    is_even: All groups have `num_pairs` pairs; else that many on average, some one, some many.
    """

    num_pairs: int
    right: float
    alike: float = 0.1
    is_even: bool = True

    def title(self) -> str:
        """As the table names it."""
        sizes = "" if self.is_even else ", uneven"
        return f"{self.num_pairs}{sizes} | {self.right:g} | {self.alike:g}"


# Shapes: S data sets; G groups.
WORLDS = tuple(
    World(num_pairs, right, alike, is_even)
    for alike, is_even in ((0.1, True), (0.3, True), (0.1, False))
    for right in (0.5, 0.9)
    for num_pairs in (4, 30)
)


def drawn(
    world: World, num_groups: int, num_sets: int, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Right answers of two models, and pairs, by data set and group, [S, G] each."""
    shape = (num_sets, num_groups)
    sizes_SG = (
        np.full(shape, world.num_pairs)
        if world.is_even
        else generator.geometric(1.0 / world.num_pairs, shape)
    )
    strength = 1.0 / world.alike - 1.0
    rate_SG = generator.beta(world.right * strength, (1.0 - world.right) * strength, shape)
    room_SG = np.minimum(rate_SG, 1.0 - rate_SG)
    gain_SG = room_SG * np.clip(generator.normal(0.0, 2.0 * GAIN, shape), -1.0, 1.0)
    # half of the pairs are right or wrong for both models alike, the others for each apart
    shared_SG = generator.binomial(sizes_SG, 0.5)
    same_SG = generator.binomial(shared_SG, rate_SG)
    one_SG, other_SG = (
        same_SG + generator.binomial(sizes_SG - shared_SG, rate_SG + sign * gain_SG)
        for sign in (1.0, -1.0)
    )
    return one_SG.astype(float), other_SG.astype(float), sizes_SG.astype(float)


def cell(world: World, num_groups: int, num_sets: int) -> str:
    """Coverage of scores and of differences, and false claims, in percent."""
    generator = np.random.default_rng([num_groups, world.num_pairs, int(100 * world.right)])
    one_SG, other_SG, sizes_SG = drawn(world, num_groups, num_sets, generator)
    held, held_apart = 0, 0
    for one_G, other_G, sizes_G in zip(one_SG, other_SG, sizes_SG, strict=True):
        one, other = ratio_estimate(one_G, sizes_G), ratio_estimate(other_G, sizes_G)
        assert one is not None and other is not None
        low, high = one.interval(LEVEL, SHARE) or SHARE
        held += low <= world.right <= high
        low, high = one.minus(other).interval(LEVEL, SHARE_DIFFERENCE) or SHARE_DIFFERENCE
        held_apart += low <= 0.0 <= high
    total_S = sizes_SG.sum(axis=1, keepdims=True)
    false = float((sign_flip_p(((one_SG - other_SG) / total_S).T) <= 1.0 - LEVEL).mean())
    return f"{100 * held / num_sets:.1f} / {100 * held_apart / num_sets:.1f} / {100 * false:.1f}"


def main() -> None:
    """Prints the table and how long it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", type=int, default=10_000, help="data sets a cell")
    options = parser.parse_args()
    started_s = time.monotonic()
    print(f"| pairs a group | right | alike | {' | '.join(map(str, NUM_GROUPS))} |")
    print("|" + "---|" * (3 + len(NUM_GROUPS)))
    for world in WORLDS:
        cells = [cell(world, num_groups, options.sets) for num_groups in NUM_GROUPS]
        print(f"| {world.title()} | {' | '.join(cells)} |", flush=True)
    print(f"\n{options.sets:,} data sets a cell, {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
