"""Whole builds that verify their answers, without Ray: margins by the built-in CLIP, verdicts by a
server of ours.
"""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import BuildSection
from pipeline.core.ray_pool import Pool
from pipeline.core.schema import read_manifest, read_mvc
from pipeline.core.storage import Stage, read_table
from pipeline.dataset.validate import problems
from pipeline.embedding.encoders import ClipEncoder
from pipeline.embedding.pixels import Floats
from pipeline.llm.protocol import EndpointError
from pipeline.rewrite.config import RewriteSection
from pipeline.sources.pairs import PairsSection
from pipeline.sources.scenes.source import ScenesSection
from pipeline.stages.finalize import publish
from pipeline.stages.plan import plan_build
from pipeline.stages.runner import Build
from tests.pipeline.chat_server import ChatServer
from tests.pipeline.model_builds import COLOURS, NUM_PAIRS, built, coloured_balls

Verdict = Callable[[str, str], str]


def scenes(out: Path, **more: Any) -> BuildSection:
    return BuildSection(
        sources=(ScenesSection(kind="scenes", num_pairs=24),),
        out=str(out),
        encoders={"clip": {"model": "builtin:scenes-clip"}},
        workers={"chunk_pairs": 10},
        audit={"enabled": False},
        validation={"fraction": 0.2},
        **more,
    )


def made(section: BuildSection) -> tuple[dict[str, Any], Build]:
    job = Build(plan_build(section), Pool(0).map, 1)
    job.run()
    return publish(job), job


def margins(job: Build) -> list[tuple[float | None, float | None]]:
    tables = [
        read_table(job.stages["verify"].part("margins", chunk.index)).to_pylist()
        for chunk in job.plan.chunks
    ]
    return [(row["answer_margin_a"], row["answer_margin_b"]) for table in tables for row in table]


def count_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects every text that is embedded from now on."""
    seen: list[str] = []
    encode = ClipEncoder.encode_texts

    def counting(encoder: ClipEncoder, texts: Sequence[str]) -> Floats:
        seen.extend(texts)
        return encode(encoder, texts)

    monkeypatch.setattr(ClipEncoder, "encode_texts", counting)
    return seen


@pytest.mark.slow
def test_answers_that_are_the_captions_have_the_captions_margins_and_are_not_embedded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = count_texts(monkeypatch)
    plain, job = made(scenes(tmp_path / "out"))
    assert "verify" not in plain and "verify" not in plain["recipe"] and "verify" not in job.stages
    num_captions = len(texts)
    manifest, job = made(scenes(tmp_path / "out", verify={}))
    assert manifest["files"] == plain["files"] and len(texts) == num_captions
    rows = [
        row
        for split in ("train", "validation")
        for row in read_mvc(tmp_path / "out", split).to_pylist()
    ]
    assert all(row["answer_a"] == row["caption_a"] for row in rows)
    assert sorted(margins(job)) == sorted(
        (row["caption_margin_a"], row["caption_margin_b"]) for row in rows
    )
    assert manifest["verify"]["margins"]["num_pairs"] == manifest["verify"]["num_verified"] == 24
    assert manifest["verify"]["dropped_by_reason"] == {}


@pytest.mark.slow
def test_a_changed_bound_measures_nothing_again_and_drops_by_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with ChatServer() as server:
        endpoint = {
            "base_url": server.base_url,
            "model": "m",
            "api_key_env": None,
            "cache": str(tmp_path / "replies"),
        }
        rewrite = RewriteSection(backend="openai", endpoint=endpoint)
        made(scenes(out, rewrite=rewrite))
        texts = count_texts(monkeypatch)
        _, job = made(scenes(out, rewrite=rewrite, verify={}))
        answers = {
            answer
            for split in ("train", "validation")
            for row in read_mvc(out, split).to_pylist()
            for answer in (row["answer_a"], row["answer_b"])
        }
        assert set(texts) == answers
        num_texts, num_answered = len(texts), server.answered.total()
        measured = margins(job)
        lower = sorted(min(pair) for pair in measured)
        bound = lower[6]
        manifest, job = made(scenes(out, rewrite=rewrite, verify={"min_answer_margin": bound}))
    assert len(texts) == num_texts and server.answered.total() == num_answered > 0
    assert {timing["name"]: timing["reused"] for timing in job.timings} == {
        name: name not in ("accept", "audit") for name in job.stages if name != "finalise"
    }
    left = sum(min(pair) < bound for pair in measured)
    by_reason = manifest["rows"]["dropped_by_reason"]
    assert left == 6 and sum(by_reason.values()) == left and manifest["rows"]["kept"] == 24 - left
    assert by_reason.get("answer_margin_a_below_min", 0) == sum(
        pair[0] < bound for pair in measured
    )
    rejects = [
        row
        for path in (out / "rejects").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert len(rejects) == left and all(
        row["answer_a"] and row["image_a"]["bytes"] for row in rejects
    )
    assert [problem for problem in problems(out, quick=False) if not problem.is_warning] == []
    page = (out / "report.html").read_text()
    assert "Verification of the answers" in page and "min_answer_margin 0.01" in page
    assert read_manifest(out)["verify"]["margins"]["frac_positive"]["both"] == pytest.approx(
        sum(m > 0 for m in lower) / 24, abs=1e-4
    )


def judging(verdict: Verdict) -> Callable[[dict[str, Any]], str]:
    """A model that writes, and as a judge says what `verdict` makes of an answer and the image's
    bytes in base64.
    """

    def behave(body: dict[str, Any]) -> str:
        content = body["messages"][min(1, len(body["messages"]) - 1)]["content"]
        if isinstance(content, str):
            return "answer"
        said = json.loads(content[1]["text"])["answer"]
        return verdict(said, content[0]["image_url"]["url"].split(",")[1])

    return behave


def judged_balls(
    source: PairsSection, verdict: Verdict, **verify: Any
) -> tuple[dict[str, Any], ChatServer]:
    """A build whose judge is on the server that writes."""
    tmp_path = Path(source.path).parent
    common = {
        "model": "m",
        "api_key_env": None,
        "first_wait_s": 0.01,
        "max_retries": 0,
        "identity": "test",
    }
    more = verify.pop("endpoint", {})
    with ChatServer(judging(verdict)) as server:
        endpoint = {**common, "base_url": server.base_url, "cache": str(tmp_path / "replies")}
        judge = {"endpoint": endpoint | more, **verify.pop("judge", {})}
        manifest = built(
            source,
            RewriteSection(backend="openai", endpoint=endpoint),
            tmp_path / "out",
            verify={"judge": judge, **verify},
        )
    return manifest, server


def reasons(out: Path) -> dict[str, str]:
    return {
        row["source_id"]: row["drop_reason"]
        for path in (out / "rejects").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    }


@pytest.mark.slow
def test_what_a_judge_says_is_a_decision_per_pair(tmp_path: Path) -> None:
    source = coloured_balls(tmp_path)
    numbers = {
        base64.b64encode(path.read_bytes()).decode(): path.stem for path in tmp_path.glob("*.png")
    }

    def verdict(answer: str, image: str) -> str:
        name = numbers[image]  # "7a": picture a of pair 7
        is_own = _colour(int(name[:-1]), name[-1]) in answer
        if name[:-1] == "3" and is_own:
            return 'raw {"verdict": "false"}'
        if name == "4b":
            return 'raw {"verdict": "true"}'
        if name == "6a":
            return "raw It is hard to say."
        if name == "7a":
            return "500"
        if name == "8a":
            return "refusal"
        return f'raw {{"verdict": "{"true" if is_own else "false"}"}}'

    manifest, server = judged_balls(source, verdict, on_contradiction="drop", on_affirmation="drop")
    assert reasons(tmp_path / "out") == {
        "3": "judge_contradicts_a",
        "4": "judge_affirms_a_of_image_b",
    }
    said = manifest["verify"]["judge"]["verdicts"]
    assert said["judged_a_of_a"] == {"true": NUM_PAIRS - 4, "false": 1, "missing": 3}
    assert said["judged_b_of_a"] == {"true": 0, "false": NUM_PAIRS - 3, "missing": 3}
    assert said["judged_a_of_b"] == {"true": 1, "false": NUM_PAIRS - 1, "missing": 0}
    assert manifest["verify"]["judge"]["refused_by_reason"] == {
        "endpoint_gave_no_answer": 2,
        "reply_not_json": 4,
        "reply_refused": 4,
    }
    recipe = manifest["recipe"]["verify"]["judge"]["endpoint"]
    assert recipe["base_url"] is None and recipe["cache"] is None and recipe["model"] == "m"
    assert "answer b, image a (should be false)" in (tmp_path / "out/report.html").read_text()
    num_asked = server.num_requests
    assert num_asked > 2 * NUM_PAIRS + 4 * NUM_PAIRS

    # What was said stands; another decision on it asks nobody.
    manifest, server = judged_balls(source, verdict, on_missing_judgement="drop")
    assert server.num_requests == 0
    assert reasons(tmp_path / "out") == dict.fromkeys(("6", "7", "8"), "judged_a_of_a_missing")


def _colour(number: int, side: str) -> str:
    return COLOURS[(number + "ab".index(side)) % 8]


@pytest.mark.slow
def test_a_judges_budget_is_its_own_and_a_raised_one_goes_on(tmp_path: Path) -> None:
    def verdict(answer: str, image: str) -> str:
        return 'raw {"verdict": "unsure"}'

    prices = {"usd_per_million_input_tokens": 100.0, "usd_per_million_output_tokens": 100.0}
    source = coloured_balls(tmp_path)
    with pytest.raises(EndpointError, match="max_usd=5 is used up"):
        judged_balls(source, verdict, endpoint=prices, judge={"max_usd": 5})
    manifest, server = judged_balls(source, verdict, endpoint=prices, judge={"max_usd": 500})
    assert 0 < server.num_requests < 4 * NUM_PAIRS
    judge = manifest["verify"]["judge"]
    assert judge["num_replies"] == 4 * NUM_PAIRS and judge["usd_paid"] == pytest.approx(
        judge["usd_without_cache"]
    )
    assert manifest["verify"]["dropped_by_reason"] == {}
    done = Stage(
        "verify", tmp_path / "out/.work/verify" / manifest["fingerprints"]["verify"]
    ).done()
    assert done is not None and not any("margins" in name for name in done["files"])
