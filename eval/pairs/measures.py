"""Every number that is reported: name, chance level, and the sums over pairs it is a ratio of.

Shapes: P pairs, 2 sides. A measure is sum(numerator_P) / sum(denominator_P), so both sides of a
pair add to one term.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.pairs.arrays import Answers, ModelScores
from eval.pairs.paired_scores import (
    PriorSides,
    flips,
    margins,
    paired_scores,
    prior_sides,
    right_sides,
)
from pipeline.core.intervals import (
    SHARE,
    SHARE_DIFFERENCE,
    UNBOUNDED,
    BoolArray,
    FloatArray,
)

Terms = tuple[FloatArray, FloatArray]  # numerator and denominator, [P] each


@dataclass(frozen=True, slots=True)
class Measure:
    """What a number is called and how to read it.

    `chance` is what independent random scores reach. A model that ignores the image altogether is
    worse on what needs both sides: text, image and group score, flip rate and accuracy against the
    prior are then 0.
    """

    label: str
    heading: str
    unit: Literal["share", "nats", "nats per token", "words", "area"]
    counted: Literal["pairs", "sides", "answers", "claims"]
    chance: float | None
    better: Literal["higher", "lower", "neither"]
    note: str

    @property
    def bounds(self) -> tuple[float, float]:
        """Within which it lies. A share that is itself a difference is one whose chance is 0."""
        if self.unit not in ("share", "area"):
            return UNBOUNDED
        return SHARE_DIFFERENCE if self.chance == 0.0 else SHARE


_PAIRED, _DEPENDS, _PRIOR = "Paired scores", "Dependency on the image", "Language prior"
_GROUND, _SAID = "Grounding (log-likelihood)", "Generated answers"


def _paired(
    heading: str, label: str, counted: Literal["pairs", "sides"], chance: float, note: str
) -> Measure:
    return Measure(label, heading, "share", counted, chance, "higher", note)


def _said(
    label: str,
    counted: Literal["answers", "claims"],
    better: Literal["higher", "lower", "neither"],
    note: str,
) -> Measure:
    return Measure(label, _SAID, "share", counted, None, better, note)


_MARGINS = {
    "matching_contradictory": (
        "contrast margin",
        "log p(text | matching image) - log p(text | contradictory image)",
    ),
    "matching_none": ("attend margin", "log p(text | matching image) - log p(text | no image)"),
    "none_contradictory": (
        "reject margin",
        "log p(text | no image) - log p(text | contradictory image)",
    ),
}


def _margin_measures(name: str, label: str, formula: str) -> dict[str, Measure]:
    per_token = f"{formula}, each text's divided by its tokens first"
    return {
        f"{name}_positive": _paired(
            _GROUND, f"{label} > 0", "sides", 1 / 2, f"share of texts with a positive {formula}"
        ),
        f"{name}_nats": Measure(
            f"{label}, nats", _GROUND, "nats", "sides", 0.0, "higher", f"mean of {formula}"
        ),
        f"{name}_nats_per_token": Measure(
            f"{label}, nats / token",
            _GROUND,
            "nats per token",
            "sides",
            0.0,
            "higher",
            f"mean of {per_token}",
        ),
    }


MEASURES: dict[str, Measure] = {
    "text_score": _paired(
        _PAIRED, "text score", "pairs", 1 / 4, "the right answer is preferred under both images"
    ),
    "image_score": _paired(
        _PAIRED, "image score", "pairs", 1 / 4, "both answers prefer their own image"
    ),
    "group_score": _paired(_PAIRED, "group score", "pairs", 1 / 6, "text and image score both"),
    "side_accuracy": _paired(
        _PAIRED,
        "side accuracy",
        "sides",
        1 / 2,
        "the right answer is preferred, one image at a time",
    ),
    "flip_rate": _paired(
        _DEPENDS,
        "flip rate",
        "pairs",
        1 / 2,
        "the preferred answer changes when the image is exchanged, as it always should",
    ),
    "image_gain": _paired(
        _DEPENDS,
        "accuracy gained by the image",
        "sides",
        0.0,
        "side accuracy with image minus without; without one it is 1/2 but for ties: one text of a"
        " pair wins for both sides",
    ),
    "prior_errors": Measure(
        "prior errors",
        _PRIOR,
        "share",
        "sides",
        1 / 4,
        "lower",
        "of all sides, those that are wrong and whose wrong answer is also the one preferred"
        " without an image",
    ),
    "accuracy_against_prior": _paired(
        _PRIOR,
        "accuracy against own prior",
        "sides",
        1 / 2,
        "sides whose truth is not what the same model prefers without an image",
    ),
    "accuracy_with_prior": _paired(
        _PRIOR,
        "accuracy with own prior",
        "sides",
        1 / 2,
        "sides whose truth is what the same model prefers without an image",
    ),
    "accuracy_neutral": _paired(
        _PRIOR,
        "accuracy, prior neutral",
        "sides",
        1 / 2,
        "the prior stated beside the base (prior.json) favours both answers or neither",
    ),
    "accuracy_misled": _paired(
        _PRIOR,
        "accuracy, prior misleads",
        "sides",
        1 / 2,
        "prior.json favours the wrong answer and not the right one",
    ),
    **{
        key: measure
        for name, words in _MARGINS.items()
        for key, measure in _margin_measures(name, *words).items()
    },
    "auroc": Measure(
        "AUROC matching / contradictory",
        _GROUND,
        "area",
        "sides",
        1 / 2,
        "higher",
        "how well the rise of a text's log-probability over no image tells its own image from the"
        " other one",
    ),
    "hallucinated_answers": _said(
        "hallucinated answers",
        "answers",
        "lower",
        "answers with a false claim, of answers with a checkable claim (exact truth)",
    ),
    "hallucinated_claims": _said(
        "hallucinated claims", "claims", "lower", "false claims, of all checkable claims"
    ),
    "no_checkable_claim": _said(
        "no checkable claim",
        "answers",
        "neither",
        "silence is not truth: read the two rates above together with this",
    ),
    "generated_own": _said(
        "generates its own answer",
        "answers",
        "higher",
        "word for word, but for case and punctuation",
    ),
    "generated_other": _said(
        "generates the other answer", "answers", "lower", "the answer of the contradictory image"
    ),
    "generated_neither": _said("generates neither", "answers", "neither", "any other text"),
    "answer_words": Measure(
        "words per answer",
        _SAID,
        "words",
        "answers",
        None,
        "neither",
        "hallucination falls when answers shrink",
    ),
}


def terms_of(scores: ModelScores, prior: PriorSides | None) -> dict[str, Terms]:
    """The sums behind every measure of one model that is a ratio (all but the AUROC), by name."""
    ones_P = np.ones(len(scores.logps_P32))
    right_P2 = right_sides(scores.logps_P32, scores.tie_nats)
    text_P, image_P, group_P = paired_scores(scores.logps_P32, scores.tie_nats)
    against_P2, with_P2 = prior_sides(scores.logps_P32, scores.tie_nats)
    terms: dict[str, Terms] = {
        "text_score": (text_P.astype(float), ones_P),
        "image_score": (image_P.astype(float), ones_P),
        "group_score": (group_P.astype(float), ones_P),
        "side_accuracy": (_total(right_P2), 2 * ones_P),
        "flip_rate": (flips(scores.logps_P32, scores.tie_nats).astype(float), ones_P),
        "image_gain": (_total(right_P2) - _total(with_P2), 2 * ones_P),
        "prior_errors": (_total(against_P2 & ~right_P2), 2 * ones_P),
        "accuracy_against_prior": among(right_P2, against_P2),
        "accuracy_with_prior": among(right_P2, with_P2),
    }
    if prior is not None:
        terms["accuracy_neutral"] = among(right_P2, prior.neutral_P2)
        terms["accuracy_misled"] = among(right_P2, prior.misled_P2)
    effects = margins(scores.logps_P32)
    for name in _MARGINS:
        margin_P2: FloatArray = getattr(effects, f"{name}_P2")
        terms[f"{name}_positive"] = (_total(margin_P2 > scores.tie_nats), 2 * ones_P)
        terms[f"{name}_nats"] = (margin_P2.sum(axis=1), 2 * ones_P)
        terms[f"{name}_nats_per_token"] = (
            (margin_P2 / scores.num_tokens_P2).sum(axis=1),
            2 * ones_P,
        )
    return terms | (_answer_terms(scores.answers) if scores.answers is not None else {})


def _answer_terms(answers: Answers) -> dict[str, Terms]:
    checkable_P2 = answers.has_truth_P2 & (answers.num_claims_P2 > 0)
    sides_P = np.full(len(answers.texts), 2.0)

    def says(word: str) -> FloatArray:
        return np.array([pair.count(word) for pair in answers.verdicts], float)

    return {
        "hallucinated_answers": among(answers.num_false_P2 > 0, checkable_P2),
        "hallucinated_claims": (
            answers.num_false_P2.sum(axis=1).astype(float),
            answers.num_claims_P2.sum(axis=1).astype(float),
        ),
        "no_checkable_claim": among(answers.num_claims_P2 == 0, answers.has_truth_P2),
        "generated_own": (says("own"), sides_P),
        "generated_other": (says("other"), sides_P),
        "generated_neither": (says("neither"), sides_P),
        "answer_words": (answers.num_words_P2.sum(axis=1).astype(float), sides_P),
    }


def _total(sides_P2: BoolArray) -> FloatArray:
    return sides_P2.sum(axis=1).astype(float)


def among(hits_P2: BoolArray, counted_P2: BoolArray) -> Terms:
    """Hits, of the sides that count."""
    return _total(hits_P2 & counted_P2), _total(counted_P2)


def image_effects(scores: ModelScores) -> tuple[FloatArray, FloatArray]:
    """How much each text gains over no image: by its matching, and by its contradictory image.

    Log-probabilities, [P, 2] each, in nats; subtracting the text's own without image makes texts
    comparable. What is within a tie is 0, so that rounding noise does not rank the texts of a model
    that ignores the image.
    """
    effects = margins(scores.logps_P32)
    matching_P2, contradictory_P2 = (
        np.where(np.abs(effect_P2) <= scores.tie_nats, 0.0, effect_P2)
        for effect_P2 in (effects.matching_none_P2, -effects.none_contradictory_P2)
    )
    return matching_P2, contradictory_P2
