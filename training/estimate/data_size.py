"""How long the pairs of a data set will be in tokens, before any model is loaded.

Knows nothing of torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.core.images import ImageError, upright_size
from pipeline.core.schema import read_mvc, shard_paths
from training.estimate.flops import PairLengths
from training.estimate.model_shape import ModelShape
from training.run_plan import num_rows

TOKENS_PER_WORD = 1.3  # of English, with the vocabularies of these models
TEMPLATE_TOKENS = 14  # what a chat template adds to a question
DEFAULT_TEXT_TOKENS = 40  # of a question, and of an answer, where there is no data
DEFAULT_SIZE_PX = (640, 480)
PAPER_PAIRS = {"train": 10_669, "validation": 240}  # of the paper's MVC
NUM_IMAGES_MEASURED = 200
# What the processors of the Qwen families bring images to, in pixels; a processor's own
# configuration may say otherwise.
PIXEL_LIMITS = {"qwen2_5_vl": (56 * 56, 12_845_056), "qwen3_vl": (65_536, 16_777_216)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """What of a data set decides how much is computed."""

    num_pairs: dict[str, int]
    num_images: int
    mean: PairLengths
    longest: PairLengths
    source: str  # how the lengths are known
    # tokens of the longest sequence of each pair, or of some pairs
    sequences: tuple[float, ...] = ()

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
    """The lengths of an MVC folder's training pairs.

    By the model's tokenizer if it is here, else from their words.

    Raises:
        MvcError: Not an MVC folder.
    """
    table = read_mvc(
        folder, "train", ("question", "answer_a", "answer_b", "image_a_sha256", "image_b_sha256")
    )
    (questions, answers_a, answers_b), how = _token_counts(
        [table.column(name).to_pylist() for name in ("question", "answer_a", "answer_b")], model
    )
    # and the end of turn
    questions, answers_a, answers_b = questions + TEMPLATE_TOKENS, answers_a + 1, answers_b + 1
    features_a, features_b = _image_features(folder, shape)
    # of all pairs, of the first ones, or the same for every pair
    shown = np.maximum(features_a, features_b)
    n = min(len(questions), len(shown)) if len(shown) > 1 else len(questions)
    sequences = shown[:n] + questions[:n] + np.maximum(answers_a, answers_b)[:n]
    worst = int(np.argmax(2 * questions + 3 * (answers_a + answers_b)))
    num_pairs = {split: num_rows(folder, split) for split in ("train", "validation")}
    hashes = {
        *table.column("image_a_sha256").to_pylist(),
        *table.column("image_b_sha256").to_pylist(),
    }
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
    )


def _lengths(
    features_a: float, features_b: float, question: float, answer_a: float, answer_b: float
) -> PairLengths:
    return PairLengths(
        (features_a + question, features_b + question, question),
        (answer_a, answer_b),
        (features_a, features_b),
    )


def _token_counts(columns: Sequence[Sequence[str]], model: str) -> tuple[list[np.ndarray], str]:
    file = Path(model) / "tokenizer.json"
    template = f"{TEMPLATE_TOKENS} tokens for the chat template"
    if not file.is_file():
        counts = [
            np.array([TOKENS_PER_WORD * len(text.split()) for text in texts]) for texts in columns
        ]
        return counts, f"words of the data, {TOKENS_PER_WORD} tokens each, {template}"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    encoded = (tokenizer.encode_batch(list(texts), add_special_tokens=False) for texts in columns)
    counts = [np.array([len(encoding.ids) for encoding in texts]) for texts in encoded]
    return counts, f"texts of the data by the model's tokenizer, {template}"


def _image_features(folder: str | Path, shape: ModelShape) -> tuple[np.ndarray, np.ndarray]:
    """Features of image a and of image b of all pairs, or of some where sizes decide."""
    if shape.vision.num_features is not None:
        same = np.array([float(shape.vision.num_features)])
        return same, same
    counts: dict[str, list[float]] = {"image_a": [], "image_b": []}
    for path in shard_paths(folder, "train"):
        for batch in pq.ParquetFile(path).iter_batches(64, columns=list(counts)):
            for name, features in counts.items():
                features += [
                    _features(shape, _size(image["bytes"]))
                    for image in batch.column(name).to_pylist()
                ]
            if len(counts["image_a"]) >= NUM_IMAGES_MEASURED:
                break
    return np.array(counts["image_a"]), np.array(counts["image_b"])


def _size(data: bytes) -> tuple[int, int]:
    """Width and height; the usual size for an image that training will say cannot be read."""
    try:
        return upright_size(data)
    except ImageError:
        return DEFAULT_SIZE_PX


def _features(shape: ModelShape, size: tuple[int, int]) -> float:
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
