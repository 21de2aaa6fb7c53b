"""What a worker tells apart, on rows as they come from a split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.config import EvalSection
from eval.inputs import read_items
from eval.pairs.scorer import answer_keys


def test_an_image_without_hash_is_like_no_other(
    rows: list[dict[str, Any]], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    def num_different(name: str, chosen: list[dict[str, Any]]) -> int:
        folder = write_rows(tmp_path / name, chosen)
        items = read_items(EvalSection(model="m", data=str(folder), out="o"))
        return len(set(answer_keys(items, "weights", {})))

    unknown = {"question": rows[0]["question"], "image_a_sha256": None, "image_b_sha256": None}
    assert num_different("unknown", [{**row, **unknown} for row in rows[:3]]) == 6
    assert num_different("repeated", [rows[0], rows[0]]) == 2
