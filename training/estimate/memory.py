"""How much memory a worker needs, part by part, from the recipe and the model's shape.

Knows nothing of torch.

What is kept is counted exactly: weights, gradients, and the two averages of AdamW. What a step
holds for its backward pass is counted per token from the operations of the layers, and agrees with
measurement as far as a test says.
"""

from training.chunk_sizes import CHUNK_IMAGES, GRADIENT_BUCKET, MAX_LOGITS
from training.config import TrainSection
from training.estimate.data_size import DataSize
from training.estimate.flops import PairLengths
from training.estimate.model_shape import ModelShape, TextShape
from training.estimate.policy_size import PolicySize, adapted, policy_size
from training.objectives.terms import Cell, sides_of

# half a byte, one byte of scale for 64 numbers, that of 256 scales in fp32
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
RUNTIME_BYTES = 1.0e9  # CUDA context and the libraries' workspaces
FRAGMENTS = 0.05  # of the rest: what the allocator holds and cannot use
GB = 1e9


def memory_of(
    shape: ModelShape,
    lengths: PairLengths,
    section: TrainSection,
    *,
    cached: bool = True,
    gpu: bool = True,
) -> dict[str, float]:
    """Bytes that one worker needs at the height of a step, by what they are for.

    Args:
        lengths: Of the longest pairs that may come together, if the answer is to be safe; of
            average ones, if typical.
        cached: Whether the features of images are kept in main memory, so that no step runs the
            frozen tower.
        gpu: Whether there is a CUDA runtime that needs memory too.
    """
    size, use = policy_size(shape, section), section.train
    low = use.precision == "bfloat16"
    # the tower is never sharded
    moving = (size.trained - size.trained_vision) / num_shards(section) + size.trained_vision
    cells, pairs = section.objective.cells, section.optim.micro_batch_pairs
    parts = {
        "weights": weight_bytes(size, section),
        # those of other workers, while a layer uses them; or copies in the type of the computation
        "weights as they are computed with": _gathered_bytes(shape, size, section),
        "gradients": (
            4.0 * moving
            + (
                4 * GRADIENT_BUCKET
                if section.workers.num_workers > 1 and not section.workers.shard
                else 0
            )
        ),
        "optimiser": 8.0 * moving,
        "activations": pairs * activation_bytes(shape, lengths, section),
        "logits": logit_bytes(shape.text, pairs * lengths.num_scored(cells), low=low),
        "vision tower in a step": (
            pairs * _tower_bytes(shape, lengths, section, cells, cached=cached)
        ),
    }
    runtime = RUNTIME_BYTES + FRAGMENTS * sum(parts.values()) if gpu else 0.0
    return {**parts, "CUDA, and what cannot be used": runtime}


def start_bytes(shape: ModelShape, lengths: PairLengths, section: TrainSection) -> float:
    """What is held while features are made, before training starts.

    That is the weights, and the tower on as many images as it sees at a time.
    """
    vision = shape.vision
    # of all layers, or of the one at work
    states = vision.num_layers + 1 if shape.family == "llava" else 4
    return weight_bytes(policy_size(shape, section), section) + (
        CHUNK_IMAGES
        * vision.num_patches(max(lengths.features))
        * (vision.width * states + vision.ffn_width)
        * (2 if section.train.weights == "bfloat16" else 4)
    )


def needed_bytes(
    shape: ModelShape,
    lengths: PairLengths,
    section: TrainSection,
    *,
    cached: bool = True,
    gpu: bool = True,
) -> float:
    """What one worker needs at any time; arguments as for `memory_of`."""
    in_a_step = sum(memory_of(shape, lengths, section, cached=cached, gpu=gpu).values())
    return max(in_a_step, start_bytes(shape, lengths, section))


def feature_bytes(shape: ModelShape, data: DataSize, section: TrainSection) -> float:
    """Main memory that one worker needs to keep the features of all images."""
    width = 2 if section.train.weights == "bfloat16" else 4
    return data.num_images * sum(data.mean.features) / 2 * shape.feature_width * width


def keeps_features(shape: ModelShape, data: DataSize, section: TrainSection) -> bool:
    """Whether the tower runs once per image and no more."""
    use = section.train
    return (
        use.freeze_vision
        and use.cache_vision
        and feature_bytes(shape, data, section) <= use.max_cache_gb * 1e9
    )


def num_shards(section: TrainSection) -> int:
    """Over how many workers weights are spread."""
    return section.workers.num_workers if section.workers.shard else 1


def weight_bytes(size: PolicySize, section: TrainSection) -> float:
    """Bytes of one worker's weights: what is trained in fp32, the rest as the recipe keeps it."""
    frozen = 2 if section.train.weights == "bfloat16" else 4
    language = (
        4.0 * size.trained_language
        + frozen * (size.language - size.trained_language - size.quantized)
        + NF4_BYTES * size.quantized
    )
    projector = 4.0 * size.trained_projector + frozen * (size.projector - size.trained_projector)
    vision = 4.0 * size.trained_vision + frozen * (size.vision - size.trained_vision)
    return (language + projector + 4.0 * size.adapters) / num_shards(section) + vision


def _gathered_bytes(shape: ModelShape, size: PolicySize, section: TrainSection) -> float:
    """Whole weights while they are used.

    Under FSDP2 all outside the layers, and two layers; else copies made by autocast.
    """
    low = section.train.precision == "bfloat16"
    if num_shards(section) > 1:
        text = shape.text
        layer = text.num_layer_parameters + size.adapters / text.num_layers
        outside = text.num_outside_parameters + size.projector
        # Gradients of what is gathered are whole too until they have been added up.
        gradients = outside + layer if size.trained_language else size.projector
        return (2 if low else 4) * (outside + 2 * layer + gradients)
    if not low:
        return 0.0
    trained = size.trained_language + size.trained_projector + size.adapters
    frozen = (
        size.language
        + size.projector
        - size.trained_language
        - size.trained_projector
        - size.quantized
    )
    return 2.0 * (trained + (0 if section.train.weights == "bfloat16" else frozen))


def activation_bytes(shape: ModelShape, lengths: PairLengths, section: TrainSection) -> float:
    """What a pair's packed row leaves behind for the backward pass.

    In the language model and the projector.
    """
    text, tokens = shape.text, lengths.num_tokens(section.objective.cells)
    layer = tokens * layer_bytes_per_token(text, section)
    stream = tokens * text.width * _stream_width(section)
    if section.train.checkpoint_activations:
        return text.num_layers * stream + layer  # the input of each layer, and one layer at work
    return text.num_layers * layer + stream


def _stream_width(section: TrainSection) -> int:
    """Bytes of a number that passes from layer to layer.

    Embeddings kept in fp32 stay so under autocast.
    """
    # FSDP2 hands on what it gathered
    sharded_low = num_shards(section) > 1 and section.train.precision == "bfloat16"
    return (
        2
        if sharded_low or (section.lora is not None and section.train.weights == "bfloat16")
        else 4
    )


def layer_bytes_per_token(text: TextShape, section: TrainSection) -> float:
    """What one layer keeps of each token."""
    low, full = section.train.precision == "bfloat16", section.lora is None
    d, q, kv, ff = text.width, text.q_width, text.kv_width, text.ffn_width
    c, stream = (2 if low else 4), _stream_width(section)
    # A norm keeps its input in fp32; with its weight trained also its output before the weight.
    norms = 2 * d * (4 + (stream if full else 0))
    # queries, keys, values, result, and the logarithm of each sum
    attention = c * (2 * q + 2 * kv) + 4 * text.num_heads
    if text.norms_heads:
        attention += (q + kv) * (4 + (c if full else 0))  # the same for norms of queries and keys
    feed = c * 3 * ff  # both products of the input, and the first after its activation
    if section.lora is None:
        # Of the products, for the gradients of their weights; autocast makes each product a copy of
        # its own.
        inputs = c * ((5 if c < stream else 2) * d + q + ff)
    else:
        chosen = adapted(text, section.lora)
        inputs = c * section.lora.rank * len(chosen)
        if low:  # each adapter casts its input for itself
            inputs += sum(c * wide for wide, _ in chosen.values())
        else:
            shared = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
            inputs += sum(
                c * text.linears[name][0] for name in {shared.get(name, name) for name in chosen}
            )
    return norms + attention + feed + inputs


def logit_bytes(text: TextShape, scored: float, *, low: bool) -> float:
    """Logits at response tokens, their softmax, and the gradients of both.

    Where there are many, they are computed in parts.
    """
    return min(scored * text.vocab, MAX_LOGITS) * (14 if low else 12)


def _tower_bytes(
    shape: ModelShape,
    lengths: PairLengths,
    section: TrainSection,
    cells: frozenset[Cell],
    *,
    cached: bool,
) -> float:
    """The tower on the two images of a pair in a step."""
    use, vision = section.train, shape.vision
    if use.freeze_vision and cached:
        return 0.0
    width = 2 if use.precision == "bfloat16" else 4
    patches = sum(vision.num_patches(lengths.features[side]) for side in sides_of(cells))
    # All layers' outputs are asked for; a trained tower also keeps what each layer needs for its
    # backward pass.
    states = patches * vision.width * (vision.num_layers + 1) * 4
    if use.freeze_vision:
        return states
    return states + patches * vision.num_layers * (
        width * (6 * vision.width + 2 * vision.ffn_width) + 4 * 2 * vision.width
    )
