"""Replies that were paid for, kept by the content of their request: sqlite, shared between runs and
processes of a machine.
"""

import asyncio
import json
import sqlite3
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.core.storage import StoreError


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


class ResponseCache:
    """Replies by request key. A reply is on disk before anybody uses it.

    The file lies on a local disk: sqlite's write-ahead log does not work over a network file
    system. A killed process loses nothing that was committed; a power failure may lose the last
    moments.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Only one thread at a time writes, but not always the same one.
            self._writer = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA synchronous=NORMAL")
            self._writer.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL,"
                " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, purpose TEXT"
                " NOT NULL, paid_at_s REAL NOT NULL) WITHOUT ROWID"
            )
            self._writer.execute("CREATE INDEX IF NOT EXISTS by_purpose ON replies (purpose)")
            self._reader = sqlite3.connect(path, timeout=60.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"cache={path}: cannot be used as a store of replies ({error}); name another file"
            ) from error

    def get(self, key: str) -> Reply | None:
        """The reply to a request with this key, marked as cached, or None."""
        row = self._execute("SELECT reply FROM replies WHERE key = ?", key).fetchone()
        return Reply(**json.loads(row[0]), is_cached=True) if row else None

    async def put(self, key: str, reply: Reply, purpose: str) -> None:
        """Keeps a reply that was just paid for; returns when it is on disk. `purpose` names the
        budget that paid.

        Replies that arrive within GATHER_S, or while others are being written, go into the next
        transaction together, in a thread: a slow disk holds up nobody's requests.

        Raises:
            StoreError: It could not be written.
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
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((values, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            batch, self._waiting = self._waiting, []
            fault: Exception | None = None
            try:
                await asyncio.to_thread(self._commit, [values for values, _ in batch])
            except Exception as error:  # every waiter is told
                fault = error
            for done in (done for _, done in batch if not done.done()):
                if fault is None:
                    done.set_result(None)
                else:
                    done.set_exception(fault)
        self._writing = None

    def _commit(self, rows: list[tuple[Any, ...]]) -> None:
        try:
            with self._writer:
                self._writer.executemany(
                    "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error as error:
            raise self._fault(error) from error

    async def written(self) -> None:
        """Waits until all that `put` was given is on disk."""
        while self._writing is not None:
            await self._writing

    def tokens_of(self, purpose: str) -> tuple[int, int]:
        """Input and output tokens that were paid for under a purpose, over all runs."""
        sums = (
            "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) FROM"
            " replies WHERE purpose = ?"
        )
        prompt, completion = self._execute(sums, purpose).fetchone()
        return prompt, completion

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._reader.execute(statement, values)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _fault(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"cache={self._path}: {error}; what was paid for before is still in it, run the same"
            " command again"
        )

    def close(self) -> None:
        """Ends the connections; everything that `put` returned from is on disk already."""
        self._reader.close()
        self._writer.close()
