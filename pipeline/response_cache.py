"""Replies that were paid for, kept by the content of their request: sqlite, shared between runs and processes of a machine."""

import contextlib
import json
import sqlite3
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.store import StoreError


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint answered, or why it did not.

    `fault` is "" for a usable text, otherwise a fact: reply_empty, reply_refused, reply_cut_off, request_refused,
    endpoint_gave_no_answer. `model` is the name that the server reports; `latency_s` is of the request that was paid for,
    also where the reply came from the cache.
    """

    text: str
    fault: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    is_cached: bool = False


_STORED = tuple(field.name for field in fields(Reply) if field.name != "is_cached")


class ResponseCache:
    """Replies by request key. A reply is on disk before anybody uses it.

    The file lies on a local disk: sqlite's write-ahead log does not work over a network file system. A killed process
    loses nothing that was committed; a power failure may lose the last moments.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,"
                " completion_tokens INTEGER NOT NULL, purpose TEXT NOT NULL, paid_at_s REAL NOT NULL) WITHOUT ROWID"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS by_purpose ON replies (purpose)")
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cache={path}: cannot be used as a store of replies ({error}); name another file") from error

    def get(self, key: str) -> Reply | None:
        """The reply to a request with this key, marked as cached, or None."""
        row = self._execute("SELECT reply FROM replies WHERE key = ?", key).fetchone()
        return Reply(**json.loads(row[0]), is_cached=True) if row else None

    def put(self, key: str, reply: Reply, purpose: str) -> None:
        """Keeps a reply that was just paid for; `purpose` names the budget that paid."""
        stored = {name: getattr(reply, name) for name in _STORED}
        values = (key, json.dumps(stored, ensure_ascii=False), reply.prompt_tokens, reply.completion_tokens, purpose, time.time())
        self._execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)", *values)

    def tokens_of(self, purpose: str) -> tuple[int, int]:
        """Input and output tokens that were paid for under a purpose, over all runs."""
        sums = "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) FROM replies WHERE purpose = ?"
        prompt, completion = self._execute(sums, purpose).fetchone()
        return prompt, completion

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreError(f"cache={self._path}: {error}; what was paid for before is still in it, run the same command again") from error

    def close(self) -> None:
        """Ends the connection; everything is on disk already."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
