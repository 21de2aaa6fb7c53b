"""What a benchmark is: where its questions come from, what an answer earns, and what is counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from eval.benchmarks.ratios import equals_truth
from eval.question import Metric, Question, Verdict
from pipeline.core.recipe import UserError

Scores = Sequence[float | None]


class Benchmark:
    """One benchmark: a module of its own says how it is read, scored and summarized.

    Attributes:
        expected_size: How many questions the whole has, as published.
        headline: The metric that stands for the benchmark in a table of many.
        options: Its own switches: name -> allowed values, the default first.
    """

    name: str
    expected_size: int
    headline: str
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def load(
        self,
        source: str,
        *,
        limit: int | None = None,
        expected_size: int | None = None,
        **options: str,
    ) -> list[Question]:
        """The questions from local files in the native format, a `datasets` folder, or a Hub id.

        Args:
            limit: Only the first so many questions (whole pairs, figures and samples, so perhaps a
                few less); no size is checked then.
            expected_size: Questions that the source must hold; None: the published size.

        Raises:
            UserError: Wrong, truncated or repeated records, an image that does not decode,
                another size.
        """
        chosen = checked_options(self.name, options, self.options)
        questions = self.read(source, limit, chosen)
        for item_id, count in Counter(question.item_id for question in questions).items():
            if count > 1:
                raise UserError(
                    f"{self.name}: the id {item_id!r} occurs twice; every question must occur once"
                )
        size = expected_size or self.size_of(chosen)
        if not questions or (limit is None and len(questions) != size):
            raise UserError(
                f"{self.name}: expected {size:,} questions, found {len(questions):,}; fetch the"
                " benchmark again, or state expected_size (another version of it) or limit (a part"
                " of it)"
            )
        return questions

    def read(self, source: str, limit: int | None, options: Mapping[str, str], /) -> list[Question]:
        """The questions under options that are all filled in; `load` checks ids and number."""
        raise NotImplementedError

    def size_of(self, _options: Mapping[str, str], /) -> int:
        """How many questions there are under these options."""
        return self.expected_size

    def score(self, question: Question, verdict: Verdict) -> float | None:
        """What one answer earns: in [0, 1], or a judge's rating; None where nobody judged."""
        return equals_truth(question, verdict)

    def metrics(
        self, questions: Sequence[Question], verdicts: Sequence[Verdict]
    ) -> dict[str, Metric]:
        """Every metric of the benchmark, as its authors define it; `headline` is among them."""
        return self.summarize(questions, verdicts, list(map(self.score, questions, verdicts)))

    def summarize(
        self, questions: Sequence[Question], verdicts: Sequence[Verdict], scores: Scores, /
    ) -> dict[str, Metric]:
        """The metrics from what every answer says and earns."""
        raise NotImplementedError


def checked_options(
    name: str, given: Mapping[str, str], allowed: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """The options with defaults filled in.

    Raises:
        UserError: An option or a value that the benchmark does not know.
    """
    for key, value in given.items():
        if key not in allowed:
            raise UserError(f"{name}: no option {key!r}; it has {', '.join(allowed) or 'none'}")
        if value not in allowed[key]:
            raise UserError(f"{name}: {key}={value!r}; expected one of {', '.join(allowed[key])}")
    return {key: given.get(key, values[0]) for key, values in allowed.items()}
