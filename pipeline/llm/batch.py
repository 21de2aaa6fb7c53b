"""Many short chats with an endpoint at once, across chunks: the one driver of requests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.core.recipe import UserError
from pipeline.llm.client import Endpoint
from pipeline.llm.config import EndpointSection

Item = TypeVar("Item")
Result = TypeVar("Result")
AskOne = Callable[[Item, Endpoint], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class ChunkWork(Generic[Item, Result]):
    """A chunk's items (None where there is nothing to ask), and what is done with its results.

    `finish` gets them in the items' order when the last one is there.
    """

    items: Sequence[Item | None]
    finish: Callable[[list[Result | None]], None]


def ask_chunks(
    chunks: Iterable[ChunkWork[Item, Result]],
    section: EndpointSection,
    purpose: str,
    max_usd: float | None,
    ask_one: AskOne[Item, Result],
) -> dict[str, float]:
    """Asks about every item of every chunk; returns what was paid and sent, as a stage notes it.

    Few chunks are in memory: they are drawn as they are needed.

    Args:
        purpose: Names the budget in the cache of replies.
        ask_one: All that is asked about one item.

    Raises:
        UserError: The endpoint cannot be used, or the budget is used up; what was answered by then
            is kept.
    """

    async def run() -> dict[str, float]:
        async with Endpoint(section, purpose, max_usd) as endpoint:
            await _ask_all(chunks, endpoint, ask_one)
            return {
                "usd_paid": round(endpoint.spent_usd, 6),
                "num_sent": endpoint.num_sent,
                "peak_in_flight": endpoint.peak_in_flight,
            }

    return asyncio.run(run())


def ask_each(
    items: Sequence[Item],
    section: EndpointSection,
    purpose: str,
    max_usd: float | None,
    ask_one: AskOne[Item, Result],
) -> list[Result]:
    """The result of every item, in order; otherwise as `ask_chunks`."""
    results: list[Any] = []
    ask_chunks([ChunkWork(items, results.extend)], section, purpose, max_usd, ask_one)
    return results


async def _ask_all(
    chunks: Iterable[ChunkWork[Item, Result]], endpoint: Endpoint, ask_one: AskOne[Item, Result]
) -> None:
    # Twice as many items as requests: while one item's reply is checked, another one's request is
    # waiting to be sent.
    slots = asyncio.Semaphore(2 * endpoint.section.max_in_flight)
    faults: list[BaseException] = []

    async def ask(item: Item | None) -> Result | None:
        if item is None:
            return None
        try:
            return await ask_one(item, endpoint)
        except BaseException as error:
            faults.append(error)
            raise
        finally:
            slots.release()

    async def close(work: ChunkWork[Item, Result], tasks: list[asyncio.Task[Any]]) -> None:
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        is_whole = len(results) == len(work.items)
        if is_whole and not any(isinstance(result, BaseException) for result in results):
            held.append(lambda: work.finish(results))
            while held and endpoint.refusal() is None:
                held.pop(0)()

    held: list[Callable[[], None]] = []  # chunks that are finished once anything was answered
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
    if refusal := endpoint.refusal():
        raise refusal
    endpoint.say_refusals()
