"""NaturalBench (Li et al., NeurIPS 2024): 1,900 samples of two images and two questions whose
answers change with the image.

Native files: the Parquet files of the Hub's BaiqiL/NaturalBench (Index, Image_0, Image_1,
Question_0, Question_1, Image_0_Question_0 .. Image_1_Question_1, Question_Type), that id itself, or
naturalbench*.json, a list of the same with image paths.

Chance: 1/16 (four answers of a sample).

In every sample the truth is positive (Yes, or A) for question 0 on image 0 and question 1 on image
1, or the reverse. Metrics: Acc over 4; Q_Acc: a question right on both images; I_Acc: an image
right on both questions; G_Acc: all four.
"""

import re
from collections.abc import Mapping, Sequence

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, take_whole, value_of
from eval.benchmarks.ratios import all_right, by_slice, mean_score
from eval.question import Kind, Metric, Question, Verdict
from pipeline.core.recipe import UserError

ASK = {
    "yes_no": "Please answer Yes or No.",
    "multiple_choice": "Please output the letter corresponding to the correct option.",
}
_OPTION_A, _OPTION_B = re.compile(r"\bA ?[:.)]"), re.compile(r"[;,\n] {0,4}B ?[:.)]")


class NaturalBench(Benchmark):
    """No options."""

    name, expected_size, headline = "naturalbench", 7600, "g_acc"

    def read(
        self, source: str, limit: int | None, _options: Mapping[str, str], /
    ) -> list[Question]:
        """See `Benchmark.load`; a sample is four questions."""
        files = open_source(
            self.name, source, files=("naturalbench*.json", "naturalbench*.jsonl"), split="train"
        )
        kept = take_whole(
            list(enumerate(files.records)), limit, lambda entry: entry[0], questions_each=4
        )
        return [
            question for row, record in kept for question in self._questions(files, row, record)
        ]

    def summarize(
        self, questions: Sequence[Question], _verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """acc, q_acc, i_acc, g_acc, and acc per form of the answer."""
        return {
            "acc": mean_score(questions, scores),
            "q_acc": all_right(
                questions,
                scores,
                lambda question: (question.cluster, "question", question.meta["question"]),
            ),
            "i_acc": all_right(
                questions,
                scores,
                lambda question: (question.cluster, "image", question.meta["image"]),
            ),
            "g_acc": all_right(questions, scores, lambda question: question.cluster),
            **by_slice("kind", questions, scores, lambda question: question.kind),
        }

    def _questions(self, files: Source, row: int, record: Record) -> list[Question]:
        sample = value_of(record, ("Index", "index"), f"{self.name}: row {row + 1}", str)
        where = f"{self.name}: sample {sample}"
        form = value_of(record, ("Question_Type", "Question Type"), where, str)
        if form not in ASK:
            raise UserError(f"{where}: expected Question_Type {' or '.join(ASK)}, got {form!r}")
        kind: Kind = "yes_no" if form == "yes_no" else "choice"
        images = [
            files.image(record.get(f"Image_{side}"), f"{where}, image {side}", ("", "images"))
            for side in (0, 1)
        ]
        questions = []
        for number in (0, 1):
            text = value_of(record, f"Question_{number}", where, str)
            for side in (0, 1):
                answer = value_of(record, f"Image_{side}_Question_{number}", where, str).strip()
                truth = answer.casefold() if kind == "yes_no" else answer.upper()
                if truth not in (("yes", "no") if kind == "yes_no" else ("A", "B")):
                    raise UserError(
                        f"{where}: question {number} of image {side}: the answer {answer!r} does"
                        f" not fit {form}"
                    )
                questions.append(
                    Question(
                        item_id=f"{sample}-q{number}-i{side}",
                        prompt=f"{text} {ASK[form]}",
                        image=images[side],
                        kind=kind,
                        choices=() if kind == "yes_no" else _choices(text),
                        truth=truth,
                        cluster=sample,
                        counterpart=f"{sample}-q{number}-i{1 - side}",
                        max_new_tokens=128,
                        meta={"question": number, "image": side},
                    )
                )
            if questions[-1].truth == questions[-2].truth:
                raise UserError(
                    f"{where}: question {number} has the same answer on both images; the record is"
                    " damaged"
                )
        return questions


def _choices(text: str) -> tuple[str, ...]:
    first = _OPTION_A.search(text)
    second = _OPTION_B.search(text, first.end()) if first else None
    if first is None or second is None:
        return "", ""
    ends = text[first.end() : second.start()].strip(), text[second.end() :].strip()
    return ends[0], ends[1].rstrip(";.").rstrip()
