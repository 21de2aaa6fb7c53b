"""The benchmarks as they are published, file for file and column for column, with a few drawn
images in place of theirs.

`LAYOUTS[name](folder)` writes one and returns (benchmark, source, options, number of questions).
"""

import base64
import csv
import functools
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.eval.benchmarks.native_benchmarks import MMHAL_TYPES, picture

Layout = tuple[str, Path, dict[str, str], int]
Row = dict[str, Any]
# what texts hold at times, and what is no end of a line
ODD = "a\u2028b\u2029c\x85d"


def _put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def _lines(path: Path, rows: Sequence[Row], end: str = "\n") -> None:
    _put(path, "".join(json.dumps(row, ensure_ascii=False) + end for row in rows))


def _parquet(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def _shown(number: int, name: str | None = None) -> Row:
    """An image as `datasets` stores it."""
    return {"bytes": picture(number), "path": name or f"{number}.png"}


@functools.cache
def _base64(number: int, kind: str = "PNG") -> str:
    return base64.b64encode(picture(number, kind)).decode()


def _tsv(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows(rows)


def _cvbench_rows() -> list[Row]:
    rows = []
    for idx, source in enumerate(("ADE20K", "COCO", "ADE20K", "Omni3D", "Omni3D")):
        kind = "3D" if source == "Omni3D" else "2D"
        choices = ["0", "1", "2"] if idx == 0 else ["left", "right"]
        listed = " ".join(
            f"({letter}) {text}" for letter, text in zip("ABC", choices, strict=False)
        )
        rows.append(
            {
                "idx": idx,
                "type": kind,
                "task": "Count" if idx == 0 else "Relation" if kind == "2D" else "Depth",
                "question": f"Where is it, {ODD}?",
                "choices": choices,
                "answer": "(B)",
                "prompt": f"Where is it, {ODD}? Select from the following choices.\n{listed}",
                "filename": f"img/{kind}/part/{idx}.png",
                "source": source,
                "source_dataset": f"{source} Dataset",
                "source_filename": f"{idx}.jpg",
                "target_class": None,
                "target_size": None,
                "bbox": None,
            }
        )
    return rows


def cvbench_repository(folder: Path, *, own_ids: bool = False) -> Layout:
    """The Hub's repository as it is cloned: lines, images and Parquet beside each other."""
    rows = _cvbench_rows()
    for kind in ("2D", "3D"):
        of_kind = [row | {} for row in rows if row["type"] == kind]
        for number, row in enumerate(of_kind):
            _put(folder / row["filename"], picture(row["idx"]))
            row["idx"] = number if own_ids else row["idx"]
        _lines(folder / f"test_{kind.lower()}.jsonl", of_kind)
        with_image = [row | {"image": _shown(0)} for row in of_kind]
        _parquet(folder / f"test_{kind.lower()}.parquet", with_image)
    return "cvbench", folder, {}, 5


def cvbench_two_counts(folder: Path) -> Layout:
    """The same with ids that begin at 0 in each of the two files."""
    return cvbench_repository(folder, own_ids=True)


def cvbench_parquet(folder: Path) -> Layout:
    """The Parquet files alone."""
    rows = [row | {"image": _shown(row["idx"])} for row in _cvbench_rows()]
    for kind in ("2D", "3D"):
        _parquet(
            folder / f"test_{kind.lower()}.parquet", [row for row in rows if row["type"] == kind]
        )
    return "cvbench", folder, {}, 5


def cvbench_converted(folder: Path) -> Layout:
    """As the Hub converts it: a folder per configuration, of which "default" has all."""
    rows = [row | {"image": _shown(row["idx"])} for row in _cvbench_rows()]
    _parquet(folder / "default" / "test" / "0000.parquet", rows[:3])
    _parquet(folder / "default" / "test" / "0001.parquet", rows[3:])
    _parquet(folder / "3D" / "test" / "0000.parquet", rows[3:])
    return "cvbench", folder, {}, 5


def cvbench_tsv(folder: Path) -> Layout:
    """VLMEvalKit's two files."""
    for kind in ("2D", "3D"):
        rows = [
            {"index": number, "image": _base64(row["idx"])}
            | {key: row[key] for key in ("question", "answer", "prompt", "source")}
            | {"choices": str(row["choices"]), "category": row["task"]}
            for number, row in enumerate(r for r in _cvbench_rows() if r["type"] == kind)
        ]
        _tsv(folder / f"CV-Bench-{kind}.tsv", rows)
    return "cvbench", folder, {}, 5


def mmvp_repository(folder: Path) -> Layout:
    """The Hub's repository: a CSV with a byte order mark and a column that is spelled "lndex"."""
    lines = ["lndex,Question,Options,Correct Answer"]
    for index in range(1, 5):
        letter = "(a)" if index % 2 else "(b)"
        lines.append(f'{index},"Is it ""open"", really?",(a) Open (b) Closed,{letter}')
        _put(folder / "MMVP Images" / f"{index}.jpg", picture(index, "JPEG"))
    _put(folder / "Questions.csv", "\ufeff" + "\r\n".join(lines) + "\r\n")
    return "mmvp", folder, {}, 4


def mmvp_tsv(folder: Path) -> Layout:
    """VLMEvalKit's file, whose index begins at 0."""
    rows = [
        {"index": index, "image": _base64(index), "question": 'Is it "open"?'}
        | {"A": "Open", "B": "Closed", "answer": "AB"[index % 2]}
        for index in range(4)
    ]
    _tsv(folder / "MMVP.tsv", rows)
    return "mmvp", folder, {}, 4


REALWORLDQA = [
    ("Where is it?\n\nA. Left\nB. Right\nPlease answer directly with only the letter.", "B"),
    ("Is it on?\nPlease answer directly with a single word or number.", "Yes"),
    ("How many are there?\nPlease answer directly with a single word or number.", "2"),
]


def realworldqa_parquet(folder: Path) -> Layout:
    """xai-org/RealworldQA: two shards."""
    rows = [
        {"image": _shown(number, None), "question": question, "answer": answer}
        for number, (question, answer) in enumerate(REALWORLDQA)
    ]
    _parquet(folder / "data" / "test-00000-of-00002.parquet", rows[:2])
    _parquet(folder / "data" / "test-00001-of-00002.parquet", rows[2:])
    return "realworldqa", folder, {}, 3


def realworldqa_tsv(folder: Path) -> Layout:
    """VLMEvalKit's file: options in columns; a cell above 128 KiB, an image named by its row."""
    large = base64.b64encode(picture(0) + b"\0" * 200_000).decode()
    rows = [
        {"index": 0, "image": large, "question": "Where?", "A": "Left", "B": "Right"},
        {"index": 1, "image": "0", "question": "How many?", "A": "1", "B": "2", "C": "3"},
    ]
    _tsv(folder / "RealWorldQA.tsv", [row | {"answer": "B"} for row in rows])
    return "realworldqa", folder, {}, 2


def mmhal_repository(folder: Path) -> Layout:
    """The Hub's repository: a template of answers, and the images in an archive."""
    rows = [
        {
            "question_type": MMHAL_TYPES[number % 8],
            "question_topic": "outdoor",
            "image_id": f"f{number}",
            "image_src": f"https://c4.staticflickr.com/5/4134/{number}_o.jpg?zz=1",
            "image_content": ["Tree", "House"],
            "question": "What is there?",
            "gt_answer": "A tree.",
            "model_answer": "",
        }
        for number in range(8)
    ]
    _put(folder / "response_template.json", json.dumps(rows, indent=4))
    with zipfile.ZipFile(folder / "test_data.zip", "w") as archive:
        for number in range(8):
            archive.writestr(f"images/{number}_o.jpg", picture(number, "JPEG"))
    return "mmhal", folder, {}, 8


def naturalbench_parquet(folder: Path) -> Layout:
    """BaiqiL/NaturalBench: a sample a row."""
    rows = [
        {
            "Index": index,
            "Image_0": _shown(2 * index),
            "Image_1": _shown(2 * index + 1),
            "Question_0": "Is it open?" if index else "Where?\nOption: A: left; B: right;",
            "Question_1": "Is it shut?" if index else "Which?\nOption: A: red; B: blue;",
            **{
                f"Image_{side}_Question_{asked}": ("Yes", "No")[side ^ asked]
                if index
                else ("A", "B")[side ^ asked]
                for side in (0, 1)
                for asked in (0, 1)
            },
            "Question_Type": "yes_no" if index else "multiple_choice",
            "Source": "DOCCI",
        }
        for index in range(2)
    ]
    _parquet(folder / "data" / "train-00000-of-00002-0a1b2c3d4e5f.parquet", rows[:1])
    _parquet(folder / "data" / "train-00001-of-00002-0a1b2c3d4e5f.parquet", rows[1:])
    return "naturalbench", folder, {}, 8


def naturalbench_tsv(folder: Path) -> Layout:
    """VLMEvalKit's file: an answer a row, four a sample."""
    rows = [
        {
            "index": place,
            "image": _base64(place % 2) if place < 2 else str(place % 2),
            "question": f"Is door {place // 2} open?",
            "answer": "Yes" if place in (0, 3) else "No",
            "type": "yes_no",
        }
        for place in range(4)
    ]
    _tsv(folder / "NaturalBenchDataset.tsv", rows)
    return "naturalbench", folder, {}, 4


def _pope_row(number: int) -> Row:
    return {
        "question_id": number,
        "image": f"COCO_val2014_{(number + 1) // 2:012d}.jpg",
        "text": f"Is there a door in the image, {ODD}?",
    }


def pope_llava(folder: Path) -> Layout:
    """LLaVA's playground/data/eval/pope: labels in coco/, images in val2014/, its own questions."""
    asked = []
    for place, split in enumerate(("adversarial", "popular", "random")):
        rows = [_pope_row(number) for number in (1, 2)]
        _lines(
            folder / "coco" / f"coco_pope_{split}.json",
            [row | {"label": "yes" if row["question_id"] == 1 else "no"} for row in rows],
        )
        for row in rows:
            _put(folder / "val2014" / row["image"], picture(row["question_id"], "JPEG"))
            question = row["text"] + "\nAnswer the question using a single word or phrase."
            asked.append(row | {"question_id": 3000 * place, "text": question, "category": split})
    _lines(folder / "llava_pope_test.jsonl", asked)
    return "pope", folder, {}, 6


def pope_llava_file(folder: Path) -> Layout:
    """The same, named by LLaVA's list of questions."""
    pope_llava(folder)
    return "pope", folder / "llava_pope_test.jsonl", {}, 6


def pope_repository(folder: Path) -> Layout:
    """AoiDragon/POPE: output/coco, and COCO's images beside it."""
    pope_llava(folder / "made")
    (folder / "output").mkdir(parents=True)
    (folder / "made" / "coco").rename(folder / "output" / "coco")
    (folder / "made" / "val2014").rename(folder / "val2014")
    return "pope", folder, {}, 6


def pope_parquet(folder: Path) -> Layout:
    """lmms-lab/POPE: all splits in one, and each again in a configuration of its own."""
    rows = [
        {
            "id": str(number),
            "question_id": str(number),
            "question": "Is there a door in the image?",
            "answer": "yes" if number % 2 else "no",
            "image_source": f"COCO_val2014_{number % 2}",
            "image": _shown(number % 2),
            "category": split,
        }
        for split in ("adversarial", "popular", "random")
        for number in (1, 2)
    ]
    _parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    for place, split in enumerate(("adversarial", "popular", "random")):
        _parquet(
            folder / "Full" / f"{split}-00000-of-00001.parquet", rows[2 * place : 2 * place + 2]
        )
    return "pope", folder, {}, 6


def pope_tsv(folder: Path) -> Layout:
    """VLMEvalKit's file: a question that splits share stands once."""
    rows = [
        {"index": 0, "image": _base64(0), "question": "Is there a door?", "answer": "Yes"},
        {"index": 1, "image": "0", "question": "Is there a dog?", "answer": "No"},
    ]
    _tsv(folder / "POPE.tsv", [row | {"category": "adversarial,popular,random"} for row in rows])
    return "pope", folder, {}, 6


HALLUSION = [  # category, subcategory, set, figure, question, answer
    ("VD", "illusion", "0", "0", "0", "1"),
    ("VD", "illusion", "0", "1", "0", "0"),
    ("VS", "chart", "0", "0", "0", "1"),
    ("VS", "chart", "0", "1", "0", "1"),
]


def hallusionbench_repository(folder: Path) -> Layout:
    """The authors' repository with the unpacked hallusion_bench.zip."""
    rows = []
    for category, subcategory, set_id, figure, question, answer in HALLUSION:
        is_blind = (category, figure) == ("VS", "0")
        name = f"./{category}/{subcategory}/{set_id}_{figure}.png"
        rows.append(
            {
                "category": category,
                "subcategory": subcategory,
                "visual_input": "0" if is_blind else "1",
                "set_id": set_id,
                "figure_id": figure,
                "sample_note": "",
                "question_id": question,
                "question": "Is the left one larger?",
                "gt_answer_details": "They are alike.",
                "gt_answer": answer,
                "filename": None if is_blind else name,
            }
        )
        if not is_blind:
            _put(folder / "hallusion_bench" / name, picture(len(rows)))
    _put(folder / "HallusionBench.json", json.dumps(rows))
    return "hallusionbench", folder, {}, 4


def hallusionbench_tsv(folder: Path) -> Layout:
    """VLMEvalKit's file: those with an image."""
    rows = [
        {
            "index": "_".join(("hallusion", category, subcategory, set_id, figure, question)),
            "image": _base64(place),
            "question": "Is the left one larger?",
            "answer": "Yes" if answer == "1" else "No",
            "category": category,
            "l2-category": subcategory,
        }
        for place, (category, subcategory, set_id, figure, question, answer) in enumerate(HALLUSION)
        if (category, figure) != ("VS", "0")
    ]
    _tsv(folder / "HallusionBench.tsv", rows)
    return "hallusionbench", folder, {"questions": "image"}, 3


def scienceqa_repository(folder: Path) -> Layout:
    """The authors' data/scienceqa, as LLaVA lays it out too: images/test/PID/image.png."""
    problems = {
        str(pid): {
            "question": f"Which is it, {ODD}?",
            "choices": ["one", "two"],
            "answer": pid % 2,
            "hint": "",
            "image": "image.png" if pid < 3 else None,
            "task": "closed choice",
            "grade": f"grade{pid}",
            "subject": "natural science",
            "topic": "physics",
            "category": "Magnets",
            "skill": "Compare",
            "lecture": "",
            "solution": "",
            "split": "test",
        }
        for pid in (1, 2, 3)
    }
    _put(folder / "problems.json", json.dumps(problems, ensure_ascii=False))
    splits = {"train": [], "val": [], "test": ["1", "2", "3"], "minitest": ["1"]}
    _put(folder / "pid_splits.json", json.dumps(splits))
    for pid in (1, 2):
        _put(folder / "images" / "test" / str(pid) / "image.png", picture(pid))
    return "scienceqa", folder, {}, 2


def scienceqa_parquet(folder: Path) -> Layout:
    """derek-thomas/ScienceQA: three splits; rows without an image."""
    rows = [
        {
            "image": _shown(number) if number else None,
            "question": "Which is it?",
            "choices": ["one", "two"],
            "answer": 1,
            "hint": "",
            "task": "closed choice",
            "grade": "grade7",
            "subject": "natural science",
        }
        for number in range(3)
    ]
    for split in ("train", "validation", "test"):
        name = f"{split}-00000-of-00001-1028f23e353fbe3e.parquet"
        _parquet(folder / "data" / name, rows if split == "test" else rows[:1])
    return "scienceqa", folder, {}, 2


def scienceqa_tsv(folder: Path) -> Layout:
    """VLMEvalKit's file."""
    rows = [
        {"index": number, "image": _base64(number), "question": "Which?", "hint": "Look."}
        | {"A": "one", "B": "two", "C": "three" if number else "", "answer": "B"}
        for number in range(2)
    ]
    _tsv(folder / "ScienceQA_TEST.tsv", [row | {"category": "magnets"} for row in rows])
    return "scienceqa", folder, {}, 2


def _textvqa_rows() -> list[Row]:
    return [
        {
            "question_id": 34_602 + number,
            "image_id": f"00{number}",
            "question": f"what is written, {ODD}?",
            "question_tokens": ["what", "is", "written"],
            "image_classes": ["Door"],
            "flickr_original_url": "https://example.org/o.jpg",
            "image_width": 24,
            "image_height": 24,
            "answers": ["stop"] * 10,
            "set_name": "val",
        }
        for number in range(2)
    ]


def textvqa_files(folder: Path) -> Layout:
    """The authors' files: questions of the validation, whose images lie among those of training."""
    held = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    _put(
        folder / "TextVQA_0.5.1_val.json",
        json.dumps(held | {"data": _textvqa_rows()}, ensure_ascii=False),
    )
    _put(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", json.dumps({"data": []}))
    for number in range(2):
        _put(folder / "train_images" / f"00{number}.jpg", picture(number, "JPEG"))
    return "textvqa", folder, {}, 2


def textvqa_parquet(folder: Path) -> Layout:
    """lmms-lab/textvqa: three splits with OCR tokens."""
    rows = [
        row | {"image": _shown(number), "ocr_tokens": ["STOP"]}
        for number, row in enumerate(_textvqa_rows())
    ]
    for split in ("train", "validation", "test"):
        _parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet",
            rows if split == "validation" else rows[:1],
        )
    return "textvqa", folder, {"ocr": "with"}, 2


def textvqa_tsv(folder: Path) -> Layout:
    """VLMEvalKit's file: ten answers in a cell."""
    rows = [
        {"index": number, "image": _base64(number), "question": "what is written?"}
        | {"answer": str(["stop"] * 10)}
        for number in range(2)
    ]
    _tsv(folder / "TextVQA_VAL.tsv", rows)
    return "textvqa", folder, {}, 2


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    writer.__name__: writer
    for writer in (
        cvbench_repository,
        cvbench_two_counts,
        cvbench_parquet,
        cvbench_converted,
        cvbench_tsv,
        mmvp_repository,
        mmvp_tsv,
        realworldqa_parquet,
        realworldqa_tsv,
        mmhal_repository,
        naturalbench_parquet,
        naturalbench_tsv,
        pope_llava,
        pope_llava_file,
        pope_repository,
        pope_parquet,
        pope_tsv,
        hallusionbench_repository,
        hallusionbench_tsv,
        scienceqa_repository,
        scienceqa_parquet,
        scienceqa_tsv,
        textvqa_files,
        textvqa_parquet,
        textvqa_tsv,
    )
}
