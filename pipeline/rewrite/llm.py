"""The writer that asks a model: one shared question, then two answers, each checked and sent back once with what is wrong.

Captions reach the model only inside a JSON object that the instructions call material. Every pair has its own requests, so
what a caption says can spoil its own row and no other.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.endpoint import Endpoint
from pipeline.response_cache import Reply
from pipeline.rewrite import atoms, checks
from pipeline.rewrite.checks import Failure, answers_failure, kept_words, listed, question_failure, words_to_avoid
from pipeline.rewrite.pair import Pair, Rewrite, by_template
from pipeline.rewrite.section import RewriteSection
from pipeline.rewrite.template import Written

VERSION = 1

_PROMPTS = Path(__file__).parent / "prompts"
QUESTION_PROMPT, ANSWERS_PROMPT = "question.v1.txt", "answers.v1.txt"
_FAULTS = {
    "reply_empty": "The reply was empty.",
    "reply_refused": "The reply was a refusal; nothing in the captions needs one.",
    "reply_cut_off": "The reply was too long and was cut off; be brief.",
}


class _Question(BaseModel):
    model_config = ConfigDict(strict=True)
    question: str


class _Answers(BaseModel):
    model_config = ConfigDict(strict=True)
    answer_a: str
    answer_b: str


_Shape = TypeVar("_Shape", _Question, _Answers)


@functools.cache
def prompt(name: str) -> str:
    """The text of a prompt; a changed prompt is a new file."""
    return (_PROMPTS / name).read_text(encoding="utf-8").strip()


def version() -> list[Any]:
    """What the texts depend on besides the recipe: prompts, checks, this code."""
    hashes = [hashlib.sha256(prompt(name).encode()).hexdigest()[:16] for name in (QUESTION_PROMPT, ANSWERS_PROMPT)]
    return [VERSION, checks.VERSION, atoms.VERSION, *hashes]


def question_messages(pair: Pair) -> list[dict[str, str]]:
    """The request for the shared question."""
    data = {"caption_a": pair.caption_a, "caption_b": pair.caption_b, "words_to_avoid": words_to_avoid(*pair.captions)}
    return _messages(QUESTION_PROMPT, data)


def answers_messages(pair: Pair, question: str) -> list[dict[str, str]]:
    """The request for the two answers."""
    kept = kept_words(*pair.captions)
    data = {
        "question": question,
        "caption_a": pair.caption_a,
        "caption_b": pair.caption_b,
        "keep_in_a": listed(kept.own_a, pair.caption_a),
        "keep_in_b": listed(kept.own_b, pair.caption_b),
    }
    return _messages(ANSWERS_PROMPT, data)


def _messages(name: str, data: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": "system", "content": prompt(name)}, {"role": "user", "content": json.dumps(data, ensure_ascii=False)}]


async def by_model(pair: Pair, endpoint: Endpoint, section: RewriteSection) -> Rewrite:
    """The model's texts; where they fail their checks twice, the template's or none, as the recipe says.

    A question that the source brought along is kept if it passes the checks.
    """
    talk = _Talk(endpoint)
    written = await _written(pair, talk, section)
    refused, replies = tuple(talk.refused), tuple(talk.replies)
    if written is not None:
        return Rewrite(written, "llm_retried" if refused else "llm", replies[-1].model, "", refused, replies)
    if section.on_failure == "reject":
        return Rewrite(None, drop_reason=f"rewrite_{refused[-1][0].reason}", refused=refused, replies=replies)
    instead = by_template(pair)
    return Rewrite(instead.written, "fallback" if instead.written else "", None, instead.drop_reason, refused, replies)


async def _written(pair: Pair, talk: "_Talk", section: RewriteSection) -> Written | None:
    question = " ".join((pair.question or "").split())
    if not question or question_failure(question, *pair.captions, section.checks):
        asked = await talk.ask(
            question_messages(pair), _Question, lambda reply: question_failure(_line(reply.question), *pair.captions, section.checks)
        )
        if asked is None:
            return None
        question = _line(asked.question)

    def fault(reply: _Answers) -> Failure | None:
        return answers_failure(question, (_line(reply.answer_a), _line(reply.answer_b)), pair.captions, section.checks)

    answers = await talk.ask(answers_messages(pair, question), _Answers, fault)
    return Written(question, _line(answers.answer_a), _line(answers.answer_b)) if answers else None


def _line(text: str) -> str:
    return " ".join(text.split())


class _Talk:
    """The requests of one pair, and what came of them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.replies: list[Reply] = []
        self.refused: list[tuple[Failure, str]] = []

    async def ask(
        self, messages: list[dict[str, str]], shape: type[_Shape], failure_of: Callable[[_Shape], Failure | None]
    ) -> _Shape | None:
        """What the model says, if its first or second try passes; None if neither does, or if there was no reply at all."""
        for _ in range(2):
            reply = await self._endpoint.ask(messages, _schema(shape))
            said, failure = _read(reply, shape)
            if reply.model:
                self.replies.append(reply)
            if said is not None:
                failure = failure_of(said)
                if failure is None:
                    return said
            assert failure is not None
            self.refused.append((failure, reply.text))
            if not reply.model:
                return None
            again = json.dumps({"problem": failure.problem}, ensure_ascii=False)
            # Some servers take no empty message.
            messages = [*messages, {"role": "assistant", "content": reply.text or "-"}, {"role": "user", "content": again}]
        return None


def _schema(shape: type[BaseModel]) -> dict[str, Any]:
    names = list(shape.model_fields)
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names, "additionalProperties": False}


def _read(reply: Reply, shape: type[_Shape]) -> tuple[_Shape | None, Failure | None]:
    """A reply's JSON, also from within a code fence; or what is wrong with it."""
    if reply.fault:
        return None, Failure(reply.fault, _FAULTS.get(reply.fault, reply.fault))
    text = reply.text.strip()
    if text.startswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    try:
        return shape.model_validate_json(text), None
    except ValidationError as error:
        is_json = error.errors()[0]["type"] != "json_invalid"
        names = ", ".join(shape.model_fields)
        reason = "reply_wrong_schema" if is_json else "reply_not_json"
        return None, Failure(reason, f"The reply must be one JSON object with the texts {names}, and nothing else.")
