"""Attention over a packed row as what it is: causal prompts, each with its own responses.

No mask over the row is ever made. Each run of equal groups takes two calls: the prompts (plainly
causal, the kernel's fastest case), and the responses as queries against their whole group under a
small mask, [responses, group] tokens. The cost is that of the pairs of tokens that may see each
other, but for the two responses, which are masked from each other.

Shapes: B rows, H heads, K heads of keys and values, L tokens in a row, D head width, G groups in a
run, N tokens in each.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from training.models.packing import Group, Packed

SPLIT, DENSE = "svco_split", "sdpa"  # names of attention kernels, as in a model's configuration


class Run(NamedTuple):
    """Neighboring groups of one shape.

    `mask_RN` says what each response token sees of its group; None: all before it.
    """

    num_groups: int
    group: Group
    mask_RN: Tensor | None


def runs_of(groups: Sequence[Group], device: torch.device) -> tuple[Run, ...]:
    """A row's groups as runs, with their small masks."""
    masks_RN = {group: _mask(group, device) for group in set(groups)}
    return tuple(Run(len(list(same)), group, masks_RN[group]) for group, same in groupby(groups))


def _mask(group: Group, device: torch.device) -> Tensor | None:
    if len(group.responses) == 1:
        return None
    branch_R = torch.repeat_interleave(
        torch.arange(len(group.responses)), torch.tensor(group.responses)
    )
    prompt_RP = torch.ones(len(branch_R), group.prompt, dtype=torch.bool)
    return torch.cat((prompt_RP, (branch_R[:, None] == branch_R).tril()), dim=1).to(device)


def attention_inputs(model: Any, packed: Packed) -> dict[str, Any]:
    """What a model's forward needs beside tokens and positions to read a packed row.

    Raises:
        ValueError: A kernel that would misread packed rows.
    """
    kernel = model.config.get_text_config()._attn_implementation
    if kernel == DENSE:
        return {"attention_mask": packed.attention_mask()}
    if kernel == SPLIT:
        # A mask of four axes is handed on as it is. Without one, models take restarted positions
        # for unrelated texts.
        return {
            "attention_mask": torch.empty(1, 1, 0, 0, dtype=torch.bool, device=packed.ids_L.device),
            "packed_runs": runs_of(packed.groups, packed.ids_L.device),
        }
    raise ValueError(
        f"packed rows need attn_implementation={SPLIT!r} or 'sdpa', got {kernel!r}, which would"
        " misread the mask"
    )


def set_attention(model: Any, kernel: str) -> None:
    """Has the language model attend by `kernel`: SPLIT, or DENSE, its slower check."""
    register()
    model.set_attn_implementation(implementation(kernel))


def implementation(kernel: str) -> dict[str, str]:
    """The kernel for the language model alone, as transformers takes it.

    The vision tower sees no packed rows.
    """
    return {"text_config": kernel, "vision_config": "sdpa"}


def register() -> None:
    """Makes SPLIT known to transformers.

    Without a packed row it is sdpa, mask and all, so that generation works as ever.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(SPLIT, split_attention)
    AttentionMaskInterface.register(SPLIT, sdpa_mask)


def split_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_runs: Sequence[Run] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: [B, H, L, D] and [B, K, L, D] to [B, L, H, D].

    B is 1 where `packed_runs` is given.

    Raises:
        ValueError: Dropout, which a shared prompt would share as well, or a row that the runs do
            not cover.
    """
    if packed_runs is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options.get("dropout"):
        raise ValueError(
            "expected attention dropout 0 on packed rows, where responses share their prompt; set"
            " attention_dropout to 0"
        )
    sizes = [run.num_groups * run.group.length for run in packed_runs]
    if sum(sizes) != query.shape[2] or len(query) != 1:
        raise ValueError(
            f"expected one row of {sum(sizes)} tokens, got {len(query)} of {query.shape[2]}"
        )
    # Splitting, unlike slicing, has a backward pass that writes each gradient once.
    parts = zip(
        packed_runs, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True
    )
    seen = [_attend(options.get("scaling"), *part) for part in parts]
    return torch.cat(seen, dim=1), None


def _attend(
    scaling: float | None, run: Run, q_1HMD: Tensor, k_1KMD: Tensor, v_1KMD: Tensor
) -> Tensor:
    """Attention within each group of a run, [1, G * N, H, D]."""
    shape = (run.num_groups, run.group.length)
    q_GHND, k_GKND, v_GKND = (
        states[0].unflatten(1, shape).transpose(0, 1) for states in (q_1HMD, k_1KMD, v_1KMD)
    )
    if run.mask_RN is None:
        seen_GHND = _sdpa(q_GHND, k_GKND, v_GKND, scale=scaling, is_causal=True)
    else:
        prompt = run.group.prompt
        q_GHPD, q_GHRD = q_GHND.split([prompt, run.group.length - prompt], dim=2)
        seen_GHPD = _sdpa(
            q_GHPD, k_GKND[:, :, :prompt], v_GKND[:, :, :prompt], scale=scaling, is_causal=True
        )
        seen_GHRD = _sdpa(q_GHRD, k_GKND, v_GKND, scale=scaling, attn_mask=run.mask_RN)
        seen_GHND = torch.cat((seen_GHPD, seen_GHRD), dim=2)
    return seen_GHND.transpose(1, 2).flatten(0, 1)[None]


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, **options: Any
) -> Tensor:
    """Grouped heads are left to the kernel.

    On CUDA with a mask only the slowest kernel knows them, so there they are copied.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and attn_mask is not None and query.is_cuda:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    return scaled_dot_product_attention(
        query, key, value, attn_mask=attn_mask, enable_gqa=key.shape[1] != query.shape[1], **options
    )
