"""Chunks of requests at once: results in order, and what becomes of a chunk that a fault hits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.recipe import UserError
from pipeline.llm.batch import ChunkWork, ask_chunks, ask_each
from pipeline.llm.client import Endpoint
from pipeline.llm.config import EndpointSection


@pytest.fixture
def section(tmp_path: Path) -> EndpointSection:
    return EndpointSection(
        model="m", api_key_env=None, max_in_flight=2, cache=str(tmp_path / "replies.sqlite")
    )


async def slow_double(number: int, _: Endpoint) -> int:
    await asyncio.sleep(0.01 * (number % 3))
    return 2 * number


def test_results_come_in_the_order_of_their_items(section: EndpointSection) -> None:
    assert ask_each(range(9), section, "test", None, slow_double) == [2 * n for n in range(9)]


def test_a_chunk_is_finished_whole_with_none_where_nothing_was_asked(
    section: EndpointSection,
) -> None:
    finished: dict[str, list[int | None]] = {}
    chunks = [
        ChunkWork((3, None, 1), lambda results: finished.update(first=results)),
        ChunkWork((None, None), lambda results: finished.update(second=results)),
        ChunkWork((), lambda results: finished.update(third=results)),
    ]
    spent = ask_chunks(chunks, section, "test", None, slow_double)
    assert finished == {"first": [6, None, 2], "second": [None, None], "third": []}
    assert spent == {"usd_paid": 0, "num_sent": 0, "peak_in_flight": 0}


def test_no_more_than_twice_as_many_items_as_requests_are_under_way(
    section: EndpointSection,
) -> None:
    under_way = peak = 0

    async def watched(number: int, _: Endpoint) -> int:
        nonlocal under_way, peak
        under_way += 1
        peak = max(peak, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return number

    ask_each(range(20), section, "test", None, watched)
    assert peak == 4


@pytest.mark.parametrize(
    ("fault", "raised"), [(UserError("no key"), "no key"), (KeyError("bug"), "bug")]
)
def test_a_fault_ends_the_job_and_what_was_whole_before_is_kept(
    fault: Exception, raised: str, section: EndpointSection
) -> None:
    finished: list[list[int | None]] = []
    drawn: list[int] = []

    async def faulty(number: int, _: Endpoint) -> int:
        await asyncio.sleep(0.01)
        if number == 5:
            raise fault
        return number

    def works() -> Iterator[ChunkWork[int, int]]:
        for chunk in range(100):
            drawn.append(chunk)
            items = range(2 * chunk, 2 * chunk + 2)
            yield ChunkWork(items, finished.append)

    with pytest.raises(type(fault), match=raised):
        ask_chunks(works(), section, "test", None, faulty)
    assert [0, 1] in finished and [2, 3] in finished
    assert all(4 not in results for results in finished)
    assert len(drawn) < 100
