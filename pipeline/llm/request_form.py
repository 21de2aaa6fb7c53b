"""What of a request a server refuses to be given, and the form that it takes instead.

OpenAI's reasoning models know no `max_tokens` and no `temperature`, some servers no `seed`, no
schema, or no system message. A refusal names the parameter; then it is renamed or left out.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Body = dict[str, Any]

SYSTEM = "system message"
# Each is tried under its other name before it is left out.
_OTHER_NAMES = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
_NEEDED = ("model", "messages")
_UNKNOWN = (
    r"(?:unsupported|(?:does|do|is|are|be)\s?(?:not|n.t)\s(?:currently\s)?(?:support|accept|allow|permit)"
    r"|not[ _](?:supported|permitted|allowed|accepted|implemented)|unknown|unrecogni[sz]ed"
    r"|unexpected|extra_forbidden|no longer|deprecated|only the default|only [\d.]+ is)"
)
_NO_SYSTEM = re.compile(
    rf"\bsystem\b.{{0,20}}\b(?:role|message|prompt|instruction)s?\b.{{0,60}}{_UNKNOWN}"
    rf"|\brole\b.{{0,60}}{_UNKNOWN}.{{0,20}}\bsystem\b|roles must alternate",
    re.IGNORECASE | re.DOTALL,
)


class RequestForm:
    """The form of the requests that one model on one server takes, learned from its refusals."""

    def __init__(self) -> None:
        # parameter -> the name that it goes under, or None where it is left out
        self._names: dict[str, str | None] = {}

    def fit(self, body: Body) -> Body:
        """A request in the form that is known to be taken."""
        fitting: Body = {}
        for name, value in body.items():
            final: str | None = name
            while final in self._names:
                final = self._names[final]
            if final is not None:
                fitting.setdefault(final, value)
        if SYSTEM in self._names:
            fitting["messages"] = _without_system(body["messages"])
        return fitting

    def learn(self, sent: Mapping[str, Any], refusal: str) -> str | None:
        """What is changed from now on because a server refused what was sent; None for nothing.

        "max_tokens is not supported with this model" -> "max_completion_tokens for max_tokens"
        """
        roles = [message["role"] for message in sent["messages"]]
        if "system" in roles and _NO_SYSTEM.search(refusal):
            return self._note(SYSTEM, None)
        for name in sent:
            if name not in _NEEDED and _is_refused(name, refusal):
                other = _OTHER_NAMES.get(name)
                return self._note(name, None if other in self._names else other)
        return None

    def _note(self, name: str, instead: str | None) -> str:
        self._names[name] = instead
        if name == SYSTEM:
            return "what the system is told stands before the first question"
        return f"no {name}" if instead is None else f"{instead} for {name}"


def _is_refused(name: str, refusal: str) -> bool:
    if name == "response_format":
        return "response_format" in refusal or "json_schema" in refusal
    if _named_by_code(name, refusal):
        return True
    # a word of three letters or fewer is a parameter only in quotes
    quoted = rf"""["'`]{re.escape(name)}\\?["'`]"""
    word = quoted if len(name) <= 3 else rf"\b{re.escape(name)}\b"
    near = rf"{word}.{{0,80}}?{_UNKNOWN}|{_UNKNOWN}.{{0,40}}?{word}"
    return re.search(near, refusal, re.IGNORECASE | re.DOTALL) is not None


def _named_by_code(name: str, refusal: str) -> bool:
    try:
        error = json.loads(refusal)["error"]
        return error["param"] == name and str(error["code"]).startswith("unsupported")
    except (ValueError, KeyError, TypeError):
        return False


def _without_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The chat with what the system is told in front of the first thing that the user says."""
    told = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    chat = [dict(message) for message in messages if message["role"] != "system"]
    if told and chat:
        content = chat[0]["content"]
        chat[0]["content"] = (
            f"{told}\n\n{content}"
            if isinstance(content, str)
            else [{"type": "text", "text": told}, *content]
        )
    return chat
