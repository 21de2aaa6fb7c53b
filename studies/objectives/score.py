"""What one model of the study makes of held-out pairs: the product's own passes and measures, and
outcomes kept pair by pair.

Shapes: P pairs; a trailing 2 is the side (a, b); 3 image conditions (a, b, none); `logps_P32` as in
`eval.pairs.paired_scores`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eval.config import EvalSection, GenerateSection, WorkerSection
from eval.pairs.arrays import ModelScores, model_scores_of, prior_sides_of
from eval.pairs.measures import terms_of
from eval.pairs.paired_scores import NONE, A, B, own_image_sides, right_sides
from eval.pairs.scorer import (
    NEEDED_COLUMNS,
    Chunk,
    PairScorer,
    answer_keys,
    with_answers,
)
from eval.parsing.parse import normalize
from pipeline.core.intervals import BoolArray, FloatArray
from pipeline.core.schema import read_mvc
from pipeline.sources.scenes.layout import usual_kind

COLUMNS = ("pair_id", "source", "category", "group", "question", "answer_a", "answer_b", "meta")
IMAGES = ("image_a", "image_b")
MAX_NEW_TOKENS = 24
# an answer's claims hold, one is false, or it makes none that can be checked
TRUE, FALSE, SILENT = "0", "1", "-"
KEPT_MEASURES = (
    "text_score",
    "image_score",
    "group_score",
    "side_accuracy",
    "flip_rate",
    "image_gain",
    "prior_errors",
    "accuracy_neutral",
    "accuracy_misled",
    "matching_contradictory_nats",
    "matching_none_nats",
    "none_contradictory_nats",
)


@dataclass(frozen=True, slots=True)
class Scored:
    """One model on one folder: measures by slice, and per pair what intervals are made of (see
    `outcomes`).
    """

    measures: dict[str, dict[str, float]]
    outcomes: dict[str, str]


def plan_of(device: str) -> EvalSection:
    """How the study scores: float32, greedy answers, small batches."""
    return EvalSection(
        out="-",
        batch_pairs=16,
        generate=GenerateSection(batch_images=64, max_new_tokens=MAX_NEW_TOKENS),
        workers=WorkerSection(use_gpu=device != "cpu"),
    )


def read_items(folder: Path, *, images: bool = True) -> pa.Table:
    """The pairs of a folder of the study, all of which lie in its train split."""
    return read_mvc(folder, "train", [*COLUMNS, *(IMAGES if images else ())])


def score(
    model: Path,
    folder: Path,
    prior: Mapping[str, Sequence[str]],
    slices: Mapping[str, Sequence[str]],
    plan: EvalSection,
) -> Scored:
    """Scores a model on a folder.

    Args:
        prior: The answers that the base was taught to favour, by question.
        slices: Categories by the slice's name; "all" is every pair.

    Raises:
        MvcError: A pair that cannot be scored.
    """
    items = read_items(folder)
    keys = answer_keys(items, str(model), {})
    sides = {key: side for side, key in enumerate(keys)}
    chunk = Chunk(("after", 0), str(model), items.select(NEEDED_COLUMNS), unanswered=sides)
    logps, answers = PairScorer(plan)(chunk)
    assert logps is not None, "the chunk asks for scores"
    scores = model_scores_of(items, with_answers(logps, keys, answers))
    said = judged(items, scores)
    categories = items["category"].to_pylist()
    inside = {"all": np.ones(items.num_rows, bool)}
    inside |= {
        name: np.array([category in chosen for category in categories])
        for name, chosen in slices.items()
    }
    terms = all_terms(items, scores, prior, said)
    measures = {name: ratios(terms, inside_P) for name, inside_P in inside.items()}
    return Scored(measures, outcomes(scores, said))


def judged(items: pa.Table, scores: ModelScores) -> list[str]:
    """TRUE, FALSE or SILENT for each side's generated answer, two per pair.

    By the scene's exact truth where `meta` has it. Elsewhere the truth is the photograph's own
    caption: an answer that is another caption of the folder is false, any other text says nothing
    that can be checked.
    """
    assert scores.answers is not None, "the study generates answers"
    judgements = []
    answers = list(zip(items["answer_a"].to_pylist(), items["answer_b"].to_pylist(), strict=True))
    known = {normalize(answer) for pair in answers for answer in pair}
    for pair, own in enumerate(answers):
        codes = ""
        for side in (0, 1):
            if scores.answers.has_truth_P2[pair, side]:
                num_claims, num_false = (
                    scores.answers.num_claims_P2[pair, side],
                    scores.answers.num_false_P2[pair, side],
                )
                codes += FALSE if num_false else TRUE if num_claims else SILENT
            else:
                text = normalize(scores.answers.texts[pair][side])
                codes += (
                    TRUE if text == normalize(own[side]) else FALSE if text in known else SILENT
                )
        judgements.append(codes)
    return judgements


def all_terms(
    items: pa.Table, scores: ModelScores, prior: Mapping[str, Sequence[str]], said: list[str]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Numerator and denominator per pair of every measure that the study keeps."""
    everything = terms_of(scores, prior_sides_of(items, prior))
    terms = {name: everything[name] for name in KEPT_MEASURES}
    sides_P = np.full(items.num_rows, 2.0)
    terms["false_answers"] = _count(said, FALSE), sides_P - _count(said, SILENT)
    terms["silent_answers"] = _count(said, SILENT), sides_P
    terms["hallucination"] = sides_P - _count(said, TRUE), sides_P
    right_P2 = right_sides(scores.logps_P32)
    helped_P2 = helped_sides(items, prior)
    terms["accuracy_helped"] = _among(right_P2, helped_P2)
    for name, sides_P2 in zip(("follows", "breaks"), bias_sides(items), strict=True):
        terms[f"accuracy_bias_{name}"] = _among(right_P2, sides_P2)
    for name, logps_P2 in own_logps(scores.logps_P32).items():
        terms[f"{name}_nats_per_token"] = (logps_P2 / scores.num_tokens_P2).sum(axis=1), sides_P
    return terms


def own_logps(logps_P32: FloatArray) -> dict[str, FloatArray]:
    """Log-probability of each side's own text under its image, the other image and none, and of the
    other text under its image.
    """
    return {
        "own": np.stack([logps_P32[:, A, A], logps_P32[:, B, B]], axis=1),
        "own_other_image": np.stack([logps_P32[:, B, A], logps_P32[:, A, B]], axis=1),
        "own_no_image": logps_P32[:, NONE, :],
        "other": np.stack([logps_P32[:, A, B], logps_P32[:, B, A]], axis=1),
    }


def helped_sides(items: pa.Table, prior: Mapping[str, Sequence[str]]) -> BoolArray:
    """Sides whose truth the base was taught to favour, their contradiction not, [P, 2]."""
    rows = items.select(["question", "answer_a", "answer_b"]).to_pylist()
    status = np.array(
        [
            [row[f"answer_{side}"] in prior.get(row["question"], ()) for side in "ab"]
            for row in rows
        ],
        bool,
    ).reshape(-1, 2)
    helped_P2: BoolArray = status & ~status[:, ::-1]
    return helped_P2


def bias_sides(items: pa.Table) -> tuple[BoolArray, BoolArray]:
    """Sides of object contrasts that show the kind that goes with their background, and sides whose
    contradiction would.
    """
    usual_P2 = np.zeros((items.num_rows, 2), bool)
    for pair, text in enumerate(items["meta"].to_pylist()):
        meta = json.loads(text or "{}")
        contrast = meta.get("contrast", {})
        if contrast.get("category") == "object":
            usual = usual_kind(meta["truth"]["a"]["background"])
            usual_P2[pair] = [contrast[side] == usual for side in "ab"]
    return usual_P2, usual_P2[:, ::-1]


def _count(said: list[str], code: str) -> FloatArray:
    return np.array([pair.count(code) for pair in said], float)


def _among(hits_P2: BoolArray, counted_P2: BoolArray) -> tuple[FloatArray, FloatArray]:
    return (hits_P2 & counted_P2).sum(axis=1).astype(float), counted_P2.sum(axis=1).astype(float)


def ratios(
    terms: Mapping[str, tuple[FloatArray, FloatArray]], inside_P: BoolArray
) -> dict[str, float]:
    """The measures over some pairs, rounded to 5 decimals; without those that nothing there counts
    for.
    """
    sums = {
        name: (top_P[inside_P].sum(), bottom_P[inside_P].sum())
        for name, (top_P, bottom_P) in terms.items()
    }
    return {
        name: round(float(top / bottom), 5) for name, (top, bottom) in sums.items() if bottom > 0
    }


def outcomes(scores: ModelScores, said: list[str]) -> dict[str, str]:
    """Per pair, in the folder's order, as text: two characters per pair, and the fit of both true
    captions.

    right: the right answer is preferred, per side. image: each answer prefers its own image. said:
    see `judged`. nll: minus the log-probability per token of a pair's true captions under their
    images, in hundredths of a nat.
    """
    nll_P = -(own_logps(scores.logps_P32)["own"] / scores.num_tokens_P2).mean(axis=1)
    return {
        "right": _bits(right_sides(scores.logps_P32)),
        "image": _bits(own_image_sides(scores.logps_P32)),
        "said": "".join(said),
        "nll": " ".join(str(round(100 * value)) for value in nll_P.tolist()),
    }


def _bits(sides_P2: BoolArray) -> str:
    return "".join("1" if value else "0" for value in sides_P2.ravel().tolist())


def item_facts(folder: Path, prior: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What intervals need to know of a folder's pairs: the group and category of each, and where
    the prior stands on each side.

    prior, two characters per pair: m the prior misleads, h it helps, n it is neutral.
    """
    items = read_items(folder, images=False)
    numbers = {name: place for place, name in enumerate(dict.fromkeys(items["group"].to_pylist()))}
    sides = prior_sides_of(items, prior)
    assert sides is not None
    letters_P2 = np.where(sides.misled_P2, "m", np.where(sides.neutral_P2, "n", "h"))
    return {
        "groups": " ".join(str(numbers[name]) for name in items["group"].to_pylist()),
        "categories": " ".join(items["category"].to_pylist()),
        "prior": "".join(letters_P2.ravel().tolist()),
    }
