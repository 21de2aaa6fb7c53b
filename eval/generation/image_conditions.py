"""Which image a model gets with a question under each condition. Knows no model.

image        as the benchmark asks it            none      the question alone, as a text-only prompt
blank        mid-grey, of the image's own size    shuffled  the image of another item
counterpart  the other image of the pair, for which the question has another answer
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from eval.config import ABLATIONS, Ablation
from eval.question import Question
from pipeline.core.images import ImageError, encode_png, upright_size
from pipeline.core.recipe import UserError
from pipeline.core.schema import sha256_hex

GRAY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A picture as encoded bytes, a gray one of `blank_px` (width, height), or nothing."""

    image: bytes | None = None
    sha256: str = ""
    blank_px: tuple[int, int] | None = None

    @property
    def name(self) -> str | None:
        """The sha256 of the picture's bytes, "blank:640x480", or None for no picture."""
        return (
            f"blank:{self.blank_px[0]}x{self.blank_px[1]}" if self.blank_px else self.sha256 or None
        )

    def encoded(self) -> bytes | None:
        """The bytes of the picture; a grey one is drawn only when somebody wants to see it."""
        return encode_png(Image.new("RGB", self.blank_px, GRAY)) if self.blank_px else self.image


NO_IMAGE = ImageInput()


def own_images(questions: Sequence[Question]) -> list[ImageInput]:
    """Every question with its own image, or with none where the benchmark asks without one."""
    # several questions share an image
    images = {question.image for question in questions if question.image is not None}
    inputs = {image: ImageInput(image, sha256_hex(image)) for image in images}
    return [
        NO_IMAGE if question.image is None else inputs[question.image] for question in questions
    ]


def ablated_images(
    ablation: Ablation, questions: Sequence[Question], own: Sequence[ImageInput], seed: int
) -> list[ImageInput | None]:
    """What is shown instead of each question's image; None where the condition has nothing.

    A question that the benchmark asks without an image stays as it is under all but "counterpart".

    Args:
        own: `own_images` of the questions.
        seed: Decides who gets whose image under "shuffled": no image keeps its place, and equal
            images move together.

    Raises:
        UserError: A blank image is wanted and an image has no readable size.
    """
    if ablation == "counterpart":
        place = {question.item_id: index for index, question in enumerate(questions)}
        return [
            None if question.counterpart is None else own[place[question.counterpart]]
            for question in questions
        ]
    if ablation == "none":
        return [NO_IMAGE] * len(questions)
    if ablation == "blank":
        return [_blank(question, image) for question, image in zip(questions, own, strict=True)]
    others = derangement([image.sha256 for image in own if image.image is not None], seed)
    by_sha256 = {image.sha256: image for image in own}
    return [
        image if image.image is None else by_sha256[others[image.sha256]] if others else None
        for image in own
    ]


def possible_ablations(
    wanted: Sequence[Ablation], own: Sequence[ImageInput], questions: Sequence[Question]
) -> list[Ablation]:
    """Those that exist: with any image at all, two different ones, any counterpart."""
    num_images = len({image.sha256 for image in own if image.image is not None})
    exists = {
        "none": num_images > 0,
        "blank": num_images > 0,
        "shuffled": num_images > 1,
        "counterpart": any(question.counterpart is not None for question in questions),
    }
    return [ablation for ablation in ABLATIONS if ablation in wanted and exists[ablation]]


def derangement(names: Sequence[str], seed: int) -> dict[str, str]:
    """To each name another one, each used once: one random cycle; empty for a single name.

    The same names and seed give the same cycle, in whatever order they come.
    """
    unique = sorted(set(names))
    if len(unique) < 2:
        return {}
    cycle = [unique[index] for index in np.random.default_rng(seed).permutation(len(unique))]
    return dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))


def _blank(question: Question, image_input: ImageInput) -> ImageInput:
    if image_input.image is None:
        return image_input
    try:
        return ImageInput(blank_px=upright_size(image_input.image))
    except ImageError as error:
        raise UserError(
            f"item {question.item_id}: its image cannot be used ({error}); fetch the benchmark's"
            " files again"
        ) from error
