"""Every benchmark on files in its authors' format: what is asked, the metrics worked by hand, and
files that cannot be used.
"""

import inspect
import json
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.benchmarks.benchmark import checked_options
from eval.benchmarks.registry import CLASSES, benchmark
from eval.benchmarks.short import evalai_normalize, soft_accuracy
from eval.benchmarks.table import answer_table, read_back
from eval.config import EvalSection
from eval.parsing.harness_parsers import parser
from eval.question import Metric, Question, Verdict
from pipeline.core.recipe import RecipeError, UserError, load_recipe
from tests.eval.benchmarks import native_benchmarks as native


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("benchmarks")
    return {name: native.write(name, root / name) for name in CLASSES}


@pytest.fixture
def ask(folders: dict[str, Path]) -> Callable[..., list[Question]]:
    """`ask(name, limit, **options)`: the questions of one benchmark."""

    def questions(
        name: str, limit: int | None = None, folder: Path | None = None, **options: str
    ) -> list[Question]:
        size = None if limit else native.SIZES[name]
        return benchmark(name).load(
            str(folder or folders[name]), limit=limit, expected_size=size, **options
        )

    return questions


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """`copy(name)`: a benchmark's folder that a test may damage."""
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


def said(questions: list[Question], values: str) -> list[Verdict]:
    """One verdict per word: "ok" is the truth, "x" another answer, "?" none that can be read, "-"
    no judgement, or the value itself.
    """
    found = []
    for question, value in zip(questions, values.split(), strict=True):
        truth = question.truth if isinstance(question.truth, str) else question.truth[0].casefold()
        other = {"yes": "no", "no": "yes", "A": "B"}.get(truth, "A")
        known = {
            "ok": Verdict(truth, "exact"),
            "x": Verdict(other, "exact"),
            "?": Verdict(None, "failed"),
            "-": Verdict(None, "missing"),
        }
        found.append(known.get(value, Verdict(value, "exact")))
    return found


def values(metrics: dict[str, Metric], *names: str) -> list[float | None]:
    return [metrics[name].value for name in names]


@pytest.mark.parametrize("name", CLASSES)
def test_every_benchmark_has_ids_clusters_images_and_a_right_answer(
    name: str, ask: Callable[..., list[Question]]
) -> None:
    questions, found = ask(name), benchmark(name)
    by_id = {question.item_id: question for question in questions}
    assert len(by_id) == len(questions)
    for question in questions:
        assert question.image is not None or question.meta["is_blind"]
        if question.counterpart is not None:
            other = by_id[question.counterpart]
            assert other.cluster == question.cluster and other.image != question.image
            assert name == "hallusionbench" or other.counterpart == question.item_id
        truth = question.truth if isinstance(question.truth, str) else question.truth[0]
        if question.kind != "free":
            best = found.score(question, parser("default", name)(question, truth))
            assert best is not None and (best == 1.0 or (name == "textvqa" and best > 0))
            assert found.score(question, Verdict(None, "ambiguous")) == (
                1.0 if question.meta.get("is_blind") else 0.0
            )
        assert found.score(question, Verdict(None, "missing")) is None
        json.dumps(dict(question.meta))
    metrics = found.metrics(questions, [Verdict(None, "failed")] * len(questions))
    assert found.headline in metrics
    assert (
        found.metrics(questions, [Verdict(None, "missing")] * len(questions))[found.headline].value
        is None
    )


@pytest.mark.parametrize("name", CLASSES)
def test_the_chance_level_that_a_benchmark_states_is_the_one_it_computes(
    name: str, ask: Callable[..., list[Question]]
) -> None:
    found, questions = benchmark(name), ask(name)
    computed = found.metrics(
        questions, [Verdict("4" if name == "mmhal" else None, "failed")] * len(questions)
    )[found.headline].chance
    stated = re.search(
        r"^Chance: (none|[\d/]+)",
        inspect.getdoc(inspect.getmodule(found)) or "",
        re.MULTILINE,
    )
    if stated is not None:
        assert computed == (None if stated[1] == "none" else float(Fraction(stated[1])))


@pytest.mark.parametrize("name", CLASSES)
def test_answers_come_back_from_their_table_as_they_were(
    name: str, ask: Callable[..., list[Question]]
) -> None:
    questions, found = ask(name), benchmark(name)
    verdicts = [Verdict("4" if question.kind == "free" else "A", "exact") for question in questions]
    table = answer_table(
        found, "image", questions, ["A"] * len(questions), verdicts, ["0" * 64] * len(questions)
    )
    again, verdicts_again = read_back(table)
    assert [question.item_id for question in again] == [question.item_id for question in questions]
    before, after = found.metrics(questions, verdicts), found.metrics(again, verdicts_again)
    assert {key: metric.value for key, metric in before.items()} == {
        key: metric.value for key, metric in after.items()
    }
    assert {key: metric.chance for key, metric in before.items()} == {
        key: metric.chance for key, metric in after.items()
    }


def test_mmvp_counts_questions_and_pairs(ask: Callable[..., list[Question]]) -> None:
    questions = ask("mmvp")
    assert (
        questions[0].prompt
        == "Is door 0, at the left, open? (a) Open (b) Closed\nAnswer with the option's letter from"
        " the given choices directly."
    )
    assert questions[0].choices == ("Open", "Closed") and [
        question.truth for question in questions
    ] == list("ABBAAB")
    metrics = benchmark("mmvp").metrics(questions, said(questions, "ok ok ok x ? x"))
    assert values(metrics, "accuracy", "pair_accuracy") == [3 / 6, 1 / 3]
    assert (metrics["accuracy"].chance, metrics["pair_accuracy"].chance) == (0.5, 0.25)


def test_mmvp_reports_both_readings_of_the_disputed_labels(
    ask: Callable[..., list[Question]], tmp_path: Path
) -> None:
    native.mmvp(tmp_path, num_pairs=50)
    questions = benchmark("mmvp").load(str(tmp_path), expected_size=100)
    assert [question.truth for question in questions[98:]] == ["A", "B"]
    corrected = benchmark("mmvp").load(str(tmp_path), expected_size=100, labels="corrected")
    assert [question.truth for question in corrected[98:]] == ["B", "A"]
    metrics = benchmark("mmvp").metrics(questions, said(questions, "ok " * 98 + "B A"))
    assert values(metrics, "accuracy", "accuracy_original", "accuracy_corrected") == [
        0.98,
        0.98,
        1.0,
    ]
    assert values(metrics, "pair_accuracy", "pair_accuracy_corrected") == [49 / 50, 1.0]


def test_cvbench_weighs_sources_and_not_questions(ask: Callable[..., list[Question]]) -> None:
    questions = ask("cvbench")
    metrics = benchmark("cvbench").metrics(questions, said(questions, "ok ? x ok x ok ok"))
    # ADE20K 1/3, COCO 1/2, Omni3D 1: ((1/3 + 1/2) / 2 + 1) / 2 = 17/24; over questions 4/7.
    assert values(metrics, "2d", "3d", "accuracy") == pytest.approx([5 / 12, 1.0, 4 / 7])
    assert metrics["combined"].value == pytest.approx(17 / 24)
    assert metrics["combined"].chance == pytest.approx((0.25 + 0.5) / 4 + 0.5 / 2)
    assert questions[0].prompt.endswith(
        "(D) 4\nAnswer with the option's letter from the given choices directly."
    )


def test_cvbench_with_a_limit_has_every_source(ask: Callable[..., list[Question]]) -> None:
    assert [question.meta["source"] for question in ask("cvbench", 4)] == [
        "ADE20K",
        "COCO",
        "Omni3D",
        "ADE20K",
    ]


def test_realworldqa_reads_letters_yes_and_no_and_words(ask: Callable[..., list[Question]]) -> None:
    questions = ask("realworldqa")
    assert [question.kind for question in questions] == ["choice", "yes_no", "short", "short"]
    read = parser("default", "realworldqa")
    for answers, right in (
        (("C", "Yes.", "two", "green."), 4),
        (("Ahead", "Yes, it is.", "2", "It is green"), 3),
        (("", "", "", ""), 0),
    ):
        verdicts = [
            read(question, answer) for question, answer in zip(questions, answers, strict=True)
        ]
        assert benchmark("realworldqa").metrics(questions, verdicts)["accuracy"].value == right / 4
    official = parser("svco", "realworldqa")
    verdicts = [
        official(question, answer)
        for question, answer in zip(questions, ("(C)", "Yes.", "two", "Green"), strict=True)
    ]
    assert benchmark("realworldqa").metrics(questions, verdicts)["accuracy"].value == 3 / 4
    assert benchmark("realworldqa").metrics(questions, verdicts)[
        "accuracy"
    ].chance == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_mmhal_rates_and_leaves_out_what_nobody_judged(ask: Callable[..., list[Question]]) -> None:
    questions = ask("mmhal")
    assert (questions[0].kind, questions[0].truth, questions[0].max_new_tokens) == (
        "free",
        "A door.",
        1024,
    )
    metrics = benchmark("mmhal").metrics(
        questions, said(questions, "6 2.5 3 0 - - - - " + "- " * 8)
    )
    assert values(metrics, "score", "hallucination_rate") == [11.5 / 4, 2 / 4]
    assert (
        metrics["hallucination_rate"].higher_is_better is False and metrics["score"].chance is None
    )
    assert metrics["type/adversarial"].value == 2.5 and metrics["type/other"].value is None
    with pytest.raises(UserError, match="a rating from 0 to 6, got 7"):
        benchmark("mmhal").metrics(questions, said(questions, "7 " + "- " * 15))


def test_naturalbench_counts_questions_images_and_samples(
    ask: Callable[..., list[Question]],
) -> None:
    questions = ask("naturalbench")
    assert [question.item_id for question in questions[:4]] == [
        "0-q0-i0",
        "0-q0-i1",
        "0-q1-i0",
        "0-q1-i1",
    ]
    assert [question.truth for question in questions[:8]] == [
        "yes",
        "no",
        "no",
        "yes",
        "A",
        "B",
        "B",
        "A",
    ]
    assert questions[4].choices == ("left", "right")
    assert questions[4].prompt.endswith(
        "B: right; Please output the letter corresponding to the correct option."
    )
    # Sample 0 all right; sample 1 question 0 right; sample 2 image 0 right.
    metrics = benchmark("naturalbench").metrics(
        questions, said(questions, "ok ok ok ok ok ok x x ok x ok ?")
    )
    assert values(metrics, "acc", "q_acc", "i_acc", "g_acc") == [8 / 12, 3 / 6, 3 / 6, 1 / 3]
    assert [metrics[name].chance for name in ("acc", "q_acc", "i_acc", "g_acc")] == [
        0.5,
        0.25,
        0.25,
        0.0625,
    ]


def test_pope_takes_an_unreadable_answer_for_wrong_and_for_neither(
    ask: Callable[..., list[Question]],
) -> None:
    questions = sorted(ask("pope"), key=lambda question: question.item_id)
    assert [question.meta["split"] for question in ask("pope", 4)] == [
        "random",
        "popular",
        "adversarial",
        "random",
    ]
    # Truth of every split: yes no yes no. adversarial: all right; popular: always yes; random: yes,
    # unreadable, unreadable, yes.
    metrics = benchmark("pope").metrics(
        questions, said(questions, "yes no yes no yes yes yes yes yes ? ? yes")
    )
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    assert values(metrics, *(f"adversarial/{name}" for name in names)) == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert values(metrics, *(f"popular/{name}" for name in names)) == [0.5, 0.5, 1.0, 2 / 3, 1.0]
    # TP 1, FP 1, FN 1 (unreadable where the object is there): precision 1/2, recall 1/2, F1 1/2,
    # accuracy 1/4.
    assert values(metrics, *(f"random/{name}" for name in names)) == [0.25, 0.5, 0.5, 0.5, 0.5]
    assert metrics["f1"].value == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert (
        metrics["yes_ratio"].value == pytest.approx(8 / 12)
        and metrics["yes_ratio"].higher_is_better is None
    )
    assert metrics["f1"].chance == pytest.approx(0.5)


def test_hallusionbench_counts_questions_figures_and_sets(
    ask: Callable[..., list[Question]],
) -> None:
    questions = ask("hallusionbench")
    blind = questions[4]
    assert (
        blind.image is None
        and blind.counterpart is None
        and questions[5].counterpart == "VS_chart_0_2_0"
    )
    # VD figure 0 both right; figure 1 one of two; VS: no figure, unclear: right; figure 1 right,
    # figure 2 wrong.
    metrics = benchmark("hallusionbench").metrics(questions, said(questions, "ok ok ok x ? ok x"))
    assert values(metrics, "aacc", "aacc_strict") == [5 / 7, 4 / 7]
    # figures VD0, VD1, VS1, VS2; questions VD q0 (right), VD q1, VS q0
    assert values(metrics, "facc", "qacc") == [2 / 4, 1 / 3]
    assert metrics["facc"].chance == pytest.approx((0.25 + 0.25 + 0.5 + 0.5) / 4)
    assert metrics["qacc"].chance == pytest.approx((0.25 + 0.25 + 0.125) / 3)


def test_hallusionbench_with_images_alone(folders: dict[str, Path]) -> None:
    questions = benchmark("hallusionbench").load(
        str(folders["hallusionbench"]), expected_size=6, questions="image", prompt="plain"
    )
    assert (
        all(question.image is not None for question in questions)
        and questions[0].prompt == "Is line 0 longer?"
    )


def test_textvqa_is_scored_softly_and_with_or_without_ocr(
    ask: Callable[..., list[Question]], copy: Callable[[str], Path]
) -> None:
    questions = ask("textvqa")
    assert (
        questions[0].prompt
        == "What is written?\nAnswer the question using a single word or phrase."
    )
    verdicts = [
        parser("default", "textvqa")(question, said)
        for question, said in zip(questions, ("Red.", "the STOP!", "no 3"), strict=True)
    ]
    assert benchmark("textvqa").metrics(questions, verdicts)["accuracy"].value == pytest.approx(
        (0.9 + 1.0 + 0.3) / 3
    )
    with_ocr = ask("textvqa", ocr="with")
    assert (
        with_ocr[1].prompt
        == "What is written?\nReference OCR token: STOP, 1\nAnswer the question using a single word"
        " or phrase."
    )
    folder = copy("textvqa")
    (folder / "llava_textvqa_val_v051_ocr.jsonl").unlink()
    with pytest.raises(UserError, match="no OCR tokens; put llava"):
        ask("textvqa", folder=folder, ocr="with")


def test_soft_accuracy_leaves_one_out() -> None:
    # 3 of 10: the 7 others see 3 matches, 1 each; the 3 themselves see 2, 2/3 each: (7 + 2) / 10.
    assert soft_accuracy("red", ("red",) * 3 + ("blue",) * 7) == pytest.approx(0.9)
    assert soft_accuracy("red", ("red",) + ("blue",) * 9) == pytest.approx(9 / 30)
    assert soft_accuracy("red", ("red",) * 4 + ("blue",) * 6) == 1.0
    assert soft_accuracy("green", ("red",) * 10) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Nokia", "nokia"),
        ("Two dogs.", "2 dogs"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("well-known", "well known"),
        ("a - b", "b"),
        ("yes!", "yes"),
        ("Bob's", "bob 's"),
        ("none", "0"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_evalai_does(text: str, expected: str) -> None:
    assert evalai_normalize(text) == expected


def test_scienceqa_is_its_test_questions_with_an_image(ask: Callable[..., list[Question]]) -> None:
    questions = ask("scienceqa")
    assert [question.item_id for question in questions] == ["1", "2", "4"]
    assert questions[0].prompt.startswith(
        "Context: Look at the door.\nWhich is it, 1?\nA. one\nB. two\nC. three\nAnswer"
    )
    assert questions[1].prompt.startswith("Which is it, 2?\nA. one\nB. two\nAnswer")
    metrics = benchmark("scienceqa").metrics(questions, said(questions, "ok x ok"))
    assert metrics["accuracy"].value == pytest.approx(2 / 3) and metrics[
        "accuracy"
    ].chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert values(metrics, "subject/natural science", "grades/1-6", "grades/7-12") == [
        1 / 2,
        1.0,
        1 / 2,
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_another_number_of_questions_is_an_error_unless_a_limit_is_given(
    name: str, folders: dict[str, Path]
) -> None:
    expected = f"{benchmark(name).expected_size:,}"
    with pytest.raises(
        UserError,
        match=rf"expected {expected} questions, found \d+; fetch the benchmark again, or state",
    ):
        benchmark(name).load(str(folders[name]))
    assert 1 <= len(benchmark(name).load(str(folders[name]), limit=5)) <= 5


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [("mmvp", 3, 2), ("mmvp", 1, 2), ("naturalbench", 7, 4), ("hallusionbench", 6, 4)],
)
def test_a_limit_takes_whole_pairs_samples_and_sets(
    name: str, limit: int, expected: int, ask: Callable[..., list[Question]]
) -> None:
    assert len(ask(name, limit)) == expected


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cvbench", "cvbench_test.jsonl"),
        ("realworldqa", "annotations.json"),
        ("mmhal", "response_template.json"),
        ("pope", "coco_pope_popular.json"),
        ("hallusionbench", "HallusionBench.json"),
        ("textvqa", "TextVQA_0.5.1_val.json"),
        ("scienceqa", "problems.json"),
        ("mmvp", "Questions.csv"),
        ("naturalbench", "data/train-00000-of-00001.parquet"),
    ],
)
def test_a_file_that_is_cut_off_is_named(
    name: str, file: str, copy: Callable[[str], Path], ask: Callable[..., list[Question]]
) -> None:
    path = copy(name) / file
    path.write_bytes(path.read_bytes()[: -max(30, path.stat().st_size // 3)])
    with pytest.raises(UserError) as caught:
        ask(name, folder=path.parent.parent if name == "naturalbench" else path.parent)
    message = str(caught.value)
    assert "\n" not in message and (path.name in message or "expected 6 questions" in message)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "naturalbench"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "gone"])
def test_an_image_that_cannot_be_read_is_named(
    name: str, damage: str, copy: Callable[[str], Path], ask: Callable[..., list[Question]]
) -> None:
    folder = copy(name)
    image = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".webp"))[
        0
    ]
    if damage == "gone":
        image.unlink()
    else:
        image.write_bytes(
            {"cut": image.read_bytes()[:-40], "text": b"<html>not found</html>", "empty": b""}[
                damage
            ]
        )
    with pytest.raises(
        UserError, match="no image file; looked for|cannot be used .*fetch the benchmark again"
    ) as caught:
        ask(name, folder=folder)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_repeated_ids_are_named(
    copy: Callable[[str], Path], ask: Callable[..., list[Question]]
) -> None:
    folder = copy("cvbench")
    path = folder / "cvbench_test.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[0]]))
    with pytest.raises(UserError, match="cvbench: the id '0' occurs twice"):
        ask("cvbench", folder=folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "cvbench",
            '"answer": "(B)"',
            '"answer": "(F)"',
            "expected an answer like '\\(A\\)' among 4 choices, got 'F'",
        ),
        (
            "cvbench",
            '"source": "ADE20K"',
            '"source": "ADE"',
            "expected source ADE20K, COCO, Omni3D, got 'ADE'",
        ),
        ("pope", '"label": "yes"', '"label": "maybe"', "expected a label yes or no"),
        (
            "mmhal",
            '"attribute"',
            '"colour"',
            "expected type 'attribute' at this place, got 'colour'",
        ),
        ("hallusionbench", '"gt_answer": "1"', '"gt_answer": "7"', "expected gt_answer 0 or 1"),
        ("textvqa", '"stop", ', "", "expected 10 human answers, got 1"),
        ("scienceqa", '"answer": 1', '"answer": 4', "the answer 4 is none of the"),
        ("mmvp", "(b) Closed", "", "expected options like"),
        (
            "realworldqa",
            '"answer": "C"',
            '"answer": "E"',
            "the answer 'E' is none of the 3 options",
        ),
        ("cvbench", "2D/0.png", "../../0.png", "leaves .*; expected a path inside it"),
        ("cvbench", '"choices"', '"options"', "question 0 has no choices; it has idx"),
    ],
)
def test_a_record_with_something_else_in_it_is_named(
    name: str,
    old: str,
    new: str,
    message: str,
    copy: Callable[[str], Path],
    ask: Callable[..., list[Question]],
) -> None:
    folder = copy(name)
    for path in folder.glob("*.*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".csv"):
            path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        ask(name, folder=folder)


def test_mmvp_with_half_a_pair_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("mmvp")
    path = folder / "Questions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="pair 2 has one question of two"):
        benchmark("mmvp").load(str(folder), expected_size=5)


def test_a_folder_of_something_else_lists_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="pope: expected coco_pope_random.json .* found notes.txt"):
        benchmark("pope").load(str(tmp_path))
    with pytest.raises(UserError, match="neither a file, nor a folder, nor a Hub id"):
        benchmark("pope").load(str(tmp_path / "nothing" / "there"))


def test_unknown_names_options_and_values_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match="benchmark 'vqa': expected one of mmvp, cvbench"):
        benchmark("vqa")
    with pytest.raises(UserError, match="mmvp: no option 'ocr'; it has labels"):
        benchmark("mmvp").load(str(folders["mmvp"]), ocr="with")
    with pytest.raises(UserError, match="textvqa: ocr='yes'; expected one of without, with"):
        benchmark("textvqa").load(str(folders["textvqa"]), ocr="yes")


@pytest.mark.slow
def test_a_data_set_that_was_saved_gives_the_same_questions(
    ask: Callable[..., list[Question]], folders: dict[str, Path], tmp_path: Path
) -> None:
    import datasets

    rows = pq.read_table(
        folders["naturalbench"] / "data" / "train-00000-of-00001.parquet"
    ).to_pylist()
    for row in rows:
        row |= {f"Image_{side}": row[f"Image_{side}"]["bytes"] for side in (0, 1)}
    table = datasets.Dataset.from_list(rows)
    for side in (0, 1):
        table = table.cast_column(f"Image_{side}", datasets.Image())
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    assert ask("naturalbench", folder=tmp_path / "saved") == ask("naturalbench")


def test_images_may_stay_in_the_archive_of_the_hub(
    copy: Callable[[str], Path], ask: Callable[..., list[Question]]
) -> None:
    folder = copy("mmhal")
    shutil.make_archive(str(folder / "test_data"), "zip", folder, "images")
    shutil.rmtree(folder / "images")
    assert ask("mmhal", folder=folder) == ask("mmhal")


def test_the_recipe_of_the_paper_names_benchmarks_options_and_parsers_that_exist() -> None:
    recipe = Path(__file__).resolve().parents[3] / "recipes" / "eval_paper_compat.yaml"
    section = load_recipe(recipe, ["model=m", "out=o"], EvalSection)
    assert [entry.name for entry in section.benchmarks] == [
        "mmhal",
        "cvbench",
        "mmvp",
        "realworldqa",
        "textvqa",
        "scienceqa",
    ]
    for entry in section.benchmarks:
        assert callable(parser(entry.parser, entry.name)) and entry.parser == "svco"
        checked_options(entry.name, entry.options, benchmark(entry.name).options)
