"""Replies that were paid for, kept by the content of their request."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from pipeline.core.recipe import UserError


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint answered, or why it did not.

    `fault` is "" for a usable text, otherwise a fact: reply_empty, reply_refused, reply_cut_off,
    request_refused, endpoint_gave_no_answer. `model` is the name that the server reports;
    `latency_s` is of the request that was paid for, also where the reply came from the cache.
    """

    text: str
    fault: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    is_cached: bool = False


GATHER_S = 0.005  # a transaction costs as much processor time as half a request
_STORED = tuple(field.name for field in fields(Reply) if field.name != "is_cached")


class SqliteStore:
    """One sqlite file that the runs and processes of a machine share; the first row of a key stays.

    The file lies on a local disk: sqlite's write-ahead log does not work over a network file
    system. A killed process loses nothing that was inserted; a power failure may lose the last
    moments.

    Args:
        setting: What the recipe calls the path.
        what: What is kept, for messages.
        schema: The statements that make the tables.

    Raises:
        UserError: The file cannot be used.
    """

    def __init__(self, path: Path, setting: str, what: str, schema: Sequence[str]) -> None:
        self.path, self._name = path, f"{setting}={path}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Only one thread at a time writes, but not always the same one.
            self._writer = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", *schema):
                self._writer.execute(statement)
            self._reader = sqlite3.connect(path, timeout=60.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"{self._name}: cannot be used as a store of {what} ({error}); name another file"
            ) from error

    def select(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""
        try:
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def insert(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Writes rows in one transaction; returns when they are on disk."""
        try:
            with self._writer:
                self._writer.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _fault(self, error: sqlite3.Error) -> UserError:
        return UserError(
            f"{self._name}: {error}; what is in it stays, run the same command again, or move a"
            " damaged file away"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections; all that `insert` returned from is on disk already."""
        self._reader.close()
        self._writer.close()


_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, purpose TEXT NOT NULL,"
    " paid_at_s REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS by_purpose ON replies (purpose)",
)


class ResponseCache(SqliteStore):
    """Replies by request key. A reply is on disk before anybody uses it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "cache", "replies", _SCHEMA)
        self._waiting: list[tuple[Any, ...]] = []
        self._writing: asyncio.Task[None] | None = None  # of what waits, after all before it
        self._turn = asyncio.Lock()

    def get(self, key: str) -> Reply | None:
        """The reply to a request with this key, marked as cached, or None."""
        rows = self.select("SELECT reply FROM replies WHERE key = ?", key)
        return Reply(**json.loads(rows[0][0]), is_cached=True) if rows else None

    async def put(self, key: str, reply: Reply, purpose: str) -> None:
        """Keeps a reply that was just paid for; returns when it is on disk.

        Replies that arrive within GATHER_S, or while others are being written, go into the next
        transaction together, in a thread: a slow disk holds up nobody's requests.

        Args:
            purpose: Names the budget that paid.

        Raises:
            UserError: It could not be written.
        """
        stored = {name: getattr(reply, name) for name in _STORED}
        values = (
            key,
            json.dumps(stored, ensure_ascii=False),
            reply.prompt_tokens,
            reply.completion_tokens,
            purpose,
            time.time(),
        )
        if not self._waiting or self._writing is None:
            self._writing = asyncio.create_task(self._write())
        self._waiting.append(values)
        await asyncio.shield(self._writing)  # every waiter is told if it fails

    async def _write(self) -> None:
        await asyncio.sleep(GATHER_S)
        async with self._turn:
            batch, self._waiting = self._waiting, []
            insert = "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)"
            await asyncio.to_thread(self.insert, insert, batch)

    async def written(self) -> None:
        """Waits until all that `put` was given is on disk."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def tokens_of(self, purpose: str) -> tuple[int, int]:
        """Input and output tokens that were paid for under a purpose, over all runs."""
        prompt, completion = self.select(
            "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0)"
            " FROM replies WHERE purpose = ?",
            purpose,
        )[0]
        return prompt, completion
