"""A chat with a model that answers in JSON; a reply that fails its check goes back once."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from pipeline.llm.cache import Reply
from pipeline.llm.client import Endpoint
from pipeline.llm.reasoning import without_reasoning

Shape = TypeVar("Shape", bound=BaseModel)

NOT_JSON, WRONG_SCHEMA = "reply_not_json", "reply_wrong_schema"
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


def problem_as_json(failure: Failure) -> str:
    """What is wrong, as data."""
    return json.dumps({"problem": failure.problem}, ensure_ascii=False)


@functools.cache
def read_prompt(path: Path) -> str:
    """The instructions in a file; changed ones are a new file."""
    return path.read_text(encoding="utf-8").strip()


def prompt_sha256(path: Path) -> str:
    """The first 64 bits of a prompt's hash."""
    return hashlib.sha256(read_prompt(path).encode()).hexdigest()[:16]


def first_messages(
    instructions: str, material: Mapping[str, Any], image_uri: str | None = None
) -> list[dict[str, Any]]:
    """A chat's first request; material goes as JSON, so that no text passes for another field."""
    text = json.dumps(dict(material), ensure_ascii=False)
    picture_and_text = [
        {"type": "image_url", "image_url": {"url": image_uri}},
        {"type": "text", "text": text},
    ]
    return [
        {"role": "system", "content": instructions},
        {"role": "user", "content": picture_and_text if image_uri else text},
    ]


class StructuredChat:
    """A few requests about one thing, and what came of them.

    `replies` is all that was paid for; `refused` are the replies that failed, each with its
    failure.

    Args:
        again: What is said to a reply that failed; None leaves it at that.
    """

    def __init__(
        self, endpoint: Endpoint, again: Callable[[Failure], str | None] = problem_as_json
    ) -> None:
        self._endpoint, self._again = endpoint, again
        self.replies: list[Reply] = []
        self.refused: list[tuple[Failure, str]] = []

    async def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        shape: type[Shape],
        failure_of: Callable[[Shape], Failure | None] = lambda _: None,
    ) -> Shape | None:
        """What the model says, if its first or second try passes; otherwise None."""
        for _ in range(2):
            reply = await self._endpoint.ask(messages, json_schema(shape))
            if reply.model:
                self.replies.append(reply)
            said = read_reply(reply, shape)
            failure = said if isinstance(said, Failure) else failure_of(said)
            if failure is None:
                return cast(Shape, said)
            self.refused.append((failure, reply.text))
            again = self._again(failure)
            if again is None or not reply.model:
                return None
            # Some servers take no empty message.
            messages = [
                *messages,
                {"role": "assistant", "content": without_reasoning(reply.text) or "-"},
                {"role": "user", "content": again},
            ]
        return None


@functools.cache
def json_schema(shape: type[BaseModel]) -> dict[str, Any]:
    """A shape as servers enforce it: all of its fields and no others, without pydantic's titles."""
    fields = shape.model_json_schema()["properties"]
    properties = {
        name: {key: value for key, value in field.items() if key != "title"}
        for name, field in fields.items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_reply(reply: Reply, shape: type[Shape]) -> Shape | Failure:
    """A reply's JSON, also from within a code fence; or what is wrong with it."""
    if reply.fault:
        return Failure(reply.fault, _FAULTS.get(reply.fault, reply.fault))
    text = without_reasoning(reply.text)
    if text is None:
        return Failure("reply_cut_off", _FAULTS["reply_cut_off"])
    if text.startswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        is_json = error.errors()[0]["type"] != "json_invalid"
        names = ", ".join(shape.model_fields)
        return Failure(
            WRONG_SCHEMA if is_json else NOT_JSON,
            f"The reply must be one JSON object with the texts {names}, and nothing else.",
        )
