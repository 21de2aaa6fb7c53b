"""POPE (Li et al., EMNLP 2023): is an object in the image? Three splits of 3,000 questions over 500
COCO images.

Native files: coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json (JSON lines
of question_id, image, text, label), also in coco/ as LLaVA lays them out, and the COCO val2014
images beside them, in val2014/ or in images/; or the Hub's lmms-lab/POPE.

Chance: 1/2, where half of the objects are there.

"Yes" is positive. An answer that cannot be read is wrong: it says neither yes nor no, so it is a
miss where the object is there and no false alarm where it is not. The yes-ratio is that of the
predictions.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, read_file, take_evenly, value_of
from eval.benchmarks.ratios import equals_truth, mean_score, weighted
from eval.benchmarks.textvqa import ASK
from eval.question import Metric, Question, Unit, Verdict
from pipeline.core.recipe import UserError
from pipeline.core.schema import sha256_hex

SPLITS = ("random", "popular", "adversarial")


class Pope(Benchmark):
    """`prompt`: "single_word" appends LLaVA's instruction, "plain" asks the question alone as its
    authors do.
    """

    name, expected_size, headline = "pope", 9000, "f1"
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({"prompt": ("single_word", "plain")})

    def read(self, source: str, limit: int | None, options: Mapping[str, str], /) -> list[Question]:
        """See `Benchmark.load`; a limit takes from the three splits in turn.

        The first random split had 2,910 questions: 8,910 in all.
        """
        files = open_source(
            self.name,
            source,
            files=tuple(
                f"{folder}coco_pope_random.json" for folder in ("", "coco/", "output/coco/")
            ),
            read=self._read_splits,
        )
        kept = take_evenly(files.records, limit, lambda record: str(record.get("category")))
        return [
            self._question(files, row, record, options["prompt"]) for row, record in enumerate(kept)
        ]

    def summarize(
        self, questions: Sequence[Question], verdicts: Sequence[Verdict], _scores: Scores, /
    ) -> dict[str, Metric]:
        """f1 and accuracy as means of the three splits, yes_ratio over all; and all of each split.

        Of a split: accuracy, precision, recall, f1, yes_ratio.
        """
        answered = list(zip(questions, verdicts, strict=True))
        per_split = {
            split: _split_metrics([(q, v) for q, v in answered if q.meta["split"] == split])
            for split in SPLITS
        }
        means = {
            name: weighted([(split, 1 / len(SPLITS), per_split[split][name]) for split in SPLITS])
            for name in ("f1", "accuracy")
        }
        return (
            means
            | {"yes_ratio": _split_metrics(answered)["yes_ratio"]}
            | {
                f"{split}/{name}": metric
                for split, metrics in per_split.items()
                for name, metric in metrics.items()
            }
        )

    def _read_splits(self, path: Path) -> list[Record]:
        """The records of all three files beside `path`, each with its `category`.

        Beside LLaVA's list of questions, which has no labels, they are in coco/.
        """
        records: list[Record] = []
        folder = path.parent if path.name.startswith("coco_pope") else path.parent / "coco"
        for split in SPLITS:
            part = folder / f"coco_pope_{split}.json"
            if not part.is_file():
                raise UserError(f"{self.name}: expected {part.name} in {folder}, found none there")
            records += [record | {"category": split} for record in read_file(part)]
        return records

    def _question(self, files: Source, row: int, record: Record, prompt: str) -> Question:
        split = value_of(record, "category", f"{self.name}: row {row + 1}", str)
        number = value_of(record, "question_id", f"{self.name}: row {row + 1} ({split})", str)
        where = f"{self.name}: question {number} ({split})"
        label = value_of(record, ("label", "answer"), where, str).strip().casefold()
        if label not in ("yes", "no") or split not in SPLITS:
            raise UserError(
                f"{where}: expected a label yes or no in a split {', '.join(SPLITS)}, got {label!r}"
            )
        text = value_of(record, ("text", "question"), where, str).strip()
        path = record.get("image")
        image = files.image(path, where, ("", "val2014", "images", "coco/val2014", "coco"))
        is_path = isinstance(path, str) and path.endswith((".jpg", ".jpeg", ".png"))
        return Question(
            item_id=f"{split}-{number}",
            prompt=f"{text}\n{ASK}" if prompt == "single_word" else text,
            image=image,
            kind="yes_no",
            truth=label,
            cluster=str(
                record.get("image_source") or (path if is_path else sha256_hex(image)[:16])
            ),
            max_new_tokens=128,
            meta={"split": split},
        )


def _split_metrics(answered: Sequence[tuple[Question, Verdict]]) -> dict[str, Metric]:
    """Ratios of sums, so they resample.

    precision = TP / (TP + FP), recall = TP / (TP + FN), f1 = 2 TP / (2 TP + FP + FN)
    """
    judged = [(question, verdict) for question, verdict in answered if verdict.status != "missing"]
    share = sum(question.truth == "yes" for question, _ in judged) / max(1, len(judged))

    def ratio(
        parts: Callable[[bool, bool], tuple[float, float]],
        chance: float,
        better: bool | None = True,
    ) -> Metric:
        """Of `parts`, the numerator and the denominator of an answer (said yes, is there)."""
        units = tuple(
            Unit(question.item_id, question.cluster, float(above), float(below))
            for question, verdict in judged
            for above, below in [parts(verdict.value == "yes", question.truth == "yes")]
        )
        return Metric(units=units, chance=chance, higher_is_better=better)

    return {
        "accuracy": mean_score(
            [question for question, _ in judged], list(itertools.starmap(equals_truth, judged))
        ),
        "precision": ratio(lambda said, there: (said and there, said), share),
        "recall": ratio(lambda said, there: (said and there, there), 0.5),
        # A coin on a share p of positives: TP = FN = p / 2, FP = (1 - p) / 2. Always "yes" would
        # reach 2 p / (1 + p).
        "f1": ratio(
            lambda said, there: (2 * (said and there), said + there), share / (share + 0.5)
        ),
        "yes_ratio": ratio(lambda said, _: (said, 1), 0.5, better=None),
    }
