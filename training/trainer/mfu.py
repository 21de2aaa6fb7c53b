"""Model FLOPs utilization: what a step needs, as a share of what the GPU could do meanwhile."""

import torch

from training.config import TrainSection
from training.estimate.flops import lengths_of_row, train_flops_per_pair
from training.estimate.gpus import peak_flops
from training.estimate.model_shape import shape_of_config
from training.models.vlm import Vlm
from training.trainer.scoring import Split


class Utilization:
    """Turns pairs per second into MFU; None on a CPU, or on a GPU whose peak is not known.

    Recomputed activations are not counted: they are no part of the mathematics.
    """

    def __init__(
        self, section: TrainSection, vlm: Vlm, split: Split, device: str, world_size: int
    ) -> None:
        self._share_per_pair: float | None = None
        if not device.startswith("cuda"):
            return
        peak = peak_flops(
            torch.cuda.get_device_name(device), low_precision=section.train.precision == "bfloat16"
        )
        if peak is None:
            return
        reader = split.reader
        response_a, response_b = reader.num_tokens_N2.double().mean(dim=0).tolist()
        feature_a, feature_b = reader.num_image_tokens_I[reader.images_P2].mean(axis=0).tolist()
        lengths = lengths_of_row(
            float(reader.lengths.mean()), (response_a, response_b), (feature_a, feature_b)
        )
        work = train_flops_per_pair(
            shape_of_config(vlm.model.config.to_dict()),
            lengths,
            section,
            cached=split.features.kept,
        )
        self._share_per_pair = (work.useful) / (peak * world_size)

    def of(self, pairs_per_s: float) -> dict[str, float]:
        """{"mfu": share}, or nothing where it is not known."""
        return (
            {}
            if self._share_per_pair is None
            else {"mfu": round(pairs_per_s * self._share_per_pair, 4)}
        )
