"""Whether log-likelihoods show that the model looks: pure functions of six numbers per pair.

Knows nothing of models, files or intervals. Ties count as wrong everywhere, so a model that ignores
the image scores 0 on the paired scores, not half. Two log-probabilities tie when they differ by no
more than `tie_nats`: the same text at other offsets of a packed row differs in its last bits, and
which way it differs says nothing about the image.

Shapes: P pairs; 3 image conditions in the order a, b, none; 2 responses in the order a, b
(`logps_P32`). A trailing 2 on other arrays is the side: text a with its matching image a, text b
with image b.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.core.intervals import BoolArray, FloatArray, IntArray

A, B, NONE = 0, 1, 2
OWN, OTHER = (A, B), (B, A)  # of the sides a and b
# sums over a response in float32 were seen to differ by up to 1.5e-5 nats between offsets
TIE_NATS = 1e-3
TIE_NATS_BFLOAT16 = 0.02  # and in bfloat16 by up to 7.6e-3


@dataclass(frozen=True, slots=True)
class Margins:
    """Differences of log-probabilities of each side's own text, [P, 2], in nats.

    `matching_contradictory` is their sum: attend (matching - none) plus reject (none -
    contradictory).
    """

    matching_contradictory_P2: FloatArray
    matching_none_P2: FloatArray
    none_contradictory_P2: FloatArray


def tie_nats_of(dtype: str) -> float:
    """Up to what difference two log-probabilities in this dtype are the same, in nats."""
    return TIE_NATS_BFLOAT16 if dtype == "bfloat16" else TIE_NATS


def right_sides(logps_P32: FloatArray, tie_nats: float = TIE_NATS) -> BoolArray:
    """Per side: under its image, the right answer is preferred, [P, 2]. Chance 1/2."""
    return logps_P32[:, OWN, OWN] - logps_P32[:, OWN, OTHER] > tie_nats


def own_image_sides(logps_P32: FloatArray, tie_nats: float = TIE_NATS) -> BoolArray:
    """Per side: the answer prefers its own image to the contradictory one, [P, 2]. Chance 1/2."""
    return logps_P32[:, OWN, OWN] - logps_P32[:, OTHER, OWN] > tie_nats


def paired_scores(
    logps_P32: FloatArray, tie_nats: float = TIE_NATS
) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Text, image and group score of each pair, [P] each.

    text: under both images the right answer is preferred. image: both answers prefer their own
    image. group: both. By chance 1/4, 1/4 and 1/6, for independent continuous scores (of the 24
    orders of 4 numbers, 4 satisfy the group).

    Source: Winoground (arXiv:2204.03162), section 3.
    """
    text_P: BoolArray = np.all(right_sides(logps_P32, tie_nats), axis=1)
    image_P: BoolArray = np.all(own_image_sides(logps_P32, tie_nats), axis=1)
    return text_P, image_P, text_P & image_P


def margins(logps_P32: FloatArray) -> Margins:
    """How much each image condition raises each side's own text, in nats."""
    matching, contradictory = logps_P32[:, OWN, OWN], logps_P32[:, OTHER, OWN]
    none = logps_P32[:, NONE, :]
    return Margins(matching - contradictory, matching - none, none - contradictory)


def preferences(logps_P32: FloatArray, tie_nats: float = TIE_NATS) -> IntArray:
    """Which answer each image condition prefers, [P, 3]: +1 answer a, -1 answer b, 0 a tie."""
    difference_P3 = logps_P32[:, :, A] - logps_P32[:, :, B]
    return np.where(np.abs(difference_P3) <= tie_nats, 0, np.sign(difference_P3)).astype(np.int64)


def flips(logps_P32: FloatArray, tie_nats: float = TIE_NATS) -> BoolArray:
    """The preferred answer changes with the image, [P]. Chance 1/2; a tie is no change."""
    preferred_P3 = preferences(logps_P32, tie_nats)
    return preferred_P3[:, A] * preferred_P3[:, B] == -1


def prior_sides(logps_P32: FloatArray, tie_nats: float = TIE_NATS) -> tuple[BoolArray, BoolArray]:
    """Sides whose truth contradicts what is preferred without any image, and those that agree.

    Each [P, 2]. Without a tie every pair has exactly one of each, so accuracy without an image is
    1/2; a tie has neither.
    """
    preferred_P = preferences(logps_P32, tie_nats)[:, NONE]
    with_prior_P2 = np.stack([preferred_P == 1, preferred_P == -1], axis=1)
    return with_prior_P2[:, ::-1], with_prior_P2


@dataclass(frozen=True, slots=True)
class PriorSides:
    """Sides by what a stated prior favours, [P, 2] each; a side that it helps is in neither."""

    neutral_P2: BoolArray
    misled_P2: BoolArray
