"""ScienceQA (Lu et al., NeurIPS 2022), the 2,017 test questions with an image ("IMG").

Native files: problems.json ({pid: {question, choices, answer, hint, image, split, subject,
grade}}), pid_splits.json, and test/PID/image.png; or the Hub's derek-thomas/ScienceQA.

Chance: the mean of one over the number of choices.

Rows without an image are left out (the published IMG score is over the others). Metric: accuracy,
also per subject and per range of grades as its authors report it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, read_json_file, texts_of, value_of
from eval.benchmarks.mmvp import ASK
from eval.benchmarks.ratios import by_slice, mean_score
from eval.question import LETTERS, Metric, Question, Verdict
from pipeline.core.recipe import UserError


class ScienceQa(Benchmark):
    """No options."""

    name, expected_size, headline = "scienceqa", 2017, "accuracy"

    def read(
        self, source: str, limit: int | None, _options: Mapping[str, str], /
    ) -> list[Question]:
        """See `Benchmark.load`."""
        # lmms' copy on the Hub has the questions with an image as a configuration of their own.
        config = "ScienceQA-IMG" if "lmms" in source else None
        files = open_source(
            self.name, source, files=("problems.json",), read=_read_native, config=config
        )
        with_image = [
            (row, record) for row, record in enumerate(files.records) if record.get("image")
        ]
        return [self._question(files, row, record) for row, record in with_image[:limit]]

    def summarize(
        self, questions: Sequence[Question], _verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """accuracy, and accuracy per subject and range of grades."""
        return {
            "accuracy": mean_score(questions, scores),
            **by_slice(
                "subject", questions, scores, lambda question: str(question.meta["subject"])
            ),
            **by_slice("grades", questions, scores, lambda question: str(question.meta["grades"])),
        }

    def _question(self, files: Source, row: int, record: Record) -> Question:
        pid = str(record.get("pid", record.get("id", row)))
        where = f"{self.name}: problem {pid}"
        choices = texts_of(record, "choices", where)
        answer = value_of(record, "answer", where, int)
        if len(choices) < 2 or not 0 <= answer < len(choices):
            raise UserError(f"{where}: the answer {answer} is none of the {len(choices)} choices")
        hint = str(record.get("hint") or "").strip()
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        return Question(
            item_id=pid,
            prompt="\n".join(
                [
                    *([f"Context: {hint}"] if hint else []),
                    value_of(record, "question", where, str),
                    *lines,
                    ASK,
                ]
            ),
            image=files.image(record["image"], where, ("test", "images/test", "images", "")),
            kind="choice",
            choices=choices,
            truth=LETTERS[answer],
            cluster=pid,
            max_new_tokens=128,
            meta={
                "subject": str(record.get("subject", "")),
                "grades": grades(str(record.get("grade", ""))),
            },
        )


def _read_native(path: Path) -> list[Record]:
    """The test problems as pid_splits.json orders them, each with `pid` and its image's path."""
    problems, splits = read_json_file(path), path.with_name("pid_splits.json")
    if not isinstance(problems, dict) or not all(
        isinstance(problem, dict) for problem in problems.values()
    ):
        raise UserError(f"{path}: expected an object of problems by id")
    pids = (
        read_json_file(splits).get("test", [])
        if splits.is_file()
        else [pid for pid, one in problems.items() if one.get("split") == "test"]
    )
    lost = [pid for pid in pids if str(pid) not in problems]
    if lost:
        raise UserError(
            f"{path}: {len(lost)} problems of pid_splits.json are not in it, {lost[0]} first; the"
            " file is cut off"
        )
    chosen = [(str(pid), problems[str(pid)]) for pid in pids]
    return [
        problem
        | {"pid": pid, "image": f"{pid}/{problem['image']}" if problem.get("image") else None}
        for pid, problem in chosen
    ]


def grades(grade: str) -> str:
    """The authors' range of a grade: "grade4" -> "1-6", "grade11" -> "7-12"."""
    digits = re.sub(r"\D", "", grade)
    return "" if not digits else "1-6" if int(digits) <= 6 else "7-12"
