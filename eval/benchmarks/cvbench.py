"""CV-Bench (Tong et al., NeurIPS 2024): counting, spatial relations, depth order and distance, from
three labelled image sets.

Native files: cvbench_test.jsonl, or test_2d.jsonl and test_3d.jsonl (idx, type, task, image or
filename, question, choices, answer "(C)", prompt, source) and the images beside them, in img/ or in
images/; or the Parquet files of the Hub's nyu-visionx/CV-Bench.

Chance: one over the number of choices, weighed as the score.

Its authors' score weighs sources, not questions: 2D = (ADE20K + COCO) / 2, 3D = Omni3D, combined =
(2D + 3D) / 2.
"""

from collections.abc import Mapping, Sequence

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, take_evenly, texts_of, value_of
from eval.benchmarks.mmvp import ASK
from eval.benchmarks.ratios import by_slice, mean_score, weighted
from eval.question import LETTERS, Metric, Question, Verdict
from pipeline.core.recipe import UserError
from pipeline.core.schema import sha256_hex

SOURCES = {"ADE20K": 0.25, "COCO": 0.25, "Omni3D": 0.5}


class CvBench(Benchmark):
    """No options."""

    name, expected_size, headline = "cvbench", 2638, "combined"

    def read(
        self, source: str, limit: int | None, _options: Mapping[str, str], /
    ) -> list[Question]:
        """See `Benchmark.load`; a limit takes from the three sources in turn."""
        files = open_source(
            self.name, source, files=("cvbench_test.jsonl", "test*.jsonl", "*.jsonl")
        )
        records = _told_apart(files.records)
        kept = take_evenly(
            list(enumerate(records)), limit, lambda entry: str(entry[1].get("source"))
        )
        return [self._question(files, row, record) for row, record in kept]

    def summarize(
        self, questions: Sequence[Question], _verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """combined (the authors' formula), 2d, 3d, and accuracy: over all, per source and task."""
        per_source = by_slice(
            "source", questions, scores, lambda question: str(question.meta["source"])
        )
        parts = {name: per_source.get(f"source/{name}") or mean_score([], []) for name in SOURCES}
        return {
            "combined": weighted([(name, weight, parts[name]) for name, weight in SOURCES.items()]),
            "2d": weighted([(name, 0.5, parts[name]) for name in ("ADE20K", "COCO")]),
            "3d": parts["Omni3D"],
            "accuracy": mean_score(questions, scores),
            **per_source,
            **by_slice("task", questions, scores, lambda question: str(question.meta["task"])),
        }

    def _question(self, files: Source, row: int, record: Record) -> Question:
        item_id = value_of(record, ("idx", "id"), f"{self.name}: row {row + 1}", str)
        where = f"{self.name}: question {item_id}"
        choices = texts_of(record, "choices", where)
        letter = value_of(record, "answer", where, str).strip().strip("()").upper()
        origin = value_of(record, "source", where, str)
        if letter not in LETTERS[: len(choices)] or len(letter) != 1:
            raise UserError(
                f"{where}: expected an answer like '(A)' among {len(choices)} choices, got"
                f" {letter!r}"
            )
        if origin not in SOURCES:
            raise UserError(f"{where}: expected source {', '.join(SOURCES)}, got {origin!r}")
        image = files.image(
            record.get("image") or record.get("filename"), where, ("", "img", "images")
        )
        return Question(
            item_id=item_id,
            prompt=f"{value_of(record, 'prompt', where, str)}\n{ASK}",
            image=image,
            kind="choice",
            choices=choices,
            truth=letter,
            cluster=sha256_hex(image)[:16],
            max_new_tokens=128,
            meta={
                "source": origin,
                "task": value_of(record, "task", where, str),
                "type": str(record.get("type", "")),
            },
        )


def _told_apart(records: list[Record]) -> list[Record]:
    """The records with their type in their ids, where each of two files counts from 0."""
    ids = {str(record.get("idx", record.get("id"))) for record in records}
    typed = [f"{record.get('type')}-{record.get('idx', record.get('id'))}" for record in records]
    if len(ids) == len(records) or len(set(typed)) < len(records):
        return records
    return [record | {"idx": idx} for record, idx in zip(records, typed, strict=True)]
