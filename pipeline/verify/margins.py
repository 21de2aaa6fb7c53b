"""Answer margins: how much nearer an answer is to its own image than to the other one.

They are measured as those of captions were before. The images' vectors are those that `embed` made;
an answer that equals a caption, or was measured before, is not embedded again. A right answer
should have a positive margin; a positive margin does not make an answer right.
"""

# Shapes: N rows of a chunk.

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.storage import Stage, open_mapped, write_table
from pipeline.embedding.reader import Vectors
from pipeline.embedding.similarity import caption_margin
from pipeline.embedding.stage import EmbedChunks, embed_texts
from pipeline.storage.image_store import ImageLibrary

VERSION = 1

MARGINS = ("answer_margin_a", "answer_margin_b")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN_BOUNDS = (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05, 0.1)
_ENCODER = "clip"
_ANSWERS = ("answer_a", "answer_b")


class EmbedAnswers(EmbedChunks):
    """Embeds the answers of one chunk per call; `upstream` is the stage that wrote them."""

    kind = "texts"

    def _embed(self, index: int) -> None:
        table = open_mapped(self._upstream.part("rows", index, "arrow"))
        rows = table.select([*_ANSWERS, "drop_reason"]).to_pylist()
        answers = {row[name] for row in rows if not row["drop_reason"] for name in _ANSWERS}
        embed_texts(self._stage, index, answers, self._encoders)


def write_margins(
    ingest: Stage, embed: Stage, rewrite: Stage, stage: Stage, num_chunks: int
) -> None:
    """Writes the margins of every chunk whose answers are embedded; null for dropped rows."""
    library = ImageLibrary(ingest)
    images, texts = Vectors(embed, library), Vectors(stage, library)
    for index in range(num_chunks):
        rows = open_mapped(rewrite.part("rows", index, "arrow"))
        write_table(stage.part("margins", index), margins_chunk(rows, images, texts, index))


def margins_chunk(rows: pa.Table, images: Vectors, texts: Vectors, chunk: int) -> pa.Table:
    """The margins of one chunk's rows, a column per side.

    Args:
        rows: image_a_sha256, image_b_sha256, answer_a, answer_b and drop_reason.
    """
    alive_N = np.array([reason == "" for reason in rows["drop_reason"].to_pylist()], dtype=bool)
    part = rows.select(["image_a_sha256", "image_b_sha256", *_ANSWERS]).take(
        np.flatnonzero(alive_N)
    )
    columns = {name: np.full(rows.num_rows, np.nan) for name in MARGINS}
    if part.num_rows:
        image = {
            side: images.of_images(part[f"image_{side}_sha256"].to_pylist())[_ENCODER]
            for side in "ab"
        }
        for own, other in ("ab", "ba"):
            answer = texts.of_captions(chunk, part[f"answer_{own}"].to_pylist())[_ENCODER]
            columns[f"answer_margin_{own}"][alive_N] = caption_margin(
                answer, image[own], image[other]
            )
    return pa.table(
        {
            name: pa.array(values, pa.float64(), mask=np.isnan(values))
            for name, values in columns.items()
        }
    )


def margin_facts(margins: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """What all margins come to: shares above 0, quantiles, and how many pairs each bound keeps.

    {"answer_margin_a": [0.1, -0.1], "answer_margin_b": [0.1, 0.1]}
        ->  frac_positive a 0.5, b 1.0, both 0.5

    Args:
        margins: Both sides, NaN where there was no answer.
    """
    sides = {name[-1]: values[~np.isnan(values)] for name, values in margins.items()}
    lower = np.minimum(*sides.values())
    if not len(lower):
        return {"num_pairs": 0}
    columns = {**sides, "both": lower}
    return {
        "num_pairs": len(lower),
        "frac_positive": {
            name: round(float(np.mean(values > 0)), 4) for name, values in columns.items()
        },
        "quantiles": {
            name: {
                f"{share:g}": round(float(np.quantile(values, share)), 4) for share in _QUANTILES
            }
            for name, values in sides.items()
        },
        "num_kept_at_min": {f"{bound:g}": int(np.sum(lower >= bound)) for bound in _SHOWN_BOUNDS},
    }
