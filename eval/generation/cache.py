"""Every answer that a model ever gave, by what decided it: weights, prompt, image, settings.
Survives kills; shared between runs.

The key holds what the model was shown, not what the condition is called: an answer without an image
is the same answer whichever benchmark or condition asks for it, and two images never share one.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.core.storage import StoreError, cache_dir

_AT_ONCE = 500  # below sqlite's bound on variables of one statement


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said. `ended`: it stopped by itself, and was not cut off at the bound on its
    tokens.

    `fault` is "" or what an endpoint says instead of an answer (reply_refused, reply_empty,
    request_refused).
    """

    text: str
    num_tokens: int
    ended: bool
    fault: str = ""


def answer_key(weights: str, prompt: str, image: str | None, settings: Mapping[str, Any]) -> str:
    """The sha256 that an answer is kept under.

    Args:
        weights: Hash of everything that decides what the model answers.
        image: What the picture is known by (`ImageInput.name`), None for no picture.
        settings: How it was decoded: plain JSON values.
    """
    request = [weights, prompt, image, sorted(settings.items())]
    return hashlib.sha256(json.dumps(request, ensure_ascii=True).encode()).hexdigest()


class AnswerStore:
    """Answers in one sqlite file on a local disk; what `put` returned from is kept, however the
    process ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60.0)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL,"
                " num_tokens INTEGER NOT NULL, ended INTEGER NOT NULL, fault TEXT NOT NULL) WITHOUT"
                " ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"answers.cache={path}: cannot be used as a store of answers ({error}); name"
                " another file"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are kept under these keys.

        Raises:
            StoreError: The file is no store of answers.
        """
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Answer] = {}
        try:
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = self._connection.execute(
                    "SELECT key, text, num_tokens, ended, fault FROM answers WHERE key IN"  # noqa: S608
                    f" ({marks})",
                    some,
                )
                found |= {
                    key: Answer(text, num_tokens, bool(ended), fault)
                    for key, text, num_tokens, ended, fault in rows
                }
        except sqlite3.Error as error:
            raise StoreError(
                f"answers.cache={self.path}: {error}; move the file away to make every answer again"
            ) from error
        return found

    def put(self, answers: Mapping[str, Answer] | Sequence[tuple[str, Answer]]) -> None:
        """Keeps answers; the first under a key stays.

        Raises:
            StoreError: They could not be written.
        """
        pairs = answers.items() if isinstance(answers, Mapping) else answers
        rows = [
            (key, answer.text, answer.num_tokens, int(answer.ended), answer.fault)
            for key, answer in pairs
        ]
        try:
            with self._connection:
                self._connection.executemany(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error as error:
            raise StoreError(
                f"answers.cache={self.path}: {error}; what is in it stays, run the same command"
                " again"
            ) from error


def open_answers(cache: str | None) -> AnswerStore:
    """The store that a recipe's `answers.cache` names; by default one for this machine."""
    return AnswerStore(Path(cache) if cache else cache_dir() / "answers.sqlite")
