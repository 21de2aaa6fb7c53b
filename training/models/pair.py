"""The tokens of a pair, from its texts and the sizes of its images."""

from dataclasses import dataclass

from pipeline.core.recipe import first_line
from training.models.chat_template import short_prompt
from training.models.packing import CONDITIONS, PairTokens
from training.models.unusable import (
    CONTROL_TEXT,
    EMPTY_TEXT,
    IMAGE_SHAPE,
    UnusablePairError,
)
from training.models.vlm import ANY_SIZE, Layout, Size, Vlm, encode_response, placed


@dataclass(frozen=True, slots=True)
class ShortPair:
    """A pair's tokens with one placeholder per image, and what its two images become."""

    prompt_image: list[int]
    prompt_text: list[int]
    responses: tuple[list[int], list[int]]
    layouts: tuple[Layout, Layout]
    sizes: tuple[Size, Size]

    @property
    def longest(self) -> int:
        """Length of the longest of the six sequences."""
        longest_image = max(layout.num_tokens for layout in self.layouts)
        return len(self.prompt_image) - 1 + longest_image + max(map(len, self.responses))

    @property
    def num_tokens(self) -> int:
        """Length of the packed row with all cells."""
        image_tokens = sum(len(self.prompt_image) - 1 + n.num_tokens for n in self.layouts)
        return image_tokens + len(self.prompt_text) + CONDITIONS * sum(map(len, self.responses))

    def tokens(self, vlm: Vlm, pair_id: str = "") -> PairTokens:
        """All tokens, one placeholder per feature."""
        (prompt_a, positions_a), (prompt_b, positions_b) = (
            placed(vlm, self.prompt_image, size) for size in self.sizes
        )
        return PairTokens(
            prompt_a, self.prompt_text, *self.responses, prompt_b, positions_a, positions_b, pair_id
        )


def short_pair(
    vlm: Vlm, texts: tuple[str | None, str | None, str | None], sizes: tuple[Size, Size]
) -> ShortPair:
    """A pair from its question and two answers, and the sizes of its two images.

    Raises:
        UnusablePairError: A text that cannot become tokens, or an image of a shape that the
            processor does not take.
        UserError: A processor that does not fit the model.
    """
    question, answer_a, answer_b = (text or "" for text in texts)
    if not question.strip():
        raise UnusablePairError(EMPTY_TEXT, f"expected a question with text, got {texts[0]!r}")
    prompt_image, prompt_text = (
        short_prompt(vlm.processor, question, with_image=with_image) for with_image in (True, False)
    )
    responses = (encode_response(vlm, answer_a), encode_response(vlm, answer_b))
    if prompt_image.count(vlm.image_token_id) != 1 or any(
        vlm.image_token_id in ids for ids in (prompt_text, *responses)
    ):
        raise UnusablePairError(
            CONTROL_TEXT,
            "expected one image in the prompt with an image, and none in that without nor in the"
            " answers; remove image tokens from its texts, or check the chat template",
        )
    return ShortPair(
        prompt_image,
        prompt_text,
        responses,
        (_layout(vlm, sizes[0]), _layout(vlm, sizes[1])),
        sizes,
    )


def _layout(vlm: Vlm, size: Size) -> Layout:
    vlm.layout(ANY_SIZE)  # what is wrong with every image is no fault of this one
    try:
        return vlm.layout(size)
    except (ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        raise UnusablePairError(
            IMAGE_SHAPE, f"an image of {size[0]} x {size[1]} pixels: {first_line(error)}"
        ) from error
