"""What a model makes of each pair under its three image conditions: image a, image b, no image.

Holds the model; knows nothing of Ray, of files, or of what the numbers mean. A chunk of pairs comes
in as a table and goes out as a table, so the same class works in this process and as an actor of a
pool.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.schema import MvcError, image_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

CONDITIONS = ("a", "b", "none")
RESPONSES = ("a", "b")
LOGP_COLUMNS = tuple(
    f"logp_{condition}_{response}" for condition in CONDITIONS for response in RESPONSES
)
NEEDED_COLUMNS = (
    "chunk",
    "pair_id",
    "question",
    "answer_a",
    "answer_b",
    "image_a",
    "image_b",
    "image_a_sha256",
    "image_b_sha256",
)
# the folder of the model that is to score the chunk; the same in all its rows
MODEL_COLUMN = "model"

RESULT_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("chunk", pa.int64()),
        ("pair_id", pa.string()),
        *[(name, pa.float64()) for name in LOGP_COLUMNS],  # nats, summed over the response tokens
        ("num_tokens_a", pa.int64()),  # of the response, with its end-of-turn token
        ("num_tokens_b", pa.int64()),
        # greedy answer to the question about image a; null where none was asked for
        ("generated_a", pa.string()),
        ("generated_b", pa.string()),
        ("width_a_px", pa.int64()),
        ("height_a_px", pa.int64()),
        ("width_b_px", pa.int64()),
        ("height_b_px", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPlan:
    """All that a worker must know: plain values, so that it travels to any machine."""

    dtype: str
    device: str
    batch_pairs: int
    batch_images: int
    max_new_tokens: int  # 0: no answers are generated


class PairScorer:
    """Scores chunks of pairs: a table with `NEEDED_COLUMNS` and `MODEL_COLUMN` gives one with
    `RESULT_SCHEMA`, in order.

    The model is loaded with the first chunk that names it and kept until a chunk names another: one
    at a time in memory.
    """

    def __init__(self, plan: ScoringPlan) -> None:
        self.plan = plan
        self.loaded: tuple[str, Any] | None = None

    def __call__(self, chunk: pa.Table) -> pa.Table:
        """Scores one chunk.

        Raises:
            ModelError: A model that is not supported.
            MvcError: A pair whose image does not decode or whose texts the model cannot take, by
                pair_id.
        """
        import torch

        self._load(chunk[MODEL_COLUMN][0].as_py())
        images_a, images_b = _images(chunk, "image_a"), _images(chunk, "image_b")
        num_pairs, size = chunk.num_rows, self.plan.batch_pairs
        with torch.inference_mode():
            parts = [
                self._logps(
                    chunk.slice(start, size),
                    images_a[start : start + size],
                    images_b[start : start + size],
                )
                for start in range(0, num_pairs, size)
            ]
            answers = self._answers(_keys(chunk), [*images_a, *images_b])
        logps_P6 = np.concatenate([logps_P32.reshape(-1, 6) for logps_P32, _ in parts])
        num_tokens_P2 = np.concatenate([num_tokens_P2 for _, num_tokens_P2 in parts])
        columns = {
            "model": chunk[MODEL_COLUMN],
            "chunk": chunk["chunk"],
            "pair_id": chunk["pair_id"],
            **dict(zip(LOGP_COLUMNS, logps_P6.T, strict=True)),
            "num_tokens_a": num_tokens_P2[:, 0],
            "num_tokens_b": num_tokens_P2[:, 1],
            "generated_a": answers[:num_pairs],
            "generated_b": answers[num_pairs:],
        }
        for side, images in (("a", images_a), ("b", images_b)):
            columns[f"width_{side}_px"] = [image.width for image in images]
            columns[f"height_{side}_px"] = [image.height for image in images]
        return pa.table(columns, schema=RESULT_SCHEMA)

    def _load(self, folder: str) -> None:
        if self.loaded is not None and self.loaded[0] == folder:
            return
        import torch

        from training.models.vlm import load_vlm

        self.loaded = None  # free the last model before the next needs the memory
        self.loaded = (
            folder,
            load_vlm(folder, dtype=getattr(torch, self.plan.dtype), device=self.plan.device),
        )

    @property
    def vlm(self) -> Any:
        """The loaded model."""
        assert self.loaded is not None, "a chunk loads its model first"
        return self.loaded[1]

    def _logps(
        self, pairs: pa.Table, images_a: "list[Image]", images_b: "list[Image]"
    ) -> tuple[np.ndarray, np.ndarray]:
        """logps [P, 3, 2] in nats and response lengths [P, 2] in tokens."""
        from training.models.logps import pair_logps
        from training.models.packing import pack
        from training.models.vlm import pair_tokens, pixel_values

        vlm, tokens = self.vlm, []
        rows = pairs.select(["pair_id", "question", "answer_a", "answer_b"]).to_pylist()
        for row, image_a, image_b in zip(rows, images_a, images_b, strict=True):
            texts = (row["question"], row["answer_a"], row["answer_b"])
            try:
                tokens.append(pair_tokens(vlm, texts, (image_a.size, image_b.size), row["pair_id"]))
            except ValueError as error:
                raise MvcError(f"pair {row['pair_id']}: {error}") from error
        packed = pack(tokens, vlm.image_token_id).to(vlm.model.device)
        logps_P32 = pair_logps(
            vlm.model, packed, pixel_values(vlm, images_a), pixel_values(vlm, images_b)
        )
        lengths = [[len(pair.response_a), len(pair.response_b)] for pair in tokens]
        return logps_P32.double().cpu().numpy(), np.array(lengths, np.int64)

    def _answers(self, keys: list[tuple[str, str]], images: "list[Image]") -> list[str | None]:
        """The greedy answer to each (image, question); what occurs twice in a chunk is generated
        once.
        """
        from training.models.generation import generate

        if self.plan.max_new_tokens == 0:
            return [None] * len(keys)
        unique = list(dict(zip(keys, images, strict=True)).items())
        said: dict[tuple[str, str], str] = {}
        for start in range(0, len(unique), self.plan.batch_images):
            batch = unique[start : start + self.plan.batch_images]
            questions = [question for (_, question), _ in batch]
            texts = generate(
                self.vlm,
                [image for _, image in batch],
                questions,
                max_new_tokens=self.plan.max_new_tokens,
            )
            said.update(zip((key for key, _ in batch), texts, strict=True))
        return [said[key] for key in keys]


def _keys(pairs: pa.Table) -> list[tuple[str, str]]:
    """(sha256 of the image, question) of every side: first all sides a, then all sides b.

    Where a row has no hash its place stands for it: two unknown images are not the same image.
    """
    questions = pairs["question"].to_pylist()
    hashes = [
        sha256 or f"row {row} {side}"
        for side in ("a", "b")
        for row, sha256 in enumerate(pairs[f"image_{side}_sha256"].to_pylist())
    ]
    return list(zip(hashes, questions * 2, strict=True))


def _images(pairs: pa.Table, column: str) -> "list[Image]":
    """The decoded images of one side, upright and RGB."""
    images = []
    for pair_id, data in zip(pairs["pair_id"].to_pylist(), image_bytes(pairs, column), strict=True):
        try:
            images.append(decode_rgb(data or b""))
        except ImageError as error:
            raise MvcError(
                f"pair {pair_id}: {column} cannot be used ({error}); build the MVC folder again"
            ) from error
    return images
