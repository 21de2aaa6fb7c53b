"""`svco ask`: what a model says of two images, and how sure it is of the other one's answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import typer

from eval.config import EvalSection
from eval.inputs import Models, find_models
from eval.pairs.paired_scores import right_sides
from eval.pairs.scorer import pair_scores
from pipeline.core.images import ImageError, decode_rgb, upright_rgb
from pipeline.core.intervals import FloatArray
from pipeline.core.progress import say, summary_table
from pipeline.core.recipe import UserError
from pipeline.pages.numbers import show_share
from training.models.model_check import check_models

if TYPE_CHECKING:
    from PIL.Image import Image

CONDITIONS = ("image a", "image b", "no image")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model makes of a question about two images."""

    answers: tuple[str, str]  # its own, about image a and about image b
    # of the two texts in question under each condition, in nats, summed over their tokens
    logps_32: FloatArray
    num_tokens: tuple[int, int]  # of those texts, with the end of turn


def ask(
    model: Path,
    images: tuple[Any, Any],
    question: str,
    texts: tuple[str, str] | None,
    *,
    device: str,
    max_new_tokens: int,
) -> Opinion:
    """The opinion of one model.

    Args:
        images: Two RGB images.
        texts: The answers to judge; None: the model's own.

    Raises:
        UserError: A text that the model cannot take, an answer without words, or a model that is
            not supported.
    """
    import torch

    from training.models.generation import generate
    from training.models.loading import refuse_spoilt
    from training.models.vlm import load_vlm

    vlm = load_vlm(
        model, dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32, device=device
    )
    refuse_spoilt(model, vlm.model)
    try:
        said_a, said_b = generate(vlm, images, [question] * 2, max_new_tokens=max_new_tokens)
        text_a, text_b = texts or (said_a, said_b)
    except ValueError as error:
        raise UserError(f"{model}: {error}") from error
    if not (text_a and text_b):
        raise UserError(
            f"{model} says nothing about image {'b' if text_a else 'a'}; give the two answers to"
            " judge with --answer, twice"
        )
    asked = {"question": question, "answer_a": text_a, "answer_b": text_b}
    pair = pa.Table.from_pylist([{"pair_id": f"given to {model}", **asked}])
    logps_132, (lengths,) = pair_scores(vlm, pair, images[:1], images[1:])
    return Opinion((said_a, said_b), logps_132[0], (int(lengths[0]), int(lengths[1])))


def share_of_first(logp_first: float, logp_second: float) -> float:
    """How sure a model is of the first of two texts: its share of their probability."""
    difference = logp_second - logp_first
    return 1 / (1 + math.exp(difference)) if difference < 700 else 0.0  # beyond, exp overflows


def rgb_images(images: "Sequence[str | Path | Image]") -> "tuple[Image, Image]":
    """The two images, upright and RGB; files are read.

    Raises:
        UserError: Not two, or one that cannot be read.
    """
    if len(images) != 2:
        raise UserError(f"expected two images, got {len(images)}; give --image A.jpg --image B.jpg")
    decoded = []
    for image in images:
        if not isinstance(image, str | Path):
            decoded.append(upright_rgb(image))
            continue
        try:
            decoded.append(decode_rgb(Path(image).read_bytes()))
        except (OSError, ImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"--image {image}: cannot be read ({reason})") from error
    return decoded[0], decoded[1]


def rows_of(opinions: dict[str, Opinion]) -> list[list[str]]:
    """One row per condition: each model's log-probability of either text, its share of a."""
    rows = []
    for condition, label in enumerate(CONDITIONS):
        cells = [label]
        for opinion in opinions.values():
            first, second = opinion.logps_32[condition].tolist()
            cells += [f"{first:.2f}", f"{second:.2f}", show_share(share_of_first(first, second))]
        rows.append(cells)
    return rows


def verdict(opinion: Opinion) -> str:
    """Whether the texts tell the images apart, in words."""
    if opinion.logps_32[0].tolist() == opinion.logps_32[1].tolist():
        return "the images make no difference"
    sides = right_sides(opinion.logps_32[None], tie_nats=0.0)[0].tolist()
    right = [side for side, is_right in zip("ab", sides, strict=True) if is_right]
    return {
        2: "prefers each image's own answer",
        0: "prefers the other's answer for both images",
    }.get(len(right), f"prefers answer {right[0] if right else ''} for both images")


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A Hugging Face model folder or a Hub id.")
    ],
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What is asked about each image.")
    ],
    image: Annotated[list[Path], typer.Option(help="An image; give two, a and b.")],
    base: Annotated[
        str,
        typer.Option(help="The model to compare with; auto: what svco.json names, none: no other."),
    ] = "auto",
    answer: Annotated[
        list[str] | None,
        typer.Option(
            help="The true answers, to image a and to b; without them the model's own are judged,"
            " which flatters it."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="The most that an answer may have.")
    ] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Ask a model about each of two images, and see how sure it is of the other image's answer."""
    if not question.strip():
        raise UserError(
            "expected a question, got none; put it in quotes after the model and the images"
        )
    images = rgb_images(image)
    if answer is not None and len(answer) not in (0, 2):
        raise UserError(
            f"expected two answers to judge, got {len(answer)}; give --answer A --answer B"
        )
    models = models_of(model, base)
    device = device_of(device)
    texts = (answer[0], answer[1]) if answer else None
    opinions: dict[str, Opinion] = {}
    # The tuned model first: the base judges the same two texts, so that their numbers can be
    # compared.
    for role, folder in reversed(models.by_role().items()):
        opinions[role] = ask(
            folder, images, question, texts, device=device, max_new_tokens=max_new_tokens
        )
        texts = texts or opinions[role].answers
    assert texts is not None
    shown: dict[str, Opinion] = {role: opinions[role] for role in models.by_role()}
    _show(shown, texts, question, given=bool(answer))


def models_of(model: str, base: str = "none") -> Models:
    """The folders of a model and of what it is compared with.

    Args:
        base: "auto" for what svco.json names, "none" for no other.

    Raises:
        UserError: No model there.
    """
    whole: list[Path] = []
    models = find_models(EvalSection(model=model, base=base, data="-", out="-"), whole=whole.append)
    check_models(whole, trained=False, here=True)
    return models


def device_of(asked: str) -> str:
    """The torch device for "auto", "cpu" or "cuda".

    Raises:
        UserError: Another word, or a GPU that is not there.
    """
    if asked not in ("auto", "cpu") and not asked.startswith("cuda"):
        raise UserError(f"--device {asked!r}: expected auto, cpu or cuda")
    if asked == "cpu":
        return asked
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU; give --device cpu")
    return asked


def _show(
    opinions: dict[str, Opinion], texts: tuple[str, str], question: str, *, given: bool
) -> None:
    names = {"before": "base", "after": "tuned"} if len(opinions) > 1 else {"after": "model"}
    say(f"question  {question}")
    for role, opinion in opinions.items():
        for side, text in zip("ab", opinion.answers, strict=True):
            say(f"{names[role]:<6} of {side}  {text or '(nothing)'}")
    say(f"judged a  {texts[0]}\njudged b  {texts[1]}")
    if not given:
        say(
            f"judged are the {names['after'].replace('tuned', 'tuned model')}'s own words, which"
            " flatters it: a model is surest of what it says itself; give the true answers with"
            " --answer A --answer B"
        )
    if texts[0] == texts[1]:
        say(
            "both answers are the same text: the table tells how the image changes its probability;"
            " --answer judges other texts"
        )
    heads = [
        f"{names[role]} {head}"
        for role in opinions
        for head in ("log p(a)", "log p(b)", "sure of a")
    ]
    lengths = next(iter(opinions.values())).num_tokens
    summary_table(
        f"Log-probabilities of the judged answers, nats over {lengths[0]} and {lengths[1]} tokens",
        ["", *heads],
        rows_of(opinions),
    )
    for role, opinion in opinions.items():
        say(f"{names[role]}: {verdict(opinion)}")
