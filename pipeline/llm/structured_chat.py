"""A short talk with a model that answers in JSON: a reply that is no such JSON, or fails its check,
goes back once.
"""

import functools
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.llm.cache import Reply
from pipeline.llm.client import Endpoint

Shape = TypeVar("Shape", bound=BaseModel)

_FAULTS = {
    "reply_empty": "The reply was empty.",
    "reply_refused": "The reply was a refusal; nothing in the captions needs one.",
    "reply_cut_off": "The reply was too long and was cut off; be brief.",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What is wrong: the fact as it is counted, and the sentence that goes back to the model."""

    reason: str
    problem: str


class Talk:
    """The requests about one pair, and what came of them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.replies: list[Reply] = []
        self.refused: list[tuple[Failure, str]] = []

    async def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        shape: type[Shape],
        failure_of: Callable[[Shape], Failure | None] = lambda _: None,
    ) -> Shape | None:
        """What the model says, if its first or second try passes; None if neither does, or if there
        was no reply at all.
        """
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
            messages = [
                *messages,
                {"role": "assistant", "content": reply.text or "-"},
                {"role": "user", "content": again},
            ]
        return None


@functools.cache
def _schema(shape: type[BaseModel]) -> dict[str, Any]:
    names = list(shape.model_fields)
    kinds = {name: _kind(field.annotation) for name, field in shape.model_fields.items()}
    return {"type": "object", "properties": kinds, "required": names, "additionalProperties": False}


def _kind(annotation: Any) -> dict[str, Any]:
    """A text, or one of the words of a Literal."""
    choices = list(typing.get_args(annotation))
    return {"type": "string", "enum": choices} if choices else {"type": "string"}


def _read(reply: Reply, shape: type[Shape]) -> tuple[Shape | None, Failure | None]:
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
        return None, Failure(
            reason, f"The reply must be one JSON object with the texts {names}, and nothing else."
        )
