#!/usr/bin/env python3
"""A chat-completions server that does next to nothing, so that a benchmark measures its client:
replies after a fixed time.

    python bench/rewrite_server.py --delay-s 0.2 --log answered.jsonl          # prints its address

It speaks as much HTTP/1.1 as a pooling client needs, and answers each request as the tests' server
would an obliging model. When it is told to end it writes the hash of every request that it
answered, and what processor time it used.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import time
from pathlib import Path
from typing import Any

QUESTION = json.dumps({"question": "What do you see there?"})


def reply(body: dict[str, Any]) -> bytes:
    """A completion: a question that fits any pair, or the captions with a few words before them."""
    data = json.loads(body["messages"][1]["content"])
    text = QUESTION
    if "question" in data:
        text = json.dumps(
            {
                f"answer_{side}": f"The picture shows this: {data[f'caption_{side}']}"
                for side in "ab"
            }
        )
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    usage = {
        "prompt_tokens": 600,
        "completion_tokens": len(text) // 4,
        "total_tokens": 600 + len(text) // 4,
    }
    return json.dumps(
        {
            "object": "chat.completion",
            "model": f"{body['model']}-0001",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


class Connection(asyncio.Protocol):
    """One kept-alive connection; a client sends its next request after the reply to the last."""

    def __init__(self, delay_s: float, answered: list[str]) -> None:
        self._delay_s, self._answered = delay_s, answered
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers where replies go."""
        self._transport: Any = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Collects a request; once it is whole, its reply is due `delay_s` later."""
        self._buffer += data
        head_bytes = self._buffer.find(b"\r\n\r\n") + 4
        if head_bytes < 4:
            return
        start = self._buffer.lower().find(b"content-length:", 0, head_bytes) + len(
            b"content-length:"
        )
        num_bytes = head_bytes + int(self._buffer[start : self._buffer.find(b"\r\n", start)])
        if len(self._buffer) >= num_bytes:
            body = bytes(self._buffer[head_bytes:num_bytes])
            del self._buffer[:num_bytes]
            self._loop.call_later(self._delay_s, self._send, body)

    def _send(self, body: bytes) -> None:
        whole = reply(json.loads(body))
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(whole)
            + whole
        )
        self._answered.append(hashlib.sha256(body).hexdigest())


async def serve(delay_s: float, log: Path) -> None:
    """Serves until SIGTERM."""
    answered: list[str] = []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(
        lambda: Connection(delay_s, answered), "127.0.0.1", 0, backlog=1024
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await stop.wait()
    log.write_text(json.dumps({"answered": answered, "cpu_s": time.process_time()}))


def main() -> None:
    """Serves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay-s", type=float, default=0.2)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.delay_s, options.log))


if __name__ == "__main__":
    main()
