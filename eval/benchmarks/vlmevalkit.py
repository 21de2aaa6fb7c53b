"""VLMEvalKit's TSV files, as the records that a benchmark's own files hold.

A file has one question a row: index, image (base64, or the index of the row that has it) or
image_path, question, the options in columns A, B, .., answer, category, l2-category, hint.
"""

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.question import LETTERS
from pipeline.core.recipe import UserError

Row = dict[str, Any]

# Benchmark -> its file or files
FILES = {
    "mmvp": "MMVP*.tsv",
    "cvbench": "CV-Bench*.tsv",
    "realworldqa": "RealWorldQA*.tsv",
    "pope": "POPE*.tsv",
    "hallusionbench": "HallusionBench*.tsv",
    "naturalbench": "NaturalBench*.tsv",
    "scienceqa": "ScienceQA_TEST*.tsv",
    "textvqa": "TextVQA_VAL*.tsv",
}


def files_in(name: str, folder: Path) -> list[Path]:
    """The files of a benchmark in a folder; of one and its copy without images the one."""
    files = sorted(folder.glob(FILES[name])) if name in FILES else []
    return [
        file
        for file in files
        if not (file.stem.endswith("_local") and file.with_stem(file.stem[:-6]) in files)
    ]


def native_records(name: str, rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows of a file in the benchmark's own words; other files stay as they are.

    Raises:
        UserError: Rows that belong together do not stand together, or an image that is not there.
    """
    if name not in _TRANSLATED or not rows or "index" not in rows[0]:
        return list(rows)
    return _TRANSLATED[name](with_images(rows, path), path)


def with_images(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows, each with its image: its own, that of the row it names, or the path of a file.

    Raises:
        UserError: It names a row that has no image, or several images.
    """
    images = {str(row["index"]): row.get("image") for row in rows}
    completed = []
    for row in rows:
        image = row.get("image") or row.get("image_path")
        image = images.get(image) or image if isinstance(image, str) else image
        listed = list_of(image)
        if listed is not None:
            if len(listed) != 1:
                raise UserError(
                    f"{path}: row {row['index']}: expected one image, got {len(listed)}; these"
                    " benchmarks show one with each question"
                )
            image = listed[0]
        completed.append({**row, "image": image})
    return completed


def list_of(value: Any) -> list[Any] | None:
    """A list that a cell spells, or is; None for any other value."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def options_of(row: Row) -> list[str]:
    """The options in the columns A, B, .. as far as they are filled."""
    options = []
    for letter in LETTERS:
        if not row.get(letter):
            break
        options.append(str(row[letter]))
    return options


def _lines(options: Sequence[str]) -> str:
    return "\n".join(
        f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)
    )


def _mmvp(rows: Sequence[Row], _path: Path) -> list[Row]:
    """Two rows are a pair, by their places."""
    return [
        row
        | {
            "Index": place,
            "Options": " ".join(
                f"({letter.lower()}) {option}"
                for letter, option in zip(LETTERS, options_of(row), strict=False)
            ),
        }
        for place, row in enumerate(rows, start=1)
    ]


def _cvbench(rows: Sequence[Row], _path: Path) -> list[Row]:
    records = []
    for row in rows:
        choices = list_of(row.get("choices")) or options_of(row)
        listed = " ".join(
            f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)
        )
        kind = row.get("type") or ("3D" if row.get("source") == "Omni3D" else "2D")
        records.append(
            row
            | {
                "idx": f"{kind}-{row['index']}",
                "type": kind,
                "task": row.get("task") or row.get("category"),
                "choices": choices,
                "prompt": row.get("prompt")
                or f"{row['question']} Select from the following choices.\n{listed}",
            }
        )
    return records


def _realworldqa(rows: Sequence[Row], _path: Path) -> list[Row]:
    """A question with options in columns asks for a letter, as the original does in its text."""
    ask = "Please answer directly with only the letter of the correct option and nothing else."
    return [
        row
        | {"id": row["index"]}
        | (
            {"question": f"{row['question']}\n\n{_lines(options_of(row))}\n{ask}"}
            if options_of(row) and "letter" not in row["question"]
            else {}
        )
        for row in rows
    ]


def _pope(rows: Sequence[Row], _path: Path) -> list[Row]:
    """A question that several splits share stands once, with all of their names."""
    return [
        row | {"question_id": row["index"], "category": split.strip()}
        for row in rows
        for split in str(row.get("category", "")).split(",")
    ]


def _hallusionbench(rows: Sequence[Row], path: Path) -> list[Row]:
    records = []
    for row in rows:
        numbers = str(row["index"]).rsplit("_", 3)[1:]
        if len(numbers) != 3:
            raise UserError(
                f"{path}: expected an index that ends in SET_FIGURE_QUESTION, got {row['index']!r}"
            )
        set_id, figure_id, question_id = numbers
        answer = str(row.get("answer", "")).strip().casefold()
        records.append(
            row
            | {
                "subcategory": row.get("l2-category"),
                "set_id": set_id,
                "figure_id": figure_id,
                "question_id": question_id,
                "gt_answer": {"yes": "1", "no": "0"}.get(answer, answer),
            }
        )
    return records


def _naturalbench(rows: Sequence[Row], path: Path) -> list[Row]:
    """Four rows are a sample: question 0 on image 0 and on image 1, then question 1 on both."""
    samples = []
    for number in range((len(rows) + 3) // 4):
        four = rows[4 * number : 4 * number + 4]
        texts = [row["question"] for row in four]
        if len(four) != 4 or texts[0] != texts[1] or texts[2] != texts[3]:
            raise UserError(
                f"{path}: row {4 * number + 1}: expected four rows of a sample, question 0 on both"
                " images and then question 1; rows are missing or reordered"
            )
        samples.append(
            {
                "Index": number,
                "Question_Type": four[0].get("type"),
                "Question_0": texts[0],
                "Question_1": texts[2],
                "Image_0": four[0]["image"],
                "Image_1": four[1]["image"],
                **{
                    f"Image_{place % 2}_Question_{place // 2}": row["answer"]
                    for place, row in enumerate(four)
                },
            }
        )
    return samples


def _scienceqa(rows: Sequence[Row], _path: Path) -> list[Row]:
    return [
        row
        | {
            "pid": row["index"],
            "choices": options_of(row),
            "answer": LETTERS.find(str(row["answer"]).strip()),
            "subject": row.get("category"),
        }
        for row in rows
    ]


def _textvqa(rows: Sequence[Row], _path: Path) -> list[Row]:
    return [
        row
        | {
            "question_id": row["index"],
            "image_id": row.get("image_id") or row["index"],
            "answers": list_of(row.get("answer")),
        }
        for row in rows
    ]


_TRANSLATED: dict[str, Callable[[Sequence[Row], Path], list[Row]]] = {
    "mmvp": _mmvp,
    "cvbench": _cvbench,
    "realworldqa": _realworldqa,
    "pope": _pope,
    "hallusionbench": _hallusionbench,
    "naturalbench": _naturalbench,
    "scienceqa": _scienceqa,
    "textvqa": _textvqa,
}
