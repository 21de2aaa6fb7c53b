"""Small folders laid out like the native sources, with generated photographs; no test, called by
tests.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

# No multiple of a JPEG's 16 px blocks, as most photographs.
SIZE = (150, 116)
PEOPLE = "man woman girl boy child sailor dancer farmer".split()
THINGS = "dog bicycle ladder kite guitar bench canoe barrel".split()


def photograph(*seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Smooth random colours with a few shapes: no two seeds look alike, not to a perceptual hash
    either.
    """
    rng = np.random.default_rng(seed)
    field = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(field)
    for _ in range(4):
        x, y, w, h = (
            int(rng.integers(low, high))
            for low, high in ((0, size[0]), (0, size[1]), (12, 50), (12, 50))
        )
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return field


def repainted(image: Image.Image, *seed: int) -> Image.Image:
    """The picture with one region painted over."""
    rng = np.random.default_rng(seed)
    x, y = (int(rng.integers(0, side // 2)) for side in image.size)
    patch = photograph(*seed, 1, size=(image.width // 3, image.height // 3))
    image = image.copy()
    image.paste(patch, (x, y))
    return image


def save(path: Path, image: Image.Image, quality: int = 88) -> None:
    """Writes a picture in the format that its name says, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    (
        image.save(buffer, "PNG")
        if path.suffix == ".png"
        else image.save(buffer, "JPEG", quality=quality)
    )
    path.write_bytes(buffer.getvalue())


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_countercurate(root: Path, num_images: int, seed: int = 0) -> Path:
    """Flickr30k and Flickr30k-Counterfactuals under `root`; returns `root`.

    Rows per photograph: left_right 2, up_down 1, counting 1, noun 1, adjective 1; reverse 1 for
    every second.
    """
    flickr, data = (
        root / "flickr30k/flickr30k-images",
        root / "Flickr30k-Counterfactuals/train_data",
    )
    files: dict[str, dict] = {
        name: {} for name in ("left_right", "up_down", "counting", "captions", "dalle")
    }
    for number in range(num_images):
        index = str(1000 + 37 * number)
        one, other = PEOPLE[number % 8], THINGS[(number + number // 8) % 8]
        image = photograph(seed, 0, number)
        save(flickr / f"{index}.jpg", image)
        for subset in ("left_right", "up_down", "counting"):
            (data / subset / "pos").mkdir(parents=True, exist_ok=True)
            shutil.copy(flickr / f"{index}.jpg", data / subset / "pos")
        save(data / f"left_right/neg/{index}.jpg", ImageOps.mirror(image), quality=75)
        save(data / f"up_down/neg/{index}_0.png", repainted(image, seed, 1, number))
        save(data / f"counting/neg/{index}_0.png", repainted(image, seed, 2, number))
        files["left_right"][index] = [
            _relation(0, f"a {one}", f"a {other}", "to the left of", "to the right of"),
            _relation(1, f"a {other}", "the tree", "to the right of", "to the left of"),
        ]
        files["up_down"][index] = [_relation(0, f"a {one}", f"a {other}", "above", "below")]
        few, many = 2 + number % 2, 4 + number % 3
        files["counting"][index] = [
            {
                "image_id": 0,
                "pos": f"there are {few} {one}s and {many} {other}s.",
                "neg": f"there are {many} {one}s and {few} {other}s.",
                "locations": [[10, 20, 40, 60]],
                "phrases": [f"{other}s"],
                "prompt": f"there is a {other}s",
                "input_image": f"./flickr30k-images/{index}.jpg",
            }
        ]
        files["captions"][index] = [
            f"A tall {one} stands next to a {other}.",
            *(f"Caption {n} of {index}." for n in range(2, 6)),
        ]
        changed = {
            "noun": f"A tall {one} stands next to a {THINGS[(number + number // 8 + 3) % 8]}.",
            "adjective": f"A short {one} stands next to a {other}.",
            "reverse": f"A {other} stands next to a tall {one}." if number % 2 == 0 else None,
        }
        files["dalle"][index] = changed
        for change, text in changed.items():
            if text is not None:
                save(
                    data / f"dalle_gen_counterfactuals/{index}_{change}.jpg",
                    photograph(seed, 3, number, len(change)),
                    quality=50,
                )
    names = {"captions": "flickr30k_image_captions", "dalle": "dalle_gen_counterfactuals"}
    for name, content in files.items():
        write_json(data / f"{names.get(name, name)}.json", content)
    return root


def _relation(image_id: int, one: str, other: str, true: str, false: str) -> dict:
    coords = [[5, 10, 50, 60], [70, 12, 120, 80]]
    texts = {"pos": f"{one} is {true} {other}", "neg": f"{one} is {false} {other}"}
    return {"image_id": image_id, "phrases": [one, other], "coords": coords, **texts}


NEGATIVES = {
    "object": "The {other} beside the red {one}.",
    "attribute": "The {thing} beside the blue {one}.",
    "relation": "The {thing} on top of the red {one}.",
    "order": "The red {one} beside the {thing}.",
}


def write_finecops_ref(root: Path, num_images: int, seed: int = 0) -> Path:
    """GQA's images, FineCops-Ref's negative images and its annotations in both forms under `root`;
    returns `root`.

    Per photograph one positive, an image negative of each type in `NEGATIVES`, and a text negative.
    """
    positives, negatives = [], []
    for number in range(num_images):
        image_id, positive_id = str(2370000 + 11 * number), number
        image = photograph(seed, 4, number)
        save(root / f"images/{image_id}.jpg", image)
        words = {
            "one": PEOPLE[number % 8],
            "thing": THINGS[(number + number // 8) % 8],
            "other": THINGS[(number + number // 8 + 3) % 8],
        }
        shared = {
            "objects_id": [f"{number}1", f"{number}2"],
            "tuple": [["a", "beside", "b"]],
            "tuple_type": "2_hop",
            "level": 1 + number % 3,
        }
        expression = "The {thing} beside the red {one}.".format(**words)
        shared |= {"spatial": None, "attribute": ["red"]}
        positives.append(
            {"id": positive_id, "image_id": image_id, **shared, "expression": expression}
        )
        for kind, template in [
            *NEGATIVES.items(),
            ("attribute", "The {thing} beside the green {one}."),
        ]:
            is_text = "green" in template
            negative_id = 10_000 + len(negatives)
            stem = image_id if is_text else f"{image_id}_{negative_id}"
            if not is_text:
                save(
                    root / f"neg_images/{stem}.jpg",
                    repainted(image, seed, 5, negative_id),
                    quality=95,
                )
            about = {
                "positive_id": positive_id,
                "negative_level": 1,
                "negative_type": kind,
                "negative_cate": "text" if is_text else "image",
            }
            about |= {
                "shuffle_index": [0, 1],
                "ori_type": "2_hop",
                "expression": template.format(**words),
            }
            negatives.append({"id": negative_id, "image_id": stem, **shared, **about})
    for name, records in (("pos", positives), ("neg", negatives)):
        write_json(root / f"test_expression_{name}.json", records)
        write_json(root / f"test_expression_{name}_coco_format.json", as_coco(records))
    return root


def as_coco(records: list[dict]) -> dict:
    """Native records in the COCO-style form."""
    kept = (
        "level",
        "tuple_type",
        "negative_type",
        "negative_level",
        "negative_cate",
        "positive_id",
    )
    entry = {"width": SIZE[0], "height": SIZE[1], "dataset_name": "finecops"}
    return {
        "images": [
            {
                "id": r["id"],
                "file_name": f"{r['image_id']}.jpg",
                "caption": r["expression"],
                **entry,
            }
            for r in records
        ],
        "annotations": [
            {
                "id": n,
                "image_id": r["id"],
                "bbox": [10, 10, 40, 30],
                "area": 1200,
                **{key: r[key] for key in kept if key in r},
            }
            for n, r in enumerate(records)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
