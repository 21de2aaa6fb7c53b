"""An OpenAI-compatible endpoint as one function: messages in, a reply out, paid for at most once.

One client lives in one process and holds every limit there: requests in flight, requests and tokens
per minute, money. The protocol is one POST, so it is made with aiohttp: with 64 requests in flight
on 2 busy cores the SDK needed 5.7 ms of CPU per request and reached 14 % of the possible rate,
aiohttp 0.5 ms.
"""

import asyncio
import gc
import os
import uuid
import weakref
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.core.storage import cache_dir
from pipeline.llm.cache import Reply, ResponseCache
from pipeline.llm.config import EndpointSection
from pipeline.llm.protocol import (
    EndpointError,
    NotNowError,
    fatal_reason,
    message_tokens,
    plain_message,
    reply_of,
    retry_after_s,
)
from pipeline.llm.rate_limit import Pace, wait_s
from pipeline.llm.request import Messages, RequestWriter, Schema

MAX_RETRY_AFTER_S = 900.0  # a server that asks for more is told of instead of waited for
# A request that the server will not have is the fault of its row, unless it is of every row: then
# of the recipe.
MAX_REFUSED_BEFORE_AN_ANSWER = 8
# A look for cycles goes through all talks in flight; one in 700 new objects, Python's own, takes a
# sixth of the time.
NEW_OBJECTS_PER_COLLECTION = 50_000
ASSUMED_REPLY_TOKENS = 256  # reserved where `max_tokens` is null


class BudgetError(EndpointError):
    """The next request could cost more than is left."""


class _Chat(NamedTuple):
    messages: Messages
    messages_json: str
    schema: Schema


class Endpoint:
    """`async with Endpoint(section, purpose) as endpoint: reply = await endpoint.ask(messages,
    schema)`.

    Args:
        purpose: Names the budget in the cache: what was paid under this name before counts against
            `max_usd`.
        max_usd: The most that all runs of this purpose may cost together; None for no limit.
    """

    def __init__(
        self, section: EndpointSection, purpose: str, max_usd: float | None = None
    ) -> None:
        self.section, self._purpose, self._max_usd = section, purpose, max_usd
        self._key = _api_key(section)
        self.stopped: EndpointError | None = None  # set once, when no further request may be sent
        self.num_sent = self.num_in_flight = self.peak_in_flight = 0
        self._num_answered = self._num_refused = 0
        self._reserved_usd = 0.0
        self._with_schema = True
        self._writer, self._url = (
            RequestWriter(section.content()),
            f"{section.base_url}/chat/completions",
        )
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def __aenter__(self) -> Self:
        import aiohttp

        self._cache = ResponseCache(
            Path(self.section.cache) if self.section.cache else cache_dir() / "responses.sqlite"
        )
        self._spent_usd = self.section.usd(*self._cache.tokens_of(self._purpose))
        self._slots = asyncio.Semaphore(self.section.max_in_flight)
        self._collected_before = gc.get_threshold()
        gc.set_threshold(NEW_OBJECTS_PER_COLLECTION, *self._collected_before[1:])
        self._requests, self._tokens = (
            Pace(self.section.requests_per_minute),
            Pace(self.section.tokens_per_minute),
        )
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Nothing new is sent; what is under way may be paid for already, so it is waited for and
        # kept.
        self.stopped = self.stopped or EndpointError("the endpoint was closed")
        for _ in range(self.section.max_in_flight):
            await self._slots.acquire()
        await self._cache.written()
        await self._session.close()
        self._cache.close()
        gc.set_threshold(*self._collected_before)

    @property
    def spent_usd(self) -> float:
        """What all runs of this purpose paid so far."""
        return self._spent_usd

    async def ask(self, messages: Messages, schema: Schema = None) -> Reply:
        """The reply to a chat, from the cache if it was ever paid for. Equal requests at one time
        are sent once.

        Args:
            schema: A JSON schema for the reply, enforced where the server can; the messages must
                ask for JSON as well.

        Raises:
            EndpointError: No request can succeed (key, model, address, budget); also for every
                later request.
        """
        chat = _Chat(messages, self._writer.messages_json(messages), schema)
        key = self._writer.key(chat.messages_json, schema)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._cache.get(key)
            if known is not None:
                return known
            return await self._paid(key, chat)

    async def _paid(self, key: str, chat: _Chat) -> Reply:
        """Sends a request within the limits, and keeps what was paid for."""
        num_in, num_out = (
            message_tokens(chat.messages),
            self.section.max_tokens or ASSUMED_REPLY_TOKENS,
        )
        reserved_usd = 0.0
        try:
            async with self._slots:
                if self.stopped is not None:
                    raise self.stopped
                reserved_usd = self._reserve(num_in, num_out)
                reply = await self._sent(chat, num_in + num_out)
            # The next request need not wait until this reply is on disk.
            if reply.model:  # the server answered, so it is paid
                await self._cache.put(key, reply, self._purpose)
                self._spent_usd += self.section.usd(reply.prompt_tokens, reply.completion_tokens)
        except EndpointError as error:
            self.stopped = self.stopped or error
            raise
        finally:
            self._reserved_usd -= reserved_usd
        return reply

    def _reserve(self, num_in: int, num_out: int) -> float:
        usd = self.section.usd(num_in, num_out)
        if self._max_usd is not None and self._spent_usd + self._reserved_usd + usd > self._max_usd:
            self.stopped = BudgetError(
                f"max_usd={self._max_usd:g} is used up: {self._spent_usd:.4f} USD were spent and up"
                f" to {self._reserved_usd + usd:.4f} are under way; raise it and run the same"
                " command again, every reply so far is kept and not paid again"
            )
            raise self.stopped
        self._reserved_usd += usd
        return usd

    async def _sent(self, chat: _Chat, num_reserved: int) -> Reply:
        """One request, tried again while that can help."""
        answered_before, fault = self._num_answered, NotNowError("")
        for attempt in range(self.section.max_retries + 1):
            if attempt:
                if self.stopped is not None:
                    raise self.stopped
                await asyncio.sleep(wait_s(attempt, self.section.first_wait_s, fault.retry_after_s))
            await self._requests.take()
            await self._tokens.take(num_reserved)
            try:
                reply = await self._once(chat)
            except NotNowError as error:
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
            messages = [{"role": "user", "content": "Reply with: ok"}]
            reply = await self._once(_Chat(messages, self._writer.messages_json(messages), None))
        except NotNowError:
            return False
        if reply.model:
            await self._cache.put(f"probe {uuid.uuid4()}", reply, self._purpose)
            self._spent_usd += self.section.usd(reply.prompt_tokens, reply.completion_tokens)
        return bool(reply.model)

    async def _once(self, chat: _Chat) -> Reply:
        import aiohttp

        schema = chat.schema if self._with_schema else None
        started_s = asyncio.get_running_loop().time()
        self.num_sent += 1
        self.num_in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.num_in_flight)
        try:
            async with self._session.post(
                self._url, data=self._writer.body(chat.messages_json, schema)
            ) as response:
                text = (await response.read()).decode("utf-8", "replace")
                status, headers = response.status, response.headers
        except (aiohttp.ClientError, TimeoutError) as error:
            what = (
                "no answer within timeout_s"
                if isinstance(error, TimeoutError)
                else str(error) or type(error).__name__
            )
            raise NotNowError(what) from error
        finally:
            self.num_in_flight -= 1
        if status == 200:
            reply = reply_of(
                text,
                chat.messages,
                self.section.model,
                asyncio.get_running_loop().time() - started_s,
            )
            self._num_answered += 1
            return reply
        return await self._refused(
            status, text, retry_after_s(headers), chat, had_schema=schema is not None
        )

    async def _refused(
        self, status: int, text: str, asked_s: float | None, chat: _Chat, *, had_schema: bool
    ) -> Reply:
        """What to do about an answer that is not 200."""
        message = plain_message(text, self._key)
        if (
            reason := fatal_reason(status, text, self.section.model, self.section.api_key_env)
        ) is not None:
            raise EndpointError(
                f"base_url={self.section.base_url}: {reason}"
                + (f" ({message})" if status not in (401, 403) else "")
            )
        if asked_s is not None and asked_s > MAX_RETRY_AFTER_S:
            raise EndpointError(
                f"base_url={self.section.base_url}: the server asks to come back in {asked_s:.0f}"
                " s; run the same command then"
            )
        if status in (408, 409, 429) or status >= 500:
            raise NotNowError(
                f"status {status} {message}".rstrip(), asked_s, is_rate_limit=status == 429
            )
        if had_schema and ("response_format" in text or "json_schema" in text):
            self._with_schema = False
            return await self._once(chat)
        self._num_refused += 1
        if not self._num_answered and self._num_refused >= MAX_REFUSED_BEFORE_AN_ANSWER:
            raise EndpointError(
                f"base_url={self.section.base_url}: every request was refused, the last with status"
                f" {status} ({message})"
            )
        return Reply("", "request_refused")


def _api_key(section: EndpointSection) -> str:
    if section.api_key_env is None:
        return ""
    key = os.environ.get(section.api_key_env, "").strip()
    if not key:
        raise EndpointError(
            f"api_key_env: {section.api_key_env} is not set here; export it, or give null for a"
            " server that asks for no key"
        )
    return key


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address (https_proxy, no_proxy); read once, not
    with every request.
    """
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
