"""A model's answers to a benchmark as a table: what a run leaves in `benchmarks/<name>.parquet`.

One row per question and condition. It holds all that a metric needs, so that scores can be computed
again (over the items that two runs share, say) without the benchmark's files and without images.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from eval.benchmarks.benchmark import Benchmark
from eval.question import Question, Verdict

ANSWER_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("condition", pa.string()),  # image | none | blank | shuffled | counterpart
        ("cluster", pa.string()),
        ("counterpart", pa.string()),
        ("kind", pa.string()),
        ("prompt", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("truth", pa.list_(pa.string())),
        ("image_sha256", pa.string()),  # of the bytes that the model saw; null where it saw none
        ("response", pa.string()),
        ("verdict", pa.string()),
        ("status", pa.string()),
        ("score", pa.float64()),  # what the answer earns; null where a judgement is missing
        ("max_new_tokens", pa.int64()),
        ("meta", pa.string()),  # JSON
    ]
)


def answer_table(
    benchmark: Benchmark,
    condition: str,
    questions: Sequence[Question],
    responses: Sequence[str],
    verdicts: Sequence[Verdict],
    image_sha256: Sequence[str | None],
) -> pa.Table:
    """The rows of one condition, in the order of the questions."""
    rows = [
        {
            "item_id": question.item_id,
            "condition": condition,
            "cluster": question.cluster,
            "counterpart": question.counterpart,
            "kind": question.kind,
            "prompt": question.prompt,
            "choices": list(question.choices),
            "truth": [question.truth] if isinstance(question.truth, str) else list(question.truth),
            "image_sha256": sha256,
            "response": response,
            "verdict": verdict.value,
            "status": verdict.status,
            "score": benchmark.score(question, verdict),
            "max_new_tokens": question.max_new_tokens,
            "meta": json.dumps(dict(question.meta), sort_keys=True, ensure_ascii=False),
        }
        for question, response, verdict, sha256 in zip(
            questions, responses, verdicts, image_sha256, strict=True
        )
    ]
    return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)


def read_back(table: pa.Table) -> tuple[list[Question], list[Verdict]]:
    """The questions (without their images) and verdicts of a table of answers."""
    rows = table.to_pylist()
    return list(map(_question, rows)), [Verdict(row["verdict"], row["status"]) for row in rows]


def _question(row: dict[str, Any]) -> Question:
    return Question(
        item_id=row["item_id"],
        prompt=row["prompt"],
        image=None,
        kind=row["kind"],
        choices=tuple(row["choices"]),
        truth=tuple(row["truth"]) if row["kind"] == "short" else row["truth"][0],
        cluster=row["cluster"],
        counterpart=row["counterpart"],
        max_new_tokens=row["max_new_tokens"],
        meta=json.loads(row["meta"]),
    )
