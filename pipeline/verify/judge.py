"""A model that sees judges answers: is each true of its own image, and of the other one?

A verdict is true, false, or missing: a judge that is unsure, answers in prose twice, refuses or
gives no reply in time has said nothing, and nothing is made of it. One image per request, because
many servers take no more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.core.images import data_uri
from pipeline.core.storage import Stage, open_mapped, read_table, write_table
from pipeline.llm.batch import ChunkWork, ask_chunks
from pipeline.llm.cache import Reply
from pipeline.llm.client import Endpoint
from pipeline.llm.spending import SPENDING_SCHEMA, spending, tries_facts
from pipeline.llm.structured_chat import (
    Failure,
    StructuredChat,
    first_messages,
    prompt_sha256,
    read_prompt,
)
from pipeline.storage.image_store import ImageLibrary
from pipeline.verify.config import JudgeSection

VERSION = 1

# judged_a_of_b: what the judge says of answer a and image b.
VERDICTS = ("judged_a_of_a", "judged_a_of_b", "judged_b_of_a", "judged_b_of_b")
JUDGED_SCHEMA = pa.schema(
    [("pair_id", pa.string()), *((name, pa.bool_()) for name in VERDICTS), *SPENDING_SCHEMA]
)
_NEEDED = [
    "pair_id",
    "question",
    "answer_a",
    "answer_b",
    "image_a_sha256",
    "image_b_sha256",
    "drop_reason",
]
PROMPT = Path(__file__).parent / "prompts" / "judge.v1.txt"


class _Verdict(BaseModel):
    model_config = ConfigDict(strict=True)
    verdict: Literal["true", "false", "unsure"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge said of a pair: its replies, and a verdict by name (None: missing)."""

    verdicts: Mapping[str, bool | None]
    refused: tuple[tuple[Failure, str], ...]
    replies: tuple[Reply, ...]


def version(section: JudgeSection) -> list[Any]:
    """What verdicts depend on."""
    return [VERSION, section.endpoint.content(), prompt_sha256(PROMPT)]


def judge_messages(question: str, answer: str, image_uri: str) -> list[dict[str, Any]]:
    """The request for one verdict."""
    material = {"question": question, "answer": answer}
    return first_messages(read_prompt(PROMPT), material, image_uri)


async def judge_pair(
    row: Mapping[str, str], library: Mapping[str, bytes] | ImageLibrary, endpoint: Endpoint
) -> Judged:
    """Asks about both answers and both images of a pair.

    Args:
        row: question, answer_a, answer_b, image_a_sha256 and image_b_sha256.
    """
    chat = StructuredChat(endpoint)
    verdicts: dict[str, bool | None] = {}
    for image in "ab":
        uri = data_uri(library[row[f"image_{image}_sha256"]])
        for answer in "ab":
            said = await chat.ask(
                judge_messages(row["question"], row[f"answer_{answer}"], uri), _Verdict
            )
            verdicts[f"judged_{answer}_of_{image}"] = (
                {"true": True, "false": False}.get(said.verdict) if said else None
            )
    return Judged(verdicts, tuple(chat.refused), tuple(chat.replies))


def ask_judge(
    ingest: Stage,
    rewrite: Stage,
    stage: Stage,
    indices: Sequence[int],
    section: JudgeSection,
    purpose: str,
    finished: Callable[[int], None],
) -> dict[str, float]:
    """Judges the kept rows of chunks and writes what was said; returns what was spent and sent.

    Args:
        purpose: Names the budget in the cache of replies.
        finished: Called with 1 for every chunk that is finished.

    Raises:
        UserError: The endpoint cannot be used, or the budget is used up; what was answered by then
            is kept.
    """
    library = ImageLibrary(ingest)

    def works() -> Iterator[ChunkWork[dict[str, str], Judged]]:
        for index in indices:
            rows = open_mapped(rewrite.part("rows", index, "arrow")).select(_NEEDED).to_pylist()

            def finish(
                judged: list[Judged | None], index: int = index, rows: list[Any] = rows
            ) -> None:
                table = judged_table([row["pair_id"] for row in rows], judged)
                write_table(stage.part("judged", index), table)
                finished(1)

            yield ChunkWork([None if row["drop_reason"] else row for row in rows], finish)

    async def judge(row: dict[str, str], endpoint: Endpoint) -> Judged:
        return await judge_pair(row, library, endpoint)

    return ask_chunks(works(), section.endpoint, purpose, section.max_usd, judge)


def judged_table(pair_ids: Sequence[str], judged: Sequence[Judged | None]) -> pa.Table:
    """What was said of each row of a chunk; null where nothing was, or the row was dropped."""
    said = [row or Judged({}, (), ()) for row in judged]
    rows = [
        {"pair_id": pair_id, **row.verdicts, **spending(row.refused, row.replies)}
        for pair_id, row in zip(pair_ids, said, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)


def judge_facts(
    stage: Stage, num_chunks: int, is_judged_N: NDArray[np.bool_], section: JudgeSection
) -> dict[str, Any]:
    """What judging came to: verdicts counted, refusals by reason, tokens, cost, latency.

    Args:
        is_judged_N: The rows of all chunks that the judge was asked about.
    """
    parts = [read_table(stage.part("judged", index)) for index in range(num_chunks)]
    asked = pa.concat_tables(parts).filter(pa.array(is_judged_N))
    said = {name: asked[name].to_pylist() for name in VERDICTS}
    return {
        "model": Path(section.endpoint.model).name,
        "verdicts": {
            name: {"true": v.count(True), "false": v.count(False), "missing": v.count(None)}
            for name, v in said.items()
        },
        **tries_facts(asked, section.endpoint),
    }
