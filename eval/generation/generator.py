"""Greedy answers of a model in a folder, a batch at a time. Holds the model; knows nothing of Ray,
of files, or of what is asked.

A batch of requests comes in as a table and goes out as a table, so the same class works in this
process and as an actor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eval.generation.image_conditions import ImageInput
from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.recipe import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

REQUEST_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("model", pa.string()),  # the folder of the model that is to answer; one per batch
        ("label", pa.string()),  # which item under which condition, for a person
        ("prompt", pa.string()),
        ("image", pa.large_binary()),  # encoded bytes; null for a text-only prompt or a blank image
        ("blank_width_px", pa.int64()),
        ("blank_height_px", pa.int64()),
        ("max_new_tokens", pa.int64()),  # one per batch
    ]
)
ANSWER_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("num_tokens", pa.int64()),
        ("ended", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to be answered: the model's folder ("" for an endpoint), the prompt, the picture,
    how long at most.
    """

    key: str
    model: str
    label: str
    prompt: str
    image_input: ImageInput
    max_new_tokens: int
    alone: bool = False  # in a batch of its own, to learn whether company changes an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweringPlan:
    """All that a worker must know: plain values, so that it travels to any machine."""

    dtype: str
    device: str


def batches_of(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """The requests in batches of at most `size`: one model and one bound on the length per batch,
    like lengths together.

    The longest come first: what takes the most memory shows at once whether it fits, and the last
    batches are short.
    """
    order = sorted(
        requests,
        key=lambda one: (
            one.model,
            -one.max_new_tokens,
            one.alone,
            one.image_input == ImageInput(),
            -len(one.prompt),
            one.key,
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


def request_table(batch: Sequence[Request]) -> pa.Table:
    """One batch as a table that travels to a worker."""
    rows = []
    for one in batch:
        width, height = one.image_input.blank_px or (None, None)
        row = {
            "key": one.key,
            "model": one.model,
            "label": one.label,
            "prompt": one.prompt,
            "image": one.image_input.image,
        }
        rows.append(
            row
            | {
                "blank_width_px": width,
                "blank_height_px": height,
                "max_new_tokens": one.max_new_tokens,
            }
        )
    return pa.Table.from_pylist(rows, schema=REQUEST_SCHEMA)


class Answerer:
    """Answers batches: a table of `REQUEST_SCHEMA` gives one of `ANSWER_SCHEMA`, in order.

    The model is loaded with the first batch that names it and kept until a batch names another.
    """

    def __init__(self, plan: AnsweringPlan) -> None:
        self.plan = plan
        self.loaded: tuple[str, Any] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answers one batch.

        Raises:
            UserError: An image or a prompt that cannot be used.
        """
        import torch

        from training.models.generation import generate_answers

        vlm = self._vlm(batch["model"][0].as_py())
        rows = batch.to_pylist()
        images = [_picture(row) for row in rows]
        for row in rows:
            self._check(vlm, row)
        with torch.inference_mode():
            limit = rows[0]["max_new_tokens"]
            found = generate_answers(
                vlm, images, [row["prompt"] for row in rows], max_new_tokens=limit
            )
        answers = [
            {"key": row["key"], "text": one.text, "num_tokens": one.num_tokens, "ended": one.ended}
            for row, one in zip(rows, found, strict=True)
        ]
        return pa.Table.from_pylist(answers, schema=ANSWER_SCHEMA)

    def _vlm(self, folder: str) -> Any:
        if self.loaded is not None and self.loaded[0] == folder:
            return self.loaded[1]
        import torch

        from training.models.vlm import load_vlm

        self.loaded = None  # free the last model before the next needs the memory
        vlm = load_vlm(folder, dtype=getattr(torch, self.plan.dtype), device=self.plan.device)
        self.loaded = folder, vlm
        return vlm

    @staticmethod
    def _check(vlm: Any, row: dict[str, Any]) -> None:
        from training.models.chat_template import control_texts

        for control in control_texts(vlm.processor):
            if control in row["prompt"]:
                raise UserError(
                    f"{row['label']}: its prompt holds {control!r}, which the tokenizer reads as a"
                    " control token; leave it out"
                )


def _picture(row: dict[str, Any]) -> "Image | None":
    from PIL import Image

    from eval.generation.image_conditions import GREY

    if row["blank_width_px"] is not None:
        return Image.new("RGB", (row["blank_width_px"], row["blank_height_px"]), GREY)
    if row["image"] is None:
        return None
    try:
        return decode_rgb(row["image"])
    except ImageError as error:
        raise UserError(
            f"{row['label']}: its image cannot be used ({error}); fetch the benchmark's files again"
        ) from error
