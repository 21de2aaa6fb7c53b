"""Every answer that a model ever gave, by what decided it: weights, prompt, image, settings.

The key holds what the model was shown, not what the condition is called: an answer without an image
is the same answer whichever benchmark or condition asks for it, and two images never share one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.storage import cache_dir
from pipeline.llm.cache import SqliteStore
from pipeline.llm.reasoning import without_reasoning

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, num_tokens"
    " INTEGER NOT NULL, ended INTEGER NOT NULL, fault TEXT NOT NULL) WITHOUT ROWID"
)
_SELECT = (
    "SELECT key, text, num_tokens, ended, fault FROM answers WHERE key IN"
    " (SELECT value FROM json_each(?))"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    `ended`: it stopped by itself, and was not cut off at the bound on its tokens. `fault` is "" or
    what an endpoint says instead of an answer (reply_refused, reply_empty, request_refused).
    """

    text: str
    num_tokens: int
    ended: bool
    fault: str = ""

    @property
    def said(self) -> str:
        """The text without the reasoning before it; "" where the reasoning has no end."""
        return without_reasoning(self.text) or ""


def answer_key(weights: str, prompt: str, image: str | None, settings: Mapping[str, Any]) -> str:
    """The sha256 that an answer is kept under.

    Args:
        weights: Hash of everything that decides what the model answers.
        image: What the picture is known by (`ImageInput.name`), None for no picture.
        settings: How it was decoded: plain JSON values.
    """
    request = [weights, prompt, image, sorted(settings.items())]
    return hashlib.sha256(json.dumps(request, ensure_ascii=True).encode()).hexdigest()


class AnswerStore(SqliteStore):
    """Answers in one file; what `put` returned from is kept, however the process ends."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "answers.cache", "answers", [_SCHEMA])

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are kept under these keys."""
        return {
            key: Answer(text, num_tokens, bool(ended), fault)
            for key, text, num_tokens, ended, fault in self.select(_SELECT, json.dumps([*keys]))
        }

    def put(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """Keeps answers; the first under a key stays.

        Raises:
            UserError: They could not be written.
        """
        rows = [
            (key, answer.text, answer.num_tokens, int(answer.ended), answer.fault)
            for key, answer in answers
        ]
        self.insert("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", rows)


def open_answers(cache: str | None) -> AnswerStore:
    """The store that a recipe's `answers.cache` names; by default one for this machine."""
    return AnswerStore(Path(cache) if cache else cache_dir() / "answers.sqlite")
