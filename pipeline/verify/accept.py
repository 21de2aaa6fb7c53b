"""Stage `accept`: which pairs stay, from what `verify` measured. Arrays in, arrays out."""

# Shapes: N rows.

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.storage import Stage, read_table
from pipeline.storage.decided_rows import DecidedRows
from pipeline.verify.config import VerifySection
from pipeline.verify.judge import VERDICTS
from pipeline.verify.margins import MARGINS

VERSION = 1

Mask = NDArray[np.bool_]
Measured = Mapping[str, NDArray[np.float64]]


def read_measured(
    stage: Stage, num_chunks: int, section: VerifySection, *, has_clip: bool
) -> dict[str, NDArray[np.float64]]:
    """What was measured of every row, by column: margins, and verdicts as 1 (true) and 0 (false).

    NaN where there is none.
    """
    wanted = {
        "margins": MARGINS if has_clip else (),
        "judged": VERDICTS if section.judge is not None else (),
    }
    tables = {
        kind: pa.concat_tables(
            [read_table(stage.part(kind, index), list(names)) for index in range(num_chunks)]
        )
        for kind, names in wanted.items()
        if names
    }
    return {
        name: table[name].cast(pa.float64()).to_numpy()
        for table in tables.values()
        for name in table.column_names
    }


def accept(rows: DecidedRows, measured: Measured, section: VerifySection) -> pa.Table:
    """The drop reason ("" if kept) and the split of every row, in the sources' order.

    Args:
        rows: As the rewriting left them.
        measured: What `read_measured` gives.
    """
    reasons, splits = rows.column("drop_reason"), rows.column("split")
    alive = np.flatnonzero(reasons == "")
    reasons[alive] = accept_reasons(
        {name: values[alive] for name, values in measured.items()}, len(alive), section
    )
    splits[reasons != ""] = ""
    return pa.table(
        {"drop_reason": pa.array(reasons, pa.string()), "split": pa.array(splits, pa.string())}
    )


def accept_reasons(
    measured: Measured, num_rows: int, section: VerifySection
) -> NDArray[np.object_]:
    """Why each row leaves, or "" if it stays, [N]. The first rule that applies names the reason.

    answer_margin_a -0.01, min_answer_margin 0  ->  "answer_margin_a_below_min"
    judged_a_of_a false, on_contradiction drop  ->  "judge_contradicts_a"
    judged_a_of_b true, on_affirmation drop     ->  "judge_affirms_a_of_image_b"
    """
    reasons = np.full(num_rows, "", dtype=object)
    for reason, rows in _rules(measured, section):
        reasons[rows & (reasons == "")] = reason
    return reasons


def _rules(measured: Measured, section: VerifySection) -> Iterator[tuple[str, Mask]]:
    if section.min_answer_margin is not None:
        for name in MARGINS:
            yield f"{name}_below_min", measured[name] < section.min_answer_margin
    if section.on_contradiction == "drop":
        for side in "ab":
            yield f"judge_contradicts_{side}", measured[f"judged_{side}_of_{side}"] == 0
    if section.on_affirmation == "drop":
        for own, other in ("ab", "ba"):
            yield f"judge_affirms_{own}_of_image_{other}", measured[f"judged_{own}_of_{other}"] == 1
    if section.on_missing_judgement == "drop":
        for name in VERDICTS:
            yield f"{name}_missing", np.isnan(measured[name])


def accept_facts(decided: pa.Table, before: NDArray[Any]) -> dict[str, Any]:
    """How many pairs left here, by reason.

    Args:
        before: Each row's drop reason before.
    """
    reasons = np.array(decided["drop_reason"].to_pylist(), dtype=object)[before == ""]
    names, numbers = np.unique(reasons[reasons != ""].astype(str), return_counts=True)
    return {
        "num_verified": len(reasons),
        "dropped_by_reason": dict(zip(names.tolist(), numbers.tolist(), strict=True)),
    }
