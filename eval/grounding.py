"""Whether log-likelihoods show that the model looks: pure functions of six numbers per pair.

Knows nothing of models, files or intervals. Ties count as wrong everywhere, so a model that ignores the image scores
0 on the paired scores, not half.

Shapes: P pairs; 3 image conditions in the order a, b, none; 2 responses in the order a, b (`logps_P32`).
A trailing 2 on other arrays is the side: text a with its matching image a, text b with image b.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

A, B, NONE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Margins:
    """Differences of log-probabilities of each side's own text, [P, 2], in nats.

    `matching_contradictory` is their sum: attend (matching - none) plus reject (none - contradictory).
    """

    matching_contradictory_P2: FloatArray
    matching_none_P2: FloatArray
    none_contradictory_P2: FloatArray


def right_sides(logps_P32: FloatArray) -> BoolArray:
    """Per side: under its image, the right answer is preferred to the other one, [P, 2]. Chance 1/2."""
    right_a = logps_P32[:, A, A] > logps_P32[:, A, B]
    right_b = logps_P32[:, B, B] > logps_P32[:, B, A]
    return np.stack([right_a, right_b], axis=1)


def own_image_sides(logps_P32: FloatArray) -> BoolArray:
    """Per side: the answer prefers its own image to the contradictory one, [P, 2]. Chance 1/2."""
    own_a = logps_P32[:, A, A] > logps_P32[:, B, A]
    own_b = logps_P32[:, B, B] > logps_P32[:, A, B]
    return np.stack([own_a, own_b], axis=1)


def paired_scores(logps_P32: FloatArray) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Text, image and group score of each pair, [P] each.

    text: under both images the right answer is preferred. image: both answers prefer their own image. group: both.
    By chance 1/4, 1/4 and 1/6, for independent continuous scores (of the 24 orders of 4 numbers, 4 satisfy the group).

    Source: Winoground (arXiv:2204.03162), section 3.
    """
    text_P: BoolArray = np.all(right_sides(logps_P32), axis=1)
    image_P: BoolArray = np.all(own_image_sides(logps_P32), axis=1)
    return text_P, image_P, text_P & image_P


def margins(logps_P32: FloatArray) -> Margins:
    """How much each image condition raises each side's own text, in nats."""
    matching = np.stack([logps_P32[:, A, A], logps_P32[:, B, B]], axis=1)
    contradictory = np.stack([logps_P32[:, B, A], logps_P32[:, A, B]], axis=1)
    none = logps_P32[:, NONE, :]
    return Margins(matching - contradictory, matching - none, none - contradictory)


def preferences(logps_P32: FloatArray) -> IntArray:
    """Which answer each image condition prefers, [P, 3]: +1 answer a, -1 answer b, 0 a tie."""
    return np.sign(logps_P32[:, :, A] - logps_P32[:, :, B]).astype(np.int64)


def flips(logps_P32: FloatArray) -> BoolArray:
    """The preferred answer changes when image a is exchanged for image b, [P]. Chance 1/2; a tie is no change."""
    preferred_P3 = preferences(logps_P32)
    return preferred_P3[:, A] * preferred_P3[:, B] == -1


def prior_sides(logps_P32: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Sides whose truth contradicts, and sides whose truth agrees with, what is preferred without any image.

    Each [P, 2]. Without a tie every pair has exactly one of each, so accuracy without an image is 1/2 by construction.
    """
    preferred_P = preferences(logps_P32)[:, NONE]
    with_prior_P2 = np.stack([preferred_P == 1, preferred_P == -1], axis=1)
    return with_prior_P2[:, ::-1], with_prior_P2


@dataclass(frozen=True, slots=True)
class FavouredSides:
    """Sides by what a stated prior favours, [P, 2] each; a side that it helps is in neither."""

    neutral_P2: BoolArray
    misled_P2: BoolArray


def favoured_sides(
    questions: Sequence[str],
    answers: Sequence[tuple[str, str]],
    favoured: Mapping[str, Sequence[str]],
) -> FavouredSides:
    """Where a stated prior misleads: the truth is not among the favoured answers and the contradictory answer is.

        favoured {"What colour?": ["red"]}, answers ("red", "blue")  ->  side a neither, side b misled
        answers ("green", "blue"), or a question that is not named   ->  both neutral

    Args:
        favoured: Answers that the prior favours, by question.
    """
    status = np.array(
        [[answer in favoured.get(question, ()) for answer in pair] for question, pair in zip(questions, answers, strict=True)],
        dtype=bool,
    ).reshape(-1, 2)
    other = status[:, ::-1]
    return FavouredSides(neutral_P2=status == other, misled_P2=~status & other)
