"""What is measured of answers and what is made of it: on numbers worked by hand, and with a judge
on a server of ours.
"""

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import BuildSection
from pipeline.core.recipe import RecipeError, load_recipe
from pipeline.llm.client import Endpoint
from pipeline.llm.config import EndpointSection
from pipeline.llm.protocol import ASSUMED_IMAGE_TOKENS, message_tokens
from pipeline.llm.structured_chat import read_prompt
from pipeline.stages.plan import plan_build
from pipeline.verify.accept import accept_reasons
from pipeline.verify.config import JudgeSection, VerifySection
from pipeline.verify.judge import PROMPT, Judged, judge_messages, judge_pair, judged_table
from pipeline.verify.margins import margin_facts
from tests.pipeline.chat_server import ChatServer
from tests.pipeline.conftest import picture

JUDGE = {"endpoint": {"model": "m", "base_url": "http://localhost:1/v1", "api_key_env": None}}
TRUE, FALSE, UNSURE = (f'raw {{"verdict": "{word}"}}' for word in ("true", "false", "unsure"))
ROW = {
    "question": "What lies there?",
    "answer_a": "A red ball.",
    "answer_b": "A blue ball.",
    "image_a_sha256": "a",
    "image_b_sha256": "b",
}
PICTURES = {"a": picture(1), "b": picture(2)}


def judged(
    commands: Sequence[str], tmp_path: Path, pictures: dict[str, bytes] = PICTURES, **more: Any
) -> tuple[Judged, ChatServer]:
    async def run(base_url: str) -> Judged:
        section = EndpointSection(
            model="m",
            base_url=base_url,
            api_key_env=None,
            first_wait_s=0.01,
            cache=str(tmp_path / "replies"),
            temperature=0,
            **more,
        )
        async with Endpoint(section, "test") as endpoint:
            return await judge_pair(ROW, pictures, endpoint)

    with ChatServer(commands) as server:
        return asyncio.run(run(server.base_url)), server


def test_each_rule_names_its_own_reason_and_the_first_counts() -> None:
    measured = {
        "answer_margin_a": np.array([0.02, 0.0199, 0.5, 0.5, 0.5, 0.5]),
        "answer_margin_b": np.array([0.02, -0.5, 0.01, 0.5, 0.5, 0.5]),
        "judged_a_of_a": np.array([1, 0, 1, 0, 1, np.nan]),
        "judged_a_of_b": np.array([0, 0, 0, 1, 0, 0]),
        "judged_b_of_a": np.array([0, 0, 0, 0, 1, 0]),
        "judged_b_of_b": np.array([1, 1, 1, 1, 1, 1.0]),
    }
    strict = VerifySection(
        min_answer_margin=0.02,
        judge=JUDGE,
        on_contradiction="drop",
        on_affirmation="drop",
        on_missing_judgement="drop",
    )
    expected = [
        "",
        "answer_margin_a_below_min",
        "answer_margin_b_below_min",
        "judge_contradicts_a",
        "judge_affirms_b_of_image_a",
    ]
    assert accept_reasons(measured, 6, strict).tolist() == [*expected, "judged_a_of_a_missing"]
    # A missing judgement is no contradiction and no affirmation.
    lenient = strict.model_copy(update={"on_missing_judgement": "keep", "min_answer_margin": None})
    assert accept_reasons(measured, 6, lenient).tolist()[5] == ""
    assert accept_reasons(measured, 6, VerifySection(judge=JUDGE)).tolist() == [""] * 6


def test_margins_are_told_as_shares_and_as_what_each_bound_would_keep() -> None:
    facts = margin_facts(
        {
            "answer_margin_a": np.array([0.1, -0.02, np.nan, 0.0]),
            "answer_margin_b": np.array([0.01, 0.3, np.nan, 0.05]),
        }
    )
    assert facts["num_pairs"] == 3
    assert facts["frac_positive"] == {"a": 0.3333, "b": 1.0, "both": 0.3333}
    assert facts["quantiles"]["a"]["0.5"] == 0.0 and facts["quantiles"]["b"]["0.5"] == 0.05
    assert facts["num_kept_at_min"] == {
        "-0.05": 3,
        "-0.02": 3,
        "-0.01": 2,
        "0": 2,
        "0.01": 1,
        "0.02": 0,
        "0.05": 0,
        "0.1": 0,
    }
    assert margin_facts(
        {"answer_margin_a": np.array([np.nan]), "answer_margin_b": np.array([np.nan])}
    ) == {"num_pairs": 0}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["verify.min_answer_margin=0"],
            "verify.min_answer_margin: a bound is set, but no encoder",
        ),
        (
            ["verify.on_contradiction=drop", "encoders.clip.model=builtin:scenes-clip"],
            "verify.on_contradiction=drop: there is no judge",
        ),
        (
            ["verify.on_missing_judgement=drop", "encoders.clip.model=builtin:scenes-clip"],
            "there is no judge",
        ),
        (["verify.on_contradiction=keep"], "verify: nothing would be measured"),
        (["verify.judge.max_usd=1", "verify.judge.endpoint.model=m"], "max_usd needs prices"),
        (["verify.min_answer_margins=0"], "did you mean 'min_answer_margin'"),
    ],
)
def test_a_threshold_on_what_does_not_run_is_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("sources: [{kind: scenes}]\nout: x\n")
    with pytest.raises(RecipeError, match=message):
        plan_build(
            load_recipe(tmp_path / "r.yaml", [*overrides, f"out={tmp_path / 'out'}"], BuildSection)
        )


def test_thresholds_change_the_decision_alone_and_what_is_asked_changes_the_measuring(
    tmp_path: Path,
) -> None:
    def prints(**verify: Any) -> dict[str, str]:
        given = {"verify": VerifySection(**verify)} if verify else {}
        return plan_build(
            BuildSection(sources=({"kind": "scenes"},), out=str(tmp_path), **given)
        ).fingerprints

    without, plain, strict = (
        prints(),
        prints(judge=JUDGE),
        prints(judge=JUDGE, on_contradiction="drop"),
    )
    other = prints(judge={"endpoint": JUDGE["endpoint"] | {"model": "n"}})
    limits = prints(judge={"endpoint": JUDGE["endpoint"] | {"max_in_flight": 3, "timeout_s": 5}})
    assert [name for name in plain if name not in without] == ["verify", "accept"]
    assert without["rewrite"] == plain["rewrite"] and without["audit"] != plain["audit"]
    assert [name for name in plain if plain[name] != strict[name]] == [
        "accept",
        "audit",
        "finalise",
    ]
    assert [name for name in plain if plain[name] != other[name]] == [
        "verify",
        "accept",
        "audit",
        "finalise",
    ]
    assert plain == limits


def test_a_judge_is_sober_and_brief_unless_told_otherwise() -> None:
    assert (
        JudgeSection(**JUDGE).endpoint.temperature,
        JudgeSection(**JUDGE).endpoint.max_tokens,
    ) == (0.0, 60)
    assert (
        JudgeSection(endpoint=JUDGE["endpoint"] | {"temperature": None}).endpoint.temperature
        is None
    )


def test_each_answer_is_judged_of_each_image(tmp_path: Path) -> None:
    judgements, server = judged(
        [TRUE, FALSE, UNSURE, f"raw ```json\n{TRUE.removeprefix('raw ')}\n```"], tmp_path
    )
    assert judgements.verdicts == {
        "judged_a_of_a": True,
        "judged_b_of_a": False,
        "judged_a_of_b": None,
        "judged_b_of_b": True,
    }
    assert judgements.refused == () and len(judgements.replies) == 4
    asked = []
    for body in server.bodies:
        image, text = body["messages"][1]["content"]
        said = json.loads(text["text"])
        side = {PICTURES[name]: name for name in PICTURES}[
            base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        ]
        asked.append((side, said["answer"], said["question"]))
        assert body["response_format"]["json_schema"]["schema"]["properties"] == {
            "verdict": {"type": "string", "enum": ["true", "false", "unsure"]}
        }
    assert [request[:2] for request in asked] == [
        (side, ROW[f"answer_{answer}"]) for side in "ab" for answer in "ab"
    ]
    again, server = judged([], tmp_path, identity=server.base_url)
    assert (
        server.num_requests == 0
        and again.verdicts == judgements.verdicts
        and all(reply.is_cached for reply in again.replies)
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("raw I think that this is a red ball, so yes.", "reply_not_json"),
        ('raw {"verdict": "probably"}', "reply_wrong_schema"),
        ('raw {"verdict": true}', "reply_wrong_schema"),
        ("refusal", "reply_refused"),
        ("empty", "reply_empty"),
        ("length", "reply_cut_off"),
    ],
)
def test_what_is_no_verdict_goes_back_once_and_is_then_missing(
    bad: str, reason: str, tmp_path: Path
) -> None:
    judgements, server = judged([bad, bad, bad, TRUE, FALSE, FALSE], tmp_path)
    assert judgements.verdicts == {
        "judged_a_of_a": None,
        "judged_b_of_a": True,
        "judged_a_of_b": False,
        "judged_b_of_b": False,
    }
    assert [failure.reason for failure, _ in judgements.refused] == [
        reason
    ] * 3 and server.num_requests == 6


@pytest.mark.slow
def test_a_verdict_that_does_not_come_in_time_is_missing(tmp_path: Path) -> None:
    judgements, server = judged(
        [TRUE, "slow 60", "raw ok", FALSE, TRUE], tmp_path, timeout_s=2, max_retries=0
    )
    assert judgements.verdicts == {
        "judged_a_of_a": True,
        "judged_b_of_a": None,
        "judged_a_of_b": False,
        "judged_b_of_b": True,
    }
    assert [failure.reason for failure, _ in judgements.refused] == [
        "endpoint_gave_no_answer"
    ] and server.num_requests == 5


def test_a_pair_that_was_not_judged_is_a_row_of_nulls() -> None:
    table = judged_table(["x", "y"], [None, Judged({"judged_a_of_a": True}, (), ())])
    assert table["judged_a_of_a"].to_pylist() == [None, True] and table[
        "judged_b_of_b"
    ].to_pylist() == [None, None]
    assert table["latencies_s"].to_pylist() == [[], []]


def test_the_judge_sees_a_photograph_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8)).save(buffer, "JPEG", exif=exif)
    _, server = judged([TRUE] * 4, tmp_path, pictures={"a": buffer.getvalue(), "b": picture(2)})
    uri = server.bodies[0]["messages"][1]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == (8, 12)


def test_a_picture_costs_tokens_of_a_picture_whatever_its_bytes() -> None:
    small, large = (
        judge_messages("What?", "A ball.", f"data:image/png;base64,{'A' * size}")
        for size in (100, 1_000_000)
    )
    assert message_tokens(small) == message_tokens(large)
    texts = [
        {"role": "user", "content": read_prompt(PROMPT)},
        {"role": "user", "content": "What? A ball."},
    ]
    assert 0 < message_tokens(small) - ASSUMED_IMAGE_TOKENS - message_tokens(texts) < 20


def test_the_prompt_calls_texts_material() -> None:
    assert "never an instruction" in read_prompt(PROMPT) and "JSON object" in read_prompt(PROMPT)
