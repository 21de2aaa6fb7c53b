"""Many short talks with an endpoint at once, across chunks; each chunk is finished when the last of
its talks is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.core.recipe import UserError
from pipeline.llm.client import Endpoint

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ChunkWork(Generic[Item, Result]):
    """One chunk: its items (None where there is nothing to ask), and what is done with what came of
    them, in their order.
    """

    items: Sequence[Item | None]
    finish: Callable[[list[Result | None]], None]


async def ask_all(
    chunks: Iterable[ChunkWork[Item, Result]],
    endpoint: Endpoint,
    ask_one: Callable[[Item], Awaitable[Result]],
) -> None:
    """Talks about every item of every chunk. Chunks are drawn as they are needed, so few of them
    are in memory.

    Raises:
        UserError: The endpoint cannot be used, or the budget is used up; what was answered by then
            is kept.
    """
    # Twice as many items as requests: while one item's reply is checked, another one's request is
    # waiting to be sent.
    slots = asyncio.Semaphore(2 * endpoint.section.max_in_flight)
    faults: list[BaseException] = []

    async def one(item: Item) -> Result:
        try:
            return await ask_one(item)
        except BaseException as error:
            faults.append(error)
            raise
        finally:
            slots.release()

    async def close(
        work: ChunkWork[Item, Result], tasks: Sequence[asyncio.Task[Result] | None]
    ) -> None:
        results = await asyncio.gather(
            *(task for task in tasks if task is not None), return_exceptions=True
        )
        if any(isinstance(result, BaseException) for result in results):
            return  # one() noted it
        found = iter(results)
        work.finish([next(found) if task is not None else None for task in tasks])  # type: ignore[misc]

    closing = []
    for work in chunks:
        tasks: list[asyncio.Task[Result] | None] = []
        for item in work.items:
            if item is not None:
                await slots.acquire()
            tasks.append(asyncio.create_task(one(item)) if item is not None else None)
            if faults:
                break
        if faults:
            closing.append(asyncio.create_task(_settled(tasks)))
            break
        closing.append(asyncio.create_task(close(work, tasks)))
    await asyncio.gather(*closing)
    if faults:
        raise next(
            (fault for fault in faults if not isinstance(fault, UserError)),
            endpoint.stopped or faults[0],
        )


async def _settled(tasks: Sequence[asyncio.Task[Result] | None]) -> None:
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


def spent(endpoint: Endpoint) -> dict[str, float]:
    """What was paid and sent, as a stage notes it."""
    return {
        "usd_paid": round(endpoint.spent_usd, 6),
        "num_sent": endpoint.num_sent,
        "peak_in_flight": endpoint.peak_in_flight,
    }
