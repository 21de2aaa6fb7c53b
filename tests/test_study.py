"""The study's pure parts: who is held out, which runs there are, which setting wins, what an
interval is.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studies.objectives.plan import (
    OBJECTIVES,
    QUESTIONS,
    SEEDS,
    ablation_runs,
    choose,
    chosen_settings,
    rows_of,
    settings,
    tune_runs,
)
from studies.objectives.plan import test_runs as runs_of_test
from studies.objectives.report import fill, main_table
from studies.objectives.rows import append_row, missing, read_rows, split_stale
from studies.objectives.run import Run, Setting
from studies.objectives.stats import Pairs, difference, estimate, relative_fall, shared_seeds
from studies.objectives.worlds import either_way, hands_parts, scenes_world, sign_category
from training.config import ObjectiveSection

WORLDS = {"scenes": {"fingerprint": "f" * 16}}
COUNTING = [
    f"A hand holding up {number}." for number in ("one finger", "two fingers", "three fingers")
]
OTHER = [
    f"A hand with the thumb touching the {finger} finger." for finger in ("ring", "middle", "index")
]


def hands_rows(num_people: int) -> list[dict[str, Any]]:
    signs = [*COUNTING, *OTHER]
    pairs = [(a, b) for a in range(6) for b in range(a + 1, 6)]
    return [
        {
            "id": f"{person}-{a}-{b}",
            "group": f"person {person}",
            "caption_a": signs[a],
            "caption_b": signs[b],
        }
        for person in range(num_people)
        for a, b in pairs
    ]


def test_no_person_is_in_two_of_train_valid_and_test() -> None:
    parts = hands_parts(hands_rows(20))
    people = {part: {row["group"] for row in rows} for part, rows in parts.items()}
    assert [len(people[part]) for part in ("pretrain", "valid", "test")] == [14, 2, 4]
    assert len(parts["all"]) == 14 * 15
    assert not (
        people["pretrain"] & people["test"]
        or people["pretrain"] & people["valid"]
        or people["valid"] & people["test"]
    )
    assert {row["category"] for row in parts["transfer"]} == {"count"}
    assert len(parts["test"]) == 4 * (3 + 3)


def test_each_sign_is_trained_on_as_either_side_and_nothing_else_changes() -> None:
    rows = {row["id"]: row for row in hands_rows(40)}
    trained = hands_parts([*rows.values()])["transfer"]
    sides = {side: [row[f"caption_{side}"] for row in trained].count(COUNTING[0]) for side in "ab"}
    assert 0.3 < sides["a"] / (sides["a"] + sides["b"]) < 0.7  # the manifest has it on side a alone
    for row in trained:
        whole = rows[row["id"]]
        assert {row["caption_a"], row["caption_b"]} == {whole["caption_a"], whole["caption_b"]}
        assert row["group"] == whole["group"]
    turned = either_way(
        {"id": "x", "image_a": "1", "image_b": "2", "caption_a": "one", "caption_b": "two"}
    )
    # image and text go together
    assert (turned["image_a"], turned["caption_a"]) in (("1", "one"), ("2", "two"))


@pytest.mark.parametrize(
    ("pair", "expected"), [((0, 1), "count"), ((3, 4), "attribute"), ((0, 3), "other")]
)
def test_a_pair_of_signs_is_named_by_how_many_of_them_count(
    pair: tuple[int, int], expected: str
) -> None:
    signs = [*COUNTING, *OTHER]
    assert sign_category(signs[pair[0]], signs[pair[1]]) == expected


def test_scenes_train_on_what_is_seen_and_are_measured_on_what_is_held_out(tmp_path: Path) -> None:
    recipes = {
        part: recipe(tmp_path)["sources"][0]
        for part, recipe in scenes_world().recipes.items()
        if part != "filtered"
    }
    assert all(
        recipes[part]["combinations"] == recipes[part]["phrasings"] == "seen"
        for part in ("all", "transfer", "valid")
    )
    assert recipes["test"]["combinations"] == recipes["test"]["phrasings"] == "held_out"
    assert len({recipes[part]["seed"] for part in ("pretrain", "all", "valid", "test")}) == 4
    assert recipes["transfer"]["mix"]["position"] == 0 < recipes["test"]["mix"]["position"]


def test_every_objective_has_the_same_budget_of_four_settings() -> None:
    assert [len(settings(name)) for name in OBJECTIVES] == [4] * 8
    for run in tune_runs("scenes", [*OBJECTIVES, "svco+sft"]):
        assert run.setting is not None
        ObjectiveSection.model_validate(run.setting.objective())


def test_keys_of_all_runs_differ() -> None:
    of_all = {name: settings(name)[0] for name in OBJECTIVES}
    # of which the last are the same runs
    chosen = {"all": of_all, "transfer": of_all, "transfer at the settings of all": of_all}
    runs = [
        *tune_runs("scenes", OBJECTIVES),
        *runs_of_test("scenes", chosen),
        *ablation_runs(of_all["svco"]),
    ]
    assert len({run.key for run in runs}) == len(runs)
    assert len(runs_of_test("scenes", chosen)) == 8 * 2 * len(SEEDS)


def a_row(
    name: str,
    *,
    lr: float = 1e-4,
    said: float = 0.5,
    group: float = 0.5,
    own: float = -1.0,
    **more: Any,
) -> dict[str, Any]:
    measures = {"all": {"hallucination": said, "group_score": group, "own_nats_per_token": own}}
    setting = (
        None if name == "base" else {"name": name, "lr": lr, "beta": 0.1, "zero": [], "plus": {}}
    )
    return {
        "key": f"{name}{lr}",
        "world": "scenes",
        "stage": "tune",
        "train": "all",
        "objective": name,
        "setting": setting,
        "measures": measures,
        **more,
    }


def test_the_setting_with_fewest_hallucinations_wins_among_those_that_keep_ability() -> None:
    base = a_row("base")
    forgets, keeps = (
        a_row("svco", lr=1.0, said=0.1, own=-1.2),
        a_row("svco", lr=2.0, said=0.2, own=-1.05),
    )
    assert choose([forgets, keeps, a_row("svco", lr=3.0, said=0.2, group=0.4)], base) == (
        keeps,
        True,
    )
    assert choose([forgets], base) == (forgets, False)
    with pytest.raises(ValueError, match="got none"):
        choose([], base)


def test_nothing_is_chosen_before_all_four_settings_have_been_tried() -> None:
    base = {**a_row("base"), "stage": "base", "measured": "valid"}
    tried = [a_row("svco", lr=lr) for lr in (1e-4, 2e-4, 3e-4)]
    assert chosen_settings([base, *tried], "scenes", ["svco"]) == {}
    assert (
        chosen_settings([base, *tried, a_row("svco", lr=4e-4, said=0.1)], "scenes", ["svco"])[
            "svco"
        ][0].lr
        == 4e-4
    )


def test_transfer_takes_the_setting_that_wins_on_the_kinds_of_the_source() -> None:
    def tried(lr: float, everywhere: float, at_source: float) -> dict[str, Any]:
        row = a_row("svco", lr=lr, said=everywhere)
        return {
            **row,
            "measures": {
                **row["measures"],
                "source": {**row["measures"]["all"], "hallucination": at_source},
            },
        }

    base = {**a_row("base"), "stage": "base", "measured": "valid"}
    base["measures"]["source"] = base["measures"]["all"]
    rows = [
        base,
        tried(1e-4, 0.1, 0.5),
        tried(2e-4, 0.2, 0.3),
        tried(3e-4, 0.3, 0.4),
        tried(4e-4, 0.4, 0.6),
    ]
    lrs = {
        name: chosen_settings(rows, "scenes", ["svco"], of.chosen_on)["svco"][0].lr
        for name, of in QUESTIONS.items()
    }
    assert lrs == {"all": 1e-4, "transfer": 2e-4, "transfer at the settings of all": 1e-4}
    tested = [
        {**a_row("svco", lr=lr), "stage": "test", "train": train}
        for lr in (1e-4, 2e-4)
        for train in ("all", "transfer")
    ]
    for name, question in QUESTIONS.items():
        found = rows_of([*rows, *tested], "scenes", question)["svco"]
        assert [(row["train"], row["setting"]["lr"]) for row in found] == [
            (question.train, lrs[name])
        ]


def test_a_row_is_found_again_and_one_of_other_settings_is_stale(tmp_path: Path) -> None:
    path, run = (
        tmp_path / "rows.jsonl",
        Run(
            world="scenes",
            stage="test",
            train="all",
            measured="test",
            objective="sft",
            setting=settings("sft")[0],
        ),
    )
    said = json.loads(
        json.dumps(
            {
                "world": "scenes",
                "stage": "test",
                "train": "all",
                "measured": "test",
                "objective": "sft",
                "seed": 0,
                "steps": run.steps,
            }
        )
    )
    row = {
        "key": run.key,
        "fingerprint": run.fingerprint("f" * 16),
        "setting": {"name": "sft", "lr": 2e-4, "beta": 0.1, "zero": [], "plus": {}},
        **said,
    }
    path.write_text('{"key": "cut o')  # what a kill leaves
    append_row(path, row)
    assert read_rows(path) == [row]
    assert missing([run, replace(run, seed=1)], read_rows(path), WORLDS) == [replace(run, seed=1)]
    assert split_stale([row], WORLDS) == ([row], [])
    assert split_stale([row], {"scenes": {"fingerprint": "other"}}) == ([], [run.key])


def test_terms_are_removed_by_a_beta_of_zero() -> None:
    said = Setting(
        name="svco", lr=1e-4, beta=0.3, zero=("beta_reject_a", "beta_reject_b")
    ).objective()
    assert (said["beta_attend_a"], said["beta_reject_a"]) == (0.3, 0.0)


PAIRS = Pairs(["p", "p", "q"], ["count", "count", "other"], "mhnnmh")


def with_outcomes(seed: int, said: str) -> dict[str, Any]:
    return {
        "key": str(seed),
        "seed": seed,
        "outcomes": {"said": said, "right": "110111", "image": "111111", "nll": "100 200 300"},
    }


def test_measures_by_hand() -> None:
    row = with_outcomes(0, "01-000")  # one false answer and one that says nothing, of six
    assert estimate([row], PAIRS, "not_right").value == pytest.approx(2 / 6)
    assert estimate([row], PAIRS, "not_right", ["count"]).value == pytest.approx(2 / 4)
    assert (
        estimate([row], PAIRS, "false").value,
        estimate([row], PAIRS, "silent").value,
    ) == pytest.approx((1 / 6, 1 / 6))
    assert estimate([row], PAIRS, "text_score").value == pytest.approx(2 / 3)
    assert estimate([row], PAIRS, "misled").value == 1.0
    assert estimate([row], PAIRS, "neutral").value == pytest.approx(1 / 2)
    assert estimate([row], PAIRS, "nll").value == pytest.approx(2.0)


def test_what_is_shared_by_base_and_model_cancels_in_their_difference() -> None:
    one, other = (
        estimate([with_outcomes(0, "010001"), with_outcomes(1, "010001")], PAIRS, "not_right")
        for _ in range(2)
    )
    assert one.low < one.value < one.high
    nothing = difference(one, other)
    assert nothing.value == nothing.standard_error == 0.0 and nothing.p == 1.0
    assert relative_fall(one, other).value == 0.0


def test_only_seeds_that_all_have_are_compared() -> None:
    rows = {
        "sft": [with_outcomes(seed, "00" * 3) for seed in (0, 1, 2)],
        "svco": [with_outcomes(seed, "00" * 3) for seed in (1, 2)],
    }
    assert {name: [row["seed"] for row in of] for name, of in shared_seeds(rows).items()} == {
        "sft": [1, 2],
        "svco": [1, 2],
    }
    assert shared_seeds({}) == {}


def test_seeds_that_disagree_widen_the_interval() -> None:
    pairs = Pairs([str(n) for n in range(50)], ["count"] * 50, "nn" * 50)
    alike = [{**with_outcomes(seed, "01" * 50)} for seed in range(5)]
    apart = [{**with_outcomes(seed, ("11" if seed == 0 else "00") * 50)} for seed in range(5)]
    narrow, wide = (estimate(rows, pairs, "not_right") for rows in (alike, apart))
    assert narrow.high - narrow.low < 0.1  # Wilson's bound: no group of 50 differs
    assert wide.high - wide.low > 0.3
    # one of five seeds is all right: mean 0.8, standard error 0.2, t of about four degrees 2.776
    assert wide.standard_error == pytest.approx(0.2) and wide.freedom == pytest.approx(4.0)


def test_rows_of_other_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected outcomes of 3 pairs, got 2"):
        estimate([with_outcomes(0, "0000")], PAIRS, "not_right")


def test_the_page_keeps_what_is_written_by_hand() -> None:
    page = fill(
        "# Title\n\n<!-- study:a -->\nold\n<!-- /study -->\n\nwords\n", {"a": "new", "b": "more"}
    )
    assert (
        "old" not in page
        and "new" in page
        and "words" in page
        and page.index("words") < page.index("more")
    )
    assert fill(page, {"a": "new", "b": "more"}) == page


def test_a_table_without_rows_says_so() -> None:
    facts = {
        "world": "scenes",
        "test_pairs": {"groups": "0", "categories": "count", "prior": "nn"},
        "slices": {"target": ["count"]},
    }
    assert main_table([], facts, "all") == "No rows yet."


@pytest.mark.slow
def test_a_run_of_two_steps_from_nothing_to_a_row(tmp_path: Path) -> None:
    from pipeline.core.storage import read_json
    from studies.objectives.run import execute
    from studies.objectives.score import item_facts
    from studies.objectives.worlds import World, make_world
    from training.tiny.config import TinySection

    def recipe(seed: int) -> Any:
        return lambda _folder: {"sources": [{"kind": "scenes", "num_pairs": 12, "seed": seed}]}

    tiny = TinySection(num_eye_images=64, num_texts=64, vocab_tokens=400)
    world = World(
        "scenes",
        {"pretrain": recipe(1), "all": recipe(2), "test": recipe(3)},
        tiny,
        ("object",),
        ("position",),
        lambda _folder: None,
    )
    facts = make_world(world, tmp_path)
    run = Run(
        world="scenes",
        stage="test",
        train="all",
        measured="test",
        objective="svco",
        setting=settings("svco")[0],
        steps=2,
    )
    row = execute(run, tmp_path, facts)
    assert row["step_size"] > 0
    assert len(row["outcomes"]["said"]) == 24
    pairs = Pairs.of(
        item_facts(
            tmp_path / "scenes" / "test",
            read_json(tmp_path / "scenes" / "base" / "prior.json")["favoured"],
        )
    )
    for measure, name in (
        ("not_right", "hallucination"),
        ("silent", "silent_answers"),
        ("group_score", "group_score"),
    ):
        assert estimate([row], pairs, measure).value == pytest.approx(
            row["measures"]["all"][name], abs=1e-5
        )
    assert not list(tmp_path.glob("run-*"))
