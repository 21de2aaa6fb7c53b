"""The writer that asks a model: one shared question, then two answers, each checked.

What is wrong is sent back once. Captions reach the model only inside a JSON object that the
instructions call material. Every pair has its own requests, so what a caption says can spoil its
own row and no other.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipeline.llm.client import Endpoint
from pipeline.llm.structured_chat import (
    StructuredChat,
    first_messages,
    prompt_sha256,
    read_prompt,
)
from pipeline.rewrite import checks
from pipeline.rewrite.checks import (
    answers_failure,
    kept_words,
    listed,
    question_failure,
    words_to_avoid,
)
from pipeline.rewrite.config import RewriteSection
from pipeline.rewrite.template import Written
from pipeline.rewrite.types import Pair, Rewrite, by_template
from pipeline.text import stemming

VERSION = 1

_PROMPTS = Path(__file__).parent / "prompts"
QUESTION_PROMPT, ANSWERS_PROMPT = _PROMPTS / "question.v1.txt", _PROMPTS / "answers.v1.txt"


_Line = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


class _Question(BaseModel):
    model_config = ConfigDict(strict=True)
    question: _Line


class _Answers(BaseModel):
    model_config = ConfigDict(strict=True)
    answer_a: _Line
    answer_b: _Line


def version() -> list[Any]:
    """What the texts depend on besides the recipe: prompts, checks, this code."""
    prompts = map(prompt_sha256, (QUESTION_PROMPT, ANSWERS_PROMPT))
    return [VERSION, checks.VERSION, stemming.VERSION, *prompts]


def question_messages(pair: Pair) -> list[dict[str, Any]]:
    """The request for the shared question."""
    data = {
        "caption_a": pair.caption_a,
        "caption_b": pair.caption_b,
        "words_to_avoid": words_to_avoid(*pair.captions),
    }
    return first_messages(read_prompt(QUESTION_PROMPT), data)


def answers_messages(pair: Pair, question: str) -> list[dict[str, Any]]:
    """The request for the two answers."""
    kept = kept_words(*pair.captions)
    data = {
        "question": question,
        "caption_a": pair.caption_a,
        "caption_b": pair.caption_b,
        "keep_in_a": listed(kept.own[0], pair.caption_a),
        "keep_in_b": listed(kept.own[1], pair.caption_b),
    }
    return first_messages(read_prompt(ANSWERS_PROMPT), data)


async def by_model(pair: Pair, endpoint: Endpoint, section: RewriteSection) -> Rewrite:
    """The model's texts, or the template's or none where they fail their checks twice.

    A question that the source brought along is kept if it passes the checks.
    """
    chat = StructuredChat(endpoint)
    written = await _written(pair, chat, section)
    refused, replies = tuple(chat.refused), tuple(chat.replies)
    if written is not None:
        return Rewrite(
            written, "llm_retried" if refused else "llm", replies[-1].model, "", refused, replies
        )
    if section.on_failure == "reject":
        return Rewrite(
            None, drop_reason=f"rewrite_{refused[-1][0].reason}", refused=refused, replies=replies
        )
    instead = by_template(pair)
    return Rewrite(
        instead.written,
        "fallback" if instead.written else "",
        None,
        instead.drop_reason,
        refused,
        replies,
    )


async def _written(pair: Pair, chat: StructuredChat, section: RewriteSection) -> Written | None:
    question = " ".join((pair.question or "").split())
    if not question or question_failure(question, *pair.captions, section.checks):
        asked = await chat.ask(
            question_messages(pair),
            _Question,
            lambda reply: question_failure(reply.question, *pair.captions, section.checks),
        )
        if asked is None:
            return None
        question = asked.question
    answers = await chat.ask(
        answers_messages(pair, question),
        _Answers,
        lambda reply: answers_failure(
            question, (reply.answer_a, reply.answer_b), pair.captions, section.checks
        ),
    )
    return Written(question, answers.answer_a, answers.answer_b) if answers else None
