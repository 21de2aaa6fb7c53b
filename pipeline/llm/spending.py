"""What a stage asked of a model, what came back, and what it cost, as columns and sums."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.llm.cache import Reply
from pipeline.llm.config import EndpointSection
from pipeline.llm.structured_chat import Failure

SPENDING_SCHEMA = pa.schema(
    [
        ("reasons", pa.list_(pa.string())),
        ("refused", pa.list_(pa.string())),
        ("num_cached", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("latencies_s", pa.list_(pa.float64())),
    ]
)


def spending(refused: Sequence[tuple[Failure, str]], replies: Sequence[Reply]) -> dict[str, Any]:
    """One chat with a model as a row of SPENDING_SCHEMA."""
    return {
        "reasons": [failure.reason for failure, _ in refused],
        "refused": [text for _, text in refused],
        "num_cached": sum(reply.is_cached for reply in replies),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
        "latencies_s": [reply.latency_s for reply in replies],
    }


def tries_facts(tries: pa.Table, endpoint: EndpointSection) -> dict[str, Any]:
    """What many chats with a model came to: refusals by reason, replies, tokens, cost, latency.

    Args:
        tries: At least the columns of SPENDING_SCHEMA, a row per chat.
    """
    reasons = Counter(itertools.chain.from_iterable(tries["reasons"].to_pylist()))
    latencies = np.array([*itertools.chain.from_iterable(tries["latencies_s"].to_pylist())])
    tokens = {
        name: int(np.sum(tries[name].to_numpy())) for name in ("prompt_tokens", "completion_tokens")
    }
    facts: dict[str, Any] = {
        "refused_by_reason": dict(sorted(reasons.items())),
        "num_replies": len(latencies),
        "num_cache_hits": int(np.sum(tries["num_cached"].to_numpy())),
        **{f"num_{name}": number for name, number in tokens.items()},
    }
    if endpoint.has_prices:
        facts["usd_without_cache"] = round(endpoint.usd(**tokens), 6)
    if len(latencies):
        percentiles = np.percentile(latencies, (50, 90, 99))
        facts["latency_s"] = {
            name: round(float(value), 3)
            for name, value in zip(("p50", "p90", "p99"), percentiles, strict=True)
        }
    return facts
