"""The judge on one benchmark: what it sees, its ratings as verdicts, comparisons as a win rate."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from eval.config import EvalSection, JudgeSection
from eval.question import Metric, Unit, Verdict
from eval.stats.dependency import Clusters, scored
from eval.suite.judge_client import (
    ORDERS,
    JudgeRequest,
    JudgeResponse,
    comparison_requests,
    judge_all,
    outcome,
    rating_request,
)
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


JudgeResponses = Mapping[tuple[str, ...], JudgeResponse]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge made of one benchmark."""

    responses: ResponsesByCondition
    table: pa.Table
    facts: dict[str, Any]


def judge_benchmark(
    run: BenchmarkRun, responses: ResponsesByCondition, section: EvalSection
) -> Judged | None:
    """The responses with ratings as verdicts; None without a judge or a question that needs one.

    Raises:
        EndpointError: The judge cannot be reached at all.
    """
    judge = section.judge
    if judge is None or all(question.kind != "free" for question in run.questions):
        return None
    has_base = judge.pairwise and ("before", "image") in responses
    requests = ratings(responses, judge)
    if has_base:
        requests += comparisons(responses["before", "image"], responses["after", "image"])
    said = judge_all(requests, judge) if requests else {}
    rated = {
        (role, condition): rated_responses(heard, role, condition, said)
        for (role, condition), heard in responses.items()
    }
    facts: dict[str, Any] = {
        "model": judge.endpoint.model,
        "num_asked": len(requests),
        "num_missing": sum(response.value is None for response in said.values()),
        "faults": dict(Counter(response.fault for response in said.values() if response.fault)),
    }
    if has_base:
        facts["comparison"] = win_rate(responses["after", "image"], said, section)
    return Judged(rated, judged_table(said), facts)


def ratings(responses: ResponsesByCondition, judge: JudgeSection) -> list[JudgeRequest]:
    """One request per free answer that came and was finished."""
    return [
        rating_request(("rate", question.item_id, role, condition), question, answer.said)
        for (role, condition), heard in responses.items()
        if condition == "image" or judge.ablations
        for question, answer, verdict in zip(
            heard.questions, heard.answers, heard.verdicts, strict=True
        )
        if question.kind == "free" and answer is not None and verdict.status != "unfinished"
    ]


def comparisons(before: Responses, after: Responses) -> list[JudgeRequest]:
    """Two requests per free question that both models answered differently."""
    return [
        request
        for question, old, new in zip(after.questions, before.answers, after.answers, strict=True)
        if question.kind == "free" and old is not None and new is not None and old.said != new.said
        for request in comparison_requests(
            ("compare", question.item_id), question, old.said, new.said
        )
    ]


def rated_responses(
    responses: Responses, role: str, condition: str, said: JudgeResponses
) -> Responses:
    """The same with every free answer's verdict from its rating; "missing" where there is none."""
    verdicts = []
    for question, verdict in zip(responses.questions, responses.verdicts, strict=True):
        if question.kind == "free" and verdict.status != "unfinished":
            response = said.get(("rate", question.item_id, role, condition))
            value = response.value if response else None
            verdict = Verdict(value, "exact" if value is not None else "missing")
        verdicts.append(verdict)
    return replace(responses, verdicts=verdicts)


def win_rate(after: Responses, said: JudgeResponses, section: EvalSection) -> dict[str, Any]:
    """How often the finetuned model's answer is better.

    A tie or a contradiction counts half; what was not judged counts nothing.
    """
    counts: Counter[str] = Counter()
    units = []
    for question, answer in zip(after.questions, after.answers, strict=True):
        if question.kind != "free" or answer is None:
            continue
        orders = [said.get(("compare", question.item_id, order)) for order in ORDERS]
        if orders == [None, None]:  # both said the same, or the base gave no answer
            counts["same_text_or_no_answer"] += 1
            continue
        result = outcome(*(response.value if response else None for response in orders))
        counts[result or "missing"] += 1
        if result is not None:
            won = {"after": 1.0, "before": 0.0}.get(result, 0.5)
            units.append(Unit(question.item_id, question.cluster, won))
    clusters = Clusters.of((unit.cluster for unit in units), section.intervals.confidence)
    number = scored(Metric(units=tuple(units), chance=0.5), clusters)
    shown = number and {name: number[name] for name in ("value", "low", "high")}
    return {"win_rate": shown, "n": len(units), "counts": dict(counts)}


def judged_table(said: JudgeResponses) -> pa.Table:
    """Every judgement with the raw replies."""
    rows = []
    for (task, item_id, *rest), response in said.items():
        role, condition, order = (*rest, None) if task == "rate" else ("both", "image", *rest)
        rows.append(
            {
                "task": task,
                "item_id": item_id,
                "model_role": role,
                "condition": condition,
                "order": order,
                **asdict(response),
            }
        )
    return pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)
