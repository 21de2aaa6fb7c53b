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
from types import MappingProxyType

from eval.benchmarks.checks import Record, checked, checked_options, take_evenly, value_of
from eval.benchmarks.loading import Source, open_source
from eval.benchmarks.ratios import by_slice, equals_truth, mean_score
from eval.benchmarks.short import accepts
from eval.question import LETTERS, BenchmarkError, Kind, Metric, Question, Verdict
from pipeline.core.schema import sha256_hex

NAME = "realworldqa"
_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", re.MULTILINE)


class RealWorldQa:
    """No options."""

    name, expected_size, headline = NAME, 765, "accuracy"
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def load(
        self,
        source: str,
        *,
        limit: int | None = None,
        expected_size: int | None = None,
        **options: str,
    ) -> list[Question]:
        """See `Benchmark.load`."""
        checked_options(NAME, options, self.options)
        found = open_source(
            NAME, source, files=("annotations.json", "realworldqa*.json*", "*.jsonl")
        )
        kept = take_evenly(list(enumerate(found.records)), limit, lambda _: None)
        questions = [_question(found, row, record) for row, record in kept]
        return checked(
            NAME, questions, limit=limit, expected_size=expected_size or self.expected_size
        )

    def score(self, question: Question, verdict: Verdict) -> float | None:
        """1 for the right letter, the right one of yes and no, or an accepted answer."""
        return (
            accepts(question, verdict)
            if question.kind == "short"
            else equals_truth(question, verdict)
        )

    def metrics(
        self, questions: Sequence[Question], verdicts: Sequence[Verdict]
    ) -> dict[str, Metric]:
        """accuracy, and accuracy per form of the answer."""
        scores = [
            self.score(question, verdict)
            for question, verdict in zip(questions, verdicts, strict=True)
        ]
        return {
            "accuracy": mean_score(questions, scores),
            **by_slice("kind", questions, scores, lambda question: question.kind),
        }


def _question(found: Source, row: int, record: Record) -> Question:
    where = f"{NAME}: row {row + 1}"
    text, answer = (
        value_of(record, "question", where, str),
        value_of(record, "answer", where, str).strip(),
    )
    choices = options_in(text)
    kind: Kind = "short"
    truth: str | tuple[str, ...] = (answer,)
    if "letter" in text and len(answer) == 1 and answer.isalpha():
        kind, truth = "choice", answer.upper()
        if choices and truth not in LETTERS[: len(choices)]:
            raise BenchmarkError(
                f"{where}: the answer {answer!r} is none of the {len(choices)} options of its"
                " question"
            )
    elif answer.casefold() in ("yes", "no"):
        kind, truth = "yes_no", answer.casefold()
    image = found.image(record.get("image"), where, ("", "images"))
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
    """The options that a question lists on lines of their own, "A. Left" or "(A) Left", if they run
    from A on.
    """
    found = _OPTION_LINE.findall(text)
    if len(found) < 2 or "".join(letter for letter, _ in found) != LETTERS[: len(found)]:
        return ()
    return tuple(option for _, option in found)


BENCHMARK = RealWorldQa()
