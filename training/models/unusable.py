"""Pairs that a model cannot take: why, and how many of a split. Knows nothing of torch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pipeline.core.images import ImageError
from pipeline.core.schema import MvcError

TOO_LONG, CONTROL_TEXT, EMPTY_TEXT = "too_long", "text_has_control_token", "text_is_empty"
BEYOND_ROPE = "beyond_rope_length"
MERGED, IMAGE_BROKEN, IMAGE_SHAPE = "text_merges_with_prompt", "image_broken", "image_shape"
REASONS = MappingProxyType(
    {
        TOO_LONG: "too long",
        BEYOND_ROPE: "beyond the original length of the model's rope",
        CONTROL_TEXT: "with a control token in a text",
        EMPTY_TEXT: "with an empty text",
        MERGED: "with a text that the tokenizer merges with the prompt",
        IMAGE_BROKEN: "with an image that cannot be read",
        IMAGE_SHAPE: "with an image of a shape that the model does not take",
    }
)
OF_LENGTH = frozenset({TOO_LONG, BEYOND_ROPE})  # a matter of the recipe and the model
MAX_FRAC_UNUSABLE = 0.01  # of a split, for what pairs are themselves


class UnusablePairError(ValueError):
    """A pair that a model cannot take, though it takes others; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class LeftOut:
    """The pairs of a split that are left out: ids by reason, and what is wrong with the first."""

    pair_ids: dict[str, list[str]] = field(default_factory=dict)
    _messages: dict[str, str] = field(default_factory=dict)  # of the first pair of each reason

    def add(self, pair_id: str, error: UnusablePairError) -> None:
        """Counts one more pair."""
        self.pair_ids.setdefault(error.reason, []).append(pair_id)
        self._messages.setdefault(error.reason, str(error))

    def __len__(self) -> int:
        return sum(map(len, self.pair_ids.values()))

    @property
    def counts(self) -> dict[str, int]:
        """How many by reason."""
        return {reason: len(self.pair_ids[reason]) for reason in sorted(self.pair_ids)}

    def first(self) -> list[str]:
        """The first unusable pair of each reason with what is wrong with it, for messages."""
        return [
            f"pair {self.pair_ids[reason][0]}: {message}"
            for reason, message in self._messages.items()
            if reason not in OF_LENGTH
        ]

    def check(self, where: str, num_rows: int) -> None:
        """Raises MvcError if more than 1 % of so many pairs are unusable, or no pair is left."""
        ids = [
            pair_id
            for reason, of_reason in self.pair_ids.items()
            if reason not in OF_LENGTH
            for pair_id in of_reason
        ]
        none_left = len(self) == num_rows
        if not ids or (len(ids) <= MAX_FRAC_UNUSABLE * num_rows and not none_left):
            return
        more = f" (then {', '.join(ids[1:4])})" if len(ids) > 1 else ""
        raise MvcError(
            f"{where}: {len(ids)} of {num_rows} pairs cannot be used ({words(self.counts)}), where"
            f" at most {MAX_FRAC_UNUSABLE:.0%} may be left out; first {self.first()[0]}{more}; mend"
            " these pairs, or build the data again without them"
        )


def words(counts: Mapping[str, int]) -> str:
    """Counts by reason in words: "2 too long, 1 with an empty text"; empty if there are none."""
    known = Counter(counts)
    return ", ".join(f"{known[key]:,} {text}" for key, text in REASONS.items() if known[key])


def check_text(text: str, control_texts: tuple[str, ...], what: str) -> None:
    """Raises UnusablePairError for a text that has no words or that holds a control token's text.

    Args:
        what: "question" or "response", for the message.
    """
    if not isinstance(text, str) or not text.strip():
        raise UnusablePairError(EMPTY_TEXT, f"expected a {what} with text, got {text!r}")
    refuse_control_texts(text, control_texts)


def refuse_control_texts(text: str, control_texts: tuple[str, ...]) -> None:
    """Raises UnusablePairError for a text that holds a control token's text."""
    for control in control_texts:
        if control in text:
            raise UnusablePairError(
                CONTROL_TEXT,
                f"the text {text[:60]!r} holds {control!r}, which the tokenizer reads as a control"
                " token",
            )


def unusable_image(name: str, error: ImageError) -> UnusablePairError:
    """What an image that cannot be used makes of its pair."""
    is_shape = error.reason in ("too_narrow", "too_many_pixels")
    return UnusablePairError(
        IMAGE_SHAPE if is_shape else IMAGE_BROKEN, f"{name} cannot be decoded ({error})"
    )
