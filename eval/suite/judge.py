"""The judge at work on one benchmark: which answers it sees, its ratings as verdicts, its
comparisons as a win rate.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from eval.config import EvalSection, JudgeSection
from eval.question import Verdict
from eval.stats.dependency import Draws
from eval.suite.judge_client import Ask, Judgement, compare_asks, judge_all, outcome, rating_ask
from eval.suite.requests import BenchmarkRun, Responses, ResponsesByCondition

JUDGED_SCHEMA = pa.schema(
    [
        ("task", pa.string()),  # rate | compare
        ("item_id", pa.string()),
        ("model_role", pa.string()),  # before | after; "both" for a comparison
        ("condition", pa.string()),
        ("order", pa.string()),  # of a comparison: before_first | after_first
        ("value", pa.string()),  # the rating or first | second | equal; null where missing
        ("fault", pa.string()),
        ("raw", pa.list_(pa.string())),  # every reply, as it came
        ("judge", pa.string()),  # the name that the server gives itself
        ("prompt_sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge made of one benchmark."""

    responses: ResponsesByCondition
    table: pa.Table
    facts: dict[str, Any]


def judge_benchmark(
    run: BenchmarkRun, responses: ResponsesByCondition, section: EvalSection
) -> Judged | None:
    """The hearings with ratings as verdicts; None without a judge, or without a question that needs
    one.

    Raises:
        EndpointError: The judge cannot be reached at all.
    """
    judge = section.judge
    free = {question.item_id for question in run.questions if question.kind == "free"}
    if judge is None or not free:
        return None
    asks = [*rating_asks(responses, judge), *comparisons(responses, judge)]
    found = judge_all(asks, judge)
    rated = {key: rated_responses(one, key[0], key[1], found) for key, one in responses.items()}
    facts: dict[str, Any] = {
        "model": judge.endpoint.model,
        "num_asked": len(asks),
        "num_missing": sum(one.value is None for one in found.values()),
        "faults": dict(Counter(one.fault for one in found.values() if one.fault)),
    }
    if judge.pairwise and ("before", "image") in responses:
        facts["comparison"] = win_rate(responses["after", "image"], found, section)
    return Judged(rated, judged_table(found), facts)


def rating_asks(responses: ResponsesByCondition, judge: JudgeSection) -> list[Ask]:
    """One request per free answer that came."""
    return [
        rating_ask(("rate", question.item_id, role, condition), question, answer.text)
        for (role, condition), one in responses.items()
        if condition == "image" or judge.ablations
        for question, answer in zip(one.questions, one.answers, strict=True)
        if question.kind == "free" and answer is not None
    ]


def comparisons(responses: ResponsesByCondition, judge: JudgeSection) -> list[Ask]:
    """Two requests per free question that both models answered differently."""
    if not judge.pairwise or ("before", "image") not in responses:
        return []
    before, after = responses["before", "image"], responses["after", "image"]
    return [
        ask
        for question, one, two in zip(after.questions, before.answers, after.answers, strict=True)
        if question.kind == "free" and one is not None and two is not None and one.text != two.text
        for ask in compare_asks(("compare", question.item_id), question, one.text, two.text)
    ]


def rated_responses(
    responses: Responses, role: str, condition: str, found: Mapping[tuple[str, ...], Judgement]
) -> Responses:
    """The same hearing with every free answer's verdict from its rating: "exact", or "missing"
    where there is none.
    """
    verdicts = []
    for question, verdict in zip(responses.questions, responses.verdicts, strict=True):
        judgement = found.get(("rate", question.item_id, role, condition))
        if question.kind == "free":
            value = judgement.value if judgement else None
            verdict = Verdict(value, "exact" if value is not None else "missing")
        verdicts.append(verdict)
    return replace(responses, verdicts=verdicts)


def win_rate(
    after: Responses, found: Mapping[tuple[str, ...], Judgement], section: EvalSection
) -> dict[str, Any]:
    """How often the finetuned model's answer is better, a tie or a contradiction counting half;
    what was not judged counts nothing.
    """
    counts: Counter[str] = Counter()
    parts = []
    for question, answer in zip(after.questions, after.answers, strict=True):
        if question.kind != "free" or answer is None:
            continue
        orders = [
            found.get(("compare", question.item_id, order))
            for order in ("before_first", "after_first")
        ]
        if orders == [None, None]:  # both said the same, or the base gave no answer
            counts["same_text_or_no_answer"] += 1
            continue
        result = outcome(*(one.value if one else None for one in orders))
        counts[result or "missing"] += 1
        if result is not None:
            parts.append((question.cluster, {"after": 1.0, "before": 0.0}.get(result, 0.5), 1.0))
    intervals = section.intervals
    draws = Draws.of(
        [cluster for cluster, _, _ in parts],
        intervals.num_draws,
        intervals.confidence,
        section.seed,
    )
    rate = sum(part[1] for part in parts) / len(parts) if parts else None
    number = draws.number(rate, draws.ratios(parts), len(draws.place)) if parts else None
    return {"win_rate": number, "n": len(parts), "counts": dict(counts)}


def judged_table(found: Mapping[tuple[str, ...], Judgement]) -> pa.Table:
    """Every judgement with the raw replies."""
    rows = []
    for key, one in found.items():
        task, item_id = key[:2]
        role, condition, order = (
            (key[2], key[3], None) if task == "rate" else ("both", "image", key[2])
        )
        row = {
            "task": task,
            "item_id": item_id,
            "model_role": role,
            "condition": condition,
            "order": order,
            "value": one.value,
        }
        rows.append(
            row
            | {
                "fault": one.fault,
                "raw": list(one.raw),
                "judge": one.judge,
                "prompt_sha256": one.prompt_sha256,
            }
        )
    return pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)
