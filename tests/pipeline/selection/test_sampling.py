from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.selection.sampling import over_cap, seeded_hash, unsampled_exempt, validation_rows


def ids(num: int) -> np.ndarray:
    return np.array([f"{number:032x}" for number in range(num)], "S32")


def texts(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


def test_hashes_are_the_same_on_every_machine() -> None:
    # splitmix64 of 0 after its own increment, from the reference implementation: e220a8397b1dcdaf.
    # Then that, mixed with the key.
    def mixed(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    assert mixed(0) == 0xE220A8397B1DCDAF
    assert seeded_hash(np.array([0, 5, -1]), 0).tolist() == [
        mixed(mixed(0) ^ key) for key in (0, 5, 2**64 - 1)
    ]
    value = mixed(7)
    for word in (b"00000000", b"00000000", b"00000000", b"0000000a"):
        value = mixed(value ^ int.from_bytes(word, "little"))
    assert seeded_hash(ids(11)[10:], 7).tolist() == [value]


def test_hashes_spread_evenly_and_depend_on_the_seed() -> None:
    for keys in (ids(20_000), np.arange(20_000)):
        first, second = seeded_hash(keys, 0), seeded_hash(keys, 1)
        counts = np.bincount((first >> np.uint64(60)).astype(int), minlength=16)
        assert abs(counts - 1250).max() < 5 * np.sqrt(1250)
        assert abs(np.corrcoef(first.astype(float), second.astype(float))[0, 1]) < 0.03
        assert len(np.unique(first)) == 20_000


def test_a_cap_keeps_the_first_rows_of_each_name_in_hashed_order() -> None:
    names, order = texts("x", "x", "y", "x", "y"), np.array([30, 10, 5, 20, 4], np.uint64)
    every = np.ones(5, bool)
    assert over_cap(names, every, order, 1).tolist() == [True, False, True, True, False]
    assert over_cap(names, every, order, {"x": 2}).tolist() == [True, False, False, False, False]
    # A row that has left already takes nobody's place.
    assert over_cap(names, np.array([True, False, True, True, True]), order, 1).tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert not over_cap(names, np.zeros(5, bool), order, 1).any()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 3))
def test_caps_hold_exactly_and_a_lower_cap_keeps_a_part_of_a_higher_one(
    names: list[int], cap: int, seed: int
) -> None:
    group, order = np.array(names), seeded_hash(ids(len(names)), seed)
    every = np.ones(len(names), bool)
    over = over_cap(group, every, order, cap)
    assert Counter(group[~over].tolist()) == {
        name: min(number, cap) for name, number in Counter(names).items()
    }
    assert not (over_cap(group, every, order, cap + 1) & ~over).any()
    reverse = over_cap(group[::-1], every, order[::-1], cap)
    assert (reverse[::-1] == over).all()


def drawn(
    *,
    rule: str,
    flips: int,
    others: int,
    others_kept: int,
    objects: int,
    objects_kept: int,
    flips_left: int | None = None,
) -> int:
    """How many of the position flips stay beside other position pairs and object pairs."""
    category = np.repeat(texts("position", "position", "object"), (flips, others, objects))
    exempt = np.arange(len(category)) < flips
    stays = np.ones(len(category), bool)
    stays[flips + others_kept : flips + others] = False
    stays[flips + others + objects_kept :] = False
    stays[flips if flips_left is None else flips_left : flips] = False
    leaves = unsampled_exempt(category, exempt, stays, seeded_hash(ids(len(category)), 0), rule)  # type: ignore[arg-type]
    assert not (leaves & ~(exempt & stays)).any()
    return int((exempt & stays & ~leaves).sum())


def test_by_their_own_category_flips_stay_at_the_rate_of_its_judged_rows() -> None:
    # 10 of 40 others stay: so do 25 of 100 flips, whatever happens to objects.
    assert (
        drawn(rule="own_category", flips=100, others=40, others_kept=10, objects=10, objects_kept=9)
        == 25
    )
    # 3 of 4 others: round(0.75 * (2 + 4)) - 3 = round(4.5) - 3 = 1.
    assert (
        drawn(rule="own_category", flips=2, others=4, others_kept=3, objects=1, objects_kept=0) == 1
    )
    assert (
        drawn(rule="own_category", flips=100, others=40, others_kept=0, objects=10, objects_kept=10)
        == 0
    )
    # No other position pairs: at the rate of all judged rows, 6 of 10.
    assert (
        drawn(rule="own_category", flips=50, others=0, others_kept=0, objects=10, objects_kept=6)
        == 30
    )


def test_by_the_sources_categories_flips_fill_their_category_up_to_its_share() -> None:
    # Objects stay at 10 of 100; position had 60 candidates, so 6 are wanted, of which 4 others are
    # there.
    assert (
        drawn(
            rule="source_categories",
            flips=20,
            others=40,
            others_kept=4,
            objects=100,
            objects_kept=10,
        )
        == 2
    )
    assert (
        drawn(
            rule="source_categories",
            flips=20,
            others=40,
            others_kept=9,
            objects=100,
            objects_kept=10,
        )
        == 0
    )
    # 54 are wanted and 4 others there, but only 20 flips.
    assert (
        drawn(
            rule="source_categories", flips=20, others=40, others_kept=4, objects=10, objects_kept=9
        )
        == 20
    )
    # Flips that left before (their captions) count as candidates, but cannot be drawn.
    assert (
        drawn(
            rule="source_categories",
            flips=20,
            others=40,
            others_kept=0,
            objects=10,
            objects_kept=9,
            flips_left=5,
        )
        == 5
    )
    # No category without flips: at the rate of all judged rows, 1 of 4; 16 candidates, 4 wanted, 2
    # others there.
    assert (
        drawn(rule="source_categories", flips=8, others=8, others_kept=2, objects=0, objects_kept=0)
        == 2
    )


@pytest.mark.parametrize("rule", ["own_category", "source_categories"])
def test_where_nothing_is_judged_every_exempt_row_stays(rule: str) -> None:
    assert drawn(rule=rule, flips=7, others=0, others_kept=0, objects=0, objects_kept=0) == 7


def test_the_papers_own_counts_do_not_fit_the_share_of_a_category_among_sources() -> None:
    """Table 2: 70,153 object, attribute and count candidates became 8,108 pairs; 58,266 position
    candidates became 3,041.
    """
    wanted = drawn(
        rule="source_categories",
        flips=20_000,
        others=38_266,
        others_kept=0,
        objects=70_153,
        objects_kept=8_108,
    )
    assert wanted == 6_734
    kept = round(3_041 / 58_266 * 38_266)
    assert (
        drawn(
            rule="own_category",
            flips=20_000,
            others=38_266,
            others_kept=kept,
            objects=70_153,
            objects_kept=8_108,
        )
        + kept
        == 3_041
    )


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=80),
    st.one_of(st.floats(0.0, 0.6), st.integers(0, 40)),
    st.integers(0, 5),
)
def test_validation_holds_whole_groups_and_leaves_train_something(
    groups: list[int], wanted: float, seed: int
) -> None:
    group = np.array(groups)
    size = {"num_pairs": wanted} if isinstance(wanted, int) else {"fraction": wanted}
    rows = validation_rows(group, **size, seed=seed)  # type: ignore[arg-type]
    held_out, sizes = set(group[rows].tolist()), Counter(groups)
    assert held_out.isdisjoint(group[~rows].tolist())
    assert held_out != set(groups)
    assert bool(held_out) == (wanted > 0 and len(sizes) > 1)
    target = wanted if isinstance(wanted, int) else wanted * len(groups)
    left = [number for name, number in sizes.items() if name not in held_out]
    if held_out and len(left) > 1:
        # Taking the smallest group that is left would not bring it nearer; too many only where that
        # was nearer, or the first.
        assert abs(target - rows.sum()) <= abs(target - rows.sum() - min(left))
        assert rows.sum() <= max(target + max(sizes.values()) / 2, min(sizes.values()))


@pytest.mark.parametrize("seed", range(12))
def test_a_group_that_is_too_large_is_passed_over(seed: int) -> None:
    group = np.array([0] * 95 + [1, 2, 3, 4, 5])
    assert validation_rows(group, fraction=0.05, seed=seed).tolist() == [False] * 95 + [True] * 5


@pytest.mark.parametrize("seed", range(5))
def test_a_number_of_pairs_is_met_exactly_where_small_groups_can_fill_it(seed: int) -> None:
    sizes = np.random.default_rng(seed).geometric(0.3, 3000)
    group = np.repeat(np.arange(3000) * 7919, sizes)
    assert validation_rows(group, num_pairs=240, seed=seed).sum() == 240
    # Pairs of two: the nearest even number below.
    assert validation_rows(np.repeat(np.arange(500), 2), num_pairs=241, seed=seed).sum() == 240
    # Nothing but one group may stay behind.
    assert validation_rows(np.arange(10), num_pairs=50, seed=seed).sum() == 9


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    group = np.arange(400) % 40
    rows = validation_rows(group, fraction=0.1, seed=0)
    shuffled = np.random.default_rng(0).permutation(400)
    assert (validation_rows(group[shuffled], fraction=0.1, seed=0) == rows[shuffled]).all()
    assert rows.sum() == 40
    assert (validation_rows(group, fraction=0.1, seed=1) != rows).any()
    assert validation_rows(group[:0], fraction=0.1, seed=0).tolist() == []
