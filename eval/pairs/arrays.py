"""One model's results as arrays, its answers judged: all that the measures are computed from.

Shapes: P pairs; 3 image conditions (a, b, none); 2 responses or sides (a, b).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from eval.claims.check import Truth, check_answer, lexicon_of, truths_in
from eval.pairs.paired_scores import TIE_NATS, PriorSides
from eval.pairs.scorer import LOGP_COLUMNS
from eval.parsing.parse import num_words, verdict
from pipeline.core.intervals import BoolArray, FloatArray, IntArray
from pipeline.llm.reasoning import without_reasoning


@dataclass(frozen=True, slots=True)
class Answers:
    """Generated answers, one per side, judged; without an exact truth a row has no claims."""

    texts: list[tuple[str, str]]
    verdicts: list[tuple[str, str]]  # own | other | neither
    num_words_P2: IntArray
    has_truth_P2: BoolArray
    num_claims_P2: IntArray
    num_false_P2: IntArray


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What one model made of every pair."""

    logps_P32: FloatArray
    num_tokens_P2: IntArray
    answers: Answers | None
    tie_nats: float = TIE_NATS  # differences up to here are rounding noise


def model_scores_of(items: pa.Table, results: pa.Table, tie_nats: float = TIE_NATS) -> ModelScores:
    """The arrays of one model from its result rows, in the order of `items`."""
    if results["pair_id"].to_pylist() != items["pair_id"].to_pylist():
        raise ValueError(
            "results: expected one row per pair in the order of the pairs, got others; delete .work"
            " and run again"
        )
    logps_P32 = np.stack([results[name].to_numpy() for name in LOGP_COLUMNS], axis=1).reshape(
        -1, 3, 2
    )
    if not np.isfinite(logps_P32).all():
        row = int(np.flatnonzero(~np.isfinite(logps_P32).all(axis=(1, 2)))[0])
        raise ValueError(
            f"pair {items['pair_id'][row]}: its log-probability is not a finite number; try"
            " dtype=float32"
        )
    num_tokens_P2 = np.stack([results[f"num_tokens_{side}"].to_numpy() for side in "ab"], axis=1)
    texts = list(
        zip(results["generated_a"].to_pylist(), results["generated_b"].to_pylist(), strict=True)
    )
    answers = None if any(None in pair for pair in texts) else judge(items, results, texts)
    return ModelScores(logps_P32, num_tokens_P2, answers, tie_nats)


def judge(items: pa.Table, sizes: pa.Table, texts: list[tuple[str, str]]) -> Answers:
    """Every answer against the pair's two and, where `meta` has one, against the exact truth.

    Args:
        sizes: width_a_px, height_a_px, width_b_px, height_b_px of each pair.
    """
    stated = [truths_in(meta) for meta in items["meta"].to_pylist()]
    lexicon = lexicon_of(side for row in stated if row for side in row)
    questions, answers_a, answers_b = (
        items[name].to_pylist() for name in ("question", "answer_a", "answer_b")
    )
    sizes_P22 = np.stack(
        [sizes[f"{name}_{side}_px"].to_numpy() for side in "ab" for name in ("width", "height")],
        axis=1,
    ).reshape(-1, 2, 2)
    said = [tuple(without_reasoning(text) or "" for text in pair) for pair in texts]
    verdicts = [
        (str(verdict(said_a, own, other)), str(verdict(said_b, other, own)))
        for (said_a, said_b), own, other in zip(said, answers_a, answers_b, strict=True)
    ]
    num_words_P2 = np.array([[num_words(text) for text in pair] for pair in said], np.int64)
    counts_P22 = np.zeros((len(texts), 2, 2), np.int64)
    for row, truths in enumerate(stated):
        for side, objects in enumerate(truths or ()):
            truth = Truth(objects, *sizes_P22[row, side].tolist())
            counts_P22[row, side] = check_answer(said[row][side], questions[row], truth, lexicon)
    has_truth_P2 = np.repeat([[truths is not None] for truths in stated], 2, axis=1)
    num_claims_P2, num_false_P2 = counts_P22[:, :, 0], counts_P22[:, :, 1]
    return Answers(
        texts, verdicts, num_words_P2.reshape(-1, 2), has_truth_P2, num_claims_P2, num_false_P2
    )


def prior_sides_of(items: pa.Table, prior: Mapping[str, Sequence[str]] | None) -> PriorSides | None:
    """Where a stated prior misleads on these pairs: it favours the other answer, not the truth.

        {"What colour?": ["red"]}, answers "red" and "blue"          ->  side a neither, b misled
        answers "green" and "blue", or a question that is not named  ->  both neutral

    Args:
        prior: Answers that the prior favours, by question; None without a stated prior.
    """
    if prior is None:
        return None
    names = ("question", "answer_a", "answer_b")
    asked = zip(*(items[name].to_pylist() for name in names), strict=True)
    is_favored = [[side in prior.get(question, ()) for side in sides] for question, *sides in asked]
    favored_P2 = np.array(is_favored, dtype=bool).reshape(-1, 2)
    other_P2 = favored_P2[:, ::-1]
    return PriorSides(neutral_P2=favored_P2 == other_P2, misled_P2=~favored_P2 & other_P2)
