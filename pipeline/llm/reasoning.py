"""Where a model's reasoning ends and its answer begins, in a text that holds both."""

import re

_NAMES = (
    "(?:think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad|seed:think)"
)
# How a model opens its reasoning, or the prompt does it for the model, and how it is closed.
_OPENED = re.compile(
    rf"<{_NAMES}\s?>|\[THINK\]|\u25c1think\u25b7|<\|begin_of_thought\|>|<\|?channel\|?>",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    rf"</{_NAMES}\s?>|\[/THINK\]|\u25c1/think\u25b7|<\|end_of_thought\|>"
    r"|<\|channel\|>\s?final\s?(?:<\|constrain\|>\w{0,20})?<\|message\|>|<channel\|>",
    re.IGNORECASE,
)


def without_reasoning(text: str) -> str | None:
    """The answer alone: all after the last end of reasoning; None where no end came.

    "<think>It is shut.</think>\\n\\nB" -> "B"      "It is shut.</think> B" -> "B"
    "<think>It is sh" -> None
    """
    start = 0
    for closed in _CLOSED.finditer(text):
        start = closed.end()
    answer = text[start:]
    return None if _OPENED.search(answer) else answer.strip()
