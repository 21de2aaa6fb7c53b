"""MMHal-Bench (Sun et al., 2023): 96 open questions in eight types; a judge without sight rates
each answer from 0 to 6.

Native files: response_template.json (question_type, question_topic, image_id, image_src,
image_content, question, gt_answer) and the images, named by the last part of `image_src`, beside it
or in images/; or the Hub's Shengcao1006/MMHal-Bench, which holds the same.

Chance: none.

Metrics: mean rating and hallucination rate, the share of ratings below 3 (a rating of 2.5, the mean
of several, counts). The types follow each other in a strict cycle, which the loader checks. What
nobody rated is missing: it is left out and counted, and never a rating of 0, which would be a
hallucination.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, value_of
from eval.benchmarks.ratios import by_slice, mean_score
from eval.question import Metric, Question, Verdict
from pipeline.core.recipe import UserError

TYPES = (
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)
HALLUCINATED_BELOW = 3.0
MAX_RATING = 6.0


class MmHal(Benchmark):
    """No options."""

    name, expected_size, headline = "mmhal", 96, "score"

    def read(
        self, source: str, limit: int | None, _options: Mapping[str, str], /
    ) -> list[Question]:
        """See `Benchmark.load`."""
        files = open_source(
            self.name,
            source,
            files=("response_template.json",),
            file_repositories=("Shengcao1006/MMHal-Bench",),
        )
        return [
            self._question(files, row, record) for row, record in enumerate(files.records[:limit])
        ]

    def score(self, question: Question, verdict: Verdict) -> float | None:
        """The rating, 0 to 6; None where nobody rated."""
        if verdict.value is None:
            return None
        rating = float(verdict.value)
        if not 0.0 <= rating <= MAX_RATING:
            raise UserError(
                f"{self.name}: question {question.item_id}: expected a rating from 0 to 6, got"
                f" {verdict.value}"
            )
        return rating

    def summarize(
        self, questions: Sequence[Question], _verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """score (0 to 6) over all and per type of question, hallucination_rate; without chance."""
        hallucinated = [
            None if score is None else float(score < HALLUCINATED_BELOW) for score in scores
        ]
        return {
            "score": mean_score(questions, scores, chance=None, unit="points"),
            "hallucination_rate": mean_score(
                questions, hallucinated, chance=None, higher_is_better=False
            ),
            **{
                name: replace(metric, chance=None, unit="points")
                for name, metric in by_slice(
                    "type", questions, scores, lambda question: str(question.meta["type"])
                ).items()
            },
        }

    def _question(self, files: Source, row: int, record: Record) -> Question:
        where = f"{self.name}: question {row}"
        kind = value_of(record, "question_type", where, str).strip().lower()
        # Graders find a question's type by its place (row % 8): a file in another order would be
        # scored under wrong names.
        if kind != TYPES[row % len(TYPES)]:
            raise UserError(
                f"{where}: expected type {TYPES[row % len(TYPES)]!r} at this place, got {kind!r};"
                " rows are missing or reordered"
            )
        named = PurePosixPath(re.split(r"[?#]", str(record.get("image_src", "")))[0]).name
        return Question(
            item_id=str(row),
            prompt=value_of(record, "question", where, str).strip(),
            image=files.image(
                record.get("image") or named, where, ("images", "", "test_data/images", "test_data")
            ),
            kind="free",
            truth=value_of(record, "gt_answer", where, str),
            cluster=value_of(record, ("image_id", "image_src"), where, str),
            max_new_tokens=1024,
            meta={
                "type": kind,
                "image_content": [str(content) for content in record.get("image_content") or []],
            },
        )
