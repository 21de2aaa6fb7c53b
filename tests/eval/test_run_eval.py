"""The command from recipe to page: in this process with a real tiny model, once through Ray, and
with wrong input.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.config import EvalSection
from eval.generation.generator import Generator
from eval.inputs import EvaluatedModel, Role
from eval.pairs.run import missing_chunks
from eval.run_eval import evaluate, plan_evaluation
from eval.run_eval import run as eval_command
from pipeline.core.cli import run_command
from pipeline.core.recipe import RecipeError, UserError, load_recipe

# Everything here needs a model and its scores.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "eval_contrast.yaml"


def section_of(mvc: Path, model: Path, out: Path, *more: str) -> EvalSection:
    quick = [
        "workers.num_workers=0",
        "generate.max_new_tokens=6",
        "pairs_per_chunk=5",
        "batch_pairs=3",
        "intervals.num_draws=100",
        "page.max_cards=12",
    ]
    return load_recipe(
        RECIPE, [f"data={mvc}", f"model={model}", f"out={out}", *quick, *more], EvalSection
    )


@pytest.fixture(scope="module")
def done(mvc: Path, finetuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation."""
    out = tmp_path_factory.mktemp("run") / "eval"
    evaluate(plan_evaluation(section_of(mvc, finetuned, out)))
    return out


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the page of `done`, which is made before this, has its plots: drawing is most of what a
    page costs.
    """
    monkeypatch.setattr("eval.report.pairs.figure_svg", lambda _: "<svg></svg>")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_everything_that_is_promised_is_written(done: Path) -> None:
    assert {"scores.json", "items.parquet", "report.html", "result.json", "DONE.json"} <= {
        path.name for path in done.iterdir()
    }
    assert read(done / "result.json")["num_pairs"] == 12


def test_scores_hold_both_models_their_difference_and_intervals(done: Path) -> None:
    scores = read(done / "scores.json")
    text = scores["overall"]["text_score"]
    assert (text["chance"], text["after"]["n"], text["after"]["num_groups"]) == (0.25, 12, 6)
    assert text["difference"]["value"] == pytest.approx(
        text["after"]["value"] - text["before"]["value"]
    )
    for key, entry in scores["overall"].items():
        if key.startswith("hallucinated"):
            continue  # whether random words are a claim is a matter of luck
        for role in ("before", "after"):
            number = entry[role]
            if number["num_groups"] < 6:
                assert number["low"] is number["high"] is None, key
            elif number["low"] is not None:  # words and nats that never differ have no interval
                assert number["low"] <= number["value"] + 1e-9 <= number["high"] + 2e-9, key
    assert text["after"]["low"] is not None
    assert sum(entries["text_score"]["after"]["n"] for entries in scores["category"].values()) == 12
    assert set(scores["source"]) == {"scenes", "untold"}
    assert "accuracy_misled" in scores["overall"]


def test_scores_are_what_the_items_say(done: Path) -> None:
    items, overall = pq.read_table(done / "items.parquet"), read(done / "scores.json")["overall"]
    for role in ("before", "after"):
        logp = {
            name: items[f"{role}_logp_{name}"].to_numpy()
            for name in ("a_a", "a_b", "b_a", "b_b", "none_a", "none_b")
        }
        text = (logp["a_a"] > logp["a_b"]) & (logp["b_b"] > logp["b_a"])
        assert overall["text_score"][role]["value"] == pytest.approx(text.mean())
        margin = np.concatenate([logp["a_a"] - logp["b_a"], logp["b_b"] - logp["a_b"]])
        assert overall["matching_contradictory_nats"][role]["value"] == pytest.approx(margin.mean())
        words = [
            len(said.split())
            for side in "ab"
            for said in items[f"{role}_generated_{side}"].to_pylist()
        ]
        assert overall["answer_words"][role]["value"] == pytest.approx(np.mean(words))


def test_only_rows_with_exact_truth_are_checked_for_hallucination(done: Path) -> None:
    overall, items = read(done / "scores.json")["overall"], pq.read_table(done / "items.parquet")
    assert overall["no_checkable_claim"]["after"]["n"] == 12  # both sides of every second pair
    assert overall["generated_own"]["after"]["n"] == 24
    untold = [row for row in items.to_pylist() if row["source"] == "untold"]
    assert {row["after_num_claims_a"] for row in untold} == {0}


def test_log_probabilities_are_those_of_a_plain_forward_pass(
    done: Path, finetuned: Path, rows: list[dict[str, Any]]
) -> None:
    import torch

    from pipeline.core.images import decode_rgb
    from training.models.vlm import encode_prompt, encode_response, load_vlm, pixel_values

    vlm, row = load_vlm(finetuned), rows[0]
    found = pq.read_table(done / "items.parquet").to_pylist()[0]
    for condition in ("a", "b", "none"):
        prompt = encode_prompt(vlm, row["question"], with_image=condition != "none")
        pixels = (
            None
            if condition == "none"
            else pixel_values(vlm, [decode_rgb(row[f"image_{condition}"]["bytes"])])
        )
        for side in ("a", "b"):
            response = encode_response(vlm, row[f"answer_{side}"])
            with torch.no_grad():
                logits = vlm.model(
                    input_ids=torch.tensor([prompt + response]), pixel_values=pixels
                ).logits[0, len(prompt) - 1 : -1]
            plain = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum().item()
            assert found[f"after_logp_{condition}_{side}"] == pytest.approx(plain, abs=1e-4)
            assert found[f"after_num_tokens_{side}"] == len(
                encode_response(vlm, row[f"answer_{side}"])
            )


def test_the_page_is_one_file_with_escaped_texts(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "<th>difference</th>" in page
    assert "<svg" in page
    assert 'src="data:image/jpeg;base64,' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere
    assert "<script>" not in page
    assert "<b>star" not in page
    assert "What &lt;script&gt;alert(1)&lt;/script&gt; is this?" in page
    assert "A &lt;b&gt;star&lt;/b&gt; &amp; more." in page


def test_the_page_says_what_is_a_tie_and_that_a_bare_yes_is_no_claim(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "0.001 nats is a tie" in page
    assert "A bare yes or no is no claim" in page


def test_a_finished_evaluation_is_not_done_again(
    done: Path, mvc: Path, finetuned: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.name != ".lock"}
    # the place does not matter
    evaluate(plan_evaluation(section_of(mvc, finetuned, done, "workers.num_workers=1")))
    assert "nothing to do" in capfd.readouterr().err
    assert before == {
        path: path.stat().st_mtime_ns for path in done.rglob("*") if path.name != ".lock"
    }


def test_another_recipe_or_model_is_refused_and_named(
    done: Path, mvc: Path, finetuned: Path
) -> None:
    with pytest.raises(RecipeError, match=r"differs in recipe.seed;.*overwrite=true"):
        evaluate(plan_evaluation(section_of(mvc, finetuned, done, "seed=5")))
    with pytest.raises(RecipeError, match="differs in models"):
        evaluate(plan_evaluation(section_of(mvc, finetuned / "base", done, "base=none")))


def test_overwriting_with_another_seed_scores_nothing_again(
    done: Path, mvc: Path, finetuned: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(done, tmp_path / "eval")
    parts = {path: path.stat().st_mtime_ns for path in (out / ".work").rglob("*.parquet")}
    assert len(parts) == 6
    evaluate(plan_evaluation(section_of(mvc, finetuned, out, "seed=5", "overwrite=true")))
    assert parts == {path: path.stat().st_mtime_ns for path in (out / ".work").rglob("*.parquet")}
    assert read(out / "DONE.json")["identity"]["recipe"]["seed"] == 5


def test_a_killed_evaluation_continues_and_ends_the_same(
    done: Path, mvc: Path, finetuned: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(done, tmp_path / "eval")
    for name in ("DONE.json", "scores.json", "report.html"):
        (out / name).unlink()
    lost = sorted((out / ".work").rglob("chunk-00001.parquet"))
    kept = sorted((out / ".work").rglob("chunk-00000.parquet"))
    times = [path.stat().st_mtime_ns for path in kept]
    for path in lost:
        path.unlink()
    evaluate(plan_evaluation(section_of(mvc, finetuned, out)))
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert read(out / "scores.json") == read(done / "scores.json")


def test_answers_that_were_kept_are_not_generated_again(
    done: Path,
    mvc: Path,
    finetuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    plain = Generator.__call__

    def counting(self: Generator, batch: Any) -> Any:
        made.extend(request.key for request in batch)
        return plain(self, batch)

    monkeypatch.setattr(Generator, "__call__", counting)
    evaluate(plan_evaluation(section_of(mvc, finetuned, tmp_path / "eval")))
    assert made == []
    assert read(tmp_path / "eval" / "scores.json") == read(done / "scores.json")
    cache = f"answers.cache={tmp_path / 'answers.sqlite'}"
    evaluate(plan_evaluation(section_of(mvc, finetuned, tmp_path / "lost", cache)))
    assert len(made) == len(set(made)) == 2 * 2 * 12  # no two sides are alike
    (tmp_path / "answers.sqlite").unlink()
    (tmp_path / "lost" / "DONE.json").unlink()
    evaluate(plan_evaluation(section_of(mvc, finetuned, tmp_path / "lost", cache)))
    assert len(made) == 2 * len(set(made))
    assert read(tmp_path / "lost" / "scores.json") == read(done / "scores.json")


def test_a_run_that_fails_leaves_no_page_of_the_run_that_it_was_to_replace(
    done: Path,
    finetuned: Path,
    rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    tmp_path: Path,
) -> None:
    out = shutil.copytree(done, tmp_path / "eval")
    broken = write_rows(
        tmp_path / "mvc", [{**rows[0], "image_b": {"bytes": b"no image", "path": None}}]
    )
    with pytest.raises(ValueError, match=r"none of 1 pairs can be scored \(1 with an image that"):
        evaluate(plan_evaluation(section_of(broken, finetuned, out, "overwrite=true")))
    assert {path.name for path in out.iterdir()} == {".lock", ".svco_eval", ".work"}


@pytest.mark.parametrize("name", ["result.json", "scores.json", "items.parquet", "report.html"])
def test_what_was_deleted_from_a_finished_evaluation_is_made_again(
    done: Path, mvc: Path, finetuned: Path, tmp_path: Path, name: str
) -> None:
    out = shutil.copytree(done, tmp_path / "eval")
    (out / name).unlink()
    assert evaluate(plan_evaluation(section_of(mvc, finetuned, out)))["num_pairs"] == 12
    assert (out / name).is_file()


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(
    mvc: Path, finetuned: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(mvc, tmp_path / "mvc")
    (data / ".work").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "DONE.json").write_text("{}")
    (other / "report.html").write_text("mine")
    for out, expected in (
        (data, "evaluation, found 'manifest.json'"),
        (other, "evaluation, found 'DONE.json'"),
        (finetuned, "evaluation, found"),
    ):
        before = sorted(out.rglob("*"))
        with pytest.raises(UserError, match=expected):
            evaluate(plan_evaluation(section_of(mvc, finetuned, out, "overwrite=true")))
        assert sorted(out.rglob("*")) == before


def test_a_model_that_is_its_own_base_is_scored_once(tmp_path: Path) -> None:
    model = EvaluatedModel("m", "m", "same")
    models: dict[Role, EvaluatedModel] = {"before": model, "after": model}

    def missing(names: tuple[str, str], kept: tuple[str, ...]) -> list[tuple[Any, ...]]:
        places = {
            (role, index): f"{name}-{index}"
            for role, name in zip(models, names, strict=True)
            for index in (0, 1)
        }
        parts = {place: tmp_path / name for place, name in places.items()}
        keys = {place: [f"{name}-a", f"{name}-b"] for place, name in places.items()}
        chunks = missing_chunks([pa.table({})] * 2, models, parts, keys, kept)
        return [(*chunk.place, chunk.is_scored, dict(chunk.unanswered)) for chunk in chunks]

    same, sides = ("same", "same"), {"same-1-a": 0, "same-1-b": 1}
    assert missing(same, ()) == [
        ("after", 0, False, {"same-0-a": 0, "same-0-b": 1}),
        ("after", 1, False, sides),
    ]
    (tmp_path / "same-0").write_text("finished")
    assert missing(same, ("same-0-a", "same-0-b")) == [("after", 1, False, sides)]
    assert missing(same, ("same-0-a",)) == [
        ("after", 0, True, {"same-0-b": 1}),
        ("after", 1, False, sides),
    ]
    two = missing(("same", "another"), ("same-0-a", "same-0-b"))
    assert [place[:2] for place in two] == [("before", 1), ("after", 0), ("after", 1)]


def test_the_terminal_names_the_split(
    mvc: Path, finetuned: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(mvc, tmp_path / "mvc")
    (data / "data" / "validation-00000-of-00001.parquet").rename(
        data / "data" / "train-00000-of-00001.parquet"
    )
    more = ("split=train", f"base={finetuned}", "generate.enabled=false", "max_pairs=2")
    evaluate(plan_evaluation(section_of(data, finetuned, tmp_path / "eval", *more)))
    said = capfd.readouterr().err
    assert "2 pairs of split train" in said
    assert "held-out" not in said


def test_a_model_without_base_gets_one_column(mvc: Path, finetuned: Path, tmp_path: Path) -> None:
    more = ("base=none", "generate.enabled=false", "max_pairs=4")
    evaluate(plan_evaluation(section_of(mvc, finetuned, tmp_path / "eval", *more)))
    overall = read(tmp_path / "eval" / "scores.json")["overall"]
    assert overall["text_score"]["before"] is None
    assert overall["text_score"]["difference"] is None
    assert "answer_words" not in overall
    assert "<th>difference</th>" not in (tmp_path / "eval" / "report.html").read_text(
        encoding="utf-8"
    )


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "eval/run_eval.py", "--recipe", str(RECIPE), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_wrong_input_is_one_line_and_exit_code_2(
    mvc: Path,
    finetuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    good = {
        "model": str(finetuned),
        "data": str(mvc),
        "out": str(tmp_path / "eval"),
        "workers.num_workers": "0",
    }
    cases = [
        ({"model": str(tmp_path)}, "config.json"),
        ({"data": str(tmp_path)}, "manifest.json"),
        ({"base": str(tmp_path / "nowhere")}, "base="),
        ({"splitt": "train"}, "did you mean 'split'"),
        ({"out": str(tmp_path / "full")}, "found 'thesis.txt'"),
    ]
    for change, expected in cases:
        arguments = [f"{key}={value}" for key, value in {**good, **change}.items()]
        monkeypatch.setattr(sys, "argv", ["run_eval", "--recipe", str(RECIPE), *arguments])
        with pytest.raises(SystemExit, match="2"):
            run_command(eval_command)
        said = capfd.readouterr().err
        assert said.count("\n") == 1, said
        assert expected in said
    finished = run(*arguments)  # and so it is in a process of its own
    assert (finished.returncode, finished.stderr) == (2, said)


def test_a_dry_run_shows_the_plan_without_torch_or_ray(
    lean_command: Callable[..., Any], mvc: Path, finetuned: Path, tmp_path: Path
) -> None:
    arguments = ["--dry-run", f"model={finetuned}", f"data={mvc}", f"out={tmp_path / 'eval'}"]
    assert "12 in 6 groups" in lean_command("eval", *arguments).stderr
    assert not (tmp_path / "eval").exists()


def test_pairs_that_a_model_cannot_take_are_left_out_and_counted(
    finetuned: Path, rows: list[dict[str, Any]], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    broken = [dict(row) for row in rows]
    broken[1]["image_b"] = {"bytes": b"no image", "path": None}
    broken[4]["answer_a"] += "</s>"
    broken[6]["question"] = "What does <image> show?"
    scored = [row for number, row in enumerate(rows) if number not in (1, 4, 6)]
    results, items = {}, {}
    for name, chosen in (("broken", broken), ("scored", scored)):
        folder, out = write_rows(tmp_path / name, chosen), tmp_path / f"{name}-eval"
        results[name] = evaluate(plan_evaluation(section_of(folder, finetuned, out)))
        items[name] = pq.read_table(out / "items.parquet")
    assert results["broken"]["num_pairs_left_out"] == {
        "image_broken": 1,
        "text_has_control_token": 2,
    }
    assert (results["broken"]["num_pairs"], results["scored"]["num_pairs_left_out"]) == (9, {})
    assert items["broken"]["pair_id"] == items["scored"]["pair_id"]
    assert items["broken"]["before_generated_a"] == items["scored"]["before_generated_a"]
    for role in ("before", "after"):
        np.testing.assert_allclose(
            items["broken"][f"{role}_logp_a_a"].to_numpy(),
            items["scored"][f"{role}_logp_a_a"].to_numpy(),
            rtol=1e-5,
        )


def test_a_model_of_another_kind_is_refused_with_the_reason(
    mvc: Path, finetuned: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(finetuned / "base", tmp_path / "model")
    (model / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="model_type is 'clip'"):
        evaluate(plan_evaluation(section_of(mvc, model, tmp_path / "eval")))


@pytest.mark.ray
def test_ray_workers_give_the_same_scores_and_name_a_bad_row(
    one_ray: None,
    done: Path,
    mvc: Path,
    finetuned: Path,
    rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    command_here: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    evaluate(
        plan_evaluation(
            section_of(
                mvc,
                finetuned,
                tmp_path / "eval",
                "workers.num_workers=1",
                f"answers.cache={tmp_path / 'answers.sqlite'}",
            )
        )
    )
    columns = [name for name in pq.read_schema(done / "items.parquet").names if "_logp_" in name]
    here, there = (pq.read_table(out / "items.parquet") for out in (done, tmp_path / "eval"))
    for name in columns:
        np.testing.assert_allclose(there[name].to_numpy(), here[name].to_numpy(), rtol=1e-5)
    assert there.select(["pair_id", "after_generated_a"]).equals(
        here.select(["pair_id", "after_generated_a"])
    )
    broken = write_rows(
        tmp_path / "mvc", [{**rows[2], "image_b": {"bytes": b"no image", "path": None}}]
    )
    overrides = (f"model={finetuned}", f"data={broken}", f"out={tmp_path / 'broken'}", "base=none")
    code, printed = command_here(eval_command, "--recipe", RECIPE, *overrides)
    assert code == 2, printed
    assert f"pair {rows[2]['pair_id']}: image_b cannot be decoded" in printed.splitlines()[-1]
