"""How much a run computes, from the recipe and the model's shape, before anything starts.

Knows nothing of torch.

A FLOP is one multiplication or addition in a matrix product, as torch.utils.flop_counter counts;
norms, activations and the like are left out. Attention to a prompt is causal, of which a good
kernel computes half the square.

With P a prompt, R its responses, d the width, L layers and W the numbers in a layer's matrices, one
group of a packed row costs forward 2 L W (P + R) + 4 L d (P^2 / 2 + R (P + R)), and the output
layer 2 d V for each response token. The backward pass costs as much again for gradients of
activations, and as much again for gradients of weights that are trained.
"""

from dataclasses import dataclass
from typing import NamedTuple

from training.chunk_sizes import MAX_LOGITS
from training.config import TrainSection
from training.estimate.model_shape import ModelShape, TextShape, VisionShape
from training.estimate.policy_size import adapter_weights
from training.objectives.terms import ALL_CELLS, Cell, sides_of

ATTENTION_BACKWARD = 2.5  # five products against two, because scores are computed again


class PairLengths(NamedTuple):
    """Tokens of a pair, on average.

    Of the prompt under each condition, of the two responses, and features of the two images.
    """

    prompts: tuple[float, float, float]
    responses: tuple[float, float]
    features: tuple[float, float]

    def num_tokens(self, cells: frozenset[Cell] = ALL_CELLS) -> float:
        """Length of the pair's packed row."""
        return sum(prompt + sum(responses) for prompt, responses in groups_of(self, cells))

    def num_scored(self, cells: frozenset[Cell] = ALL_CELLS) -> float:
        """Response tokens, for each of which the output layer runs."""
        return sum(sum(responses) for _, responses in groups_of(self, cells))


def lengths_of_row(
    num_tokens: float, responses: tuple[float, float], features: tuple[float, float]
) -> PairLengths:
    """The lengths of a pair whose packed row with all cells has `num_tokens`.

    The three prompts' texts are taken for equally long.
    """
    text = (num_tokens - sum(features) - 3 * sum(responses)) / 3
    return PairLengths((features[0] + text, features[1] + text, text), responses, features)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """What one pair costs in a training step, in FLOP."""

    forward: float
    backward: float
    recompute: float  # of activations that were not kept
    # the tower, where its features are not kept from before; with its backward pass if it is
    # trained
    vision: float

    @property
    def total(self) -> float:
        """All that is computed."""
        return self.forward + self.backward + self.recompute + self.vision

    @property
    def useful(self) -> float:
        """Without what is computed twice: the numerator of model FLOP utilisation (MFU)."""
        return self.total - self.recompute


def groups_of(
    lengths: PairLengths, cells: frozenset[Cell]
) -> list[tuple[float, tuple[float, ...]]]:
    """Prompt and responses of each group of the packed row."""
    groups = []
    for condition, prompt in enumerate(lengths.prompts):
        responses = tuple(
            lengths.responses[response] for response in range(2) if (condition, response) in cells
        )
        if responses:
            groups.append((prompt, responses))
    return groups


def attention_flops(
    text: TextShape, lengths: PairLengths, cells: frozenset[Cell], causal: float = 0.5
) -> float:
    """Scores and weighted sums of all layers, forward.

    `causal`: how much of a prompt's square the kernel computes.
    """
    seen = 0.0
    for prompt, responses in groups_of(lengths, cells):
        # A lone response is one causal sequence with its prompt.
        whole, after = (
            (prompt + responses[0], 0.0) if len(responses) == 1 else (prompt, sum(responses))
        )
        seen += causal * whole**2 + after * (prompt + after)
    return 4 * text.num_layers * text.q_width * seen


def vision_flops(vision: VisionShape, num_features: float) -> float:
    """The tower on one image, forward."""
    n = vision.num_patches(num_features)
    products = 2 * n * (vision.num_layers * vision.num_layer_weights + vision.num_embedding_weights)
    full = (vision.num_layers - vision.num_window_layers) * n * n
    return products + 4 * vision.width * (
        full + vision.num_window_layers * n * min(n, vision.window_patches or n)
    )


def forward_flops(
    shape: ModelShape,
    lengths: PairLengths,
    cells: frozenset[Cell],
    *,
    lora_weights: int = 0,
    causal: float = 0.5,
) -> float:
    """All but the vision tower on a pair's packed row, forward.

    That is projector, language model and output layer.
    """
    text, tokens = shape.text, lengths.num_tokens(cells)
    return (
        2 * tokens * (text.num_layers * text.num_layer_weights + lora_weights)
        + attention_flops(text, lengths, cells, causal)
        + 2 * text.width * text.vocab * lengths.num_scored(cells)  # the output layer
        + _projector(shape, lengths, cells)
    )


def train_flops_per_pair(
    shape: ModelShape,
    lengths: PairLengths,
    section: TrainSection,
    *,
    cached: bool = True,
    causal: float = 0.5,
) -> Flops:
    """What a training step computes for each pair.

    Args:
        lengths: Averages over the pairs.
        cached: Whether a frozen tower's features are kept from before, so that the step does not
            run it.
        causal: How much of the square of a prompt the attention kernel computes; FLOP counters take
            1.
    """
    cells, text, train = section.objective.cells, shape.text, section.train
    adapters = adapter_weights(text, section.lora) if section.lora else 0
    tokens, scored = lengths.num_tokens(cells), lengths.num_scored(cells)
    forward = forward_flops(shape, lengths, cells, lora_weights=adapters, causal=causal)
    attention = attention_flops(text, lengths, cells, causal)
    layers, head = (
        2 * tokens * text.num_layers * text.num_layer_weights,
        2 * text.width * text.vocab * scored,
    )
    backward = layers + ATTENTION_BACKWARD * attention + head + 2 * 2 * tokens * adapters
    if section.lora is None:
        backward += layers + head  # gradients of the weights
    elif not train.train_projector:
        # Nothing before the first layer is trained, so what its first products take needs no
        # gradient.
        backward -= 2 * tokens * text.width * (text.q_width + 2 * text.kv_width)
    if train.train_projector:
        first = sum(a * b for a, b in shape.projector[::2]) / max(
            1, sum(a * b for a, b in shape.projector)
        )
        # Its input is a constant unless the tower is trained.
        backward += (2 - (first if train.freeze_vision else 0)) * _projector(shape, lengths, cells)
    recompute = 0.0
    if train.checkpoint_activations:
        # Recomputing stops when the input of the layer's last product is there.
        last = (
            2 * tokens * text.num_layers * text.ffn_width * text.width
            if section.lora is None
            else 0
        )
        recompute = forward - head - _projector(shape, lengths, cells) - last
    if scored * section.optim.micro_batch_pairs * text.vocab > MAX_LOGITS:
        recompute += head
    vision = 0.0
    if not (train.freeze_vision and cached):
        vision = sum(
            vision_flops(shape.vision, lengths.features[side]) for side in sides_of(cells)
        ) * (1 if train.freeze_vision else 3)
    return Flops(forward=forward, backward=backward, recompute=recompute, vision=vision)


def _projector(shape: ModelShape, lengths: PairLengths, cells: frozenset[Cell]) -> float:
    features = sum(lengths.features[side] for side in sides_of(cells))
    return 2 * features * sum(wide * high for wide, high in shape.projector)
