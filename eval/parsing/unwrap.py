"""The answer inside what a model wraps it in: a JSON object, a tag, a box of LaTeX or of tokens."""

import json
import re
from typing import Any

_KEYS = (
    *("answer", "final_answer", "final answer", "choice", "option", "response", "prediction"),
    *("\u7b54\u6848", "\u9009\u9879", "\u56de\u7b54"),
)
_REJECTS = re.compile(r"not(?![a-z])|wrong|incorrect|exclu|reject|eliminat", re.IGNORECASE)
_TAGS = (("<answer>", "</answer>"), ("<|begin_of_box|>", "<|end_of_box|>"))
# up to two braces deep, and not longer than an answer: so any text is read in linear time
_BOX = re.compile(
    r"(not\s{1,4}\$?)?\\(?:boxed|fbox)\s{0,4}\{((?:[^{}]|\{(?:[^{}]|\{[^{}]{0,99}\}){0,199}\}){0,399})\}"
)
# LaTeX around a text, of which the text alone counts
LATEX = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|rm|bf)\b"
    r"|\\[()\[\]]"
)


def unwrapped(text: str) -> tuple[str, bool]:
    """What is marked as the answer, one line each, and whether nothing is said around it.

    Without a mark it is the text itself. Nothing is chosen: different answers that are all marked
    stay beside each other.

    '{"answer": "B"}' -> ("B", True)      "So \\\\boxed{\\\\text{B}}." -> ("{B}", False)
    """
    is_bare = True
    for marked in (_tagged, _from_json, _boxed):
        answers, rest = marked(text)
        if answers:
            is_bare = is_bare and not re.search(r"\w", LATEX.sub("", rest))
            text = "\n".join(dict.fromkeys(answer.strip() for answer in answers))
    return text, is_bare


def _tagged(text: str) -> tuple[list[str], str]:
    """The contents of every <answer>, the last perhaps unclosed, and the text outside."""
    for opening, closing in _TAGS:
        first, *parts = re.split(re.escape(opening), text, flags=re.IGNORECASE)
        if parts:
            halves = [
                re.split(re.escape(closing), part, maxsplit=1, flags=re.IGNORECASE)
                for part in parts
            ]
            return [half[0] for half in halves], first + "".join(
                half[1] for half in halves if len(half) > 1
            )
    return [], text


def _from_json(text: str) -> tuple[list[str], str]:
    """The answer in the JSON object, or in the list of one, that a text holds."""
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing) + 1
        if 0 <= start < end:
            held = _json_value(text[start:end])
            answer = _answer_in(held)
            if answer is not None:
                return [answer], _without_fence(text[:start]) + text[end:]
    return [], text


def _json_value(text: str) -> Any:
    for quoted in (text, text.replace("'", '"')):
        try:
            return json.loads(quoted, strict=False)
        except (ValueError, RecursionError):
            continue
    return None


def _without_fence(text: str) -> str:
    return text.rstrip().removesuffix("json").removesuffix("```")


def _answer_in(held: Any) -> str | None:
    """The one value that a JSON object or list gives as the answer, as text."""
    while isinstance(held, list | dict):
        values = held if isinstance(held, list) else _answers_of(held)
        if len(values) != 1:
            return None
        held = values[0]
    if isinstance(held, bool):
        return "yes" if held else "no"
    return str(held) if isinstance(held, str | int | float) else None


def _answers_of(held: dict[str, Any]) -> list[Any]:
    named = [value for key, value in held.items() if key.strip().casefold() in _KEYS]
    if named or len(held) != 1:
        return named
    key, value = next(iter(held.items()))
    if len(key) == 1:  # {"B": "Closed"}: an option and its text, which may be another's
        return [f"{key}. {value}"] if isinstance(value, str) else []
    return [] if _REJECTS.search(key) else [value]


def _boxed(text: str) -> tuple[list[str], str]:
    """The contents of every \\boxed{..}, and the text outside."""
    contents = [LATEX.sub("", "".join(parts)) for parts in _BOX.findall(text)]
    return contents, _BOX.sub("", text) if contents else text
