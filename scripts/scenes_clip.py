"""Trains `builtin:scenes-clip`, a small open_clip model that knows the built-in scenes, so that
CLIP scores mean something offline.

    python -m scripts.scenes_clip pipeline/embedding/models/scenes-clip      # minutes on two cores

Both sides of a pair stand in one batch, so each picture is the other's hard negative. A caption is
often true of another scene too (both show a red star), so every picture is held against every fact
there can be, each in one of its wordings, and the scenes' own truth says which of them hold. While
it learns, the model also says what covers each part of the picture: without that, shapes and places
take many times as long.
"""

# Shapes: P pairs, B = 2 P pictures of a batch (both sides of a pair side by side), F facts, L
# tokens, D dimensions, G cells on a side of the grid, C channels, S pixels on a side.

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from pipeline.core.cli import run_command
from pipeline.core.progress import Progress, say
from pipeline.core.storage import write_atomically, write_json
from pipeline.sources.scenes.source import ScenesSection, draw_pair
from scripts.scene_facts import FACTS, NUM_COVERS, covers_of, truth_of, wordings

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE_PX, CONTEXT, EMBED_DIM, WIDTH = 64, 16, 96, 16
GRID, GRID_CHANNELS = 8, 8 * WIDTH  # of the tower's second stage
PREPROCESS = {
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
MAX_SCALE = 60.0


def model_config(vocab_tokens: int) -> dict[str, Any]:
    """The model as open_clip_config.json describes it: a small ResNet with attention pooling, a
    two-layer text tower.
    """
    vision = {"image_size": SIZE_PX, "layers": [1, 1, 1, 1], "width": WIDTH, "head_width": 32}
    text = {
        "context_length": CONTEXT,
        "vocab_size": vocab_tokens,
        "hf_tokenizer_name": "in this folder",
    }
    text |= {"width": 64, "heads": 4, "layers": 2}
    return {
        "embed_dim": EMBED_DIM,
        "init_logit_scale": 2.3,
        "init_logit_bias": -4.0,
        "vision_cfg": vision,
        "text_cfg": text,
    }


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words that knows those of the scenes' captions; every other word is
    [UNK].
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted(
        {
            word
            for fact in FACTS
            for text in wordings(fact)
            for word in re.findall(r"\w+|[^\w\s]", text.lower())
        }
    )
    # The text tower reads at the largest id, so the end of a text must be it.
    vocab = ["[PAD]", "[UNK]", *words, "[EOS]"]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(vocab)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", len(vocab) - 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    )
    write_json(
        folder / "open_clip_config.json",
        {"model_cfg": model_config(len(vocab)), "preprocess_cfg": PREPROCESS},
    )


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """Drawn pairs, side by side, and what is true of them."""

    pixels_P23SS: "Tensor"  # uint8
    holds_P2F: "Tensor"
    certain_P2F: "Tensor"
    covers_P23GG: "Tensor"


def draw(num_pairs: int, seed: int) -> Scenes:
    """Pairs of the endless sequence of `seed`, with their truth."""
    import torch

    section = ScenesSection(kind="scenes", num_pairs=num_pairs, seed=seed, size_px=SIZE_PX)
    pixels = np.empty((num_pairs, 2, 3, SIZE_PX, SIZE_PX), np.uint8)
    truths, covers = [], []
    with Progress("draw", num_pairs, "pairs") as progress:
        for number in range(num_pairs):
            pair = draw_pair(section, number)
            meta = json.loads(pair.meta)
            for place, data in enumerate((pair.image_a, pair.image_b)):
                pixels[number, place] = np.asarray(
                    Image.open(io.BytesIO(data)).convert("RGB")
                ).transpose(2, 0, 1)
            truths.append([truth_of(meta, side, SIZE_PX) for side in "ab"])
            covers.append([covers_of(meta, side, SIZE_PX, GRID) for side in "ab"])
            progress.advance()
    truth_P22F = torch.from_numpy(np.array(truths))
    return Scenes(
        torch.from_numpy(pixels),
        truth_P22F[:, :, 0],
        truth_P22F[:, :, 1],
        torch.from_numpy(np.array(covers)),
    )


class Lesson:
    """The loss of one batch: facts, the fact that tells the sides of a pair apart, and what covers
    each cell.
    """

    def __init__(self, model: Any, tokens_by_fact: list["Tensor"]) -> None:
        from torch import nn

        self._model, self._tokens = model, tokens_by_fact
        self.cell_head: nn.Module = nn.Linear(GRID_CHANNELS, sum(NUM_COVERS))
        self._features: list[Tensor] = []
        model.visual.layer2.register_forward_hook(
            lambda _module, _given, made: self._features.append(made)
        )

    def __call__(self, scenes: Scenes, pairs: "Tensor") -> dict[str, "Tensor"]:
        """Each part of the loss, averaged over pictures or pairs."""
        import torch
        from torch.nn import functional

        self._features.clear()
        pixels_B3SS = (
            scenes.pixels_P23SS[pairs].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        )
        images_BD = functional.normalize(
            self._model.encode_image((pixels_B3SS.float() / 255 - 0.5) / 0.25), dim=-1
        )
        tokens_FL = torch.stack([tokens[torch.randint(len(tokens), ())] for tokens in self._tokens])
        texts_FD = functional.normalize(self._model.encode_text(tokens_FL), dim=-1)
        logits_BF = (
            self._model.logit_scale.exp().clamp(max=MAX_SCALE) * images_BD @ texts_FD.T
            + self._model.logit_bias
        )
        holds_P2F, certain_P2F = scenes.holds_P2F[pairs].float(), scenes.certain_P2F[pairs]
        by_fact_BF = functional.binary_cross_entropy_with_logits(
            logits_BF, holds_P2F.flatten(0, 1), reduction="none"
        )
        # 1 where a fact holds of side a alone, -1 where of side b alone.
        toward_PF = (holds_P2F[:, 0] - holds_P2F[:, 1]) * certain_P2F.all(dim=1)
        logits_P2F = logits_BF.unflatten(0, (-1, 2))
        by_picture_PF = (
            functional.softplus(-toward_PF * (logits_P2F[:, 0] - logits_P2F[:, 1]))
            * toward_PF.abs()
        )
        only_P2F = torch.stack([toward_PF, -toward_PF], dim=1).clamp(min=0)
        only_P2F = only_P2F / only_P2F.sum(dim=2, keepdim=True)
        # its own facts, less those of its other side
        nearer_P2 = (logits_P2F * (only_P2F - only_P2F.flip(1))).sum(dim=2)
        return {
            "facts": (by_fact_BF * certain_P2F.flatten(0, 1)).sum(dim=1).mean() / 10,
            "pictures": by_picture_PF.sum() / toward_PF.abs().sum(),
            "texts": functional.softplus(-nearer_P2).mean(),
            "cells": 3 * self._cells(scenes.covers_P23GG[pairs].flatten(0, 1)),
        }

    def _cells(self, covers_B3GG: "Tensor") -> "Tensor":
        import torch
        from torch.nn import functional

        guesses = self.cell_head(self._features[-1].permute(0, 2, 3, 1)).split(NUM_COVERS, dim=-1)
        # Most cells show nothing; so much less does each of them count.
        weight_BGG = torch.where(covers_B3GG[:, 0] > 0, 1.0, 0.2)
        loss = torch.zeros(())
        for guess_BGGK, cover_BGG in zip(guesses, covers_B3GG.unbind(1), strict=True):
            loss_BGG = functional.cross_entropy(
                guess_BGGK.permute(0, 3, 1, 2), cover_BGG, reduction="none"
            )
            loss = loss + (loss_BGG * weight_BGG).sum() / weight_BGG.sum()
        return loss


def train(
    folder: Path,
    scenes: Scenes,
    num_images: int,
    batch_pairs: int = 16,
    lr: float = 3e-3,
    seed: int = 0,
) -> list[float]:
    """Trains a new model on `num_images` pictures (repeats counted) and writes it to `folder`;
    returns the loss of each step.
    """
    import open_clip
    import torch
    from safetensors.torch import save

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model: nn.Module = open_clip.CLIP(**model_config(len(tokenizer.tokenizer)))
    model.to(memory_format=torch.channels_last)
    lesson = Lesson(model, [tokenizer(wordings(fact)) for fact in FACTS])
    parameters = [*model.parameters(), *lesson.cell_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    num_steps = max(1, num_images // (2 * batch_pairs))
    order, losses = torch.empty(0, dtype=torch.long), []
    with Progress("train", num_steps * 2 * batch_pairs, "images") as progress:
        for step in range(num_steps):
            if len(order) < batch_pairs:
                order = torch.randperm(len(scenes.pixels_P23SS))
            pairs, order = order[:batch_pairs], order[batch_pairs:]
            # rises for a twentieth of the steps, then falls to zero
            for group in optimizer.param_groups:
                group["lr"] = (
                    lr * min(1.0, (step + 1) / (0.05 * num_steps)) * (1 - step / num_steps)
                )
            parts = lesson(scenes, pairs)
            loss = torch.stack(list(parts.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            progress.advance(
                2 * batch_pairs, **{name: f"{part.item():.3f}" for name, part in parts.items()}
            )
    # Half precision halves the file, and open_clip reads it into single precision; the scores agree
    # to 4 decimals.
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    data = save({name: value.contiguous() for name, value in state.items()})
    write_atomically(folder / "open_clip_model.safetensors", lambda file: file.write(data))
    return losses


def run(
    folder: Annotated[Path, typer.Argument(help="Where the model goes, in open_clip's layout.")],
    num_pairs: Annotated[int, typer.Option(help="How many pairs are drawn.")] = 12_000,
    num_images: Annotated[
        int, typer.Option(help="How many pictures are seen, repeats counted.")
    ] = 48_000,
    seed: Annotated[int, typer.Option(help="The scenes' seed; recipes use small ones.")] = 90_210,
) -> None:
    """Train the CLIP model of the built-in scenes."""
    losses = train(folder, draw(num_pairs, seed), num_images)
    say(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; written to {folder}")


if __name__ == "__main__":
    run_command(run)
