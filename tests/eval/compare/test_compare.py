"""Finished evaluations side by side, on folders as the job leaves them; numbers by hand."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.benchmarks.registry import benchmark
from eval.benchmarks.table import answer_table
from eval.compare.cli import comparison_of, labels_of, print_comparison
from eval.compare.runs import UserError
from eval.question import Question, Verdict
from pipeline.core.recipe import RecipeError

ROOT = Path(__file__).resolve().parents[3]
LOGPS = [
    f"logp_{condition}_{response}" for condition in ("a", "b", "none") for response in ("a", "b")
]


def mmvp_question(index: int) -> Question:
    letter = "AB"[index % 2]
    return Question(
        item_id=str(index),
        prompt=f"Question {index // 2}? (a) x (b) y",
        image=None,
        kind="choice",
        choices=("x", "y"),
        truth=letter,
        cluster=str(index // 2),
        max_new_tokens=128,
        meta={"truth_original": letter, "truth_corrected": letter},
    )


def mmhal_question(index: int) -> Question:
    return Question(
        item_id=str(index),
        prompt=f"What is in {index}?",
        image=None,
        kind="free",
        truth="A door.",
        cluster=str(index),
        max_new_tokens=1024,
        meta={"type": "attribute", "image_content": []},
    )


def judged(questions: Sequence[Question], marks: str) -> list[Verdict]:
    """One character per question: 1 right, 0 wrong, ? unreadable, - not judged; for MMHal the
    rating itself.
    """
    found = []
    for question, mark in zip(questions, marks, strict=True):
        right = mark if question.kind == "free" else str(question.truth)
        known = {
            "?": Verdict(None, "failed"),
            "-": Verdict(None, "missing"),
            "0": Verdict("0" if question.kind == "free" else "Z", "exact"),
        }
        found.append(known.get(mark, Verdict(right, "exact")))
    return found


def leave(folder: Path, recipe: dict[str, Any] | None = None, **marks: Any) -> Path:
    """A folder as a finished evaluation leaves it. `mmvp="1101"`, or a mapping of role to marks, or
    (questions, marks).
    """
    (folder / "benchmarks").mkdir(parents=True)
    roles = set()
    for label, value in marks.items():
        name = label.split("_")[0]
        of_role = value if isinstance(value, dict) else {"after": value}
        parts = []
        for role, one in of_role.items():
            roles.add(role)
            make = mmhal_question if name == "mmhal" else mmvp_question
            questions, string = (
                one if isinstance(one, tuple) else ([make(index) for index in range(len(one))], one)
            )
            for condition in ("image", "none"):
                said = judged(questions, string if condition == "image" else "0" * len(string))
                part = answer_table(
                    benchmark(name),
                    condition,
                    questions,
                    [""] * len(said),
                    said,
                    [f"sha{q.item_id}" for q in questions],
                )
                parts.append(part.append_column("model_role", pa.array([role] * part.num_rows)))
        pq.write_table(pa.concat_tables(parts), folder / "benchmarks" / f"{label}.parquet")
        (folder / "benchmarks" / f"{label}.json").write_text(json.dumps({"benchmark": name}))
        (folder / "benchmarks" / f"{label}.judge.parquet").write_bytes(b"not an answer table")
    stated = recipe or {
        "benchmarks": [
            {"name": label.split("_")[0], "label": label, "parser": "default"} for label in marks
        ]
    }
    (folder / "DONE.json").write_text(json.dumps({"identity": {"recipe": stated}}))
    (folder / "result.json").write_text(
        json.dumps(
            {"models": {role: f"model of {folder.name} {role}" for role in roles or {"after"}}}
        )
    )
    return folder


def compare(*folders: Path, against: str = "") -> dict[str, Any]:
    return comparison_of(folders, against=against, num_draws=400, confidence=0.95, seed=0)


def pairs_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(pairing["minuend"], pairing["subtrahend"]) for pairing in found["pairings"]]


def test_two_models_on_the_same_questions(tmp_path: Path) -> None:
    found = compare(
        leave(tmp_path / "base", mmvp="11100100"), leave(tmp_path / "tuned", mmvp="111111?1")
    )
    assert [column["key"] for column in found["columns"]] == ["mmvp/pair_accuracy"]
    assert [found["scores"][name]["mmvp/pair_accuracy"]["value"] for name in ("base", "tuned")] == [
        1 / 4,
        3 / 4,
    ]
    one = found["differences"]["tuned"]["mmvp/pair_accuracy"]
    assert (one["value"], one["num_better"], one["num_worse"], one["test"]) == (
        0.5,
        2,
        0,
        "mcnemar",
    )
    # four pairs test nothing, as two that changed could not
    assert one["p"] is one["p_holm"] is None and one["significant"] is False
    assert one["low"] is None and one["num_clusters"] == 4
    assert found["average"] == {"base": 0.0, "tuned": 2.0}
    assert found["unreadable"] == {"base": {"mmvp": 0.0}, "tuned": {"mmvp": 1 / 8}}
    average, few = found["notes"]
    assert "of these there are 1, without MM-Vet, LLaVA-Bench, MMHal" in average
    assert few.startswith("mmvp: only 4 clusters (images, pairs or people): too few")


def test_a_difference_beyond_luck_is_called_so_and_holm_counts_the_scores(tmp_path: Path) -> None:
    base = leave(tmp_path / "base", mmvp="10" * 20, mmhal="2" * 10)
    tuned = leave(tmp_path / "tuned", mmvp="11" * 10 + "10" * 10, mmhal="2" * 9 + "6")
    found = compare(base, tuned)
    assert [column["heading"] for column in found["columns"]] == [
        "MMHal",
        "MMHal hal.",
        "MMVP pairs",
    ]
    differences = found["differences"]["tuned"]
    pairs = differences["mmvp/pair_accuracy"]
    assert (
        pairs["p"] == pytest.approx(2 / 2**10)
        and pairs["p_holm"] == pytest.approx(3 * 2 / 2**10)
        and pairs["significant"]
    )
    assert (
        differences["mmhal/score"]["value"] == pytest.approx(0.4)
        and differences["mmhal/score"]["test"] == "sign_flips"
    )
    # One of ten no longer hallucinated: the rate falls from 1 to 0.9, p = 1, and that counts for
    # the model.
    assert (
        differences["mmhal/hallucination_rate"]["num_better"],
        differences["mmhal/hallucination_rate"]["num_worse"],
    ) == (1, 0)
    assert (
        differences["mmhal/hallucination_rate"]["value"],
        differences["mmhal/hallucination_rate"]["p"],
    ) == (pytest.approx(-0.1), 1.0)
    # Without the image the base has every rating 0, so it loses all of 2.0, and hallucinates as
    # often as with it: always.
    assert (
        found["dependency"]["mmhal/score"]["value"] == 1.0
        and found["dependency"]["mmhal/hallucination_rate"]["value"] == 0.0
    )
    # 0 of 20 pairs: nothing to lose a share of
    assert found["dependency"]["mmvp/pair_accuracy"] is None
    assert found["improvement"]["tuned"]["mmhal/hallucination_rate"]["value"] == pytest.approx(0.1)
    # MMHal 2 -> 2.4 is +20 %, hallucination 1 -> 0.9 is +10 %; pairs 0 -> 0.5 have nothing to
    # divide by.
    assert found["average"]["tuned"] == pytest.approx((0.2 + 0.1) / 2)
    assert (
        "tuned: MMVP pairs not in its average (no score, or nothing to divide by)" in found["notes"]
    )


def test_other_questions_are_left_out_in_whole_pairs_and_said(tmp_path: Path) -> None:
    questions = [mmvp_question(index) for index in range(6)]
    base = leave(tmp_path / "base", mmvp=(questions, "111100"))
    tuned = leave(tmp_path / "tuned", mmvp=(questions[1:], "11111"))
    found = compare(base, tuned)
    assert (
        found["scores"]["base"]["mmvp/pair_accuracy"]["n"]
        == found["scores"]["tuned"]["mmvp/pair_accuracy"]["n"]
        == 2
    )
    assert found["scores"]["base"]["mmvp/pair_accuracy"]["value"] == 1 / 2
    assert (
        "mmvp: the models answered different questions (base 6, tuned 5); compared over the 4 that"
        " all answered" in found["notes"]
    )


def test_nothing_in_common_is_an_error_or_a_note(tmp_path: Path) -> None:
    base = leave(tmp_path / "base", mmvp=([mmvp_question(0), mmvp_question(1)], "11"), mmhal="44")
    tuned = leave(tmp_path / "tuned", mmvp=([mmvp_question(2), mmvp_question(3)], "11"), mmhal="44")
    assert "mmvp: no question in common; left out" in compare(base, tuned)["notes"]
    other = leave(tmp_path / "other", mmvp_x="11")
    with pytest.raises(UserError, match="no benchmark was answered by all"):
        compare(tuned, other)


def test_other_settings_prompts_truths_and_images_are_said(tmp_path: Path) -> None:
    recipe = {"benchmarks": [{"name": "mmvp", "label": "", "parser": "svco"}], "dtype": "float32"}
    questions = [mmvp_question(index) for index in range(4)]
    changed = [replace(questions[0], prompt="Else?", truth="B"), *questions[1:]]
    base = leave(tmp_path / "base", recipe, mmvp="1111")
    tuned = leave(
        tmp_path / "tuned",
        recipe | {"dtype": "bfloat16", "benchmarks": [{"name": "mmvp", "parser": "lmms"}]},
        mmvp=(changed, "1111"),
    )
    notes = "\n".join(compare(base, tuned)["notes"])
    assert "mmvp: 1 of 4 questions were asked in other words" in notes
    assert "mmvp: 1 of 4 questions were graded by other truths" in notes
    assert "shown other images" not in notes
    assert "mmvp: scored under different settings, parser: base 'svco', tuned 'lmms'" in notes
    assert "dtype: base 'float32', tuned 'bfloat16'" in notes


def test_what_one_judge_missed_is_left_out_of_both(tmp_path: Path) -> None:
    found = compare(leave(tmp_path / "base", mmhal="2-66"), leave(tmp_path / "tuned", mmhal="6666"))
    assert found["scores"]["base"]["mmhal/score"]["value"] == pytest.approx(14 / 3)
    assert found["scores"]["tuned"]["mmhal/score"]["n"] == 3
    assert (
        "mmhal: 1 of 4 answers have no judgement in at least one model; left out of all"
        in found["notes"]
    )


def test_one_folder_with_its_base_is_a_comparison(tmp_path: Path) -> None:
    folder = leave(tmp_path / "tuned", mmvp={"before": "1010", "after": "1111"})
    found = compare(folder)
    assert [model["label"] for model in found["models"]] == ["tuned (base)", "tuned"]
    assert found["scores"]["tuned (base)"]["mmvp/pair_accuracy"]["value"] == 0.0
    assert pairs_of(found) == [("tuned", "tuned (base)")]
    other = leave(tmp_path / "other", mmvp={"before": "1010", "after": "1011"})
    both = compare(folder, other)
    assert [model["label"] for model in both["models"]] == [
        "tuned (base)",
        "other (base)",
        "tuned",
        "other",
    ]
    assert any("the models were finetuned from different ones" in note for note in both["notes"])
    assert pairs_of(both) == [
        ("other", "tuned"),
        ("tuned", "tuned (base)"),
        ("other", "other (base)"),
    ]
    with pytest.raises(UserError, match="at least two models"):
        compare(leave(tmp_path / "alone", mmvp="11"))


RIGHT = [-1.0, -2.0, -2.0, -1.0, -3.0, -3.0]
WRONG = [-1.0, -2.0, -1.0, -2.0, -3.0, -3.0]


def leave_pairs(
    folder: Path,
    rows: Sequence[list[float]],
    base: Sequence[list[float]] = (),
    false: Sequence[int] = (),
    model: str = "",
    data: str = "",
) -> Path:
    """A finished evaluation of pairs, two to a group; `false` claims of two, where answers were."""
    leave(folder, {"dtype": "float32"})
    texts = {"question": "What?", "answer_a": "x", "answer_b": "y"}
    table = []
    for index, row in enumerate(rows):
        one: dict[str, Any] = {"pair_id": f"p{index}", "group": f"g{index // 2}"} | texts
        one |= {f"after_{name}": value for name, value in zip(LOGPS, row, strict=True)}
        if base:
            one |= {f"before_{name}": value for name, value in zip(LOGPS, base[index], strict=True)}
        if false:
            one |= {f"after_num_claims_{side}": 1 for side in "ab"}
            one |= {"after_num_false_a": false[index], "after_num_false_b": 0}
        table.append(one)
    pq.write_table(pa.Table.from_pylist(table), folder / "items.parquet")
    models = {"after": model or str(folder), **({"before": "base"} if base else {})}
    (folder / "result.json").write_text(json.dumps({"models": models}))
    identity = {"recipe": {"dtype": "float32"}, "data": data}
    (folder / "DONE.json").write_text(json.dumps({"identity": identity}))
    return folder


def test_pairs_are_compared_in_all_headline_scores(tmp_path: Path) -> None:
    found = compare(
        leave_pairs(tmp_path / "base", [WRONG] * 16, false=[1] * 16),
        leave_pairs(tmp_path / "tuned", [RIGHT] * 15 + [WRONG], false=[0] * 15 + [1]),
    )
    assert [column["key"] for column in found["columns"]] == [
        "contrast/text_score",
        "contrast/image_score",
        "contrast/group_score",
        "contrast/flip_rate",
        "contrast/hallucinated_answers",
    ]
    differences = found["differences"]["tuned"]
    one = differences["contrast/group_score"]
    assert (one["value"], one["num_better"], one["num_worse"]) == (15 / 16, 15, 0)
    # eight groups of two: all eight agree, 2 of 2^8 flips; Holm over five scores
    assert (one["test"], one["num_clusters"]) == ("sign_flips", 8)
    assert one["p"] == pytest.approx(2 / 256) and one["p_holm"] == pytest.approx(5 * 2 / 256)
    assert one["significant"] and found["num_tested"] == 5
    # 1 of 2 answers was false in each pair, now in one of 16
    assert differences["contrast/hallucinated_answers"]["value"] == pytest.approx(1 / 32 - 1 / 2)
    assert (
        found["columns"][2]["chance"] == pytest.approx(1 / 6)
        and not found["columns"][2]["in_average"]
    )
    assert found["average"] == {"base": None, "tuned": None}
    assert any("contrast: only 8 clusters" in note for note in found["notes"])


def test_every_two_named_runs_are_compared_and_holm_counts_all(tmp_path: Path) -> None:
    base = [WRONG] * 20
    one = leave_pairs(tmp_path / "one", [RIGHT] * 20, base)
    two = leave_pairs(tmp_path / "two", [RIGHT] * 10 + [WRONG] * 10, base)
    three = leave_pairs(tmp_path / "three", [WRONG] * 20)  # without its base
    found = compare(one, two, three)
    assert [model["label"] for model in found["models"]] == ["one (base)", "one", "two", "three"]
    assert pairs_of(found) == [
        ("two", "one"),
        ("three", "one"),
        ("three", "two"),
        ("one", "one (base)"),
        ("two", "one (base)"),
    ]
    key = "contrast/text_score"
    values = [pairing["differences"][key]["value"] for pairing in found["pairings"]]
    assert values == [-0.5, -1.0, -0.5, 1.0, 0.5]
    assert found["num_tested"] == 5 * 4
    strongest = found["pairings"][1]["differences"][key]
    assert strongest["p"] == pytest.approx(2 / 2**10)
    assert strongest["p_holm"] == pytest.approx(20 * 2 / 2**10)
    # one that five of ten groups bear out is not enough among twenty tests
    assert found["pairings"][0]["differences"][key]["p"] == pytest.approx(2 / 2**5)
    alone = compare(one, two, three, against="two")
    assert pairs_of(alone) == [("one", "two"), ("three", "two")]
    assert alone["num_tested"] == 2 * 4
    assert pairs_of(compare(one, against="one")) == [("one (base)", "one")]
    with pytest.raises(RecipeError, match="--against 'four': expected one of 'one"):
        compare(one, two, against="four")


def test_what_so_few_clusters_can_never_show_is_said(tmp_path: Path) -> None:
    base = [WRONG] * 14  # seven groups: 2 / 2^7 is the least p
    folders = [leave_pairs(tmp_path / name, [RIGHT] * 14, base) for name in ("one", "two")]
    both = compare(*folders)
    assert both["num_tested"] == 3 * 4
    (note,) = (note for note in both["notes"] if "give no p below" in note)
    assert "7 clusters give no p below 0.016, so none of 12 tests can be significant" in note
    assert "takes 9 clusters" in note  # 12 * 2 / 2^9 = 0.047
    (entry,) = {str(e["p_holm"]) for e in both["pairings"][1]["differences"].values() if e} - {
        "1.0"
    }
    assert float(entry) == pytest.approx(12 * 2 / 2**7)
    many = compare(*(leave_pairs(tmp_path / n, [RIGHT] * 20, [WRONG] * 20) for n in "ab"))
    assert not any("give no p below" in note for note in many["notes"])


def test_a_named_folder_may_be_that_of_the_base(tmp_path: Path) -> None:
    base = leave_pairs(tmp_path / "base", [WRONG] * 12, model="base")
    tuned = leave_pairs(tmp_path / "tuned", [RIGHT] * 12, [WRONG] * 12)
    found = compare(base, tuned)
    assert [model["label"] for model in found["models"]] == ["base", "tuned"]
    assert pairs_of(found) == [("tuned", "base")]


def test_other_data_is_said_and_nothing_but_shared_pairs_counts(tmp_path: Path) -> None:
    found = compare(
        leave_pairs(tmp_path / "old", [RIGHT] * 16, data="aa" * 32),
        leave_pairs(tmp_path / "new", [RIGHT] * 20, data="bb" * 32),
    )
    notes = "\n".join(found["notes"])
    assert "contrast: scored under different settings, data: old 'aaaaaaaaaaaa', new 'bbb" in notes
    assert "compared over the 16 that all answered" in notes


def test_enough_signs_are_flipped_for_what_is_tested_together(tmp_path: Path) -> None:
    rows = [[RIGHT] * 40, [WRONG] * 40]
    folders = [leave_pairs(tmp_path / str(n), rows[n % 2]) for n in range(8)]
    found = compare(*folders)
    assert found["num_tested"] == 28 * 4
    strongest = found["pairings"][0]["differences"]["contrast/text_score"]
    # 401 flips could not have said so much of 112 tests
    assert strongest["p_holm"] < 0.05 and strongest["significant"]


OTHER_TABLE = pa.table({"x": [1]})


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("DONE.json", None, "expected a finished evaluation"),
        ("benchmarks/mmvp.parquet", b"PAR1", "not a whole Parquet file"),
        ("benchmarks/mmvp.json", None, "expected mmvp.json beside it"),
        ("benchmarks/mmvp.parquet", None, "expected items.parquet or benchmarks"),
        ("benchmarks/mmvp.parquet", OTHER_TABLE, "the columns of an evaluation, item_id"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(
    file: str, damage: Any, message: str, tmp_path: Path
) -> None:
    good, bad = leave(tmp_path / "good", mmvp="11"), leave(tmp_path / "bad", mmvp="11")
    (bad / file).unlink()
    if isinstance(damage, bytes):
        (bad / file).write_bytes(damage)
    elif damage is not None:
        pq.write_table(damage, bad / file)
    with pytest.raises(UserError, match=message) as caught:
        compare(good, bad)
    assert "bad" in str(caught.value) and "\n" not in str(caught.value)


def test_folders_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    assert labels_of([Path("runs/base"), Path("runs/svco")]) == ["base", "svco"]
    assert labels_of([Path("base/eval"), Path("svco/eval")]) == ["base/eval", "svco/eval"]
    with pytest.raises(RecipeError, match="given twice"):
        labels_of([tmp_path, tmp_path / "x" / ".."])


@pytest.mark.slow
def test_the_tables_and_the_page_say_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = leave(tmp_path / "base", mmvp="1011", mmhal="25")
    tuned = leave(tmp_path / "tuned<b>", mmvp="1111", mmhal="5-")
    found = compare(base, tuned)
    print_comparison(found, 0.95)
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).split())
    assert "MMVP pairs" in text and "note: mmhal: 1 of 2 answers have no judgement" in text
    from eval.compare.page import write_comparison_page

    write_comparison_page(found, 0.95, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (
        "tuned&lt;b&gt; minus base" in page and "tuned<b>" not in page and page.count("<svg") == 2
    )


@pytest.mark.slow
def test_the_verb_needs_neither_torch_nor_ray(
    lean_command: Callable[..., Any], tmp_path: Path
) -> None:
    folders = [leave(tmp_path / "base", mmvp="1010"), leave(tmp_path / "tuned", mmvp="1111")]
    written = tmp_path / "out.json"
    lean_command("compare", *folders, "--draws", 200, "--json", written)
    assert (
        json.loads((tmp_path / "out.json").read_text())["scores"]["tuned"]["mmvp/pair_accuracy"][
            "value"
        ]
        == 1.0
    )


def test_a_score_that_one_model_lacks_is_compared_where_it_is(tmp_path: Path) -> None:
    rows = [RIGHT] * 16
    folders = [
        leave_pairs(tmp_path / "one", rows, base=[WRONG] * 16, false=[0] * 16),
        leave_pairs(tmp_path / "two", rows, base=[WRONG] * 16, false=[1] * 16),
    ]
    found = compare(*folders)
    key = "contrast/hallucinated_answers"
    changes = [pairing["differences"][key] for pairing in found["pairings"]]
    assert changes[0]["value"] == 0.5 and changes[1:] == [None, None]  # the base made no answers
    assert found["scores"]["one (base)"][key] is None
    assert found["columns"][-1]["higher_is_better"] is False
