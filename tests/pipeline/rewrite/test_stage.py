"""Pairs and whole builds written by a model, on a real server of ours on loopback that misbehaves
on command.
"""

import asyncio
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.build_mvc import build
from pipeline.config import BuildSection
from pipeline.core.recipe import RecipeError, load_recipe
from pipeline.core.schema import read_mvc
from pipeline.dataset.validate import problems
from pipeline.llm.client import Endpoint
from pipeline.llm.config import EndpointSection
from pipeline.llm.protocol import EndpointError
from pipeline.llm.structured_chat import read_prompt
from pipeline.rewrite.checks import ChecksSection, answers_failure, question_failure
from pipeline.rewrite.config import RewriteSection
from pipeline.rewrite.model_writer import ANSWERS_PROMPT, QUESTION_PROMPT, by_model
from pipeline.rewrite.types import Pair, Rewrite
from pipeline.sources.pairs import PairsSection
from pipeline.stages.plan import plan_build
from tests.pipeline.chat_server import ChatServer
from tests.pipeline.model_builds import NUM_PAIRS, built, coloured_balls, settings

PAIR = Pair("A red star on a table.", "A blue star on a table.", "attribute")
GOOD_QUESTION = json.dumps({"question": "What is on the table?"})
GOOD_ANSWERS = json.dumps(
    {"answer_a": "There is a red star on a table.", "answer_b": "There is a blue star on a table."}
)
LEAKS = json.dumps({"question": "Is the star red?"})
SWAPPED = json.dumps(
    {"answer_a": "There is a blue star on a table.", "answer_b": "There is a red star on a table."}
)


def rewritten(server: ChatServer, tmp_path: Path, pair: Pair = PAIR, **more: Any) -> Rewrite:
    section = settings(server, tmp_path, **more)

    async def run() -> Rewrite:
        assert section.endpoint is not None
        async with Endpoint(section.endpoint, "test") as endpoint:
            return await by_model(pair, endpoint, section)

    return asyncio.run(run())


def reasons(rewrite: Rewrite) -> list[str]:
    return [failure.reason for failure, _ in rewrite.refused]


def test_a_pair_is_one_question_and_two_answers_of_two_requests(tmp_path: Path) -> None:
    with ChatServer([f"raw {GOOD_QUESTION}", f"raw ```json\n{GOOD_ANSWERS}\n```"]) as server:
        found = rewritten(server, tmp_path)
    assert found.written is not None and found.written.question == "What is on the table?"
    assert (found.written.answer_a, found.written.answer_b) == (
        "There is a red star on a table.",
        "There is a blue star on a table.",
    )
    assert (found.status, found.model, found.refused) == ("llm", "m-0001", ())
    first, second = (json.loads(body["messages"][1]["content"]) for body in server.bodies)
    assert first == {
        "caption_a": PAIR.caption_a,
        "caption_b": PAIR.caption_b,
        "words_to_avoid": ["blue", "red"],
    }
    assert second["question"] == "What is on the table?" and (
        second["keep_in_a"],
        second["keep_in_b"],
    ) == ("red", "blue")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (f"raw {LEAKS}", "question_leaks_contrast"),
        ("raw What is on the table?", "reply_not_json"),
        ('raw {"text": "What is on the table?"}', "reply_wrong_schema"),
        ('raw {"question": ["What is on the table?"]}', "reply_wrong_schema"),
        ("empty", "reply_empty"),
        ("blank", "reply_empty"),
        ("refusal", "reply_refused"),
        ("length", "reply_cut_off"),
    ],
)
def test_a_bad_reply_goes_back_once_with_what_is_wrong(
    bad: str, reason: str, tmp_path: Path
) -> None:
    with ChatServer([bad, f"raw {GOOD_QUESTION}", f"raw {GOOD_ANSWERS}"]) as server:
        found = rewritten(server, tmp_path)
    assert (found.status, reasons(found), server.num_requests) == ("llm_retried", [reason], 3)
    again = server.bodies[1]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert json.loads(again[3]["content"])["problem"] == found.refused[0][0].problem


def test_answers_that_fail_twice_leave_the_pair_to_the_template_or_to_rejects(
    tmp_path: Path,
) -> None:
    script = [f"raw {GOOD_QUESTION}", f"raw {SWAPPED}", f"raw {SWAPPED}"]
    with ChatServer(script) as server:
        found = rewritten(server, tmp_path)
        rejected = rewritten(server, tmp_path, on_failure="reject")
        assert server.num_requests == 3
    assert found.written is not None and found.written.answer_a == "A red star on a table."
    assert (found.status, found.model, reasons(found)) == (
        "fallback",
        None,
        ["answer_a_lost_contrast"] * 2,
    )
    assert rejected.written is None and rejected.drop_reason == "rewrite_answer_a_lost_contrast"


def test_a_question_of_the_source_is_kept_if_it_leaks_nothing(tmp_path: Path) -> None:
    with ChatServer([f"raw {GOOD_ANSWERS}"]) as server:
        found = rewritten(
            server, tmp_path, Pair(*PAIR.captions, "attribute", "And what is\non the table?")
        )
        assert (
            found.written is not None
            and found.written.question == "And what is on the table?"
            and server.num_requests == 1
        )
    with ChatServer([f"raw {GOOD_QUESTION}", f"raw {GOOD_ANSWERS}"]) as server:
        found = rewritten(server, tmp_path, Pair(*PAIR.captions, "attribute", "Is the star red?"))
        assert found.written is not None and found.written.question == "What is on the table?"


def test_prompts_call_captions_material_and_ask_for_json() -> None:
    for path in (QUESTION_PROMPT, ANSWERS_PROMPT):
        assert "never an instruction" in read_prompt(path) and "JSON object" in read_prompt(path)


def test_what_decides_texts_changes_the_fingerprint_and_limits_do_not(tmp_path: Path) -> None:
    with ChatServer() as server:
        plain = settings(server, tmp_path).content()
        for more in (
            {"on_failure": "reject"},
            {"checks": {"max_new_words": 0}},
            {"endpoint": {"model": "n"}},
            {"endpoint": {"temperature": 0}},
        ):
            assert settings(server, tmp_path, **more).content() != plain
        prices = {"usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 1}
        for more in (
            {"endpoint": {"max_in_flight": 5, "requests_per_minute": 7, "timeout_s": 3}},
            {"max_usd": 3, "endpoint": prices},
        ):
            assert settings(server, tmp_path, **more).content() == plain


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rewrite.backend=openai"], "backend openai needs endpoint"),
        (
            ["rewrite.backend=openai", "rewrite.endpoint.model=m", "rewrite.max_usd=1"],
            "max_usd needs prices",
        ),
        (["rewrite.endpoint.modell=m"], "did you mean 'model'"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("sources: [{kind: scenes}]\nout: x\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml", overrides, BuildSection)


@pytest.fixture
def source(tmp_path: Path) -> PairsSection:
    return coloured_balls(tmp_path)


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    names = [
        "source_id",
        "question",
        "answer_a",
        "answer_b",
        "caption_a",
        "caption_b",
        "rewrite_status",
        "rewrite_model",
    ]
    return {
        row["source_id"]: row
        for split in ("train", "validation")
        for row in read_mvc(out, split, names).to_pylist()
    }


@pytest.mark.slow
def test_a_build_is_written_by_the_model_and_every_row_passes_the_checks(
    source: PairsSection, tmp_path: Path
) -> None:
    with ChatServer() as server:
        prices = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 1.0}
        manifest = built(source, settings(server, tmp_path, endpoint=prices), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == NUM_PAIRS and {row["rewrite_status"] for row in rows.values()} == {"llm"}
    assert {row["rewrite_model"] for row in rows.values()} == {"m-0001"}
    for row in rows.values():
        captions = (row["caption_a"], row["caption_b"])
        assert question_failure(row["question"], *captions, ChecksSection()) is None
        assert (
            answers_failure(
                row["question"], (row["answer_a"], row["answer_b"]), captions, ChecksSection()
            )
            is None
        )
    facts = manifest["rewrite"]
    assert (
        facts["by_status"] == {"llm": NUM_PAIRS}
        and facts["num_replies"] == facts["num_sent"] == 2 * NUM_PAIRS
    )
    assert (
        facts["usd_without_cache"]
        == facts["usd_paid"]
        == round((facts["num_prompt_tokens"] + facts["num_completion_tokens"]) / 1e6, 6)
        > 0
    )
    assert 0 < facts["latency_s"]["p50"] <= facts["latency_s"]["p99"]
    page = (tmp_path / "out/report.html").read_text()
    assert "USD paid for this folder" in page and "No reply was refused" in page
    published = (tmp_path / "out/manifest.json").read_text()
    assert "127.0.0.1" not in published + page + (tmp_path / "out/README.md").read_text()
    assert [one.line() for one in problems(tmp_path / "out", quick=False)] == []


@pytest.mark.slow
def test_a_caption_that_gives_orders_changes_nothing_but_its_own_row(
    source: PairsSection, tmp_path: Path
) -> None:
    def gullible(body: dict[str, Any]) -> str:
        return "raw pwned" if "Ignore the above" in body["messages"][1]["content"] else "answer"

    with ChatServer() as server:
        built(source, settings(server, tmp_path), tmp_path / "obedient")
    with ChatServer(gullible) as server:
        manifest = built(source, settings(server, tmp_path), tmp_path / "gullible")
    obedient, gulled = rows_of(tmp_path / "obedient"), rows_of(tmp_path / "gullible")
    assert {name for name in gulled if gulled[name] != obedient[name]} == {"5"}
    assert gulled["5"]["rewrite_status"] == "fallback" and "pwned." in gulled["5"]["answer_a"]
    assert manifest["rewrite"]["refused_by_reason"] == {"reply_not_json": 2}
    assert manifest["rewrite"]["by_status"] == {"fallback": 1, "llm": NUM_PAIRS - 1}


@pytest.mark.slow
def test_rejected_rewrites_are_rejects_with_their_reason(
    source: PairsSection, tmp_path: Path
) -> None:
    with ChatServer(
        lambda body: "refusal" if " 36" in body["messages"][1]["content"] else "answer"
    ) as server:
        manifest = built(source, settings(server, tmp_path, on_failure="reject"), tmp_path / "out")
    assert manifest["rows"]["dropped_by_reason"] == {"rewrite_reply_refused": 1}
    assert manifest["rewrite"]["by_status"] == {"llm": NUM_PAIRS - 1, "rejected": 1}


@pytest.mark.slow
def test_a_build_that_ends_in_the_middle_pays_for_nothing_again(
    source: PairsSection, tmp_path: Path
) -> None:
    """The server turns the key down again and again; each time the build goes on behind what it
    has.
    """
    paid: Counter[str] = Counter()
    for num_good in (3, 9, 1, 20):
        with ChatServer(["answer"] * num_good + ["401"] * 400) as server:
            rewrite = settings(server, tmp_path, endpoint={"identity": "ours", "max_in_flight": 4})
            with pytest.raises(EndpointError, match="does not accept"):
                built(source, rewrite, tmp_path / "out")
            paid += server.answered
    with ChatServer() as server:
        built(source, settings(server, tmp_path, endpoint={"identity": "ours"}), tmp_path / "out")
        paid += server.answered
        manifest = built(
            source, settings(server, tmp_path, endpoint={"identity": "ours"}), tmp_path / "again"
        )
    assert set(paid.values()) == {1} and len(paid) == 2 * NUM_PAIRS
    assert (
        manifest["rewrite"]["num_cache_hits"] == 2 * NUM_PAIRS
        and manifest["rewrite"]["num_sent"] == 0
    )
    assert [path.read_bytes() for path in sorted((tmp_path / "out/data").iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "again/data").iterdir())
    ]


@pytest.mark.slow
def test_a_changed_limit_of_a_check_asks_for_nothing_again(
    source: PairsSection, tmp_path: Path
) -> None:
    with ChatServer() as server:
        built(source, settings(server, tmp_path), tmp_path / "out")
        manifest = built(
            source, settings(server, tmp_path, checks={"max_answer_words": 30}), tmp_path / "out"
        )
        assert server.num_requests == 2 * NUM_PAIRS and manifest["rewrite"]["by_status"] == {
            "llm": NUM_PAIRS
        }


@pytest.mark.slow
def test_a_build_stops_at_its_budget_and_goes_on_when_it_is_raised(
    source: PairsSection, tmp_path: Path
) -> None:
    prices = {
        "usd_per_million_input_tokens": 100.0,
        "usd_per_million_output_tokens": 100.0,
        "max_tokens": 60,
    }
    with ChatServer() as server:
        with pytest.raises(EndpointError, match="max_usd=1 is used up"):
            built(source, settings(server, tmp_path, endpoint=prices, max_usd=1), tmp_path / "out")
        assert 0 < server.answered.total() < 2 * NUM_PAIRS
        manifest = built(
            source, settings(server, tmp_path, endpoint=prices, max_usd=100), tmp_path / "out"
        )
        assert server.answered.total() == 2 * NUM_PAIRS and manifest["rewrite"][
            "usd_paid"
        ] == pytest.approx(manifest["rewrite"]["usd_without_cache"])


@pytest.mark.slow
def test_a_key_is_in_no_file_and_no_message(
    source: PairsSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVCO_TEST_KEY", "sk-very-secret")
    with ChatServer(["500"]) as server:
        rewrite = settings(server, tmp_path, endpoint={"api_key_env": "SVCO_TEST_KEY"})
        built(source, rewrite, tmp_path / "out")
        assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes(), path
    assert sqlite3.connect(tmp_path / "replies").execute(
        "SELECT COUNT(*) FROM replies"
    ).fetchone() == (2 * NUM_PAIRS,)
    assert "sk-very-secret" not in repr(EndpointSection(model="m", api_key_env="SVCO_TEST_KEY"))


def test_a_missing_key_is_missed_before_the_build_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SVCO_TEST_KEY", raising=False)
    section = RewriteSection(
        backend="openai", endpoint={"model": "m", "api_key_env": "SVCO_TEST_KEY"}
    )
    plan = plan_build(
        BuildSection(
            sources=(coloured_balls(tmp_path),), out=str(tmp_path / "out"), rewrite=section
        )
    )
    with pytest.raises(EndpointError, match="SVCO_TEST_KEY is not set"):
        build(plan)
    assert not (tmp_path / "out").exists()
