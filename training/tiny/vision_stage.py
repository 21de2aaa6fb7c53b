"""First stage: the tiny model's vision tower learns to see, from truthful labels alone.

Where the folder states the truth of its images (drawn scenes), each patch learns what covers it;
elsewhere the whole picture learns the words by which its captions differ from those of its pair.

Shapes: B images in a batch, G patches per image, V the tower's width, S the image's side, W words.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.logps import vision_features
from training.tiny.config import TinySection
from training.tiny.data import MAX_SAME, PatchTruth, TrainingSet, patch_truth
from training.tiny.model import PIXEL_MEAN, PIXEL_STD
from training.tiny.muon import Advance, Learner, shuffled_batches

# Most patches show nothing; so much less does each of them count.
_NOTHING_WEIGHT = 0.2
# Of the mean variance: what is fainter than this is noise and is not made stronger.
_CONTRAST_FLOOR = 0.1
_MAX_CONTRAST_IMAGES = 500


def normalized(pixels_B3SS: Tensor) -> Tensor:
    """uint8 pixels as the processor would hand them to the tower."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (pixels_B3SS.float() / 255 - mean) / std


def shifted(pixels_B3SS: Tensor, max_shift_px: int) -> tuple[Tensor, Tensor]:
    """Each image moved by up to `max_shift_px` in x and y, and the moves, [B, 2] as (x, y).

    Its edge is repeated.
    """
    side = pixels_B3SS.shape[-1]
    shift_B2 = torch.randint(-max_shift_px, max_shift_px + 1, (len(pixels_B3SS), 2))
    columns_BS, rows_BS = (
        (torch.arange(side) - shift_B2[:, axis, None]).clamp(0, side - 1) for axis in (0, 1)
    )
    index_B = torch.arange(len(pixels_B3SS))[:, None, None]
    channels_last = pixels_B3SS.permute(0, 2, 3, 1)
    moved = channels_last[index_B, rows_BS[:, :, None], columns_BS[:, None]]
    return moved.permute(0, 3, 1, 2), shift_B2


def warped(pixels_B3SS: Tensor, strength: float) -> Tensor:
    """Each photograph a little turned, resized, moved, and changed in light; never mirrored.

    Normalized pixels in and out.
    """
    num = len(pixels_B3SS)
    angle_B = (torch.rand(num) - 0.5) * 0.6 * strength
    zoom_B = 1 + (torch.rand(num) - 0.5) * 0.5 * strength
    cos_B, sin_B = zoom_B * torch.cos(angle_B), zoom_B * torch.sin(angle_B)
    move_B2 = (torch.rand(num, 2) - 0.5) * 0.5 * strength
    matrix_B23 = torch.stack(
        (cos_B, -sin_B, move_B2[:, 0], sin_B, cos_B, move_B2[:, 1]), dim=1
    ).view(num, 2, 3)
    grid = functional.affine_grid(matrix_B23, list(pixels_B3SS.shape), align_corners=False)
    moved_B3SS = functional.grid_sample(
        pixels_B3SS, grid, padding_mode="reflection", align_corners=False
    )
    contrast_B111 = 1 + (torch.rand(num, 1, 1, 1) - 0.5) * 0.8 * strength
    return moved_B3SS * contrast_B111 + (torch.rand(num, 3, 1, 1) - 0.5) * 0.8 * strength


class _PatchTask(nn.Module):
    """Each patch says what covers it.

    Its kind, its color, how many of the same there are, and where its center is.
    """

    def __init__(self, data: TrainingSet, truth: PatchTruth, section: TinySection) -> None:
        super().__init__()
        self.data, self.truth, self.section = data, truth, section
        self.sizes = [truth.num_kinds, truth.num_colors, MAX_SAME + 1, 2]
        self.head = nn.Linear(section.vision_dim, sum(self.sizes))

    def forward(self, model: Any, images_B: Tensor) -> Tensor:
        patch_px = self.section.patch_px
        pixels_B3SS, shift_B2 = shifted(self.data.pixels_I3SS[images_B], self.section.max_shift_px)
        features_BGV = vision_features(model, normalized(pixels_B3SS))
        guesses = self.head(functional.layer_norm(features_BGV, features_BGV.shape[-1:])).split(
            self.sizes, dim=-1
        )
        *labels, center_BG2 = self.truth.labels(
            images_B, shift_B2, self.section.image_px // patch_px, patch_px
        )
        weight_BG = torch.where(labels[0] > 0, 1.0, _NOTHING_WEIGHT)
        loss_BG = 4 * (guesses[3] - center_BG2).abs().mean(-1) * (labels[0] > 0)
        for guess_BGK, label_BG in zip(guesses[:3], labels, strict=True):
            loss_BG = loss_BG + functional.cross_entropy(
                guess_BGK.transpose(1, 2), label_BG, reduction="none"
            )
        return (loss_BG * weight_BG).sum() / weight_BG.sum()


class _WordTask(nn.Module):
    """The picture as a whole says which words of its captions hold.

    Those that its pair's other caption denies.
    """

    def __init__(self, data: TrainingSet, section: TinySection) -> None:
        super().__init__()
        self.data, self.section = data, section
        self.head = nn.Linear(section.vision_dim, len(data.words))

    def forward(self, model: Any, images_B: Tensor) -> Tensor:
        pixels_B3SS = warped(normalized(self.data.pixels_I3SS[images_B]), self.section.warp)
        features_BGV = vision_features(model, pixels_B3SS)
        pooled_BV = functional.layer_norm(features_BGV, features_BGV.shape[-1:]).mean(1)
        known_BW = self.data.words_IW[images_B].float()
        loss_BW = functional.binary_cross_entropy_with_logits(
            self.head(pooled_BV), (known_BW > 0).float(), reduction="none"
        )
        return (loss_BW * known_BW.abs()).sum() / known_BW.abs().sum().clamp(min=1)


@torch.no_grad()
def start_with_contrasts(model: Any, pixels_I3SS: Tensor) -> None:
    """The tower's patch filters become what patches of these images differ in.

    These are principal components, at equal strength.

    Light and colour fill most of a patch; outlines, which tell shapes apart, are faint, and random
    filters hardly pass them on: half-way through 16,000 images, the tower named 91% of the shapes
    in scenes never seen, from random filters 63%.
    """
    tower = model.model.vision_tower
    filters = getattr(tower, "vision_model", tower).embeddings.patch_embedding.weight
    patch_px = filters.shape[-1]
    sample = pixels_I3SS[:: max(1, len(pixels_I3SS) // _MAX_CONTRAST_IMAGES)]
    unfolded = functional.unfold(normalized(sample), patch_px, stride=patch_px)
    patches_KD = unfolded.transpose(1, 2).flatten(0, 1)
    patches_KD = patches_KD - patches_KD.mean(0)
    variance_D, directions_DD = torch.linalg.eigh(patches_KD.T @ patches_KD / len(patches_KD))
    scale_D = (variance_D + _CONTRAST_FLOOR * variance_D.mean()).sqrt()
    filters_DD = (directions_DD / scale_D).T.flip(0)  # strongest first
    num = min(len(filters), len(filters_DD))
    filters[:num] = filters_DD[:num].view(num, *filters.shape[1:])


def learn_to_see(model: Any, data: TrainingSet, section: TinySection, advance: Advance) -> None:
    """Trains the vision tower in place on `num_eye_images` images.

    `advance` is told of each step's.
    """
    start_with_contrasts(model, data.pixels_I3SS)
    truth = patch_truth(data.things)
    task = _PatchTask(data, truth, section) if truth else _WordTask(data, section)
    learner = Learner(
        [model.model.vision_tower], [task.head], lr=section.eyes_lr, weight_decay=0.05
    )
    batches = shuffled_batches(len(data.pixels_I3SS), section.batch_images)
    done = 0
    while done < section.num_eye_images:
        images_B = next(batches)
        loss = learner.step(task(model, images_B), done / section.num_eye_images)
        advance(len(images_B), {"loss": loss})
        done += len(images_B)
