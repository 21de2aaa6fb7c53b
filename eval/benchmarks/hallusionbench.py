"""HallusionBench (Guan et al., CVPR 2024): illusions, charts, maps and edited figures; yes/no
questions in sets.

Native files: HallusionBench.json (category VD | VS, subcategory, visual_input, set_id, figure_id,
question_id, question, gt_answer, gt_answer_details, filename) and the folder hallusion_bench/ of
images; or the Hub's lmms-lab/HallusionBench, of which the split with images is read: give
`questions: image`.

Chance: 1/2.

Of the 1,129 questions 178 (VS, figure 0) come without a figure. Metrics: aAcc per question; fAcc:
every question of a figure right (what has no figure is left out); qAcc: a question right on every
figure of its set. As its authors score it, a question without a figure is also right when the
answer commits to neither yes nor no. Their judge is GPT-4; here yes and no are read from the
answer.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, take_whole, value_of
from eval.benchmarks.ratios import all_right, by_slice, equals_truth, mean_score
from eval.question import Metric, Question, Verdict
from pipeline.core.recipe import UserError

SIZES = {"all": 1129, "image": 951}
ASK = "Please answer yes or no."


class HallusionBench(Benchmark):
    """`questions`: "image" leaves out those without a figure, as VLMEvalKit does. `prompt`: "plain"
    asks without an instruction.
    """

    name, expected_size, headline = "hallusionbench", SIZES["all"], "aacc"
    options: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {"questions": ("all", "image"), "prompt": ("yes_no", "plain")}
    )

    def read(self, source: str, limit: int | None, options: Mapping[str, str], /) -> list[Question]:
        """See `Benchmark.load`; a limit takes whole sets."""
        files = open_source(self.name, source, files=("HallusionBench.json",), split="image")
        records = [
            (row, record)
            for row, record in enumerate(files.records)
            if options["questions"] == "all" or not _is_blind(record)
        ]
        kept = take_whole(records, limit, lambda entry: self._key(entry[1], entry[0])[:3])
        figures = {self._key(record, row) for row, record in kept}
        return [
            self._question(files, row, record, options["prompt"], figures) for row, record in kept
        ]

    def size_of(self, options: Mapping[str, str], /) -> int:
        """951 have an image."""
        return SIZES[options["questions"]]

    def score(self, question: Question, verdict: Verdict) -> float | None:
        """1 for the right one of yes and no; without a figure also where an answer is neither."""
        if question.meta["is_blind"] and verdict.status in ("ambiguous", "failed"):
            return 1.0
        return equals_truth(question, verdict)

    def summarize(
        self, questions: Sequence[Question], verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """aacc, facc and qacc over all, aacc per category and subcategory, and aacc_strict.

        The last takes a missing commitment as wrong.
        """
        # What has no figure is left out of the figures.
        seeing = [
            None if question.meta["is_blind"] else score
            for question, score in zip(questions, scores, strict=True)
        ]
        return {
            "aacc": mean_score(questions, scores),
            "facc": all_right(
                questions,
                seeing,
                lambda q: (q.cluster, "figure", q.meta["figure_id"]),
            ),
            "qacc": all_right(
                questions, scores, lambda q: (q.cluster, "question", q.meta["question_id"])
            ),
            "aacc_strict": mean_score(questions, list(map(equals_truth, questions, verdicts))),
            **by_slice("category", questions, scores, lambda q: str(q.meta["category"])),
            **by_slice(
                "subcategory",
                questions,
                scores,
                lambda q: f"{q.meta['category']} {q.meta['subcategory']}",
            ),
        }

    def _key(self, record: Record, row: int) -> tuple[str, ...]:
        return tuple(
            value_of(record, name, f"{self.name}: row {row + 1}", str)
            for name in ("category", "subcategory", "set_id", "figure_id", "question_id")
        )

    def _question(
        self, files: Source, row: int, record: Record, prompt: str, figures: set[tuple[str, ...]]
    ) -> Question:
        category, subcategory, set_id, figure_id, question_id = key = self._key(record, row)
        where, cluster = f"{self.name}: {'_'.join(key)}", "_".join(key[:3])
        truth = {"1": "yes", "0": "no"}.get(value_of(record, "gt_answer", where, str))
        if truth is None or category not in ("VD", "VS"):
            raise UserError(
                f"{where}: expected gt_answer 0 or 1 and category VD or VS, got"
                f" {record.get('gt_answer')!r}, {category!r}"
            )
        blind = _is_blind(record)
        text = value_of(record, "question", where, str).strip()
        # The pair of an edited figure is the original, number 0, and the other way round; in VS
        # number 0 is no figure at all.
        original = "1" if category == "VS" else "0"
        other = (
            category,
            subcategory,
            set_id,
            original if figure_id != original else str(int(original) + 1),
            question_id,
        )
        return Question(
            item_id="_".join(key),
            prompt=f"{text}\n{ASK}" if prompt == "yes_no" else text,
            image=None
            if blind
            else files.image(
                record.get("image") or record.get("filename"), where, ("", "hallusion_bench")
            ),
            kind="yes_no",
            truth=truth,
            cluster=cluster,
            counterpart="_".join(other) if other in figures and not blind else None,
            max_new_tokens=128,
            meta={
                "category": category,
                "subcategory": subcategory,
                "figure_id": figure_id,
                "question_id": question_id,
                "is_blind": blind,
                "details": str(record.get("gt_answer_details", "")),
            },
        )


def _is_blind(record: Record) -> bool:
    return str(record.get("category")) == "VS" and str(record.get("figure_id")) == "0"
