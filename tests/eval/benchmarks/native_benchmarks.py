"""Small copies of the public benchmarks in the formats that their authors publish, made by us:
drawn images and invented questions.

`write(name, folder)` writes one and returns the folder. Run as a script it writes all of them:
python tests/eval/benchmarks/native_benchmarks.py DIR
"""

import csv
import functools
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "orange", "purple", "black")


@functools.cache
def picture(number: int, format_: str = "PNG") -> bytes:
    """A coloured shape; another for every number."""
    image = Image.new("RGB", (24, 24), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((2, 2, 6 + number % 16, 20), fill=COLOURS[number % len(COLOURS)])
    draw.point((number % 24, 23 - number // 24 % 24), fill="black")
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def _put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    _put(path, "".join(json.dumps(row) + "\n" for row in rows))


def mmvp(folder: Path, num_pairs: int = 3) -> None:
    rows = []
    for index in range(1, 2 * num_pairs + 1):
        # As in the original: the first of a pair is (a) where the pair's number is even.
        letter = "(a)" if (index % 2 == 1) == ((index - 1) // 2 % 2 == 0) else "(b)"
        question = {
            "Index": index,
            "Question": f"Is door {(index - 1) // 2}, at the left, open?",
            "Options": "(a) Open (b) Closed",
        }
        rows.append(question | {"Correct Answer": letter})
        _put(folder / "MMVP Images" / f"{index}.jpg", picture(index, "JPEG"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "Questions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


CVBENCH_SOURCES = ["ADE20K"] * 3 + ["COCO"] * 2 + ["Omni3D"] * 2


def cvbench(folder: Path) -> None:
    rows = []
    for idx, source in enumerate(CVBENCH_SOURCES):
        choices = ["1", "2", "3", "4"] if source == "ADE20K" else ["left", "right"]
        kind = "2D" if source != "Omni3D" else "3D"
        listed = " ".join(
            f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=False)
        )
        row = {
            "idx": idx,
            "type": kind,
            "task": "Count" if source == "ADE20K" else "Relation" if kind == "2D" else "Depth",
            "image": f"{kind}/{idx}.png",
            "question": "How many?",
            "choices": choices,
            "answer": "(B)",
            "prompt": f"How many? Select from the following choices.\n{listed}",
            "source": source,
        }
        rows.append(row)
        _put(folder / "img" / row["image"], picture(idx))
    _lines(folder / "cvbench_test.jsonl", rows)


def realworldqa(folder: Path) -> None:
    letter = "Please answer directly with only the letter of the correct option and nothing else."
    word = "Please answer directly with a single word or number."
    rows = [
        {"question": f"Where is the sign?\n\nA. Left\nB. Right\nC. Ahead\n{letter}", "answer": "C"},
        {"question": f"Is the light on?\n{word}", "answer": "Yes"},
        {"question": f"How many cars are there?\n{word}", "answer": "2"},
        {"question": f"What colour is the light?\n{word}", "answer": "Green"},
    ]
    for number, row in enumerate(rows):
        row["image"] = f"{number}.webp"
        _put(folder / row["image"], picture(number, "WEBP"))
    _put(folder / "annotations.json", json.dumps(rows))


MMHAL_TYPES = (
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)


def mmhal(folder: Path) -> None:
    rows = []
    for number in range(16):
        rows.append(
            {
                "question_type": MMHAL_TYPES[number % 8],
                "question_topic": "outdoor",
                "image_id": f"id{number}",
                "image_src": f"https://example.org/photos/{number}_o.jpg",
                "image_content": ["Door", "Wall"],
                "question": f"What is in picture {number}?",
                "gt_answer": "A door.",
                "model_answer": "",
            }
        )
        _put(folder / "images" / f"{number}_o.jpg", picture(number, "JPEG"))
    _put(folder / "response_template.json", json.dumps(rows))


def naturalbench(folder: Path) -> None:
    rows = []
    for index, form in enumerate(("yes_no", "multiple_choice", "yes_no")):
        yes, no = ("Yes", "No") if form == "yes_no" else ("A", "B")
        asked = (
            "Is the door open?"
            if form == "yes_no"
            else "Where is the door? Option: A: left; B: right;"
        )
        row: dict[str, Any] = {
            "Index": index,
            "Question_Type": form,
            "Source": "flickr",
            "Question_0": asked,
            "Question_1": f"Not: {asked}",
        }
        row |= {
            "Image_0_Question_0": yes,
            "Image_1_Question_0": no,
            "Image_0_Question_1": no,
            "Image_1_Question_1": yes,
        }
        for side in (0, 1):
            row[f"Image_{side}"] = {"bytes": picture(2 * index + side), "path": None}
        rows.append(row)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")


def pope(folder: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = []
        for number in range(1, 5):
            image = f"COCO_val2014_{(number + 1) // 2:012d}.jpg"
            label = "yes" if number % 2 else "no"
            rows.append(
                {
                    "question_id": number,
                    "image": image,
                    "text": f"Is there a door {number} in the image?",
                    "label": label,
                }
            )
            _put(folder / "val2014" / image, picture(number, "JPEG"))
        _lines(folder / f"coco_pope_{split}.json", rows)


# category, subcategory, visual_input, set_id, figure_id, question_id, gt_answer
HALLUSION_ROWS = [
    ("VD", "illusion", "1", "0", "0", "0", "1"),
    ("VD", "illusion", "1", "0", "0", "1", "0"),
    ("VD", "illusion", "2", "0", "1", "0", "0"),
    ("VD", "illusion", "2", "0", "1", "1", "1"),
    ("VS", "chart", "0", "0", "0", "0", "1"),
    ("VS", "chart", "1", "0", "1", "0", "1"),
    ("VS", "chart", "2", "0", "2", "0", "0"),
]


def hallusionbench(folder: Path) -> None:
    names = (
        "category",
        "subcategory",
        "visual_input",
        "set_id",
        "figure_id",
        "question_id",
        "gt_answer",
    )
    rows = []
    for number, values in enumerate(HALLUSION_ROWS):
        row: dict[str, Any] = dict(zip(names, values, strict=True))
        row |= {
            "sample_note": "",
            "question": f"Is line {number} longer?",
            "gt_answer_details": "It is as long.",
            "filename": None,
        }
        if values[2] != "0":
            row["filename"] = f"./{values[0]}/{values[1]}/{values[3]}_{values[4]}.png"
            _put(folder / "hallusion_bench" / row["filename"], picture(int(values[4])))
        rows.append(row)
    _put(folder / "HallusionBench.json", json.dumps(rows))


def textvqa(folder: Path) -> None:
    answers = [["red"] * 3 + ["blue"] * 7, ["stop"] * 10, [f"no {number}" for number in range(10)]]
    rows = []
    for number, given in enumerate(answers):
        rows.append(
            {
                "question_id": 34602 + number,
                "image_id": f"img{number}",
                "question": "What is written?",
                "answers": given,
            }
        )
        _put(folder / "train_images" / f"img{number}.jpg", picture(number, "JPEG"))
    _put(folder / "TextVQA_0.5.1_val.json", json.dumps({"dataset_type": "val", "data": rows}))
    prompts = [
        {
            "question_id": f"img{number}",
            "text": (
                f"what is written?\nReference OCR token: STOP, {number}\nAnswer the question using"
                " one."
            ),
        }
        for number in range(3)
    ]
    _lines(folder / "llava_textvqa_val_v051_ocr.jsonl", prompts)


def scienceqa(folder: Path) -> None:
    problems = {}
    for pid in range(1, 6):
        problems[str(pid)] = {
            "question": f"Which is it, {pid}?",
            "choices": ["one", "two", "three"][: 2 + pid % 2],
            "answer": pid % 2,
            "hint": "Look at the door." if pid == 1 else "",
            "image": "image.png" if pid != 3 else None,
            "split": "test" if pid != 5 else "train",
            "subject": "natural science" if pid < 4 else "social science",
            "grade": f"grade{4 * pid}",
        }
        if pid not in (3, 5):
            _put(folder / "test" / str(pid) / "image.png", picture(pid))
    _put(folder / "problems.json", json.dumps(problems))
    _put(folder / "pid_splits.json", json.dumps({"train": ["5"], "test": ["1", "2", "3", "4"]}))


WRITERS: dict[str, Callable[[Path], None]] = {
    "mmvp": mmvp,
    "cvbench": cvbench,
    "realworldqa": realworldqa,
    "mmhal": mmhal,
    "naturalbench": naturalbench,
    "pope": pope,
    "hallusionbench": hallusionbench,
    "textvqa": textvqa,
    "scienceqa": scienceqa,
}
SIZES = {
    "mmvp": 6,
    "cvbench": 7,
    "realworldqa": 4,
    "mmhal": 16,
    "naturalbench": 12,
    "pope": 12,
    "hallusionbench": 7,
    "textvqa": 3,
    "scienceqa": 3,
}


def write(name: str, folder: Path) -> Path:
    """Writes one benchmark into `folder`."""
    WRITERS[name](folder)
    return folder


if __name__ == "__main__":
    for written in WRITERS:
        print(write(written, Path(sys.argv[1]) / written))
