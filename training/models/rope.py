"""Rotary positions whose frequencies depend on how long a sequence is.

With rope of type "dynamic" or "longrope" a token beyond the original length changes the frequencies
of all tokens in its row. A packed row holds many sequences, so one beyond that length would change
the others'; and "dynamic" keeps what a longer row before has changed.
"""

from typing import Any


def max_exact_length(config: Any) -> int | None:
    """The most tokens of a sequence that may share a row with others; None: any number.

    Args:
        config: Of a vision-language model, as transformers has it.
    """
    text = config.get_text_config()
    stated = getattr(text, "rope_parameters", None) or {}
    # one for all layers, or one for each type of layer
    parts = [part for part in stated.values() if isinstance(part, dict)] or [stated]
    bounds = []
    for part in parts:
        kind = str(part.get("rope_type") or part.get("type"))
        if "dynamic" in kind:
            bounds.append(int(text.max_position_embeddings))
        if kind == "longrope":
            bounds.append(int(part["original_max_position_embeddings"]))
    return min(bounds, default=None)


def forget_lengths(model: Any) -> None:
    """Brings frequencies back that a longer row before has changed.

    Then what a model answers does not depend on what it was asked before.
    """
    for module in model.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")):
            original = module.original_inv_freq.to(module.inv_freq.device)
            module.register_buffer("inv_freq", original, persistent=False)
            module.max_seq_len_cached = module.original_max_seq_len
