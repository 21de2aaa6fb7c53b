"""What GPUs can do, as their makers state it.

A plan multiplies by the share that a run reaches (MFU).
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pipeline.core.recipe import UserError


class Gpu(NamedTuple):
    """Peak of dense matrix products (10^12 FLOP per second), and memory (10^9 bytes).

    Memory as CUDA reports it.
    """

    bf16_tflops: float
    fp32_tflops: float
    memory_gb: float


# Data sheets of the makers, without sparsity; bf16 with fp32 accumulation.
GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "A100-40": Gpu(312, 19.5, 42.3),
        "A100-80": Gpu(312, 19.5, 84.9),
        "H100": Gpu(989, 67, 84.9),
        "H200": Gpu(989, 67, 150.1),
        "B200": Gpu(2250, 75, 191.0),
        "L4": Gpu(121, 30.3, 23.6),
        "L40S": Gpu(362, 91.6, 47.7),
        "A10G": Gpu(70, 35, 23.6),
        "A6000": Gpu(155, 38.7, 50.9),
        "RTX3090": Gpu(71, 35.6, 25.3),
        "RTX4090": Gpu(165, 82.6, 25.3),
    }
)


def find_gpu(name: str) -> tuple[str, Gpu]:
    """A GPU by its name, however it is spaced or spelt.

    Raises:
        UserError: None of that name, with the nearest.
    """
    plain = {_plain(known): known for known in GPUS}
    known = plain.get(_plain(name)) or {"a100": "A100-80", "h10080": "H100", "a10": "A10G"}.get(
        _plain(name)
    )
    if known is None:
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f"; did you mean {plain[near[0]]}?" if near else ""
        raise UserError(
            f"--gpu {name!r}: expected one of {', '.join(GPUS)}{hint}; for another give --tflops"
            " and --memory-gb"
        )
    return known, GPUS[known]


def peak_flops(device_name: str, *, low_precision: bool) -> float | None:
    """The peak (FLOP per second) of the GPU that CUDA calls so; None if it is not known.

    CUDA's name is, for example, "NVIDIA A100-SXM4-80GB".
    """
    plain = _plain(device_name)
    for name in sorted(GPUS, key=len, reverse=True):
        if _plain(name.split("-")[0]) in plain:
            return (GPUS[name].bf16_tflops if low_precision else GPUS[name].fp32_tflops) * 1e12
    return None


def _plain(name: str) -> str:
    return (
        "".join(character for character in name.lower() if character.isalnum())
        .removeprefix("nvidia")
        .removesuffix("gb")
    )
