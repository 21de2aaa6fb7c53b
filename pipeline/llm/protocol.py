"""What an endpoint's answers mean: a reply, try again, the end of the job, or one row's fault."""

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pipeline.core.recipe import UserError
from pipeline.llm.cache import Reply

MAX_CHARS_SHOWN = 200
ASSUMED_IMAGE_TOKENS = 1500  # of a picture of about a megapixel; servers count 600 to 3,000
_NO_SUCH_MODEL = re.compile(
    r"model.{0,120}(not found|not exist|unknown|not available)|(unknown|no such|invalid)"
    r" model|model_not_found",
    re.I,
)


class EndpointError(UserError):
    """No request to this endpoint can succeed before somebody mends what the message says."""


class EveryRequestRefusedError(EndpointError):
    """All that was asked was refused: not the fault of a row, but of the recipe."""


class RetryableError(Exception):
    """A try that failed although the request may be good: busy, broken off, half an answer."""

    def __init__(
        self, what: str, retry_after_s: float | None = None, *, is_rate_limit: bool = False
    ) -> None:
        super().__init__(what)
        self.retry_after_s, self.is_rate_limit = retry_after_s, is_rate_limit


def fatal_reason(status: int, text: str, model: str, api_key_env: str | None) -> str | None:
    """Why no other request would fare better, or None.

    401 -> "the server does not accept the key in OPENAI_API_KEY (status 401)"
    """
    key = (
        f"the key in {api_key_env}"
        if api_key_env
        else "a request without a key; name the variable that holds it in api_key_env"
    )
    reasons = {
        f"the server does not accept {key}": status == 401,
        f"the server forbids this to {key}": status == 403,
        f"the account behind {key} has no money left": (
            status == 402 or (status == 429 and "insufficient_quota" in text)
        ),
        f"the server knows no model {model!r}": (
            status in (400, 404, 422) and _NO_SUCH_MODEL.search(text)
        ),
        "there is no /chat/completions; base_url usually ends with /v1": status == 404,
    }
    return next((f"{why} (status {status})" for why, holds in reasons.items() if holds), None)


def plain_message(text: str, key: str) -> str:
    """What a server says about an error, on one line, shortened, without the key."""
    try:
        body = json.loads(text)
        error = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
        message = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        message = text
    line = " ".join(str(message).split())
    line = line.replace(key, "***") if key else line
    return line if len(line) <= MAX_CHARS_SHOWN else f"{line[:MAX_CHARS_SHOWN]} ..."


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait for, or None.

    They stand in Retry-After-Ms, or in Retry-After as seconds or as a date.
    """
    in_ms, asked = headers.get("Retry-After-Ms", ""), headers.get("Retry-After", "")
    for value, unit_s in ((in_ms, 0.001), (asked, 1.0)):
        if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
            return float(value) * unit_s
    date = email.utils.parsedate_tz(asked)
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None


@lru_cache(maxsize=1024)  # instructions are the same in every request
def num_tokens(text: str) -> int:
    """About how many tokens a text has: one for four ASCII letters, or for any other character.

    "A red star." -> 3      "\u4e00\u53ea\u732b" -> 3
    """
    num_ascii = len(text.encode("ascii", "ignore"))
    return math.ceil(num_ascii / 4) + len(text) - num_ascii


def message_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """About how many tokens a chat has.

    A picture counts as ASSUMED_IMAGE_TOKENS, whatever its bytes.
    """
    contents = (message["content"] for message in messages)
    texts = (
        part.get("text")
        for content in contents
        for part in ([{"text": content}] if isinstance(content, str) else content)
    )
    return 4 * len(messages) + sum(
        ASSUMED_IMAGE_TOKENS if text is None else num_tokens(text) for text in texts
    )


def reply_of(
    text: str, messages: Sequence[Mapping[str, Any]], model: str, latency_s: float
) -> Reply:
    """A completion as a reply; what the server does not state is taken from the request.

    Raises:
        RetryableError: Half an answer: not JSON, or not of the protocol.
    """
    try:
        answer = json.loads(text)
        choices, usage = answer["choices"], answer.get("usage") or {}
        choice = choices[0] if choices else {}
        message = choice.get("message") or {}
        content, refusal = _text_of(message.get("content")), message.get("refusal")
        finish = choice.get("finish_reason")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RetryableError("status 200 with half an answer") from error
    faults = {
        "reply_refused": refusal or finish == "content_filter",
        "reply_cut_off": finish == "length",  # also before a word was said
        "reply_empty": not content.strip(),
    }
    return Reply(
        refusal or content,
        next((fault for fault, holds in faults.items() if holds), ""),
        str(answer.get("model") or model),
        int(usage.get("prompt_tokens") or message_tokens(messages)),
        int(usage.get("completion_tokens") or num_tokens(content)),
        round(latency_s, 4),
    )


def _text_of(content: Any) -> str:
    """What is said; of a list of parts the texts alone, so neither pictures nor reasoning."""
    if not isinstance(content, list | dict):
        return str(content or "")
    parts = [
        {"text": part} if isinstance(part, str) else part
        for part in (content if isinstance(content, list) else [content])
    ]
    return "".join(
        str(part["text"])
        for part in parts
        if part.get("text") and part.get("type", "text") in ("text", "output_text")
    )
