"""What a writer is given of a pair, what it gives back, and the writer that needs no model."""

from dataclasses import dataclass

from pipeline.llm.cache import Reply
from pipeline.llm.structured_chat import Failure
from pipeline.rewrite import template
from pipeline.rewrite.template import Written


@dataclass(frozen=True, slots=True)
class Pair:
    """What is known of a pair when its texts are written."""

    caption_a: str
    caption_b: str
    category: str
    question: str | None = None

    @property
    def captions(self) -> tuple[str, str]:
        """Both captions."""
        return self.caption_a, self.caption_b


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A pair's texts, or why it has none, and what was tried.

    `status` is template, llm, llm_retried or fallback ("" where `written` is None; then
    `drop_reason` says why); `refused` are the replies that failed, each with its failure; `replies`
    is everything that was paid for.
    """

    written: Written | None
    status: str = ""
    model: str | None = None
    drop_reason: str = ""
    refused: tuple[tuple[Failure, str], ...] = ()
    replies: tuple[Reply, ...] = ()


def by_template(pair: Pair) -> Rewrite:
    """The template's texts."""
    written = template.write(pair.caption_a, pair.caption_b, pair.category, pair.question)
    return (
        Rewrite(written, "template")
        if written
        else Rewrite(None, drop_reason="question_leaks_contrast")
    )
