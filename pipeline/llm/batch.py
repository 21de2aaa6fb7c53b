"""Many short talks with an endpoint at once, across chunks of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.core.recipe import UserError
from pipeline.llm.client import Endpoint

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ChunkWork(Generic[Item, Result]):
    """A chunk's items (None where there is nothing to ask), and what is done with its results.

    `finish` gets them in the items' order when the last one is there.
    """

    items: Sequence[Item | None]
    finish: Callable[[list[Result | None]], None]


async def ask_all(
    chunks: Iterable[ChunkWork[Item, Result]],
    endpoint: Endpoint,
    ask_one: Callable[[Item], Awaitable[Result]],
) -> None:
    """Talks about every item of every chunk; few chunks are in memory, drawn as they are needed.

    Raises:
        UserError: The endpoint cannot be used, or the budget is used up; what was answered by then
            is kept.
    """
    # Twice as many items as requests: while one item's reply is checked, another one's request is
    # waiting to be sent.
    slots = asyncio.Semaphore(2 * endpoint.section.max_in_flight)
    faults: list[BaseException] = []

    async def ask(item: Item | None) -> Result | None:
        if item is None:
            return None
        try:
            return await ask_one(item)
        except BaseException as error:
            faults.append(error)
            raise
        finally:
            slots.release()

    async def close(work: ChunkWork[Item, Result], tasks: list[asyncio.Task[Any]]) -> None:
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        is_whole = len(results) == len(work.items)
        if is_whole and not any(isinstance(result, BaseException) for result in results):
            work.finish(results)

    closing = []
    for work in chunks:
        tasks: list[asyncio.Task[Any]] = []
        for item in work.items:
            if item is not None:
                await slots.acquire()
            if faults:
                break
            tasks.append(asyncio.create_task(ask(item)))
        closing.append(asyncio.create_task(close(work, tasks)))
        if faults:
            break
    await asyncio.gather(*closing)
    if faults:
        bugs = [fault for fault in faults if not isinstance(fault, UserError)]
        raise next(iter(bugs), endpoint.stopped or faults[0])


async def ask_each(
    items: Sequence[Item], endpoint: Endpoint, ask_one: Callable[[Item], Awaitable[Result]]
) -> list[Result]:
    """The result of every item, in order; as `ask_all` for a single chunk."""
    results: list[Any] = []
    await ask_all([ChunkWork(items, results.extend)], endpoint, ask_one)
    return results


def spent(endpoint: Endpoint) -> dict[str, float]:
    """What was paid and sent, as a stage notes it."""
    return {
        "usd_paid": round(endpoint.spent_usd, 6),
        "num_sent": endpoint.num_sent,
        "peak_in_flight": endpoint.peak_in_flight,
    }
