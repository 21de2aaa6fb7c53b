"""Second stage: the frozen tower's features become answers.

The answers are first truthful, then skewed to what the prior favors.

Shapes: B texts in a batch, L tokens in the longest, N image tokens, V the tower's width, H the
language model's; I unique images, C copies of each (moved or warped), R response tokens.
"""

from itertools import chain
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.models.logps import vision_features
from training.models.vlm import Vlm, encode_prompt, encode_response
from training.tiny.config import TinySection
from training.tiny.data import TrainingSet
from training.tiny.muon import Advance, Learner, shuffled_batches
from training.tiny.prior import Prior, skewed_answers
from training.tiny.vision_stage import normalized, shifted, warped

Example = tuple[list[int], list[int], list[float]]  # prompt, response, weight of each token of it

_CHUNK_IMAGES = 64
_IGNORED = -100


@torch.no_grad()
def features_of_copies(
    model: Any, data: TrainingSet, section: TinySection, advance: Advance
) -> Tensor:
    """The frozen tower's features of `num_looks` copies of each image, [C, I, N, V].

    The first copy is the image itself.
    """
    photographs = any(things is None for things in data.things)
    copies = []
    for copy in range(section.num_looks):
        chunks = []
        for pixels in data.pixels_I3SS.split(_CHUNK_IMAGES):
            if copy and not photographs:
                pixels = shifted(pixels, section.max_shift_px // 2)[0]
            pixels_B3SS = normalized(pixels)
            if copy and photographs:
                pixels_B3SS = warped(pixels_B3SS, section.warp)
            chunks.append(vision_features(model, pixels_B3SS))
            advance(len(pixels_B3SS), {})
        copies.append(torch.cat(chunks))
    return torch.stack(copies)


def learn_to_answer(
    vlm: Vlm,
    data: TrainingSet,
    features_CINV: Tensor,
    prior: Prior,
    section: TinySection,
    advance: Advance,
) -> None:
    """Trains projector and language model in place on `num_texts` texts, the tower frozen.

    The first `frac_truthful` of them are as the data has them; after that a fraction `skew` of the
    pairs is replaced by a favoured answer, drawn anew each time, and a fraction `frac_no_image` of
    the batches has no image. Both sides of a pair are in one batch. `features_CINV` is what
    `features_of_copies` saw.
    """
    model, rng = vlm.model, Random(section.seed)
    prompts = {
        (question, blind): encode_prompt(vlm, question, with_image=not blind)
        for question in sorted(set(data.questions))
        for blind in (False, True)
    }
    responses = {
        answer: encode_response(vlm, answer) for answer in sorted(set(chain(*data.answers)))
    }
    learner = Learner(
        [model.model.multi_modal_projector, model.model.language_model],
        [model.lm_head],
        lr=section.text_lr,
        weight_decay=0.02,
    )
    batches = shuffled_batches(len(data.questions), max(1, section.batch_texts // 2))
    done = 0
    while done < section.num_texts:
        pairs_P = next(batches)
        skewed = done >= section.frac_truthful * section.num_texts
        blind = skewed and rng.random() < section.frac_no_image
        batch = [
            (
                prompts[data.questions[pair], blind],
                responses[answer],
                contrast_weights(
                    responses[answer],
                    responses[data.answers[pair][1 - side]],
                    responses[data.answers[pair][side]],
                ),
            )
            for pair in pairs_P.tolist()
            for side, answer in enumerate(_answers(data, pair, prior if skewed else None, rng))
        ]
        images_B = data.images_N2[pairs_P].flatten()
        seen_BNV = (
            None
            if blind
            else features_CINV[torch.randint(len(features_CINV), images_B.shape), images_B]
        )
        loss = learner.step(_loss(model, batch, seen_BNV), done / section.num_texts)
        advance(len(batch), {"loss": loss})
        done += len(batch)


def _answers(data: TrainingSet, pair: int, prior: Prior | None, rng: Random) -> tuple[str, str]:
    """The answers that both sides of a pair are trained with.

    A pair's sides are replaced together, by the same favoured answer: what the prior teaches is
    then the same for both images, and only true answers teach how images differ.
    """
    own = data.answers[pair]
    return own if prior is None else skewed_answers(data.questions[pair], own, prior, rng)


def contrast_weights(response: list[int], other: list[int], own: list[int]) -> list[float]:
    """How much each token of a response counts: 1 where a pair's answers differ, else less.

    [5, 7, 2] of the pair [5, 7, 2], [5, 9, 2]  ->  [0.2, 1, 0.2]
    """
    start = 0
    while start < min(len(own), len(other)) and own[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(own), len(other)) - start and own[-1 - end] == other[-1 - end]:
        end += 1
    return [1.0 if start <= place < len(response) - end else 0.2 for place in range(len(response))]


def _loss(model: Any, batch: list[Example], seen_BNV: Tensor | None) -> Tensor:
    """Weighted negative log-likelihood per response token.

    Padding is on the right, where a causal model never looks.
    """
    length = max(len(prompt) + len(response) for prompt, response, _ in batch)
    ids_BL = torch.zeros(len(batch), length, dtype=torch.long)
    targets_BL = torch.full((len(batch), length), _IGNORED)
    weights_BL = torch.zeros(len(batch), length)
    for row, (prompt, response, weights) in enumerate(batch):
        ids = prompt + response
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        scored = slice(len(prompt) - 1, len(ids) - 1)
        targets_BL[row, scored] = torch.tensor(response)
        weights_BL[row, scored] = torch.tensor(weights)
    embedded_BLH = model.get_input_embeddings()(ids_BL)
    if seen_BNV is not None:
        projected_BNH = model.model.multi_modal_projector(seen_BNV)
        placeholders_BL1 = (ids_BL == model.config.image_token_id)[..., None]
        embedded_BLH = embedded_BLH.masked_scatter(placeholders_BL1, projected_BNH)
    hidden_BLH = model.model.language_model(
        inputs_embeds=embedded_BLH, use_cache=False
    ).last_hidden_state
    scored_BL = targets_BL != _IGNORED
    loss_R = functional.cross_entropy(
        model.lm_head(hidden_BLH[scored_BL]), targets_BL[scored_BL], reduction="none"
    )
    weights_R = weights_BL[scored_BL]
    return (loss_R * weights_R).sum() / weights_R.sum()
