#!/usr/bin/env python3
"""A chat-completions server of our own on loopback that writes passable rewrites, counts what it
was paid for, and misbehaves on command.

In a test:      with ChatServer(["429 1", "half", "answer"]) as server: ... server.answered
As a process:   python tests/pipeline/chat_server.py --port 0 --delay-s 0.2 --log answered.jsonl
                (prints its address)

Commands, one per request in order, then `answer` for ever (or a function of the request's body):
    answer  raw TEXT  slow SECONDS  429 [RETRY_AFTER]  500  503 [RETRY_AFTER]  401  403  404  400
    quota  no_schema
    refuses NAME .. (requests that hold such a parameter or a system message, as OpenAI does)
    thinking (no content at all: the bound came while it was reasoning)
    half (a body that ends early)  cut (half of the JSON)  empty (no choice)  blank  reset
    refusal [TEXT]  filter [TEXT]  length [TEXT]
"""

import argparse
import asyncio
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from pipeline.rewrite import template

Behaviour = Callable[[dict[str, Any]], str]
_WITH_TEXT = ("refusal", "filter", "length")


def rewritten(body: dict[str, Any]) -> str:
    """What an obliging model would say: a general question, then the captions with a few words
    before them; as a judge, it is unsure.
    """
    content = body["messages"][min(1, len(body["messages"]) - 1)]["content"]
    if content == "Reply with: ok":
        return "ok"
    if not isinstance(content, str):
        return json.dumps({"verdict": "unsure"})
    data = json.loads(content)
    if "question" in data:
        texts = (data["caption_a"], data["caption_b"])
        return json.dumps(
            {
                f"answer_{side}": f"The picture shows this: {text}"
                for side, text in zip("ab", texts, strict=True)
            }
        )
    written = template.write(
        data["caption_a"], data["caption_b"], "other", "What do you see there?"
    )
    return json.dumps({"question": written.question if written else "?"})


class ChatServer:
    """A server in a thread; leaves with the body of its `with`."""

    def __init__(
        self,
        commands: Sequence[str] | Behaviour = (),
        delay_s: float = 0.0,
        port: int = 0,
        log: Path | None = None,
    ) -> None:
        self._commands, self._delay_s, self._port = commands, delay_s, port
        self._log = log.open("a", buffering=1) if log else None  # one line at a time
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived_s: list[float] = []
        # by request: replies that were sent to the end, so paid for
        self.answered: Counter[str] = Counter()
        self.in_flight = self.peak_in_flight = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def num_requests(self) -> int:
        return len(self.bodies)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.bodies)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.arrived_s.append(time.monotonic())
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            if callable(self._commands):
                command = self._commands(body)
            else:
                command = self._commands[number] if number < len(self._commands) else "answer"
            await asyncio.sleep(self._delay_s)
            return await self._obey(command, body, request)
        finally:
            self.in_flight -= 1

    async def _obey(
        self, command: str, body: dict[str, Any], request: web.Request
    ) -> web.StreamResponse:
        name, _, argument = command.partition(" ")
        if name == "no_schema":
            name = "400_schema" if "response_format" in body else "answer"
        if name == "refuses":
            for refused in argument.split():
                if refused in body or refused in [one["role"] for one in body["messages"]]:
                    return web.json_response({"error": _unsupported(refused)}, status=400)
        if name in _REFUSALS:
            status, message, more = _REFUSALS[name]
            headers = {"Retry-After": argument} if argument else {}
            return web.json_response(
                {"error": {"message": message, **more}}, status=status, headers=headers
            )
        if name == "slow":
            await asyncio.sleep(float(argument))
        if name == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        text = (
            argument
            if name == "raw"
            else (
                {"blank": "", "refuses": "ok"}[name]
                if name in ("blank", "refuses")
                else argument
                if name in _WITH_TEXT and argument
                else rewritten(body)
            )
        )
        whole = json.dumps(_completion(body, text, name)).encode()
        if name == "half":
            response = web.StreamResponse(
                headers={"Content-Length": str(len(whole)), "Content-Type": "application/json"}
            )
            await response.prepare(request)
            await response.write(whole[: len(whole) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        if name == "cut":
            return web.Response(body=whole[: len(whole) // 2], content_type="application/json")
        response = web.Response(body=whole, content_type="application/json")
        await response.prepare(request)
        await response.write_eof()  # raises where nobody listens any more
        self._note(body)
        return response

    def _note(self, body: dict[str, Any]) -> None:
        key = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()
        self.answered[key] += 1
        if self._log is not None:
            self._log.write(json.dumps({"key": key, "answered_s": time.time()}) + "\n")

    async def _serve(self, started: threading.Event) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2
        )
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self._port = listener.getsockname()[1]
        await web.SockSite(runner, listener).start()
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await self._stop.wait()
        await runner.cleanup()

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), daemon=True
        )
        self._thread.start()
        assert started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


_REFUSALS: dict[str, tuple[int, str, dict[str, str]]] = {
    "429": (429, "Rate limit reached", {}),
    "quota": (429, "You exceeded your current quota", {"code": "insufficient_quota"}),
    "500": (500, "Internal error", {}),
    "503": (503, "Overloaded", {}),
    "401": (401, "Incorrect API key provided: sk-secret", {"code": "invalid_api_key"}),
    "403": (403, "Not allowed", {}),
    "404": (
        404,
        "The model `gpt-4.9` does not exist or you do not have access to it.",
        {"code": "model_not_found"},
    ),
    "400": (400, "This prompt is against our policy", {}),
    "400_schema": (400, "response_format of type json_schema is not supported", {}),
}


def _unsupported(name: str) -> dict[str, str]:
    """How OpenAI refuses a parameter, as its error says it."""
    if name == "system":
        what = "'messages[0].role' does not support 'system' with this model."
        return {"message": f"Unsupported value: {what}", "param": "messages[0].role"}
    instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    return {
        "message": f"Unsupported parameter: '{name}' is not supported with this model.{instead}",
        "param": name,
        "code": "unsupported_parameter",
    }


def _completion(body: dict[str, Any], text: str, name: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if name == "refusal":
        message = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    if name == "thinking":
        message = {"role": "assistant", "content": None, "reasoning_content": "B, or is it A?"}
    finishes = {"length": "length", "thinking": "length", "filter": "content_filter"}
    finish = finishes.get(name, "stop")
    choices = [] if name == "empty" else [{"index": 0, "finish_reason": finish, "message": message}]
    num_in = sum(len(one["content"]) for one in body["messages"]) // 4
    usage = {
        "prompt_tokens": num_in,
        "completion_tokens": len(text) // 4,
        "total_tokens": num_in + len(text) // 4,
    }
    return {
        "id": "chatcmpl",
        "object": "chat.completion",
        "created": 1,
        "model": f"{body['model']}-0001",
        "choices": choices,
        "usage": usage,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    with ChatServer(delay_s=options.delay_s, port=options.port, log=options.log) as server:
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
