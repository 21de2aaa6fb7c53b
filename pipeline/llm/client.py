"""An OpenAI-compatible endpoint as one function: messages in, a reply out, paid for at most once.

One client lives in one process and holds every limit there: requests in flight, requests and tokens
per minute, money. The protocol is one POST, so it is made with aiohttp: with 64 requests in flight
on 2 busy cores the SDK needed 5.7 ms of CPU per request and reached 14 % of the possible rate,
aiohttp 0.5 ms.
"""

import asyncio
import hashlib
import json
import os
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.core.progress import say
from pipeline.core.storage import cache_dir
from pipeline.llm.cache import Reply, ResponseCache
from pipeline.llm.config import EndpointSection
from pipeline.llm.protocol import (
    EndpointError,
    EveryRequestRefusedError,
    RetryableError,
    fatal_reason,
    message_tokens,
    plain_message,
    reply_of,
    retry_after_s,
)
from pipeline.llm.rate_limit import RateLimiter, wait_s
from pipeline.llm.request_form import RequestForm

Messages = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any] | None

MAX_RETRY_AFTER_S = 900.0  # a server that asks for more is told of instead of waited for
# A request that the server will not have is the fault of its row, unless it is of every row: then
# of the recipe.
MAX_REFUSED_BEFORE_AN_ANSWER = 8
REFUSALS_OF_A_FORM = (400, 404, 422, 500, 501)
_FORMS: dict[tuple[str, str], RequestForm] = {}  # by address and model
ASSUMED_REPLY_TOKENS = 256  # reserved where `max_tokens` is null


def request_key(section: EndpointSection, messages: Messages, schema: Schema) -> str:
    """What a reply is kept under.

    Whether the server enforced the schema is no part of the question.
    """
    request = {**section.content(), "messages": list(messages), "schema": schema}
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def request_body(
    section: EndpointSection, messages: Messages, schema: Schema, form: RequestForm | None = None
) -> bytes:
    """What is sent; a schema's properties keep their order, which the model answers in."""
    json_schema = {"name": "reply", "strict": True, "schema": schema}
    stated = {
        "temperature": section.temperature,
        "max_tokens": section.max_tokens,
        "response_format": (
            None if schema is None else {"type": "json_schema", "json_schema": json_schema}
        ),
    }
    body = {
        "model": section.model,
        **section.extra,
        **{name: value for name, value in stated.items() if value is not None},
        "messages": list(messages),
    }
    return json.dumps(body if form is None else form.fit(body)).encode()


class Endpoint:
    """One server and one budget, used as `async with Endpoint(section, purpose) as endpoint`.

    Args:
        purpose: Names the budget in the cache: what was paid under this name before counts against
            `max_usd`.
        max_usd: The most that all runs of this purpose may cost together; None for no limit.
    """

    def __init__(
        self, section: EndpointSection, purpose: str, max_usd: float | None = None
    ) -> None:
        self.section, self._purpose, self._max_usd = section, purpose, max_usd
        self._key = api_key(section)
        self.stopped: EndpointError | None = None  # set once, when no further request may be sent
        self.num_sent = self.num_in_flight = self.peak_in_flight = 0
        self._num_answered = self._num_refused = self._num_cached = 0
        self._last_refusal = ""
        self._reserved_usd = 0.0
        # Learned once for all that this process asks of the model.
        self._form = _FORMS.setdefault((section.base_url, section.model), RequestForm())
        self._url = f"{section.base_url}/chat/completions"
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def __aenter__(self) -> Self:
        import aiohttp

        self._cache = ResponseCache(
            Path(self.section.cache) if self.section.cache else cache_dir() / "responses.sqlite"
        )
        # what all runs of this purpose paid so far
        self.spent_usd = self.section.usd(*self._cache.tokens_of(self._purpose))
        self._slots = asyncio.Semaphore(self.section.max_in_flight)
        self._requests = RateLimiter(self.section.requests_per_minute)
        self._tokens = RateLimiter(self.section.tokens_per_minute)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.section.max_in_flight),
            timeout=aiohttp.ClientTimeout(total=self.section.timeout_s),
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            # a chat needs none, and a jar is searched with every request
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self.section.base_url),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        # Nothing new is sent; what is under way may be paid for already, so it is waited for and
        # kept.
        self.stopped = self.stopped or EndpointError("the endpoint was closed")
        for _ in range(self.section.max_in_flight):
            await self._slots.acquire()
        await self._cache.written()
        await self._session.close()
        self._cache.close()

    async def ask(self, messages: Messages, schema: Schema = None) -> Reply:
        """The reply to a chat, from the cache if it was ever paid for.

        Equal requests at one time are sent once.

        Args:
            schema: A JSON schema for the reply, enforced where the server can; the messages must
                ask for JSON as well.

        Raises:
            EndpointError: No request can succeed (key, model, address, budget); also for every
                later request.
        """
        key = request_key(self.section, messages, schema)
        async with self._locks.setdefault(key, asyncio.Lock()):
            cached = self._cache.get(key)
            self._num_cached += cached is not None
            return cached or await self._paid(key, messages, schema)

    def refusal(self) -> EveryRequestRefusedError | None:
        """What is wrong where all that was asked was refused; None where anything was answered."""
        if not self._num_refused or self._num_answered or self._num_cached:
            return None
        return self._all_refused()

    def _all_refused(self) -> EveryRequestRefusedError:
        return EveryRequestRefusedError(
            f"base_url={self.section.base_url}: every request was refused, the last with status"
            f" {self._last_refusal}"
        )

    def say_refusals(self) -> None:
        """Tells of the requests that were refused while others were answered, if any."""
        if self._num_refused:
            say(
                f"{self.section.base_url}: {self._num_refused:,} of {self.num_sent:,} requests were"
                f" refused, the last with status {self._last_refusal}"
            )

    async def _paid(self, key: str, messages: Messages, schema: Schema) -> Reply:
        """Sends a request within the limits, and keeps what was paid for."""
        num_in = message_tokens(messages)
        num_out = self.section.max_tokens or ASSUMED_REPLY_TOKENS
        reserved_usd = 0.0
        try:
            async with self._slots:
                if self.stopped is not None:
                    raise self.stopped
                reserved_usd = self._reserve(num_in, num_out)
                reply = await self._sent(messages, schema, num_in + num_out)
            # The next request need not wait until this reply is on disk.
            await self._keep(key, reply)
        except EndpointError as error:
            self.stopped = self.stopped or error
            raise
        finally:
            self._reserved_usd -= reserved_usd
        return reply

    async def _keep(self, key: str, reply: Reply) -> None:
        if reply.model:  # the server answered, so it is paid
            await self._cache.put(key, reply, self._purpose)
            self.spent_usd += self.section.usd(reply.prompt_tokens, reply.completion_tokens)

    def _reserve(self, num_in: int, num_out: int) -> float:
        usd = self.section.usd(num_in, num_out)
        if self._max_usd is not None and self.spent_usd + self._reserved_usd + usd > self._max_usd:
            self.stopped = EndpointError(
                f"max_usd={self._max_usd:g} is used up: {self.spent_usd:.4f} USD were spent and up"
                f" to {self._reserved_usd + usd:.4f} are under way; raise it and run the same"
                " command again, every reply so far is kept and not paid again"
            )
            raise self.stopped
        self._reserved_usd += usd
        return usd

    async def _sent(self, messages: Messages, schema: Schema, num_reserved: int) -> Reply:
        """One request, tried again while that can help."""
        answered_before, fault = self._num_answered, RetryableError("")
        for attempt in range(self.section.max_retries + 1):
            if attempt:
                if self.stopped is not None:
                    raise self.stopped
                await asyncio.sleep(wait_s(attempt, self.section.first_wait_s, fault.retry_after_s))
            await self._requests.take()
            await self._tokens.take(num_reserved)
            try:
                reply = await self._once(messages, schema)
            except RetryableError as error:
                fault = error
                self._tokens.give_back(num_reserved)
                continue
            self._tokens.give_back(num_reserved - reply.prompt_tokens - reply.completion_tokens)
            return reply
        if not fault.is_rate_limit and (
            self._num_answered > answered_before or await self._answers()
        ):
            return Reply("", "endpoint_gave_no_answer")  # others are answered: this row's own fault
        tries = f"{self.section.max_retries + 1} tries"
        hint = (
            "lower requests_per_minute or max_in_flight"
            if fault.is_rate_limit
            else "is it running and reachable from here?"
        )
        raise EndpointError(
            f"base_url={self.section.base_url}: no answer in {tries} (the last: {fault}); {hint}"
        )

    async def _answers(self) -> bool:
        """Whether the server answers anything at all; asked where no other request could tell."""
        try:
            reply = await self._once([{"role": "user", "content": "Reply with: ok"}], None)
        except RetryableError:
            return False
        await self._keep(f"probe {uuid.uuid4()}", reply)
        return bool(reply.model)

    async def _once(self, messages: Messages, schema: Schema) -> Reply:
        import aiohttp

        body = request_body(self.section, messages, schema, self._form)
        started_s = asyncio.get_running_loop().time()
        self.num_sent += 1
        self.num_in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.num_in_flight)
        try:
            async with self._session.post(self._url, data=body) as response:
                text = (await response.read()).decode("utf-8", "replace")
                status, headers = response.status, response.headers
        except TimeoutError as error:
            raise RetryableError("no answer within timeout_s") from error
        except aiohttp.ClientError as error:
            raise RetryableError(str(error) or type(error).__name__) from error
        finally:
            self.num_in_flight -= 1
        if status == 200:
            latency_s = asyncio.get_running_loop().time() - started_s
            reply = reply_of(text, messages, self.section.model, latency_s)
            self._num_answered += 1
            return reply
        if status in REFUSALS_OF_A_FORM and self._other_form(json.loads(body), text):
            return await self._once(messages, schema)
        self._raise_unless_refused(status, text, retry_after_s(headers))
        self._num_refused += 1
        self._last_refusal = f"{status} ({plain_message(text, self._key)})"
        if not self._num_answered and self._num_refused >= MAX_REFUSED_BEFORE_AN_ANSWER:
            raise self._all_refused()
        return Reply("", "request_refused")

    def _other_form(self, sent: dict[str, Any], refusal: str) -> bool:
        """Whether a refused request may be taken in another form than it was sent in."""
        if self._form.fit(sent) != sent:
            return True  # learned since from another request
        change = self._form.learn(sent, refusal)
        if change is not None:
            say(
                f"{self.section.base_url}: {self.section.model} refuses this form"
                f" ({plain_message(refusal, self._key)}); asked from now on with {change}"
            )
        return change is not None

    def _raise_unless_refused(self, status: int, text: str, asked_s: float | None) -> None:
        """Tells what every request would meet, and what passes, from a refusal of this one."""
        message = plain_message(text, self._key)
        reason = fatal_reason(status, text, self.section.model, self.section.api_key_env)
        if reason is not None:
            shown = "" if status in (401, 403) else f" ({message})"
            raise EndpointError(f"base_url={self.section.base_url}: {reason}{shown}")
        if asked_s is not None and asked_s > MAX_RETRY_AFTER_S:
            raise EndpointError(
                f"base_url={self.section.base_url}: the server asks to come back in {asked_s:.0f}"
                " s; run the same command then"
            )
        if status in (408, 409, 429) or status >= 500:
            raise RetryableError(
                f"status {status} {message}".rstrip(), asked_s, is_rate_limit=status == 429
            )


def api_key(section: EndpointSection) -> str:
    """The key that the environment holds for a server; "" for one that asks for none.

    Raises:
        EndpointError: The variable that should hold the key is not set.
    """
    key = os.environ.get(section.api_key_env or "", "").strip()
    if section.api_key_env is not None and not key:
        raise EndpointError(
            f"api_key_env: {section.api_key_env} is not set here; export it, or give null for a"
            " server that asks for no key"
        )
    return key


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address (https_proxy, no_proxy), or None.

    Read once, not with every request.
    """
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
