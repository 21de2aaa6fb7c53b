"""Greedy answers of a model in a folder, a batch of requests at a time: all that is generated.

Holds the model; knows nothing of Ray, of files, or of what is asked, so the same class works in
this process and as an actor of a pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.config import EvalSection
from eval.generation.cache import Answer
from eval.generation.image_conditions import GRAY, NO_IMAGE, ImageInput
from pipeline.core.images import ImageError, decode_rgb, media_type_as_it_is
from pipeline.core.recipe import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

ANSWER_VERSION = 2  # raise when the same request would be answered otherwise


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to be answered: the prompt, the picture, how long at most, and by which model.

    `model` is a folder, "" for an endpoint; `label` says for a person which item it is under which
    condition.
    """

    key: str
    model: str
    label: str
    prompt: str
    image_input: ImageInput
    max_new_tokens: int
    alone: bool = False  # in a batch of its own, to learn whether company changes an answer


def device_of(section: EvalSection) -> str:
    """The torch device of a worker."""
    return "cuda" if section.workers.use_gpu else "cpu"


def decoding(
    section: EvalSection, max_new_tokens: int, image: ImageInput = NO_IMAGE
) -> dict[str, Any]:
    """How an answer is made: what its key holds beside model, prompt and picture."""
    settings: dict[str, Any] = {"version": ANSWER_VERSION, "max_new_tokens": max_new_tokens}
    if section.endpoint is None:
        settings |= {"dtype": section.dtype, "device": device_of(section)}
    elif image.image is not None and media_type_as_it_is(image.image) is None:
        settings |= {"picture": "upright PNG"}  # servers were once sent the bytes as they were
    return settings


def batches_of(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """The requests in batches of at most `size`, each of one model and one bound on the length.

    Like lengths come together, and the longest first: what takes the most memory shows at once
    whether it fits, and the last batches are short.
    """
    order = sorted(
        requests,
        key=lambda request: (
            request.model,
            -request.max_new_tokens,
            request.alone,
            request.image_input == NO_IMAGE,
            -len(request.prompt),
            request.key,
        ),
    )
    batches: list[list[Request]] = []
    for request in order:
        last = batches[-1] if batches else []
        fits = last and len(last) < (1 if request.alone else size)
        if fits and (last[0].model, last[0].max_new_tokens, last[0].alone) == (
            request.model,
            request.max_new_tokens,
            request.alone,
        ):
            last.append(request)
        else:
            batches.append([request])
    return batches


class Generator:
    """Answers batches of requests, in order.

    The model is loaded with the first batch that names it and kept until a batch names another: one
    at a time in memory.
    """

    def __init__(self, section: EvalSection) -> None:
        self.section = section
        self._loaded: tuple[str, Any] | None = None

    def __call__(self, batch: Sequence[Request]) -> list[Answer]:
        """Answers one batch, whose requests have the same model and the same bound.

        Raises:
            UserError: A model that is not supported.
            UserError: An image or a prompt that cannot be used.
        """
        from training.models.generation import generate_answers

        vlm = self.model(batch[0].model)
        images = [_picture(request) for request in batch]
        for request in batch:
            _check(vlm, request)
        prompts = [request.prompt for request in batch]
        return [
            Answer(answer.text, answer.num_tokens, answer.ended)
            for answer in generate_answers(
                vlm, images, prompts, max_new_tokens=batch[0].max_new_tokens
            )
        ]

    def model(self, folder: str) -> Any:
        """The model of a folder, loaded."""
        if self._loaded is None or self._loaded[0] != folder:
            import torch

            from training.models.loading import refuse_spoilt
            from training.models.vlm import load_vlm

            self._loaded = None  # free the last model before the next needs the memory
            dtype = getattr(torch, self.section.dtype)
            vlm = load_vlm(folder, dtype=dtype, device=device_of(self.section))
            refuse_spoilt(folder, vlm.model)
            self._loaded = folder, vlm
        return self._loaded[1]


def _check(vlm: Any, request: Request) -> None:
    from training.models.chat_template import control_texts

    for control in control_texts(vlm.processor):
        if control in request.prompt:
            raise UserError(
                f"{request.label}: its prompt holds {control!r}, which the tokenizer reads as a"
                " control token; leave it out"
            )


def _picture(request: Request) -> "Image | None":
    from PIL import Image

    image = request.image_input
    if image.blank_px is not None:
        return Image.new("RGB", image.blank_px, GRAY)
    if image.image is None:
        return None
    try:
        return decode_rgb(image.image)
    except ImageError as error:
        raise UserError(
            f"{request.label}: its image cannot be used ({error}); fetch the benchmark's files"
            " again"
        ) from error
