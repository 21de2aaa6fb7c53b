"""RealWorldQA (xAI, 2024): photographs, mostly from cars; letters, yes/no, numbers and single
words.

Native files: annotations.json (a list of image, question, answer) and the images beside it or in
images/; or the Hub's xai-org/RealworldQA.

Chance: the mean of one over the number of choices, 1/2 for yes/no, 0 for open answers.

The last line of each question holds its own instruction, so the question is the prompt. Metric:
accuracy. The authors state no matching rule; ours is equality after `short_answer`, which reads
"two" as "2" and ignores case, punctuation and articles.
"""

import re
from collections.abc import Mapping, Sequence

from eval.benchmarks.benchmark import Benchmark, Scores
from eval.benchmarks.loading import Record, Source, open_source, value_of
from eval.benchmarks.ratios import by_slice, equals_truth, mean_score
from eval.benchmarks.short import accepts
from eval.question import LETTERS, Kind, Metric, Question, Verdict
from pipeline.core.recipe import UserError
from pipeline.core.schema import sha256_hex

_OPTION_LINE = re.compile(r"^\(?([A-Z])[.):](.*)$")


class RealWorldQa(Benchmark):
    """No options."""

    name, expected_size, headline = "realworldqa", 765, "accuracy"

    def read(
        self, source: str, limit: int | None, _options: Mapping[str, str], /
    ) -> list[Question]:
        """See `Benchmark.load`."""
        files = open_source(
            self.name, source, files=("annotations.json", "realworldqa*.json*", "*.jsonl")
        )
        return [
            self._question(files, row, record) for row, record in enumerate(files.records[:limit])
        ]

    def score(self, question: Question, verdict: Verdict) -> float | None:
        """1 for the right letter, the right one of yes and no, or an accepted answer."""
        return (accepts if question.kind == "short" else equals_truth)(question, verdict)

    def summarize(
        self, questions: Sequence[Question], _verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """accuracy, and accuracy per form of the answer."""
        return {
            "accuracy": mean_score(questions, scores),
            **by_slice("kind", questions, scores, lambda question: question.kind),
        }

    def _question(self, files: Source, row: int, record: Record) -> Question:
        where = f"{self.name}: row {row + 1}"
        text = value_of(record, "question", where, str)
        answer = value_of(record, "answer", where, str).strip()
        choices = options_in(text)
        kind: Kind = "short"
        truth: str | tuple[str, ...] = (answer,)
        if "letter" in text and len(answer) == 1 and answer.isalpha():
            kind, truth = "choice", answer.upper()
            if choices and truth not in LETTERS[: len(choices)]:
                raise UserError(
                    f"{where}: the answer {answer!r} is none of the {len(choices)} options of its"
                    " question"
                )
        elif answer.casefold() in ("yes", "no"):
            kind, truth = "yes_no", answer.casefold()
        image = files.image(record.get("image"), where, ("", "images"))
        return Question(
            item_id=str(record.get("id", row)),
            prompt=text,
            image=image,
            kind=kind,
            choices=(choices or ("",) * 4) if kind == "choice" else (),
            truth=truth,
            cluster=sha256_hex(image)[:16],
            max_new_tokens=128,
            meta={},
        )


def options_in(text: str) -> tuple[str, ...]:
    """The options on lines of their own, "A. Left" or "(A) Left", if they run from A on."""
    matches = [_OPTION_LINE.match(line.strip()) for line in text.split("\n")]
    lines = [(match[1], match[2].strip()) for match in matches if match and match[2].strip()]
    if len(lines) < 2 or "".join(letter for letter, _ in lines) != LETTERS[: len(lines)]:
        return ()
    return tuple(option for _, option in lines)
