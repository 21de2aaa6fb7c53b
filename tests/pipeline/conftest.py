import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(seed: int, size: int = 24) -> bytes:
    """A small noisy JPEG, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size * 2, size * 2)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes `num_groups` x 4 good pairs, and whatever lines are given besides, as a manifest with its images."""

    def write(num_groups: int = 5, extra_lines: list[str] | None = None) -> Path:
        root = tmp_path / "source"
        (root / "images").mkdir(parents=True, exist_ok=True)
        lines = []
        for group in range(num_groups):
            for number in range(5):
                (root / f"images/{group}-{number}.jpg").write_bytes(picture(group * 10 + number))
            for number in range(4):
                lines.append(
                    json.dumps(
                        {
                            "id": f"{group}-{number}",
                            "image_a": f"images/{group}-{number}.jpg",
                            "image_b": f"images/{group}-{number + 1}.jpg",
                            "caption_a": f"A picture with {'one two three four five'.split()[number]} dots.",
                            "caption_b": f"A picture with {'one two three four five'.split()[number + 1]} dots.",
                            "category": "count",
                            "group": f"group-{group}",
                            "license": "CC0-1.0",
                        }
                    )
                )
        middle = len(lines) // 2
        path = root / "pairs.jsonl"
        path.write_text("\n".join([*lines[:middle], *(extra_lines or []), *lines[middle:]]) + "\n")
        return path

    return write
