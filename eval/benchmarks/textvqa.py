"""TextVQA (Singh et al., CVPR 2019), validation split: questions whose answer is written in the
image; ten human answers each.

Native files: TextVQA_0.5.1_val.json ({"data": [{question_id, image_id, question, answers}]}) and
train_images/IMAGE_ID.jpg, for `ocr: with` also llava_textvqa_val_v051_ocr.jsonl (LLaVA's prompts)
or TextVQA_Rosetta_OCR_v0.2_val.json; or the Hub's lmms-lab/textvqa.

Chance: 0 (open answers).

OCR tokens come from the record (`ocr_tokens`), from LLaVA's prompt file, or from Rosetta's. Scores
with and without them are not comparable: 58.2 and 45.5 for the same LLaVA-1.5-7B. Metric: the VQA
soft accuracy after EvalAI normalisation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import (
    Record,
    Source,
    open_source,
    read_file,
    read_json_file,
    texts_of,
    value_of,
)
from eval.benchmarks.ratios import mean_score
from eval.benchmarks.short import soft_accuracy
from eval.question import Metric, Question, Verdict
from pipeline.core.recipe import UserError

NUM_ANSWERS = 10
ASK = "Answer the question using a single word or phrase."
LLAVA_PROMPTS, ROSETTA = "llava_textvqa_val_v051_ocr.jsonl", "TextVQA_Rosetta_OCR_v0.2_val.json"


class TextVqa(Benchmark):
    """`ocr`: whether the prompt names the words that an OCR system read (the paper's protocol does,
    most others do not).
    """

    name, expected_size, headline = "textvqa", 5000, "accuracy"
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({"ocr": ("without", "with")})

    def read(self, source: str, limit: int | None, options: Mapping[str, str], /) -> list[Question]:
        """See `Benchmark.load`."""
        files = open_source(
            self.name,
            source,
            files=("TextVQA_0.5.1_val.json", "TextVQA_[0-9]*_val.json"),
            read=_read_native,
            split="validation",
        )
        prompts = _ocr_prompts(files) if options["ocr"] == "with" else {}
        return [
            self._question(files, row, record, options["ocr"], prompts)
            for row, record in enumerate(files.records[:limit])
        ]

    def score(self, question: Question, verdict: Verdict) -> float | None:
        """The VQA soft accuracy, in [0, 1]."""
        if verdict.status == "missing":
            return None
        return soft_accuracy(verdict.value, tuple(question.truth)) if verdict.value else 0.0

    def summarize(
        self, questions: Sequence[Question], _verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """accuracy: the mean of the soft accuracy."""
        return {"accuracy": mean_score(questions, scores)}

    def _question(
        self,
        files: Source,
        row: int,
        record: Record,
        ocr: str,
        prompts: Mapping[tuple[str, str], str],
    ) -> Question:
        item_id = value_of(record, "question_id", f"{self.name}: row {row + 1}", str)
        where = f"{self.name}: question {item_id}"
        image_id = value_of(record, "image_id", where, str)
        text = value_of(record, "question", where, str).strip()
        answers = texts_of(record, "answers", where)
        if len(answers) != NUM_ANSWERS:
            raise UserError(f"{where}: expected {NUM_ANSWERS} human answers, got {len(answers)}")
        # LLaVA's file and the data set do not agree on capitals.
        line = prompts.get((image_id, text.casefold())) or prompts.get((image_id, ""))
        if line is None and "ocr_tokens" in record:
            line = _ocr_line(record["ocr_tokens"] or [])
        if ocr == "with" and line is None:
            raise UserError(
                f"{where}: no OCR tokens; put {LLAVA_PROMPTS} or {ROSETTA} beside the questions, or"
                " use ocr=without"
            )
        return Question(
            item_id=item_id,
            prompt="\n".join([text, *([line or ""] if ocr == "with" else []), ASK]),
            image=files.image(
                record.get("image") or f"{image_id}.jpg", where, ("train_images", "images", "")
            ),
            kind="short",
            truth=answers,
            cluster=image_id,
            max_new_tokens=128,
            meta={"ocr": ocr, "normalise": "evalai"},
        )


def _read_native(path: Path) -> list[Record]:
    value = read_json_file(path)
    records = value.get("data") if isinstance(value, dict) else None
    if not isinstance(records, list):
        raise UserError(f'{path}: expected {{"data": [..]}} as TextVQA has it')
    return records


def _ocr_prompts(files: Source) -> dict[tuple[str, str], str]:
    """(image_id, question) -> the OCR line of its prompt; question "" for all of an image."""
    if files.root is None:
        return {}
    llava, rosetta = files.root / LLAVA_PROMPTS, files.root / ROSETTA
    if llava.is_file():
        lines = [
            (
                value_of(row, ("question_id", "image"), str(llava), str),
                str(row.get("text", "")).split("\n"),
            )
            for row in read_file(llava)
        ]
        return {
            (image_id, parts[0].strip().casefold()): parts[1]
            for image_id, parts in lines
            if len(parts) > 1
        }
    return {
        (str(row["image_id"]), ""): _ocr_line(row.get("ocr_tokens", []))
        for row in (_read_native(rosetta) if rosetta.is_file() else ())
    }


def _ocr_line(tokens: Sequence[Any]) -> str:
    return f"Reference OCR token: {', '.join(str(token) for token in tokens)}"
