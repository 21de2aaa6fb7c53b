"""How long the pairs of a data set will be in tokens, before any model is loaded.

Knows nothing of torch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.images import ImageError, upright_size
from pipeline.core.schema import image_bytes, read_mvc, reading_shard, shard_paths
from training.estimate.flops import PairLengths
from training.estimate.model_shape import ModelShape
from training.models.unusable import LeftOut, UnusablePairError, check_text, unusable_image
from training.run_plan import num_rows

TEXTS = ("question", "answer_a", "answer_b")
HASHES = ("image_a_sha256", "image_b_sha256")
TOKENS_PER_WORD = 1.3  # of English, with the vocabularies of these models
TEMPLATE_TOKENS = 14  # what a chat template adds to a question
DEFAULT_TEXT_TOKENS = 40  # of a question, and of an answer, where there is no data
DEFAULT_SIZE_PX = (640, 480)
PAPER_PAIRS = {"train": 10_669, "validation": 240}  # of the paper's MVC
# What the processors of the Qwen families bring images to, in pixels; a processor's own
# configuration may say otherwise.
PIXEL_LIMITS = {"qwen2_5_vl": (56 * 56, 12_845_056), "qwen3_vl": (65_536, 16_777_216)}

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """What of a data set decides how much is computed."""

    num_pairs: dict[str, int]  # that can be used
    num_images: int
    mean: PairLengths
    longest: PairLengths
    source: str  # how the lengths are known
    # tokens of the longest sequence of each pair, or of some pairs
    sequences: tuple[float, ...] = ()
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)  # by split, but for their length

    def share_over(self, max_tokens: int) -> float:
        """Which share of the pairs training leaves out: those with a longer sequence."""
        return (
            sum(tokens > max_tokens for tokens in self.sequences) / len(self.sequences)
            if self.sequences
            else 0.0
        )


def default_size(shape: ModelShape, num_pairs: dict[str, int] | None = None) -> DataSize:
    """Lengths that are usual, for a plan without data."""
    pairs = num_pairs or PAPER_PAIRS
    features = _features(shape, DEFAULT_SIZE_PX)
    lengths = _lengths(
        features, features, DEFAULT_TEXT_TOKENS, DEFAULT_TEXT_TOKENS, DEFAULT_TEXT_TOKENS
    )
    return DataSize(
        num_pairs=pairs,
        num_images=2 * sum(pairs.values()),
        mean=lengths,
        longest=lengths,
        source=(
            f"no data given: {features:.0f} features an image, {DEFAULT_TEXT_TOKENS} tokens a"
            " question and an answer"
        ),
    )


def size_of_data(folder: str | Path, model: str, shape: ModelShape) -> DataSize:
    """The lengths of an MVC folder's training pairs, but for those that training leaves out.

    By the model's tokenizer if it is here, else from their words.

    Raises:
        MvcError: Not an MVC folder, or more than 1 % of a split's pairs cannot be used.
    """
    tokenizer = _tokenizer(model)
    splits = {
        split: _usable_rows(folder, split, _control_texts(tokenizer))
        for split in ("train", "validation")
        if split == "train" or num_rows(folder, split)
    }
    rows = splits["train"].rows
    (questions, answers_a, answers_b), how = _token_counts(
        [[row[name] for row in rows] for name in TEXTS], tokenizer
    )
    # and the end of turn
    questions, answers_a, answers_b = questions + TEMPLATE_TOKENS, answers_a + 1, answers_b + 1
    features_a, features_b = (
        np.array([_features(shape, sizes[side]) for sizes in splits["train"].sizes])
        for side in (0, 1)
    )
    sequences = np.maximum(features_a, features_b) + questions + np.maximum(answers_a, answers_b)
    worst = int(np.argmax(2 * questions + 3 * (answers_a + answers_b)))
    num_pairs = {"train": 0, "validation": 0}
    num_pairs |= {split: len(usable.rows) for split, usable in splits.items()}
    hashes = {row[name] for row in rows for name in HASHES}
    texts = questions, answers_a, answers_b
    return DataSize(
        num_pairs=num_pairs,
        num_images=len(hashes) + 2 * num_pairs["validation"],
        mean=_lengths(*(float(part.mean()) for part in (features_a, features_b, *texts))),
        longest=_lengths(
            float(features_a.max()),
            float(features_b.max()),
            *(float(text[worst]) for text in texts),
        ),
        source=how,
        sequences=tuple(sequences.tolist()),
        left_out={split: usable.left_out for split, usable in splits.items()},
    )


@dataclass(frozen=True, slots=True)
class _Usable:
    """The rows of a split that training uses, the sizes of their two images, and the others."""

    rows: list[dict[str, str]]
    sizes: list[tuple[Size, Size]]
    left_out: LeftOut


def _usable_rows(folder: str | Path, split: str, control_texts: tuple[str, ...]) -> _Usable:
    """What training would use of a split, as far as that is seen without a model."""
    rows = read_mvc(folder, split, ("pair_id", *TEXTS, *HASHES)).to_pylist()
    usable = _Usable([], [], LeftOut())
    for row, images in zip(rows, _images(folder, split), strict=True):
        try:
            for name in TEXTS:
                check_text(row[name], control_texts, name)
            usable.sizes.append((_size("image_a", images[0]), _size("image_b", images[1])))
            usable.rows.append(row)
        except UnusablePairError as error:
            usable.left_out.add(row["pair_id"], error)
    usable.left_out.check(f"{folder}: split {split!r}", len(rows))
    return usable


def _lengths(
    features_a: float, features_b: float, question: float, answer_a: float, answer_b: float
) -> PairLengths:
    return PairLengths(
        (features_a + question, features_b + question, question),
        (answer_a, answer_b),
        (features_a, features_b),
    )


def _tokenizer(model: str) -> Any:
    """The tokenizer in a model's folder, without transformers; None where there is none."""
    file = Path(model) / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def _control_texts(tokenizer: Any) -> tuple[str, ...]:
    """As `training.models.chat_template.control_texts`; none without a tokenizer."""
    tokens = tokenizer.get_added_tokens_decoder().values() if tokenizer is not None else ()
    return tuple(token.content for token in tokens if token.special and token.content.strip())


def _token_counts(columns: Sequence[Sequence[str]], tokenizer: Any) -> tuple[list[np.ndarray], str]:
    template = f"{TEMPLATE_TOKENS} tokens for the chat template"
    if tokenizer is None:
        counts = [
            np.array([TOKENS_PER_WORD * len(text.split()) for text in texts]) for texts in columns
        ]
        return counts, f"words of the data, {TOKENS_PER_WORD} tokens each, {template}"
    encoded = (tokenizer.encode_batch(list(texts), add_special_tokens=False) for texts in columns)
    counts = [np.array([len(encoding.ids) for encoding in texts]) for texts in encoded]
    return counts, f"texts of the data by the model's tokenizer, {template}"


def _images(folder: str | Path, split: str) -> Iterator[tuple[bytes, bytes]]:
    """The encoded images of each row of a split, a few in memory at a time."""
    for path in shard_paths(folder, split):
        with reading_shard(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(64, columns=["image_a", "image_b"]):
                table = pa.Table.from_batches([batch])
                sides = (image_bytes(table, name) for name in ("image_a", "image_b"))
                yield from zip(*sides, strict=True)


def _size(name: str, data: bytes | None) -> Size:
    """Width and height of an image by its header."""
    try:
        return upright_size(data or b"")
    except ImageError as error:
        raise unusable_image(name, error) from error


def _features(shape: ModelShape, size: Size) -> float:
    """Features of an image of this size.

    The processors of the Qwen families resize sides to whole squares of patches.
    """
    vision = shape.vision
    if vision.num_features is not None:
        return float(vision.num_features)
    unit, (least, most) = vision.patch_px * vision.merge, PIXEL_LIMITS[shape.family]
    wide, high = (max(unit, round(side / unit) * unit) for side in size)
    if wide * high > most or wide * high < least:
        scale = math.sqrt((most if wide * high > most else least) / (size[0] * size[1]))
        around = math.floor if wide * high > most else math.ceil
        wide, high = (max(unit, around(side * scale / unit) * unit) for side in size)
    return wide * high / unit**2
