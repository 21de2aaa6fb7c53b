"""The client against a real server of ours on loopback that misbehaves on command."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.core.recipe import UserError
from pipeline.llm.batch import ask_each
from pipeline.llm.cache import Reply, ResponseCache
from pipeline.llm.client import Endpoint, request_body, request_key
from pipeline.llm.config import EndpointSection
from pipeline.llm.protocol import (
    EndpointError,
    fatal_reason,
    num_tokens,
    plain_message,
    reply_of,
    retry_after_s,
)
from pipeline.llm.rate_limit import MAX_WAIT_S, wait_s
from pipeline.llm.request_form import RequestForm
from pipeline.llm.structured_chat import Failure, read_reply
from tests.pipeline.chat_server import ChatServer


def chat(number: int = 0) -> list[dict[str, str]]:
    data = json.dumps({"caption_a": f"A red star {number}.", "caption_b": f"A blue star {number}."})
    return [{"role": "system", "content": "Write a question."}, {"role": "user", "content": data}]


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": "m",
        "api_key_env": None,
        "first_wait_s": 0.01,
        "timeout_s": 10,
        "cache": str(tmp_path / "replies.sqlite"),
    }


def asked(
    server: ChatServer,
    section: dict[str, Any],
    numbers: Sequence[int] = (0,),
    purpose: str = "test",
    **more: Any,
) -> list[Reply]:
    async def run() -> list[Reply]:
        async with Endpoint(
            EndpointSection(base_url=server.base_url, **section), purpose, **more
        ) as endpoint:
            return await asyncio.gather(*(endpoint.ask(chat(number)) for number in numbers))

    return asyncio.run(run())


def test_a_reply_has_its_text_model_and_tokens(section: dict[str, Any]) -> None:
    with ChatServer() as server:
        reply = asked(server, section)[0]
    assert json.loads(reply.text) == {"question": "What do you see there?"}
    assert (reply.fault, reply.model, reply.is_cached) == ("", "m-0001", False)
    assert (reply.prompt_tokens, reply.completion_tokens) == (
        sum(len(message["content"]) for message in chat()) // 4,
        len(reply.text) // 4,
    )


@pytest.mark.parametrize("command", ["429", "429 0", "500", "503 0", "half", "cut", "reset"])
def test_what_passes_is_tried_again(command: str, section: dict[str, Any]) -> None:
    with ChatServer([command, command]) as server:
        assert asked(server, section)[0].fault == ""
        assert server.num_requests == 3 and server.answered.total() == 1


def test_a_server_that_says_when_to_come_back_is_not_asked_before(section: dict[str, Any]) -> None:
    with ChatServer(["429 0.4"]) as server:
        asked(server, section)
        assert server.arrived_s[1] - server.arrived_s[0] >= 0.4


@pytest.mark.slow
def test_a_request_without_an_answer_in_time_is_given_up_and_tried_again(
    section: dict[str, Any],
) -> None:
    with ChatServer(["slow 30"]) as server:
        assert asked(server, {**section, "timeout_s": 0.5})[0].fault == ""
        assert server.num_requests == 2


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("empty", "reply_empty"),
        ("blank", "reply_empty"),
        ("refusal", "reply_refused"),
        ("filter", "reply_refused"),
        ("length", "reply_cut_off"),
        ("thinking", "reply_cut_off"),
        ("400", "request_refused"),
    ],
)
def test_an_answer_without_a_usable_text_is_the_fault_of_its_row(
    command: str, fault: str, section: dict[str, Any]
) -> None:
    with ChatServer([command]) as server:
        replies = asked(server, {**section, "max_in_flight": 1}, [0, 1])
        assert [reply.fault for reply in replies] == [fault, ""]
        assert server.num_requests == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("401", "does not accept the key in SVCO_TEST_KEY"),
        ("403", "forbids"),
        ("404", "knows no model 'm'"),
        ("quota", "no money left"),
        ("429 100000", "come back in 100000 s"),
    ],
)
def test_what_no_retry_can_mend_ends_the_job_at_once_with_one_line(
    command: str, message: str, section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVCO_TEST_KEY", "sk-secret")
    with ChatServer([command] * 20) as server:
        with pytest.raises(EndpointError, match=message) as caught:
            asked(
                server, {**section, "api_key_env": "SVCO_TEST_KEY", "max_in_flight": 2}, range(12)
            )
        assert server.num_requests <= 2
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_request_that_every_row_shares_the_fault_of_ends_the_job(section: dict[str, Any]) -> None:
    with ChatServer(["400"] * 50) as server:
        with pytest.raises(
            EndpointError, match="every request was refused, the last with status 400 .*policy"
        ):
            asked(server, {**section, "max_in_flight": 1}, range(50))
        assert server.num_requests == 8


@pytest.mark.parametrize("num_asked", [1, 2, 7])
def test_where_all_of_few_requests_are_refused_the_last_refusal_is_shown(
    num_asked: int, section: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask(number: int, endpoint: Endpoint) -> Reply:
        return await endpoint.ask(chat(number))

    with ChatServer(["400"] * num_asked) as server:
        wanted = EndpointSection(base_url=server.base_url, **section)
        with pytest.raises(EndpointError, match="every request was refused, .*status 400.*policy"):
            ask_each(range(num_asked), wanted, "test", None, ask)
        # the server answers from here on: what is refused now is the fault of a row
        ask_each(range(num_asked), wanted, "test", None, ask)
    with ChatServer(["400"]) as server:
        again = wanted.model_copy(update={"identity": wanted.base_url, "base_url": server.base_url})
        replies = ask_each(range(num_asked + 1), again, "test", None, ask)
    assert [reply.fault for reply in replies] == [""] * num_asked + ["request_refused"]
    assert "1 of 1 requests were refused, the last with status 400" in capsys.readouterr().err


def test_what_a_server_refuses_to_be_given_is_renamed_or_left_out_and_said_once(
    section: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = "max_tokens temperature seed logprobs system"
    more = {"extra": {"seed": 1, "logprobs": True}, "max_in_flight": 4}
    with ChatServer(lambda _: f"refuses {refused}") as server:
        wanted = {**section, **more}
        assert {reply.fault for reply in asked(server, wanted, range(20))} == {""}
        body = server.bodies[-1]
        assert sorted(body) == ["max_completion_tokens", "messages", "model"]
        assert body["max_completion_tokens"] == 400
        assert [message["role"] for message in body["messages"]] == ["user"]
        assert body["messages"][0]["content"].startswith("Write a question.\n\n{")
        num_before = server.num_requests
        assert num_before <= 20 + 5 * 4
        # remembered, and what is kept is found under the request as it was stated
        replies = asked(server, wanted, range(21))
        assert server.num_requests == num_before + 1
        assert [reply.is_cached for reply in replies] == [True] * 20 + [False]
    said = capsys.readouterr().err
    assert said.count("asked from now on with") == 5
    assert "max_completion_tokens for max_tokens" in said and "with no temperature" in said


@pytest.mark.parametrize(
    ("refusal", "name"),
    [
        ('{"object": "error", "message": "Extra inputs are not permitted: seed"}', "seed"),
        ('{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}', "seed"),
        ('{"error": {"message": "Unrecognized request argument supplied: seed"}}', "seed"),
        ("property 'n' is unsupported", "n"),
        ("This model doesn't support temperature", "temperature"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("Only the default (1) value of temperature is supported", "temperature"),
        ("invalid temperature: only 1 is allowed for this model", "temperature"),
        ('Unknown name "max_tokens": Cannot find field.', "max_tokens"),
        ("System role not supported", "system message"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "system message"),
        ("'max_tokens' or 'max_completion_tokens' is too large: 400", None),
        ("max_tokens must be at least 1, got -3", None),
        ("This model's maximum context length is 2048 tokens, you requested 2400", None),
        ("image_url is not supported by this model", None),
        ("This prompt is against our policy", None),
    ],
)
def test_a_refusal_names_what_is_not_to_be_sent(refusal: str, name: str | None) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    body = {"model": "m", "n": 1, "seed": 1, "temperature": 0.0, "max_tokens": 9}
    form, body = RequestForm(), body | {"messages": messages}
    assert (form.learn(body, refusal) is None) == (name is None)
    changed = {key for key in body if form.fit(body).get(key) != body[key]}
    assert changed == ({"messages"} if name == "system message" else {name} - {None})


def test_two_names_of_one_bound_are_tried_and_then_none() -> None:
    body = {"model": "m", "max_tokens": 9, "messages": []}
    form = RequestForm()
    for expected in ({"max_completion_tokens": 9}, {}):
        sent = form.fit(body)
        assert form.learn(sent, f"{list(sent)[1]} is not supported")
        assert form.fit(body) == {"model": "m", "messages": []} | expected


def test_what_is_said_is_the_text_and_not_the_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": [{"text": "A?"}]}, {"type": "text", "text": "B"}]
    mixed = [{"type": "reasoning", "text": "A?"}, {"type": "output_text", "text": "B"}]
    said = ((parts, "B"), (mixed, "B"), (parts[1], "B"), (["B"], "B"), (None, ""), ("B", "B"))
    for content, expected in said:
        message = {"content": content, "reasoning_content": "A?"}
        body = {"choices": [{"message": message, "finish_reason": "stop"}]}
        assert reply_of(json.dumps(body), [], "m", 0.0).text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"said": "B"}', "B"),
        ('<think>{"said": "A"}</think>\n\n{"said": "B"}', "B"),
        ('<think>hm</think>```json\n{"said": "B"}\n```', "B"),
        ('<think>{"said": "A"}', "reply_cut_off"),
        ("``` " + " " * 60_000, "reply_not_json"),
        ("``` " + "` " * 60_000, "reply_not_json"),
        ("{" * 100_000, "reply_not_json"),
    ],
)
def test_a_reply_in_json_is_read_after_its_reasoning(text: str, expected: str) -> None:
    class Said(BaseModel):
        said: str

    said = read_reply(Reply(text, model="m"), Said)
    assert (said.reason if isinstance(said, Failure) else said.said) == expected


def test_a_server_that_is_not_there_ends_the_job_and_says_how_often_it_was_tried(
    section: dict[str, Any],
) -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(EndpointError, match="no answer in 3 tries .*is it running"):
        asked(server, {**section, "max_retries": 2})


def test_a_row_that_breaks_the_server_costs_only_itself(section: dict[str, Any]) -> None:
    with ChatServer(lambda body: "500" if "star 3." in str(body) else "slow 0.02") as server:
        replies = asked(server, {**section, "max_retries": 3, "max_in_flight": 2}, range(30))
    assert [reply.fault for reply in replies] == [
        "endpoint_gave_no_answer" if n == 3 else "" for n in range(30)
    ]


def test_the_last_row_that_breaks_the_server_is_told_from_a_server_that_is_gone(
    section: dict[str, Any],
) -> None:
    with ChatServer(lambda body: "500" if "star 3." in str(body) else "answer") as server:
        alone = asked(server, {**section, "max_retries": 1}, [3])
        assert [reply.fault for reply in alone] == [
            "endpoint_gave_no_answer"
        ] and server.num_requests == 3
    with (
        ChatServer(["500"] * 9) as server,
        pytest.raises(EndpointError, match="no answer in 2 tries .*is it running"),
    ):
        asked(server, {**section, "max_retries": 1}, [3])


def test_nothing_is_paid_twice(section: dict[str, Any]) -> None:
    with ChatServer(["empty"], delay_s=0.05) as server:
        # equal requests at one time are one request
        first = asked(server, section, [0, 1, 1, 2, 0])
        again = asked(server, section, [2, 1, 0], purpose="another run")
        assert server.num_requests == 3 and set(server.answered.values()) == {1}
    assert [reply.text for reply in again] == [first[3].text, first[1].text, first[0].text]
    assert all(reply.is_cached for reply in again) and sum(reply.is_cached for reply in first) == 2


def test_a_killed_process_leaves_what_it_paid_for(section: dict[str, Any]) -> None:
    async def killed() -> None:
        async with Endpoint(
            EndpointSection(base_url=server.base_url, **section), "test"
        ) as endpoint:
            await endpoint.ask(chat(0))
            raise KeyboardInterrupt

    with ChatServer() as server:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(killed())
        assert asked(server, section)[0].is_cached


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"temperature": 0.1},
        {"extra": {"seed": 1}},
        {"identity": "other"},
        {"max_tokens": 5},
    ],
    ids=str,
)
def test_another_request_has_another_reply(change: dict[str, Any], section: dict[str, Any]) -> None:
    with ChatServer() as server:
        asked(server, section)
        asked(server, {**section, **change})
        assert server.num_requests == 2


@pytest.mark.parametrize("schema", [None, {"type": "object", "required": ["b", "a"]}], ids=str)
def test_a_reply_is_kept_under_the_hash_of_its_whole_request(
    schema: dict[str, Any] | None, section: dict[str, Any]
) -> None:
    endpoint = EndpointSection(**section, extra={"seed": 1})
    messages = [{"role": "user", "content": 'A "red" st\u00e4r.'}]
    whole = json.dumps(
        {**endpoint.content(), "messages": messages, "schema": schema}, sort_keys=True
    )
    assert request_key(endpoint, messages, schema) == hashlib.sha256(whole.encode()).hexdigest()


def test_the_key_of_a_request_is_what_it_always_was(section: dict[str, Any]) -> None:
    endpoint = EndpointSection(**section, identity="here", extra={"seed": 1})
    key = request_key(endpoint, chat(), {"type": "object"})
    assert key == "4c5cb0e3d504db65dffe0a55563ac190edf4f0c7c5dcbf55fded4620bd17105f"


def test_a_schema_keeps_the_order_of_its_properties(section: dict[str, Any]) -> None:
    for names in (["why", "verdict"], ["verdict", "why"]):
        schema = {"type": "object", "properties": {key: {"type": "string"} for key in names}}
        sent = json.loads(request_body(EndpointSection(**section), [], schema))
        assert list(sent["response_format"]["json_schema"]["schema"]["properties"]) == names
        assert {
            "messages": [],
            "model": "m",
            "temperature": 0.7,
            "max_tokens": 400,
        }.items() <= sent.items()


def test_leaving_waits_until_every_reply_is_on_disk(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = ResponseCache.insert
    monkeypatch.setattr(
        ResponseCache, "insert", lambda self, *rows: (time.sleep(0.2), insert(self, *rows))
    )

    async def leave_at_once() -> None:
        async with Endpoint(
            EndpointSection(base_url=server.base_url, **section), "test"
        ) as endpoint:
            asking = asyncio.create_task(endpoint.ask(chat(0)))
            while not server.answered:
                await asyncio.sleep(0.01)
        assert not (await asking).is_cached

    with ChatServer() as server:
        asyncio.run(leave_at_once())
        assert asked(server, section)[0].is_cached


def test_a_server_that_moved_is_the_same_under_its_identity(section: dict[str, Any]) -> None:
    for _ in range(2):
        with ChatServer() as server:
            reply = asked(server, {**section, "identity": "our server"})[0]
    assert reply.is_cached and server.num_requests == 0


def test_a_schema_is_sent_until_the_server_says_that_it_has_none(section: dict[str, Any]) -> None:
    async def run() -> None:
        async with Endpoint(
            EndpointSection(base_url=server.base_url, **section), "test"
        ) as endpoint:
            for number in range(3):
                assert (await endpoint.ask(chat(number), {"type": "object"})).fault == ""

    with ChatServer(["no_schema"] * 9) as server:
        asyncio.run(run())
        assert ["response_format" in body for body in server.bodies] == [True, False, False, False]
    with ChatServer() as server:
        asyncio.run(run())
        assert server.num_requests == 3  # another address, so nothing was cached
        assert server.bodies[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.slow
def test_the_asked_number_of_requests_is_in_flight_and_no_more(section: dict[str, Any]) -> None:
    with ChatServer(delay_s=0.3) as server:
        asked(server, {**section, "max_in_flight": 64}, range(100))
        assert server.peak_in_flight == 64


@pytest.mark.slow
def test_requests_and_tokens_per_minute_are_kept(section: dict[str, Any]) -> None:
    for limit in (
        {"requests_per_minute": 60 / 0.03},
        {"tokens_per_minute": 60 * 500 / 0.03, "max_tokens": 1000},
    ):
        with ChatServer() as server:
            began_s = time.monotonic()  # not the first arrival, which a busy machine may hold up
            asked(server, {**section, **limit}, range(12))
            # A thousand tokens are reserved for the reply and given back; what was used is about 40
            # of them.
            assert server.arrived_s[-1] - began_s >= (
                0.03 * 11 * 0.9 if "requests_per_minute" in limit else 0.02
            )


PRICES = {
    "usd_per_million_input_tokens": 1000.0,
    "usd_per_million_output_tokens": 2000.0,
    "max_tokens": 20,
}


def test_a_budget_stops_before_it_is_exceeded_and_goes_on_when_raised(
    section: dict[str, Any],
) -> None:
    with ChatServer() as server:
        with pytest.raises(
            EndpointError,
            match="max_usd=0.5 is used up: .* raise it and run the same command again",
        ):
            asked(server, {**section, **PRICES}, range(40), max_usd=0.5)
        paid = server.answered.total()
        reply = asked(server, {**section, **PRICES}, [0])[0]
        each = EndpointSection(**section, **PRICES).usd(
            reply.prompt_tokens, reply.completion_tokens
        )
        assert 0 < paid * each <= 0.5 and paid >= 5
        with pytest.raises(EndpointError, match="is used up"):  # what was spent before counts
            asked(server, {**section, **PRICES}, range(40), max_usd=0.5)
        assert server.answered.total() * each <= 0.5
        replies = asked(server, {**section, **PRICES}, range(40), max_usd=50)
        assert (
            len(replies) == 40
            and server.answered.total() == 40
            and set(server.answered.values()) == {1}
        )


def test_every_run_of_a_purpose_counts_and_no_other(section: dict[str, Any]) -> None:
    with ChatServer() as server:
        asked(server, section, range(4), purpose="mine")
        asked(server, section, range(6), purpose="yours")
    cache = ResponseCache(Path(section["cache"]))
    mine, yours = cache.tokens_of("mine"), cache.tokens_of("yours")
    # four of yours were paid for already
    assert mine == (2 * yours[0], 2 * yours[1]) and yours[0] > 0


def test_a_key_that_is_not_there_is_missed_before_anything_is_sent(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SVCO_TEST_KEY", raising=False)
    with pytest.raises(EndpointError, match="SVCO_TEST_KEY is not set"):
        Endpoint(EndpointSection(**{**section, "api_key_env": "SVCO_TEST_KEY"}), "test")


def test_requests_go_through_the_proxy_that_the_environment_names(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(base_url: str) -> Reply:
        async with Endpoint(EndpointSection(base_url=base_url, **section), "test") as endpoint:
            return await endpoint.ask(chat())

    with ChatServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert asyncio.run(run("http://model.invalid/v1")).fault == ""
        assert proxy.headers[0]["Host"] == "model.invalid"
    with ChatServer() as server:
        assert asyncio.run(run(server.base_url)).fault == "" and server.num_requests == 1


def test_a_file_that_is_no_store_of_replies_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text(
        "my notes, longer than a header of one hundred bytes: " + "x" * 200
    )
    with pytest.raises(UserError, match="cannot be used as a store of replies"):
        ResponseCache(tmp_path / "notes")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://user:pass@host/v1", "https://host/v1?key=1", "ftp://host"]
)
def test_an_address_that_is_none_or_holds_a_key_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        EndpointSection(model="m", base_url=url)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After-Ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_date_to_come_back_at_is_so_many_seconds_away() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90))
    assert 80 < (retry_after_s({"Retry-After": date}) or 0) <= 90


def test_waits_are_drawn_from_a_span_that_doubles_up_to_a_limit() -> None:
    for attempt, most in ((1, 2.0), (2, 4.0), (4, 16.0), (20, MAX_WAIT_S)):
        drawn = [wait_s(attempt, 2.0, None) for _ in range(400)]
        assert 0 <= min(drawn) < 0.1 * most and 0.9 * most < max(drawn) <= most
    assert 30 <= wait_s(3, 1.0, 30.0) <= 34


@pytest.mark.parametrize(
    ("status", "text", "part"),
    [
        (429, "slow down", None),
        (500, "", None),
        (400, "context too long", None),
        (404, "Not Found", "/chat/completions"),
        (404, '{"message": "The model `a.b` does not exist."}', "knows no model"),
        (400, '{"message": "Unknown model: x"}', "knows no model"),
        (402, "", "no money left"),
    ],
)
def test_only_what_every_request_would_meet_is_fatal(
    status: int, text: str, part: str | None
) -> None:
    reason = fatal_reason(status, text, "m", "KEY")
    assert (reason is None) if part is None else (reason is not None and part in reason)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"error": {"message": "bad\\n key sk-1"}}', "bad key ***"),
        ('{"detail": "no field"}', "no field"),
        ("<html>", "<html>"),
        ("[1]", "[1]"),
        ("", ""),
    ],
)
def test_a_servers_words_are_one_line_without_the_key(text: str, shown: str) -> None:
    assert plain_message(text, "sk-1") == shown


def test_tokens_are_four_letters_or_one_character_of_other_scripts() -> None:
    assert [num_tokens(text) for text in ("", "A red star.", "\u4e00\u53ea\u732b")] == [0, 3, 3]
