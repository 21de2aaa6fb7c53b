"""MMVP (Tong et al., CVPR 2024): 150 pairs of images that CLIP takes for alike, one question,
opposite answers.

Native files: Questions.csv (Index, Question, Options "(a) Open (b) Closed", Correct Answer "(a)")
and "MMVP Images/1.jpg" .. "300.jpg"; or the Hub's MMVP/MMVP, which holds the same.

Chance: 1/4 (both questions of a pair).

Two metrics: accuracy over questions and over pairs. They are easily taken for each other: 56 % and
25 % may be the same answers. Four labels (rows 99 and 100, 279 and 280) are said to be swapped;
both readings are always reported.
"""

import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, take_whole, value_of
from eval.benchmarks.ratios import all_right, mean_score
from eval.question import LETTERS, Metric, Question, Verdict
from pipeline.core.recipe import UserError

# index -> (original, corrected)
DISPUTED = {99: ("A", "B"), 100: ("B", "A"), 279: ("A", "B"), 280: ("B", "A")}
ASK = "Answer with the option's letter from the given choices directly."
_OPTION = re.compile(r"\([a-z]\)", re.IGNORECASE)


class Mmvp(Benchmark):
    """`labels`: which reading of the four disputed labels the plain metrics use."""

    name, expected_size, headline = "mmvp", 300, "pair_accuracy"
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({"labels": ("original", "corrected")})

    def read(self, source: str, limit: int | None, options: Mapping[str, str], /) -> list[Question]:
        """See `Benchmark.load`."""
        files = open_source(
            self.name,
            source,
            files=("Questions.csv", "questions.csv"),
            split="train",
            file_repositories=("MMVP/MMVP",),
        )
        # The official CSV once spelled its first column with a small L.
        names = ("Index", "lndex", "index", "idx")
        indexed = [
            (value_of(record, names, f"{self.name}: row {row}", int), record)
            for row, record in enumerate(files.records, start=1)
        ]
        kept = take_whole(
            sorted(indexed, key=operator.itemgetter(0)), limit, lambda entry: (entry[0] - 1) // 2
        )
        questions = [
            self._question(files, index, record, options["labels"]) for index, record in kept
        ]
        for pair, count in Counter(question.cluster for question in questions).items():
            if count == 1:
                raise UserError(
                    f"{self.name}: pair {pair} has one question of two; fetch the benchmark again"
                )
        return questions

    def summarize(
        self, questions: Sequence[Question], verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """accuracy, pair_accuracy; and the latter under either reading of the disputed labels."""
        readings: dict[str, Scores] = {"": scores} | {
            f"_{labels}": [
                None
                if verdict.status == "missing"
                else float(verdict.value == question.meta[f"truth_{labels}"])
                for question, verdict in zip(questions, verdicts, strict=True)
            ]
            for labels in self.options["labels"]
        }
        metrics = {}
        for reading, earned in readings.items():
            metrics[f"accuracy{reading}"] = mean_score(questions, earned)
            metrics[f"pair_accuracy{reading}"] = all_right(
                questions, earned, lambda question: question.cluster
            )
        return metrics

    def _question(self, files: Source, index: int, record: Record, labels: str) -> Question:
        where = f"{self.name}: question {index}"
        options = value_of(record, ("Options", "options"), where, str).strip()
        choices = tuple(text.strip() for text in _OPTION.split(options)[1:])
        letter = (
            value_of(record, ("Correct Answer", "answer"), where, str).strip().strip("()").upper()
        )
        if len(choices) < 2 or letter not in LETTERS[: len(choices)]:
            raise UserError(
                f"{where}: expected options like '(a) Open (b) Closed' and one of their letters,"
                f" got {options!r}, {letter!r}"
            )
        original, corrected = DISPUTED.get(index, (letter, letter))
        text = value_of(record, ("Question", "question"), where, str).strip()
        return Question(
            item_id=str(index),
            prompt=f"{text} {options}\n{ASK}",
            image=files.image(
                record.get("image") or f"{index}.jpg", where, ("MMVP Images", "images", "")
            ),
            kind="choice",
            choices=choices,
            truth=corrected if labels == "corrected" else original,
            cluster=str((index - 1) // 2),
            counterpart=str(index + 1 if index % 2 else index - 1),
            max_new_tokens=128,
            meta={"index": index, "truth_original": original, "truth_corrected": corrected},
        )
