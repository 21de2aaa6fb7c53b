"""What rewriting and judging will cost, without a request: `svco build --estimate`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.core.progress import say, summary_table
from pipeline.core.recipe import RecipeError
from pipeline.core.schema import Candidate
from pipeline.core.storage import Stage
from pipeline.llm.config import EndpointSection
from pipeline.llm.protocol import message_tokens, num_tokens
from pipeline.rewrite.model_writer import answers_messages, question_messages
from pipeline.rewrite.types import Pair
from pipeline.sources.registry import open_source
from pipeline.stages.plan import Plan
from pipeline.verify.judge import judge_messages

SAMPLE_PAIRS = 200
# What is not known before asking: a question of usual length, and the words and JSON around the
# captions in a reply.
_QUESTION = "What can you see in this picture, and what is it that stands out about it?"
_QUESTION_REPLY_TOKENS, _AROUND_ANSWERS_TOKENS, _VERDICT_TOKENS = 28, 24, 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens for `num_pairs` pairs if every reply passes its checks.

    One that goes back costs about as much again. `is_exact`: the number of pairs is known because
    selection has run; otherwise it is that of all candidates.
    """

    num_pairs: int
    is_exact: bool
    prompt_tokens: int
    completion_tokens: int


def pair_tokens(pair: Pair) -> tuple[int, int]:
    """About how many tokens go in and come out for one pair, over its two requests."""
    prompt = message_tokens([*question_messages(pair), *answers_messages(pair, _QUESTION)])
    answers = num_tokens(pair.caption_a) + num_tokens(pair.caption_b) + _AROUND_ANSWERS_TOKENS
    return prompt, _QUESTION_REPLY_TOKENS + answers


def judge_tokens(pair: Pair) -> tuple[int, int]:
    """About how many tokens go in and come out for one pair, over the four requests to a judge."""
    prompt = sum(
        message_tokens(judge_messages(_QUESTION, caption, "")) for caption in pair.captions
    )
    return 2 * prompt, 4 * _VERDICT_TOKENS


def estimate(plan: Plan, tokens_of: Callable[[Pair], tuple[int, int]] = pair_tokens) -> Estimate:
    """Tokens of the whole build, from up to SAMPLE_PAIRS rows spread evenly over the sources.

    Raises:
        RecipeError: Nothing to sample.
    """
    tokens = np.array([tokens_of(pair) for pair in _sample(plan)], dtype=np.float64)
    if not len(tokens):
        raise RecipeError(
            "sources: no row of the sample has captions; svco build --dry-run shows what is read"
        )
    done = Stage("select", plan.work / "select" / plan.fingerprints["select"]).done()
    num_pairs = done["num_kept"] if done else plan.num_candidates
    prompt, completion = (tokens.mean(axis=0) * num_pairs).round().astype(int).tolist()
    return Estimate(num_pairs, done is not None, prompt, completion)


def _sample(plan: Plan) -> list[Pair]:
    sources = [open_source(section) for section in plan.section.sources]
    owners = np.repeat(np.arange(len(sources)), [source.count() for source in sources])
    rows = np.concatenate([np.arange(source.count()) for source in sources])
    if not len(rows):
        return []
    sampled = np.unique(np.linspace(0, len(rows) - 1, SAMPLE_PAIRS).astype(int)).tolist()
    items = [sources[owners[place]].row(int(rows[place])) for place in sampled]
    return [
        Pair(item.caption_a, item.caption_b, item.category, item.question)
        for item in items
        if isinstance(item, Candidate)
    ]


def print_estimate(plan: Plan) -> None:
    """Shows what rewriting will cost, and judging where the recipe has a judge.

    Raises:
        RecipeError: Neither asks a model, so nothing costs anything.
    """
    rewrite, verify = plan.section.rewrite, plan.section.verify
    writer = rewrite.endpoint if rewrite.backend == "openai" else None
    judge = verify.judge.endpoint if verify is not None and verify.judge is not None else None
    if writer is None and judge is None:
        raise RecipeError(
            "rewrite.backend=template: asks no model and costs nothing; --estimate is for"
            " rewrite.backend=openai and for verify.judge"
        )
    if writer is not None:
        _print("Rewriting", "rewrite.endpoint", writer, estimate(plan), 2)
    if judge is not None:
        _print("Judging", "verify.judge.endpoint", judge, estimate(plan, judge_tokens), 4)


def _print(
    what: str, where: str, endpoint: EndpointSection, costs: Estimate, num_requests: int
) -> None:
    rows = [
        [
            "pairs",
            f"{costs.num_pairs:,}",
            "" if costs.is_exact else "all candidates: selection has not run",
        ],
        ["requests", f"{num_requests * costs.num_pairs:,}", f"{num_requests} per pair"],
        ["input tokens", f"{costs.prompt_tokens:,}", ""],
        ["output tokens", f"{costs.completion_tokens:,}", ""],
    ]
    if endpoint.has_prices:
        usd = endpoint.usd(costs.prompt_tokens, costs.completion_tokens)
        rows.append(["USD", f"{usd:,.2f}", f"up to {2.2 * usd:,.2f} if every reply went back once"])
    summary_table(
        f"{what} with {endpoint.model}, estimated without asking it", ["", "number", ""], rows
    )
    if not endpoint.has_prices:
        say(
            f"for USD give {where}.usd_per_million_input_tokens and"
            f" {where}.usd_per_million_output_tokens"
        )
