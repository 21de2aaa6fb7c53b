"""What `normalize` hides: the shortcut audit of pairs whose sides differ in nothing but how they
were saved.

    python bench/normalize.py PHOTOS  # JPEG photographs (any depth); one line per case and setting

The photographs are shrunk first, by a factor that moves the block grid, so that their own
compression does not show.
"""

import io
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.audit.image_traces import shortcut_features
from pipeline.audit.shortcuts import audit
from pipeline.config import NormalizeSection
from pipeline.stages.normalize import normalize_bytes

SETTINGS = {
    "keep": NormalizeSection(),
    "jpeg 95": NormalizeSection(mode="reencode", format="jpeg", quality=95, scale=1.0),
    "jpeg 75": NormalizeSection(mode="reencode", format="jpeg", quality=75, scale=1.0),
    "webp 75": NormalizeSection(mode="reencode", format="webp", quality=75, scale=1.0),
    "x 0.75 png": NormalizeSection(mode="reencode", format="png", scale=0.75),
    "x 0.75 jpeg 90": NormalizeSection(mode="reencode", format="jpeg", quality=90, scale=0.75),
    "x 0.75 jpeg 75": NormalizeSection(mode="reencode", format="jpeg", quality=75, scale=0.75),
    "x 0.75 webp 75": NormalizeSection(mode="reencode", format="webp", quality=75, scale=0.75),
}


def encoded(image: Image.Image, kind: str, quality: int = 0) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": quality} if quality else {}))
    return buffer.getvalue()


def resaved(original: bytes, kind: str, quality: int = 0) -> bytes:
    return encoded(ImageOps.mirror(Image.open(io.BytesIO(original))), kind, quality)


def cases(photo: Image.Image) -> dict[str, tuple[bytes, bytes]]:
    q90, q95 = encoded(photo, "JPEG", 90), encoded(photo, "JPEG", 95)
    return {
        "q90 / q75": (q90, resaved(q90, "JPEG", 75)),
        "q95 / q75": (q95, resaved(q95, "JPEG", 75)),
        "q90 / q50": (q90, resaved(q90, "JPEG", 50)),
        "q90 / PNG of it": (q90, resaved(q90, "PNG")),
        "q90 / PNG never compressed": (q90, encoded(photo, "PNG")),
    }


def main(folder: str) -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for path in sorted(Path(folder).rglob("*.jpg")):
        photo = Image.open(path).convert("RGB")
        size = tuple(int(side * rng.uniform(0.62, 0.8)) for side in photo.size)
        pairs.append(cases(photo.resize(size, Image.Resampling.LANCZOS)))
    for case, (name, section) in itertools.product(pairs[0], SETTINGS.items()):
        sides = (
            np.array(
                [shortcut_features(normalize_bytes(pair[case][side], section)) for pair in pairs]
            )
            for side in (0, 1)
        )
        found = audit(*sides, np.arange(len(pairs)), seed=0)
        print(
            f"{case:27} {name:15} AUC {found.auc:.2f} [{found.auc_low:.2f}, {found.auc_high:.2f}]",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
