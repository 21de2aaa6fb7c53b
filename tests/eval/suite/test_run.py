"""Benchmarks from recipe to files: a real tiny model in this process, a server of our own, and
everything that can go wrong.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eval.benchmarks.registry import benchmark
from eval.benchmarks.table import ANSWER_SCHEMA, read_back
from eval.config import EvalSection
from eval.generation.generator import (
    Generator,
    Request,
    batches_of,
)
from eval.generation.image_conditions import NO_IMAGE, ImageInput
from eval.plan import plan_evaluation
from eval.run_eval import evaluate
from pipeline.core.recipe import RecipeError, UserError
from tests.eval.benchmarks.native_benchmarks import SIZES, write
from tests.pipeline.chat_server import ChatServer

# Everything here needs a model and its answers.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("mmvp", "pope", "hallusionbench", "mmhal")
CONDITIONS = ("image", "none", "blank", "shuffled", "counterpart")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def entries(folder: Path, names: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "source": str(write(name, folder / name)),
            "expected_size": SIZES[name],
            **more,
        }
        for name in names
    ]


def section(out: Path, benchmarks: list[dict[str, Any]], **more: Any) -> EvalSection:
    plain: dict[str, Any] = {
        "out": str(out),
        "benchmarks": benchmarks,
        "workers": {"num_workers": 0},
        "intervals": {"num_draws": 200},
        "answers": {"max_new_tokens": 4, "batch": 3, "cache": str(out.parent / "answers.sqlite")},
    }
    return EvalSection.model_validate(plain | more)


@pytest.fixture(scope="module")
def done(finetuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation of four benchmarks by two models."""
    folder = tmp_path_factory.mktemp("benchmarks")
    evaluate(
        plan_evaluation(section(folder / "eval", entries(folder, NAMES), model=str(finetuned)))
    )
    return folder / "eval"


def test_every_answer_is_a_row(done: Path) -> None:
    total = 0
    for name in NAMES:
        table = pq.read_table(done / "benchmarks" / f"{name}.parquet")
        assert set(ANSWER_SCHEMA.names) < set(table.column_names)
        rows = table.to_pylist()
        total += len(rows)
        num_paired = sum(
            row["counterpart"] is not None
            for row in rows
            if (row["condition"], row["model_role"]) == ("image", "after")
        )
        assert num_paired == {"mmvp": 6, "hallusionbench": 6}.get(name, 0)
        for role in ("before", "after"):
            found = [row["condition"] for row in rows if row["model_role"] == role]
            sizes = dict.fromkeys(CONDITIONS[:4], SIZES[name]) | {"counterpart": num_paired}
            assert {condition: found.count(condition) for condition in CONDITIONS} == sizes
    result = read(done / "result.json")
    assert (result["num_requests"], result["num_without_answer"], result["batch_agreement"]) == (
        total,
        0,
        None,
    )
    assert set(result["benchmarks"]) == set(NAMES)


def test_scores_can_be_computed_again_from_the_rows(done: Path) -> None:
    for name in NAMES:
        table, written = (
            pq.read_table(done / "benchmarks" / f"{name}.parquet"),
            read(done / "benchmarks" / f"{name}.json"),
        )
        for condition, roles in written["scores"].items():
            for role, of_role in roles.items():
                chosen = [
                    row["condition"] == condition and row["model_role"] == role
                    for row in table.to_pylist()
                ]
                questions, verdicts = read_back(table.filter(chosen))
                values = {
                    key: metric.value
                    for key, metric in benchmark(name).metrics(questions, verdicts).items()
                }
                assert {
                    key: number and number["value"] for key, number in of_role["metrics"].items()
                } == pytest.approx(values)


def test_what_a_model_saw_is_in_the_rows(done: Path) -> None:
    rows = [
        row
        for row in pq.read_table(done / "benchmarks" / "mmvp.parquet").to_pylist()
        if row["model_role"] == "after"
    ]
    seen = {(row["condition"], row["item_id"]): row["image_sha256"] for row in rows}
    for item_id, other in (("1", "2"), ("4", "3")):
        assert seen["none", item_id] is None
        assert seen["blank", item_id] == "blank:24x24"
        assert seen["counterpart", item_id] == seen["image", other]
        assert seen["shuffled", item_id] not in (seen["image", item_id], None)
    said = {(row["condition"], row["item_id"]): row["response"] for row in rows}
    assert said["none", "1"] == said["none", "2"]  # one prompt, no image: one answer


def test_answers_are_those_of_the_model_one_at_a_time(done: Path, finetuned: Path) -> None:
    from pipeline.core.images import decode_rgb
    from training.models.generation import generate
    from training.models.vlm import load_vlm

    vlm = load_vlm(finetuned)
    rows = [
        row
        for row in pq.read_table(done / "benchmarks" / "mmvp.parquet").to_pylist()
        if row["model_role"] == "after"
    ]
    for row in rows[:3] + rows[6:8]:
        image = done.parent / "mmvp" / "MMVP Images" / f"{row['item_id']}.jpg"
        picture = decode_rgb(image.read_bytes()) if row["condition"] == "image" else None
        assert generate(vlm, [picture], [row["prompt"]], max_new_tokens=4) == [row["response"]]


def test_a_model_that_never_stops_is_bounded_and_counted(done: Path) -> None:
    for row in pq.read_table(done / "benchmarks" / "pope.parquet").to_pylist():
        assert row["num_tokens"] <= 4
        assert row["ended"] == (row["num_tokens"] < 4)
    answers = read(done / "benchmarks" / "pope.json")["scores"]["image"]["after"]["answers"]
    assert answers["num_not_ended"] > 0


def test_nobody_judged_is_missing_and_not_zero(done: Path) -> None:
    found = read(done / "benchmarks" / "mmhal.json")
    image = found["scores"]["image"]["after"]
    assert image["answers"]["statuses"]["missing"] == 16
    assert image["metrics"]["score"] is None
    assert found["judge"] is None


def test_the_page_shows_every_benchmark_and_loads_nothing(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    assert all(f"<h2>{name}</h2>" in page for name in NAMES)
    assert "Dependency on the image" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_another_out_asks_nothing_again_and_imports_neither_torch_nor_ray(
    done: Path, finetuned: Path, tmp_path: Path
) -> None:
    recipe = section(tmp_path / "eval", entries(done.parent, NAMES), model=str(finetuned), seed=0)
    recipe = recipe.model_copy(
        update={
            "answers": recipe.answers.model_copy(
                update={"cache": str(done.parent / "answers.sqlite")}
            )
        }
    )
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    code = (
        "import sys\n"
        "from eval.config import EvalSection\n"
        "from eval.run_eval import evaluate, plan_evaluation\n"
        "section = EvalSection.model_validate_json(open(sys.argv[1]).read())\n"
        "evaluate(plan_evaluation(section))\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "recipe.json")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "0 are to be made" in finished.stderr
    for name in NAMES:
        one, other = (
            pq.read_table(out / "benchmarks" / f"{name}.parquet")
            for out in (done, tmp_path / "eval")
        )
        assert one.equals(other)


def test_a_finished_evaluation_is_not_done_again_but_another_benchmark_is(
    done: Path, finetuned: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = section(done, entries(done.parent, NAMES), model=str(finetuned))
    evaluate(plan_evaluation(recipe))
    assert "nothing to do" in capfd.readouterr().err
    with pytest.raises(RecipeError, match="differs in benchmarks, recipe.benchmarks"):
        evaluate(plan_evaluation(recipe.model_copy(update={"benchmarks": recipe.benchmarks[:1]})))


def test_a_part_of_a_benchmark_is_said_to_be_one(
    finetuned: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = entries(tmp_path, ["mmvp"])[0]
    part = {**whole, "label": "two", "limit": 2, "expected_size": None}
    with pytest.raises(UserError, match="expected 300 questions, found 6"):
        plan_evaluation(
            section(tmp_path / "eval", [{**whole, "expected_size": None}], model=str(finetuned))
        )
    ablations = {
        "max_new_tokens": 2,
        "batch": 8,
        "cache": str(tmp_path / "a.sqlite"),
        "ablations": [],
    }
    evaluate(
        plan_evaluation(
            section(tmp_path / "eval", [part], model=str(finetuned), base="none", answers=ablations)
        )
    )
    said = capfd.readouterr().err
    assert "two: the first 2 of 300 questions only" in said
    written = read(tmp_path / "eval" / "benchmarks" / "two.json")
    assert (
        written["num_questions"],
        written["expected_size"],
        written["limit"],
        written["dependency"],
    ) == (2, 300, 2, {})
    assert "2 of 300" in (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")


def request(
    key: str,
    prompt: str = "What?",
    image_input: ImageInput = NO_IMAGE,
    tokens: int = 4,
    model: str = "m",
    alone: bool = False,
) -> Request:
    return Request(key, model, f"set: item {key} (image)", prompt, image_input, tokens, alone)


def test_batches_hold_one_model_and_one_bound_and_like_lengths() -> None:
    requests = [
        request("1", "x" * 9),
        request("2", "x"),
        request("3", "x" * 5, tokens=8),
        request("4", model="n"),
        request("5", "x", ImageInput(b"i", "s")),
        request("6", "x" * 8),
        request("7", alone=True),
        request("8", alone=True),
    ]
    keys = [[one.key for one in batch] for batch in batches_of(requests, 2)]
    assert keys == [["3"], ["5", "1"], ["6", "2"], ["7"], ["8"], ["4"]]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            request("9", image_input=ImageInput(b"no image", "s")),
            "set: item 9 \\(image\\): its image cannot be used",
        ),
        (
            request("9", prompt="Look at <image> here"),
            "set: item 9 \\(image\\): its prompt holds '<image>'",
        ),
    ],
)
def test_what_cannot_be_asked_is_named(bad: Request, words: str, finetuned: Path) -> None:
    generator = Generator(EvalSection(out=str(finetuned)))
    batch = [
        replace(one, model=str(finetuned), max_new_tokens=2, alone=False)
        for one in (request("1"), bad)
    ]
    with pytest.raises(UserError, match=words):
        generator(batch)


def test_in_bfloat16_the_agreement_of_batches_is_measured_once(
    finetuned: Path, tmp_path: Path
) -> None:
    answers = {
        "max_new_tokens": 4,
        "batch": 6,
        "cache": str(tmp_path / "a.sqlite"),
        "ablations": [],
        "num_checked": 5,
    }
    recipe = section(
        tmp_path / "eval",
        entries(tmp_path, ["mmvp"]),
        model=str(finetuned),
        base="none",
        answers=answers,
        dtype="bfloat16",
    )
    found = evaluate(plan_evaluation(recipe))["batch_agreement"]
    assert found["num_checked"] == 5
    assert 0 <= found["num_same"] <= 5
    assert "made alone" in (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")


def test_a_killed_run_repeats_only_the_batch_in_flight(
    finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = section(
        tmp_path / "eval", entries(tmp_path, ["pope"]), model=str(finetuned), base="none"
    )
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    code = (
        "import os, signal, sys\n"
        "from eval.config import EvalSection\n"
        "from eval.generation.generator import Generator\n"
        "from eval.run_eval import evaluate, plan_evaluation\n"
        "plain, made = Generator.__call__, []\n"
        "def dying(self, batch):\n"
        "    made.append(1)\n"
        "    if len(made) == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(self, batch)\n"
        "Generator.__call__ = dying\n"
        "section = EvalSection.model_validate_json(open(sys.argv[1]).read())\n"
        "evaluate(plan_evaluation(section))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "recipe.json")], env=environment, check=False
    )
    assert finished.returncode == -signal.SIGKILL
    asked: list[str] = []
    plain = Generator.__call__

    def counting(self: Generator, batch: Any) -> Any:
        asked.extend(request.key for request in batch)
        return plain(self, batch)

    monkeypatch.setattr(Generator, "__call__", counting)
    result = evaluate(plan_evaluation(recipe))
    rows = pq.read_table(tmp_path / "eval" / "benchmarks" / "pope.parquet").to_pylist()
    unique = {(row["prompt"], row["image_sha256"]) for row in rows}
    assert len(asked) == len(set(asked)) == len(unique) - 3 * 3  # three batches of three were kept
    assert result["num_without_answer"] == 0


@pytest.mark.ray
def test_ray_workers_give_the_same_answers(done: Path, finetuned: Path, tmp_path: Path) -> None:
    recipe = section(
        tmp_path / "eval",
        entries(done.parent, ["mmvp"]),
        model=str(finetuned),
        workers={"num_workers": 1},
    )
    evaluate(plan_evaluation(recipe))
    here, there = (
        pq.read_table(out / "benchmarks" / "mmvp.parquet") for out in (done, tmp_path / "eval")
    )
    assert there.equals(here)


def served(out: Path, server: ChatServer, names: Sequence[str], **more: Any) -> EvalSection:
    endpoint = {
        "model": "vlm",
        "base_url": server.base_url,
        "identity": "here",
        "api_key_env": None,
        "max_retries": 0,
        "first_wait_s": 0.0,
        "max_in_flight": 4,
        "cache": str(out.parent / "replies.sqlite"),
    }
    return section(out, entries(out.parent, names), endpoint=endpoint, **more)


def test_a_server_is_asked_with_images_and_answers_of_all_kinds_are_kept(tmp_path: Path) -> None:
    long = "word " * 2_000

    def behave(body: dict[str, Any]) -> str:
        content = body["messages"][0]["content"]
        if isinstance(content, str):
            return "blank"
        assert content[0]["image_url"]["url"].startswith(
            ("data:image/jpeg;base64,", "data:image/png;base64,")
        )
        question = content[1]["text"]
        return (
            f"raw {long}"
            if "door 1 " in question
            else "length yes"
            if "door 2 " in question
            else "raw Yes."
        )

    with ChatServer(behave) as server:
        result = evaluate(plan_evaluation(served(tmp_path / "eval", server, ["pope"])))
        assert {body["max_tokens"] for body in server.bodies} == {4}
        assert {body["temperature"] for body in server.bodies} == {0.0}
    assert result["models"] == {"after": "vlm at here"}
    written = read(tmp_path / "eval" / "benchmarks" / "pope.json")
    answers = written["scores"]["image"]["after"]["answers"]
    assert answers["num_not_ended"] == 3
    assert answers["statuses"] == {
        "exact": 9,
        "extracted": 0,
        "ambiguous": 0,
        "failed": 3,
        "unfinished": 0,
        "missing": 0,
    }
    assert written["scores"]["none"]["after"]["answers"]["num_empty"] == 12
    assert written["scores"]["none"]["after"]["answers"]["statuses"]["failed"] == 12
    rows = pq.read_table(tmp_path / "eval" / "benchmarks" / "pope.parquet").to_pylist()
    assert max(len(row["response"]) for row in rows) == len(long.strip())
    page = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert "(9,999 characters)" in page
    assert long not in page


@pytest.mark.parametrize("command", ["thinking", "length <think>Yes, or", "length <think></think>"])
def test_an_answer_that_was_not_finished_is_counted_apart(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = {"max_new_tokens": 9_000, "cache": str(tmp_path / "a.sqlite"), "ablations": []}
    behave: Callable[[dict[str, Any]], str] = lambda body: (  # noqa: E731
        command if "door 1 " in str(body["messages"]) else "raw <think>No?</think>Yes"
    )
    with ChatServer(behave) as server:
        recipe = served(tmp_path / "eval", server, ["pope"], answers=answers)
        result = evaluate(plan_evaluation(recipe))
        # above the benchmark's own bound of 128
        assert {body["max_tokens"] for body in server.bodies} == {9_000}
    written = read(tmp_path / "eval" / "benchmarks" / "pope.json")["scores"]["image"]["after"]
    statuses = written["answers"]["statuses"]
    assert (statuses["unfinished"], statuses["exact"], statuses["failed"]) == (3, 9, 0)
    assert written["answers"]["frac_unfinished"] == 3 / 12
    assert written["answers"]["frac_unreadable"] == 0.0
    assert written["metrics"]["random/accuracy"]["value"] == 1 / 4  # yes to yes no yes no
    assert result["benchmarks"]["pope"]["frac_unfinished"] == {"after": 3 / 12}
    said = "".join(capfd.readouterr())
    assert "3 of 12 answers were cut off before they said anything" in said
    assert "not finished" in (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")


def test_where_every_question_is_refused_the_refusal_is_shown(tmp_path: Path) -> None:
    answers = {"cache": str(tmp_path / "a.sqlite"), "ablations": []}
    with ChatServer(["400"] * 99) as server:
        recipe = served(tmp_path / "eval", server, ["mmvp"], answers=answers)
        two = recipe.benchmarks[0].model_copy(update={"limit": 2})
        with pytest.raises(UserError, match="every request was refused, .*status 400.*policy"):
            evaluate(plan_evaluation(recipe.model_copy(update={"benchmarks": (two,)})))
        assert server.num_requests == 2


def test_a_question_without_an_answer_is_missing_until_the_next_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failing: Callable[[dict[str, Any]], str] = lambda body: (  # noqa: E731
        "500" if "door 3 " in str(body["messages"]) else "raw No."
    )
    ablations = {"max_new_tokens": 4, "cache": str(tmp_path / "a.sqlite"), "ablations": []}
    with ChatServer(failing) as server:
        result = evaluate(
            plan_evaluation(served(tmp_path / "eval", server, ["pope"], answers=ablations))
        )
    assert result["num_without_answer"] == 3  # the same question in three splits
    assert not (tmp_path / "eval" / "DONE.json").exists()
    said = capfd.readouterr().err
    assert "3 of 12 answers got no answer from the server" in said
    written = read(tmp_path / "eval" / "benchmarks" / "pope.json")["scores"]["image"]["after"]
    assert written["answers"]["statuses"]["missing"] == 3
    assert written["metrics"]["random/accuracy"]["n"] == 3
    with ChatServer(["raw Yes."]) as server:
        again = evaluate(
            plan_evaluation(served(tmp_path / "eval", server, ["pope"], answers=ablations))
        )
        assert server.num_requests == 1
    assert again["num_without_answer"] == 0
    assert (tmp_path / "eval" / "DONE.json").exists()


def test_recipes_that_make_no_sense_are_refused(finetuned: Path, tmp_path: Path) -> None:
    some = entries(tmp_path, ["mmvp"])
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"model": "m", "endpoint": {"model": "x"}},
            "expected model=FOLDER or an endpoint, got both",
        ),
        ({}, "got neither"),
        ({"model": "m", "benchmarks": []}, "nothing to evaluate"),
        ({"endpoint": {"model": "x"}, "data": "d"}, "no log-likelihoods"),
        ({"model": "m", "benchmarks": some * 2}, "'mmvp' occurs twice"),
        (
            {"model": str(finetuned), "benchmarks": [{"name": "mvp", "source": "x"}]},
            "benchmark 'mvp': expected one of",
        ),
        (
            {"model": str(finetuned), "benchmarks": [{**some[0], "parser": "none"}]},
            "parser 'none': expected one of",
        ),
    ]
    for more, words in cases:
        with pytest.raises(UserError, match=words):
            plan_evaluation(section(tmp_path / "eval", more.pop("benchmarks", some), **more))
