"""What workers say, shown where the job was started: Ray's own log lines would drown it.

A worker appends messages to a file beside the result; the driver follows the file and shows them.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any, Self

from pipeline.core.progress import Progress, say

WRITE_EVERY_S = 0.2
READ_EVERY_S = 0.2


def send(messages: Path, **message: Any) -> None:
    """Appends a message to a file as one JSON line: the worker's end."""
    with messages.open("a", encoding="utf-8") as file:
        file.write(json.dumps(message) + "\n")


class DriverProgress:
    """As `pipeline.core.progress.Progress`, but shown by the driver, a few times per second."""

    def __init__(self, messages: Path, title: str, total: int, unit: str) -> None:
        self._messages = messages
        self._opening = {"title": title, "total": total, "unit": unit}
        self._unsent, self._facts, self._sent_s = 0, dict[str, float | str](), 0.0

    def __enter__(self) -> Self:
        send(self._messages, kind="begin", **self._opening)
        return self

    def __exit__(self, *_: object) -> None:
        self._send()
        send(self._messages, kind="end")

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """Reports `n` more units done, with facts to show beside them."""
        self._unsent += n
        self._facts = facts
        if time.monotonic() - self._sent_s >= WRITE_EVERY_S:
            self._send()

    def _send(self) -> None:
        send(self._messages, kind="advance", n=self._unsent, facts=self._facts)
        self._unsent, self._sent_s = 0, time.monotonic()


def follow(path: Path, done: threading.Event) -> None:
    """Shows the messages in `path` as they come, until `done` is set and all are shown."""
    shown: Progress | None = None
    position, rest = 0, ""
    while True:
        last = done.is_set()
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                file.seek(position)
                text = rest + file.read()
                position = file.tell()
            *lines, rest = text.split("\n")  # the last line may be half written
            for line in lines:
                shown = _show(json.loads(line), shown)
        if last:
            break
        done.wait(READ_EVERY_S)
    if shown is not None:  # the worker ended in the middle
        shown.__exit__(RuntimeError, None, None)


def _show(message: dict[str, Any], shown: Progress | None) -> Progress | None:
    """Shows one message; returns the progress display that is open after it."""
    if message["kind"] == "say":
        say(message["text"])
    elif message["kind"] == "begin":
        return Progress(message["title"], message["total"], message["unit"]).__enter__()
    elif message["kind"] == "advance" and shown is not None:
        shown.advance(message["n"], **message["facts"])
    elif message["kind"] == "end" and shown is not None:
        shown.__exit__(None, None, None)
        return None
    return shown
