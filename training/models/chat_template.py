"""What a processor's chat template and tokenizer make of a question and an answer.

Token ids here are *short*: an image is one placeholder, of which a processor makes as many as the
image has features.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from pipeline.core.recipe import UserError, first_line
from training.models.unusable import MERGED, UnusablePairError, check_text, refuse_control_texts

CHATML_END = "<|im_end|>"
# What turns reasoning off, in templates that have such a switch.
SWITCHES = ("enable_thinking", "thinking")
# A prompt that leaves reasoning open: it ends in a tag such as <think>; what closes any other form
# is unknown.
_TAG = r"\w*(?:think|thought|reason)\w*"
OPEN_REASONING = re.compile(rf"(?:<(?P<name>{_TAG})>|[<\[{{|]+{_TAG}[|}}\]>]+)\s*$", re.IGNORECASE)
CLOSED_REASONING = re.compile(rf"[<\[{{|]+/{_TAG}[|}}\]>]+$", re.IGNORECASE)


class Closing(NamedTuple):
    """How the reasoning that a template opens is closed in a prompt, so that an answer follows."""

    switches: dict[str, bool]  # for the template
    text: str  # after it, in place of the white space at its end

    @property
    def fact(self) -> str:
        """In words, for who serves the model; "" where the template opens none."""
        by = " ".join(f"{name}=false" for name in self.switches) or self.text.strip()
        return f"opens with reasoning, which is closed ({by})" if by else ""


def short_prompt(processor: Any, question: str, *, with_image: bool) -> list[int]:
    """The tokens before the response, exactly as at inference but for the one placeholder.

    Raises:
        UnusablePairError: A question that holds the text of a control token.
    """
    refuse_control_texts(question, control_texts(processor))
    text = render(processor, question, with_image=with_image)
    ids = processor.tokenizer(text, **special_tokens(processor, text))["input_ids"]
    return left_open(processor, text, [int(token) for token in ids])


def response_ids(processor: Any, text: str) -> list[int]:
    """The tokens of an answer as it follows the prompt, without the end of turn.

    Raises:
        UnusablePairError: An empty text, one that holds the text of a control token, or one that
            the tokenizer merges with the prompt's end.
    """
    check_text(text, control_texts(processor), "response")
    opening = _opening(processor)
    # A prompt that ends in white space ("assistant\n") or in a tag ("</think>") is followed by the
    # text at once, any other ("ASSISTANT:") by a space.
    is_apart = opening[-1:].isspace() or CLOSED_REASONING.search(opening)
    joined = opening + ("" if is_apart else " ") + text.strip()
    before = processor.tokenizer(opening, add_special_tokens=False)["input_ids"]
    both = processor.tokenizer(joined, add_special_tokens=False)["input_ids"]
    if both[: len(before)] != before or len(both) == len(before):
        raise UnusablePairError(
            MERGED,
            f"the tokenizer does not separate the prompt's end {opening!r} from the response"
            f" {text[:40]!r}",
        )
    return [int(token) for token in both[len(before) :]]


def end_of_turn_id(processor: Any) -> int:
    """The token that ends the assistant's turn: <|im_end|> in chatml templates, else the eos."""
    tokenizer = processor.tokenizer
    if CHATML_END in render(processor, "?", with_image=False):
        return int(tokenizer.convert_tokens_to_ids(CHATML_END))
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no eos token and the chat template no <|im_end|>; set"
            " tokenizer.eos_token"
        )
    return int(tokenizer.eos_token_id)


def with_placeholders(short: Sequence[int], image_token_id: int, num_tokens: int) -> list[int]:
    """Short ids with the placeholder, if there is one, repeated `num_tokens` times."""
    return [
        token
        for short_token in short
        for token in [short_token] * (num_tokens if short_token == image_token_id else 1)
    ]


def render(processor: Any, question: str, *, with_image: bool, opened: bool = True) -> str:
    """The text of a conversation that asks a question, up to where the answer starts.

    Reasoning that the template would open before it is closed, empty.

    Args:
        opened: Whether the assistant's turn is opened, so that the answer can follow.

    Raises:
        UserError: A template whose reasoning cannot be closed.
    """
    switches, end = closing(processor)
    text = _rendered(processor, question, with_image=with_image, opened=opened, **switches)
    return text.rstrip() + end if opened and end else text


def closing(processor: Any) -> Closing:
    """How the template's reasoning is closed: by its own switch, else by an empty block.

    Raises:
        UserError: It ends in the start of reasoning of which the end is unknown.
    """
    return _closing(processor, str(processor.chat_template))


@functools.lru_cache(maxsize=8)
def _closing(processor: Any, template: str) -> Closing:
    """As `closing`, once for each template."""
    plain = _rendered(processor, "?", with_image=False, opened=True)
    found = OPEN_REASONING.search(plain)
    if not found or plain == _rendered(processor, "?", with_image=False, opened=False):
        return Closing({}, "")
    for name in SWITCHES:
        off = {name: False}
        if re.search(rf"(?<![<\w/]){name}\b(?!>)", template) and not OPEN_REASONING.search(
            _rendered(processor, "?", with_image=False, opened=True, **off)
        ):
            return Closing(off, "")
    if not found["name"]:
        raise UserError(
            f"the chat template opens an answer with {found[0].strip()!r}, the start of reasoning"
            " whose end is unknown, so answers would be trained and scored inside it; give a"
            f" template that ends it, or has a switch ({' or '.join(SWITCHES)}=false)"
        )
    return Closing({}, f"\n\n</{found['name']}>\n\n")


def _rendered(
    processor: Any, question: str, *, with_image: bool, opened: bool, **switches: bool
) -> str:
    content = [*([{"type": "image"}] if with_image else []), {"type": "text", "text": question}]
    try:
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=opened,
            tokenize=False,
            **switches,
        )
    except TemplateError as error:
        raise UserError(
            f"its chat template cannot be rendered ({first_line(error)}); mend it, or take that of"
            " the model's own repository"
        ) from error
    return str(text)


def special_tokens(processor: Any, text: str) -> dict[str, bool]:
    """As transformers does: a template that writes the bos token itself gets no second one."""
    bos = processor.tokenizer.bos_token
    return {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}


def left_open(processor: Any, text: str, ids: list[int]) -> list[int]:
    """A prompt's ids without an eos that its text has not.

    After one the model would answer after the end of the conversation.
    """
    eos, eos_id = processor.tokenizer.eos_token, processor.tokenizer.eos_token_id
    return ids[:-1] if eos is not None and ids[-1:] == [eos_id] and not text.endswith(eos) else ids


def control_texts(processor: Any) -> tuple[str, ...]:
    """Texts that the tokenizer reads as control tokens, such as </s> or <image>.

    No question or answer may hold one.
    """
    return tuple(
        token.content
        for token in processor.tokenizer.added_tokens_decoder.values()
        if token.special and token.content.strip()
    )


def _opening(processor: Any) -> str:
    """What the chat template writes to open the assistant's turn.

    For example "<|im_start|>assistant" and a line end.
    """
    closed = render(processor, "?", with_image=False, opened=False)
    opening = render(processor, "?", with_image=False).removeprefix(closed)
    if not opening:
        raise UserError(
            "the chat template does not heed add_generation_prompt, so the start of a response is"
            " unknown"
        )
    return opening
