"""What the tiny model learns from: the train split of an MVC folder.

Each unique image is decoded and resized once.

Shapes: I unique images of 3 x S x S pixels, G patches per image; N pairs; a trailing 2 is the side
(a, b); W words.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.schema import MvcError, image_bytes, read_mvc
from training.models.unusable import UnusablePairError, check_text
from training.tiny.model import SPECIAL_TOKENS

_TEXTS = (
    "question answer_a answer_b caption_a caption_b image_a_sha256 image_b_sha256 meta"
).split()
_MAX_WORDS, _MIN_WORD_PAIRS = 256, 4
MAX_SAME = 6  # larger counts are one class
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of an image's stated truth.

    Its box (x0, y0, x1, y1) is in pixels of the resized image.
    """

    kind: str
    color: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, slots=True)
class TrainingSet:
    """Texts and images of one MVC split.

    `words_IW` says what the captions tell of an image: +1 if its own caption has the word and its
    pair's other caption does not, -1 for the reverse, 0 if nothing is known. `things` is the stated
    truth, or None for an image without.
    """

    questions: list[str]
    answers: list[tuple[str, str]]
    images_N2: Tensor
    pixels_I3SS: Tensor  # uint8
    things: list[tuple[Thing, ...] | None]
    words: list[str]
    words_IW: Tensor  # int8

    def texts(self) -> list[str]:
        """Every question and answer."""
        return [*self.questions, *(answer for pair in self.answers for answer in pair)]


def read_training_set(folder: Path, image_px: int, max_pairs: int) -> TrainingSet:
    """The train split of an MVC folder; of more than `max_pairs` pairs, that many, evenly spaced.

    Pairs that cannot be used are left out.

    Raises:
        MvcError: Not an MVC folder, or no pair that can be used.
    """
    table = read_mvc(folder, "train", [*_TEXTS, "image_a", "image_b"])
    if table.num_rows > max_pairs:
        table = table.take(np.arange(max_pairs) * table.num_rows // max_pairs)
    places: dict[str, int] = {}
    pixels: list[np.ndarray] = []
    things: list[tuple[Thing, ...] | None] = []
    rows, images = list[dict[str, Any]](), list[tuple[int, int]]()
    encoded = zip(image_bytes(table, "image_a"), image_bytes(table, "image_b"), strict=True)
    for row, sides in zip(table.select(_TEXTS).to_pylist(), encoded, strict=True):
        try:
            for name in ("question", "answer_a", "answer_b"):
                check_text(row[name], SPECIAL_TOKENS, name)
            truth = _truth(row["meta"])
            for name, data in zip("ab", sides, strict=True):
                key = row[f"image_{name}_sha256"]
                if key not in places:
                    square, to_square = _square(data or b"", image_px)
                    places[key] = len(pixels)
                    pixels.append(square)
                    things.append(_things(truth.get(name), to_square))
        except (UnusablePairError, ImageError):
            continue  # training counts them and says why
        rows.append(row)
        images.append((places[row["image_a_sha256"]], places[row["image_b_sha256"]]))
    if not rows:
        raise MvcError(f"{folder}: none of the pairs of 'train' can be used; build the data again")
    images_N2 = torch.tensor(images)
    words, words_IW = contrast_words(
        [(row["caption_a"], row["caption_b"]) for row in rows], images_N2, len(pixels)
    )
    return TrainingSet(
        questions=[row["question"] for row in rows],
        answers=[(row["answer_a"], row["answer_b"]) for row in rows],
        images_N2=images_N2,
        pixels_I3SS=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        things=things,
        words=words,
        words_IW=words_IW,
    )


ToSquare = tuple[float, float, float]  # scale, then what is cut off at the left and at the top


def _square(data: bytes, image_px: int) -> tuple[np.ndarray, ToSquare]:
    """The image as the model's processor takes it.

    The short side is resized to `image_px` (bicubic), the center cut out.
    """
    image = decode_rgb(data)
    scale = image_px / min(image.size)
    # The long side is cut down to whole pixels, as transformers does.
    width, height = (
        image_px if side == min(image.size) else int(side * scale) for side in image.size
    )
    if (width, height) != image.size:
        image = image.resize((width, height), 3)  # bicubic
    left, top = (width - image_px) // 2, (height - image_px) // 2
    return np.asarray(image.crop((left, top, left + image_px, top + image_px))), (scale, left, top)


def _truth(meta: str | None) -> dict[str, Any]:
    """The `truth` of a row's meta; {} if it states none in this form."""
    try:
        stated = json.loads(meta or "{}")
    except ValueError:
        return {}
    truth = stated.get("truth") if isinstance(stated, dict) else None
    return truth if isinstance(truth, dict) else {}


def _things(truth: Any, to_square: ToSquare) -> tuple[Thing, ...] | None:
    objects = truth.get("objects") if isinstance(truth, dict) else None
    if not isinstance(objects, list) or not all(_is_thing(stated) for stated in objects):
        return None
    scale, left, top = to_square
    things = []
    for stated in objects:
        x0, y0, x1, y1 = (float(edge) * scale for edge in stated["box"])
        box = (x0 - left, y0 - top, x1 - left, y1 - top)
        things.append(Thing(str(stated["object"]), str(stated.get("colour", "")), box))
    return tuple(things)


def _is_thing(stated: Any) -> bool:
    if not isinstance(stated, dict) or "object" not in stated:
        return False
    box = stated.get("box")
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(edge, int | float) for edge in box)
    )


def contrast_words(
    captions: list[tuple[str, str]], images_N2: Tensor, num_images: int
) -> tuple[list[str], Tensor]:
    """The words that tell the images of pairs apart, most frequent first.

    And what is known of each image by them, [I, W].
    """
    bags = [
        tuple(set(re.findall(r"\w+", caption.casefold())) for caption in pair) for pair in captions
    ]
    counts = Counter(word for a, b in bags for word in a ^ b)
    ranked = sorted((-count, word) for word, count in counts.items() if count >= _MIN_WORD_PAIRS)
    words = [word for _, word in ranked[:_MAX_WORDS]]
    index = {word: place for place, word in enumerate(words)}
    words_IW = torch.zeros(num_images, len(words), dtype=torch.int8)
    for (a, b), (image_a, image_b) in zip(bags, images_N2.tolist(), strict=True):
        for image, own, other in ((image_a, a, b), (image_b, b, a)):
            words_IW[image, [index[word] for word in other - own if word in index]] = -1
            words_IW[image, [index[word] for word in own - other if word in index]] = 1
    return words, words_IW


@dataclass(frozen=True, eq=False, slots=True)
class PatchTruth:
    """Things as tensors, T the largest number of things in an image.

    Class 0 of kind and color is "nothing".
    """

    boxes_IT4: Tensor  # x0, y0, x1, y1 in pixels; empty boxes where there are fewer things
    kind_IT: Tensor
    color_IT: Tensor
    same_IT: Tensor  # how many things of this kind and color the image has
    num_kinds: int
    num_colors: int

    def labels(
        self, images_B: Tensor, shift_B2: Tensor, grid: int, patch_px: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What covers each patch of images moved by `shift_B2` (x, y; pixels).

        Kind, color and same, [B, G] each, and the center of the thing there, [B, G, 2], as a
        fraction of the side. A patch belongs to the thing that covers most of it.
        """
        boxes_BT4 = self.boxes_IT4[images_B] + shift_B2.repeat(1, 2)[:, None]
        edges = torch.arange(grid) * patch_px
        low_BTg2 = torch.maximum(boxes_BT4[:, :, None, :2], edges[None, None, :, None])
        high_BTg2 = torch.minimum(boxes_BT4[:, :, None, 2:], edges[None, None, :, None] + patch_px)
        across_BTg, down_BTg = (high_BTg2 - low_BTg2).clamp(min=0).unbind(-1)
        share_BTG = (down_BTg[..., :, None] * across_BTg[..., None, :]).flatten(2) / patch_px**2
        most_BG, owner_BG = share_BTG.max(dim=1)
        seen_BG = most_BG > 0.15
        kind_BG, color_BG, same_BG = (
            torch.where(seen_BG, label_IT[images_B].gather(1, owner_BG), 0)
            for label_IT in (self.kind_IT, self.color_IT, self.same_IT)
        )
        centers_BT2 = (boxes_BT4[..., :2] + boxes_BT4[..., 2:]) / (2 * grid * patch_px)
        center_BG2 = centers_BT2.gather(1, owner_BG[..., None].expand(-1, -1, 2))
        return kind_BG, color_BG, same_BG, center_BG2


def patch_truth(things: list[tuple[Thing, ...] | None]) -> PatchTruth | None:
    """The stated truth of all images as tensors; None unless every image has one."""
    known = [stated for stated in things if stated is not None]
    if not known or len(known) < len(things):
        return None
    kinds = [NOTHING, *sorted({thing.kind for image in known for thing in image})]
    colors = [NOTHING, *sorted({thing.color for image in known for thing in image})]
    most = max(1, max(map(len, known)))
    boxes_IT4 = torch.full((len(known), most, 4), -1e6)
    kind_IT, color_IT, same_IT = torch.zeros(3, len(known), most, dtype=torch.long)
    for index, image in enumerate(known):
        counts = Counter((thing.kind, thing.color) for thing in image)
        for place, thing in enumerate(image):
            boxes_IT4[index, place] = torch.tensor(thing.box)
            kind_IT[index, place] = kinds.index(thing.kind)
            color_IT[index, place] = colors.index(thing.color)
            same_IT[index, place] = min(MAX_SAME, counts[thing.kind, thing.color])
    return PatchTruth(boxes_IT4, kind_IT, color_IT, same_IT, len(kinds), len(colors))
