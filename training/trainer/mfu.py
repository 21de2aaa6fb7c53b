"""Model FLOPs utilization: what a step needs, as a share of what the GPU could do meanwhile."""

import torch

from training.config import TrainSection
from training.estimate.flops import lengths_of_row, train_flops_per_pair
from training.estimate.gpus import peak_flops
from training.estimate.model_shape import shape_of_config
from training.models.vlm import Vlm
from training.trainer.scoring import Split


def mfu_per_pair(
    section: TrainSection, vlm: Vlm, split: Split, device: str, world_size: int
) -> float | None:
    """MFU at one pair per second; None on a CPU, or on a GPU whose peak is not known.

    Recomputed activations are not counted: they are no part of the mathematics.
    """
    if not device.startswith("cuda"):
        return None
    peak = peak_flops(
        torch.cuda.get_device_name(device), low_precision=section.train.precision == "bfloat16"
    )
    if peak is None:
        return None
    reader = split.reader
    response_a, response_b = reader.num_tokens_N2.double().mean(dim=0).tolist()
    feature_a, feature_b = reader.num_image_tokens_I[reader.images_P2].mean(axis=0).tolist()
    lengths = lengths_of_row(
        float(reader.lengths.mean()), (response_a, response_b), (feature_a, feature_b)
    )
    shape = shape_of_config(vlm.model.config.to_dict())
    work = train_flops_per_pair(shape, lengths, section, cached=split.features.kept)
    return work.useful / (peak * world_size)
