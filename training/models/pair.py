"""The tokens of a pair, from its texts and the sizes of its images."""

from dataclasses import dataclass

from training.models.chat_template import short_prompt
from training.models.packing import CONDITIONS, PairTokens
from training.models.vlm import Layout, Size, Vlm, encode_response, placed


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


def short_pair(vlm: Vlm, texts: tuple[str, str, str], sizes: tuple[Size, Size]) -> ShortPair:
    """A pair from its question and two answers, and the sizes of its two images.

    Raises:
        ValueError: A text that cannot become tokens, or a chat template that places no image.
    """
    question, answer_a, answer_b = texts
    prompt_image, prompt_text = (
        short_prompt(vlm.processor, question, with_image=with_image) for with_image in (True, False)
    )
    if prompt_image.count(vlm.image_token_id) != 1 or vlm.image_token_id in prompt_text:
        raise ValueError(
            "expected one image in the prompt with an image, and none in that without; check the"
            " chat template"
        )
    return ShortPair(
        prompt_image,
        prompt_text,
        (encode_response(vlm, answer_a), encode_response(vlm, answer_b)),
        (vlm.layout(sizes[0]), vlm.layout(sizes[1])),
        sizes,
    )
