"""What a model makes of each pair under its three image conditions: image a, image b, no image.

Holds the model; knows nothing of Ray, of files, or of what the numbers mean, so the same class
works in this process and as an actor of a pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from eval.config import EvalSection
from eval.generation.cache import Answer, answer_key
from eval.generation.generator import Generator, Request
from eval.generation.image_conditions import ImageInput
from eval.inputs import Role
from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.intervals import FloatArray, IntArray
from pipeline.core.schema import MvcError, image_bytes, sha256_hex

if TYPE_CHECKING:
    from PIL.Image import Image

    from training.models.unusable import UnusablePairError

    Sides = tuple[Image, Image]

LOGP_COLUMNS = tuple(
    f"logp_{condition}_{response}" for condition in ("a", "b", "none") for response in "ab"
)
NEEDED_COLUMNS = ("pair_id", "question", "answer_a", "answer_b", "image_a", "image_b")

SCORE_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        *[(name, pa.float64()) for name in LOGP_COLUMNS],  # nats, summed over the response tokens
        ("num_tokens_a", pa.int64()),  # of the response, with its end-of-turn token
        ("num_tokens_b", pa.int64()),
        ("width_a_px", pa.int64()),
        ("height_a_px", pa.int64()),
        ("width_b_px", pa.int64()),
        ("height_b_px", pa.int64()),
        ("left_out", pa.string()),  # why the pair cannot be scored: what else the row says is void
        ("left_out_because", pa.string()),
    ]
)


Place = tuple[Role, int]  # a model, and the number of a chunk of pairs


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pairs that a model is to score, whose sides it is to answer, or both.

    `unanswered` maps the key of each answer that is to be generated to the number of its side: the
    sides a of all pairs come first, then their sides b.
    """

    place: Place
    model: str  # its folder
    pairs: pa.Table  # with `NEEDED_COLUMNS`
    is_scored: bool = False
    unanswered: Mapping[str, int] = field(default_factory=dict)


def answer_keys(pairs: pa.Table, weights: str, settings: Mapping[str, Any]) -> list[str]:
    """What the greedy answer to each side's question is kept under: all sides a, then all sides b.

    Args:
        weights: Hash of everything that decides what the model answers.
        settings: How it is decoded.
    """
    return [
        answer_key(weights, question, sha256_hex(image), settings)
        for image, question in zip(_encoded(pairs), _questions(pairs), strict=True)
    ]


def with_answers(scores: pa.Table, keys: Sequence[str], answers: Mapping[str, Answer]) -> pa.Table:
    """A table of `SCORE_SCHEMA` with what was generated for each side; null without an answer."""
    texts = [answers[key].text if key in answers else None for key in keys]
    texts = texts or [None] * 2 * scores.num_rows
    for side, of_side in (("a", texts[: scores.num_rows]), ("b", texts[scores.num_rows :])):
        scores = scores.append_column(f"generated_{side}", pa.array(of_side, pa.string()))
    return scores


class PairScorer:
    """Works on chunks: a table of `SCORE_SCHEMA` in the order of the pairs, and the answers."""

    def __init__(self, section: EvalSection) -> None:
        self.section = section
        self.generator = Generator(section)

    def __call__(self, chunk: Chunk) -> tuple[pa.Table | None, dict[str, Answer]]:
        """The scores of one chunk (None where it has them already) and its answers by their keys.

        Pairs that the model cannot take have no scores, but the reason, and no answers.

        Raises:
            UserError: A model that is not supported.
        """
        vlm = self.generator.model(chunk.model)
        seen = [_seen(vlm, row) for row in chunk.pairs.to_pylist()]
        scores = None if chunk.is_scored else self._scores(vlm, chunk.pairs, seen)
        return scores, self._answers(chunk, seen)

    def _scores(
        self, vlm: Any, pairs: pa.Table, seen: "Sequence[Sides | UnusablePairError]"
    ) -> pa.Table:
        size = self.section.batch_pairs
        kept = [row for row, sides in enumerate(seen) if isinstance(sides, tuple)]
        logps_P6 = np.full((len(seen), 6), np.nan)
        lengths_P6 = np.zeros((len(seen), 6), np.int64)  # tokens of a and b, then sizes in pixels
        for rows in (kept[start : start + size] for start in range(0, len(kept), size)):
            images_a, images_b = zip(*(seen[row] for row in rows), strict=True)
            logps_B32, num_tokens_B2 = pair_scores(vlm, pairs.take(rows), images_a, images_b)
            logps_P6[rows] = logps_B32.reshape(-1, 6)
            sizes_B4 = [[*a.size, *b.size] for a, b in zip(images_a, images_b, strict=True)]
            lengths_P6[rows] = np.concatenate([num_tokens_B2, sizes_B4], axis=1)
        reasons = [None if isinstance(sides, tuple) else sides for sides in seen]
        columns = {
            "pair_id": pairs["pair_id"],
            **dict(zip(LOGP_COLUMNS, logps_P6.T, strict=True)),
            **dict(zip(SCORE_SCHEMA.names[7:13], lengths_P6.T, strict=True)),
            "left_out": [error and error.reason for error in reasons],
            "left_out_because": [error and str(error) for error in reasons],
        }
        return pa.table(columns, schema=SCORE_SCHEMA)

    def _answers(
        self, chunk: Chunk, seen: "Sequence[Sides | UnusablePairError]"
    ) -> dict[str, Answer]:
        images, questions = _encoded(chunk.pairs), _questions(chunk.pairs)
        labels = [
            f"pair {pair_id}: image_{side}"
            for side in "ab"
            for pair_id in chunk.pairs["pair_id"].to_pylist()
        ]
        requests = [
            Request(
                key,
                chunk.model,
                labels[side],
                questions[side],
                ImageInput(images[side]),
                self.section.generate.max_new_tokens,
            )
            for key, side in chunk.unanswered.items()
            if isinstance(seen[side % len(seen)], tuple)
        ]
        answers: dict[str, Answer] = {}
        size = self.section.generate.batch_images
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            keys = [request.key for request in batch]
            answers |= zip(keys, self.generator(batch), strict=True)
        return answers


def pair_scores(
    vlm: Any, pairs: pa.Table, images_a: "Sequence[Image]", images_b: "Sequence[Image]"
) -> tuple[FloatArray, IntArray]:
    """Log-probabilities [P, 3, 2] in nats and response lengths [P, 2] in tokens.

    Raises:
        MvcError: A text that the model cannot take, by pair_id.
    """
    import torch

    from training.models.logps import exact_logps
    from training.models.pair import short_pair
    from training.models.vlm import pixel_values

    tokens = []
    rows = pairs.select(["pair_id", "question", "answer_a", "answer_b"]).to_pylist()
    for row, image_a, image_b in zip(rows, images_a, images_b, strict=True):
        texts = (row["question"], row["answer_a"], row["answer_b"])
        try:
            pair = short_pair(vlm, texts, (image_a.size, image_b.size))
            tokens.append(pair.tokens(vlm, row["pair_id"]))
        except ValueError as error:
            raise MvcError(f"pair {row['pair_id']}: {error}") from error
    pixels = pixel_values(vlm, images_a), pixel_values(vlm, images_b)
    with torch.inference_mode():
        logps_P32 = exact_logps(vlm.model, tokens, vlm.image_token_id, *pixels)
    lengths = [[len(pair.response_a), len(pair.response_b)] for pair in tokens]
    return logps_P32.double().cpu().numpy(), np.array(lengths, np.int64)


def _encoded(pairs: pa.Table) -> list[bytes]:
    """The encoded images of all sides a, then of all sides b."""
    return [data or b"" for side in "ab" for data in image_bytes(pairs, f"image_{side}")]


def _questions(pairs: pa.Table) -> list[str]:
    """The question of each side, in the order of `_encoded`."""
    questions: list[str] = pairs["question"].to_pylist()
    return questions * 2


def _seen(vlm: Any, row: dict[str, Any]) -> "Sides | UnusablePairError":
    """The two images of a pair, decoded; or why the model cannot take the pair."""
    from training.models.pair import short_pair
    from training.models.unusable import UnusablePairError, unusable_image

    images = []
    try:
        for name in ("image_a", "image_b"):
            try:
                images.append(decode_rgb(row[name]["bytes"] or b""))
            except ImageError as error:
                raise unusable_image(name, error) from error
        texts = (row["question"], row["answer_a"], row["answer_b"])
        short_pair(vlm, texts, (images[0].size, images[1].size))
    except UnusablePairError as error:
        return error
    return images[0], images[1]
