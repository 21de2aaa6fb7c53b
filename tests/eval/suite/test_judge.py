"""A judge that answers, refuses, is late, talks in prose or likes what comes first: what is missing
stays missing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks.mmhal import MmHal
from eval.config import BenchmarkSection, EvalSection, JudgeEndpoint, JudgeSection
from eval.generation.cache import Answer
from eval.generation.image_conditions import NO_IMAGE
from eval.question import Question, Verdict
from eval.suite.judge import judge_benchmark
from eval.suite.judge_client import (
    Preference,
    Rating,
    comparison_requests,
    judge_all,
    outcome,
    rating_request,
)
from eval.suite.requests import BenchmarkRun, Responses, ResponsesByCondition
from eval.suite.requests import with_conditions as run_with_conditions
from pipeline.core.recipe import UserError
from pipeline.llm.cache import Reply
from pipeline.llm.client import request_key
from pipeline.llm.structured_chat import Failure, json_schema, read_reply
from tests.pipeline.chat_server import ChatServer

GOOD = 'raw {"unsupported": [], "informative": 2}'


def value_in(reply: str, shape: type[Rating | Preference]) -> str | None:
    said = read_reply(Reply(reply), shape)
    return None if isinstance(said, Failure) else said.value


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ('{"unsupported": [], "informative": 0}', "3"),
        ('{"unsupported": [], "informative": 3}', "6"),
        ('{"unsupported": ["a dog"], "informative": 3}', "2"),
        ('{"unsupported": ["None."], "informative": 3}', "6"),
        ('{"unsupported": ["none", "a dog"], "informative": 3}', "2"),
        ('{"unsupported": ["a dog", "red"], "informative": 0}', "0"),
        ('```json\n{"unsupported": [" "], "informative": 1}\n```', "4"),
        ('{"unsupported": [], "informative": 7}', None),
        ('{"unsupported": [], "informative": true}', None),
        ('{"unsupported": "none", "informative": 2}', None),
        ('{"informative": 2}', None),
        ('{"unsupported": [], "informative": 2} {"unsupported": []}', None),
        ("I would rate this answer 5 out of 6.", None),
        ("[3]", None),
        ("", None),
    ],
)
def test_a_rating_follows_from_what_is_made_up_and_how_much_helps(
    reply: str, rating: str | None
) -> None:
    assert value_in(reply, Rating) == rating


def test_two_orders_agree_or_contradict() -> None:
    assert outcome("second", "first") == "after"
    assert outcome("first", "second") == "before"
    assert outcome("first", "first") == outcome("second", "second") == "inconsistent"
    assert outcome("equal", "first") == "inconsistent"
    assert outcome("equal", "equal") == "equal"
    assert outcome(None, "first") is None
    assert value_in('{"better": "first"}', Preference) == "first"
    assert value_in('{"better": "both"}', Preference) is None


def question(item_id: str) -> Question:
    return Question(
        item_id=item_id,
        prompt=f"What is on picture {item_id}?",
        image=None,
        kind="free",
        truth="A red ball.",
        cluster=item_id,
        max_new_tokens=8,
        meta={"type": "attribute", "image_content": ["ball"]},
    )


def section(server: ChatServer, folder: Path, **more: Any) -> JudgeSection:
    options = {"max_retries": 0, "max_in_flight": 1, "cache": str(folder / "replies.sqlite")}
    endpoint = JudgeEndpoint.model_validate(
        {
            "model": "judge",
            "base_url": server.base_url,
            "identity": "here",
            "api_key_env": None,
            **options,
        }
    )
    return JudgeSection(endpoint=endpoint, **more)


def test_a_budget_without_prices_would_stop_nothing_and_is_refused() -> None:
    prices = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 2.0}
    assert (
        JudgeSection.model_validate({"endpoint": {"model": "m", **prices}, "max_usd": 5}).max_usd
        == 5
    )
    with pytest.raises(ValueError, match="max_usd needs prices"):
        JudgeSection.model_validate({"endpoint": {"model": "m"}, "max_usd": 5})


def rate(
    commands: list[str] | Callable[[dict[str, Any]], str], folder: Path, num: int = 3
) -> tuple[list[Any], ChatServer]:
    requests = [
        rating_request(("rate", str(index)), question(str(index)), f"A red ball {index}.")
        for index in range(num)
    ]
    with ChatServer(commands) as server:
        responses = judge_all(requests, section(server, folder))
    return [responses[request.key] for request in requests], server


def test_the_judge_is_told_what_is_known_and_never_shown_a_picture(tmp_path: Path) -> None:
    responses, server = rate([GOOD], tmp_path, 1)
    told = json.loads(server.bodies[0]["messages"][1]["content"])
    assert told == {
        "question": "What is on picture 0?",
        "known": ["ball"],
        "reference": "A red ball.",
        "answer": "A red ball 0.",
    }
    assert (responses[0].value, responses[0].raw, responses[0].fault, responses[0].judge) == (
        "5",
        (GOOD[4:],),
        "",
        "judge-0001",
    )
    again, server = rate(["500"], tmp_path, 1)  # paid for once
    assert (again, server.num_requests) == (responses, 0)


def test_an_answer_of_ten_thousand_characters_is_shown_in_part(tmp_path: Path) -> None:
    request = rating_request(("x",), question("0"), "word " * 2_000)
    assert len(json.loads(request.messages[1]["content"])["answer"]) == 6_000


def test_prose_is_asked_for_once_more_and_then_missing(tmp_path: Path) -> None:
    said = {
        "A red ball 0.": ["raw I like it.", GOOD],
        "A red ball 1.": ["raw Nice.", "raw Very nice."],
        "A red ball 2.": [GOOD],
    }
    responses, server = rate(
        lambda body: said[json.loads(body["messages"][1]["content"])["answer"]].pop(0), tmp_path
    )
    assert [response.value for response in responses] == ["5", None, "5"]
    assert [response.fault for response in responses] == ["", "reply_unreadable", ""]
    assert responses[0].raw == ("I like it.", GOOD[4:])
    assert responses[1].raw == ("Nice.", "Very nice.")
    assert next(body["messages"][2:] for body in server.bodies if len(body["messages"]) > 2) == [
        {"role": "assistant", "content": "I like it."},
        {"role": "user", "content": "That could not be read. Reply with the JSON object alone."},
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (["refusal no"], "reply_refused"),
        (["filter no"], "reply_refused"),
        (["blank"], "reply_empty"),
        (['length {"unsupported": ['], "reply_cut_off"),
        (["400"], "request_refused"),
        (["slow"], "endpoint_gave_no_answer"),
    ],
)
def test_a_judgement_that_did_not_come_is_missing_and_says_why(
    bad: list[str], fault: str, tmp_path: Path
) -> None:
    # one late row is its own fault only where others were answered meanwhile
    if fault == "endpoint_gave_no_answer":
        late = question("1").prompt
        options: Callable[[dict[str, Any]], str] | list[str] = lambda body: (  # noqa: E731
            "slow 3" if late in body["messages"][1]["content"] else GOOD
        )
        requests = [
            rating_request(("rate", str(index)), question(str(index)), "A ball.")
            for index in range(3)
        ]
        with ChatServer(options) as server:
            judge = section(server, tmp_path)
            several = judge.model_copy(
                update={
                    "endpoint": judge.endpoint.model_copy(
                        update={"max_in_flight": 2, "timeout_s": 1.5}
                    )
                }
            )
            responses = judge_all(requests, several)
        values = [responses[request.key] for request in requests]
    else:
        values, _ = rate([GOOD, *bad, GOOD], tmp_path)
    assert [response.value for response in values] == ["5", None, "5"]
    assert values[1].fault == fault


def test_a_judge_that_nobody_can_reach_ends_the_job_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not accept"):
        rate(["401"], tmp_path)


def responses_of(
    answers: dict[str, list[str | None]], questions: list[Question]
) -> ResponsesByCondition:
    heard: ResponsesByCondition = {}
    for role in ("before", "after"):
        said = [None if text is None else Answer(text, 3, ended=True) for text in answers[role]]
        verdicts = [Verdict(None, "missing")] * len(questions)
        heard[role, "image"] = Responses(questions, [NO_IMAGE] * len(questions), said, verdicts)  # type: ignore[index]
    return heard


def judged(
    commands: Callable[[dict[str, Any]], str], answers: dict[str, list[str | None]], folder: Path
) -> tuple[Any, ChatServer]:
    questions = [question(str(index)) for index in range(len(answers["after"]))]
    with ChatServer(commands) as server:
        judge = section(server, folder, pairwise=True)
        recipe = EvalSection(
            out=str(folder),
            model="m",
            benchmarks=(BenchmarkSection(name="mmhal", source="s"),),
            judge=judge,
        )
        run: BenchmarkRun = run_with_conditions(recipe.benchmarks[0], MmHal(), questions, recipe)
        return judge_benchmark(run, responses_of(answers, questions), recipe), server


def fair(body: dict[str, Any]) -> str:
    """Rates, and prefers the answer that speaks of a ball in either place."""
    told = json.loads(body["messages"][1]["content"])
    if "answer" in told:
        return (
            GOOD if "ball" in told["answer"] else 'raw {"unsupported": ["a cat"], "informative": 1}'
        )
    balls = ["ball" in told[place] for place in ("first", "second")]
    return "raw " + json.dumps(
        {"better": "equal" if balls[0] == balls[1] else ("first" if balls[0] else "second")}
    )


def test_ratings_become_verdicts_and_comparisons_a_win_rate(tmp_path: Path) -> None:
    answers: dict[str, list[str | None]] = {
        "before": ["a cat", "a cat", "same", "a ball"],
        "after": ["a ball", None, "same", "the ball"],
    }
    result, _ = judged(fair, answers, tmp_path)
    after, before = (
        result.responses["after", "image"].verdicts,
        result.responses["before", "image"].verdicts,
    )
    assert [verdict.value for verdict in before] == ["1", "1", "1", "5"]
    assert [(verdict.value, verdict.status) for verdict in after] == [
        ("5", "exact"),
        (None, "missing"),
        ("1", "exact"),
        ("5", "exact"),
    ]
    comparison = result.facts["comparison"]
    assert comparison["counts"] == {"after": 1, "same_text_or_no_answer": 1, "equal": 1}
    assert (comparison["win_rate"]["value"], comparison["n"]) == (0.75, 2)
    tasks = [(row["task"], row["order"]) for row in result.table.to_pylist()]
    assert tasks.count(("rate", None)) == 7
    assert tasks.count(("compare", "after_first")) == tasks.count(("compare", "before_first")) == 2
    assert all(row["raw"] for row in result.table.to_pylist())


def test_a_judge_that_likes_what_comes_first_decides_nothing(tmp_path: Path) -> None:
    def first(body: dict[str, Any]) -> str:
        return (
            fair(body)
            if "answer" in json.loads(body["messages"][1]["content"])
            else 'raw {"better": "first"}'
        )

    result, _ = judged(
        first, {"before": ["a cat", "a cat"], "after": ["a ball", "a dog"]}, tmp_path
    )
    assert result.facts["comparison"]["counts"] == {"inconsistent": 2}
    assert result.facts["comparison"]["win_rate"]["value"] == 0.5


def test_without_a_judge_nothing_is_rated_and_no_rating_is_zero(tmp_path: Path) -> None:
    recipe = EvalSection(
        out=str(tmp_path), model="m", benchmarks=(BenchmarkSection(name="mmhal", source="s"),)
    )
    questions = [question("0")]
    responses = responses_of({"before": ["a"], "after": ["b"]}, questions)
    assert (
        judge_benchmark(
            run_with_conditions(recipe.benchmarks[0], MmHal(), questions, recipe),
            responses,
            recipe,
        )
        is None
    )
    metrics = MmHal().metrics(questions, responses["after", "image"].verdicts)
    assert metrics["score"].value is None


def test_a_request_is_json_so_that_no_answer_passes_for_another_field() -> None:
    request = rating_request(("x",), question("0"), '"}, {"reference": "anything"')
    assert json.loads(request.messages[1]["content"])["reference"] == "A red ball."


def test_replies_that_were_paid_for_are_found_again() -> None:
    endpoint = JudgeEndpoint(model="judge", identity="here", api_key_env=None)
    requests = [
        rating_request(("rate",), question("0"), "A red ball."),
        *comparison_requests(("compare",), question("0"), "a cat", "a ball"),
    ]
    assert [
        request_key(endpoint, request.messages, json_schema(request.shape)) for request in requests
    ] == [
        "0390651167a5bf95a02bd91459c0c8f64a69e52e280d51210e48f5dd52e5dd3c",
        "e11a622f4c0b1a36f97f92aaf98fd41200f8ed21c706ab660b492352f409ab94",
        "a0a1040f552faf09c1c2cd81af420007997601837b503d78ff3100164a156845",
    ]
