"""TRL's DPOTrainer against ours, on the part of it that both can do: DPO with one image, text a
against text b.

TRL's side is its own: `DPOTrainer.training_step` on the batch that its own collator makes of a
conversation, the frozen reference being a second model that runs in every step. It has to:
DPOTrainer refuses `precompute_ref_log_probs=True` on a data set with images (which is asked of it
here, so that this stays true). Ours packs DPO's two cells in one row and reads the reference from a
table. Both sides start from the same weights and tokens, and use the same type, threads, sdpa
kernels and AdamW; the tower is frozen. Neither is timed while it tokenises and prepares pixels.
"""

import argparse
import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.step_model import IMAGE, PROMPT_TOKENS, RESPONSE_TOKENS, Shape, make_model
from training.models.attention import DENSE, set_attention
from training.models.logps import logps_of_features, vision_features
from training.models.packing import PairTokens, pack
from training.models.vlm import Vlm, encode_prompt, encode_response, pixel_values
from training.objectives.losses import Objective, Scores
from training.objectives.terms import IMAGE_A

DPO = Objective("dpo")
TOLERANCE = 1e-4  # between the two sides' numbers in fp32
# the placeholder comes as number IMAGE
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "\n", "<image>", "USER:", "ASSISTANT:")
# LLaVA-1.5's format with its own <s>: TRL's collator adds no special tokens to what a template
# writes.
TEMPLATE = (
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{{- '<s> USER: ' -}}{%- for"
    " item in message['content'] if item['type'] == 'image' -%}{{- '<image> ' -}}{%- endfor -%}{%-"
    " for item in message['content'] if item['type'] == 'text' -%}{{- item['text'] -}}{%- endfor"
    " -%}{{- ' ' -}}{%- else -%}{{- 'ASSISTANT: ' -}}{%- for item in message['content'] if"
    " item['type'] == 'text' -%}{{- item['text'] -}}{%- endfor -%}{{- '</s>' -}}{%- endif -%}{%-"
    " endfor -%}{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"
)


def make_processor(shape: Shape) -> Any:
    """A LLaVA processor whose tokenizer knows as many words as the shape's vocabulary: the number
    of tokens is that of words.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    assert SPECIAL[IMAGE] == "<image>"
    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), shape.vocab))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=["<image>"], **names
    )
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


@dataclass(frozen=True)
class Example:
    """One pair as a user has it."""

    image: Image.Image
    question: str
    answer_a: str
    answer_b: str


def make_examples(shape: Shape, num_pairs: int) -> list[Example]:
    """Random pairs with the lengths of `bench/step.py`: a prompt of 576 + 40 tokens, answers of 40
    and 36 with their end.
    """
    random = np.random.default_rng(1)

    def words(count: int) -> str:
        return " ".join(
            f"w{number}" for number in random.integers(len(SPECIAL), shape.vocab, count)
        )

    examples = []
    for _ in range(num_pairs):
        image = Image.fromarray(random.integers(0, 256, (336, 336, 3), np.uint8))
        question = words(PROMPT_TOKENS - 3)  # beside <s>, USER: and ASSISTANT:
        examples.append(
            Example(image, question, words(RESPONSE_TOKENS - 1), words(RESPONSE_TOKENS - 5))
        )
    return examples


@dataclass(frozen=True, slots=True)
class Done:
    """What a step found before it moved the weights: the loss, and the mean log-probability of text
    a and of text b.
    """

    loss: float
    logps_a: float
    logps_b: float


Timed = dict[str, tuple[list[float], list[Done]]]  # of each side, its steps


class Side(Protocol):
    """One way to make a step."""

    def step(self) -> Done:
        """One optimiser step."""


class TrlSide:
    """DPOTrainer with its own collated batch."""

    def __init__(
        self, shape: Shape, options: argparse.Namespace, examples: list[Example], folder: str
    ) -> None:
        from trl.trainer.dpo_trainer import DPOTrainer

        dtype = getattr(torch, options.dtype)
        self._model, reference = (make_model(shape, options.device, dtype) for _ in range(2))
        for model in (self._model, reference):
            set_attention(model, DENSE)  # plain sdpa
        self._optimizer = _adamw(self._model, options)
        dataset, processor = _dataset(examples), make_processor(shape)

        def trainer(*, precompute: bool) -> Any:
            return DPOTrainer(
                self._model,
                reference,
                args=_config(options, folder, precompute=precompute),
                train_dataset=dataset,
                processing_class=processor,
                optimizers=(self._optimizer, None),
            )

        _expect_refusal(lambda: trainer(precompute=True))
        self._trainer = trainer(precompute=False)
        # as `train` sets it before its first step
        self._trainer.current_gradient_accumulation_steps = 1
        self._batch = self._trainer.data_collator([dataset[index] for index in range(len(dataset))])
        self._check_tokens(processor, examples)

    def _check_tokens(self, processor: Any, examples: list[Example]) -> None:
        """That TRL's rows hold the tokens of ours, and score the same ones."""
        pairs = _tokens(Vlm(self._model, processor, "llava-llama"), examples)
        rows = [(pair.prompt_image, pair.response_a) for pair in pairs] + [
            (pair.prompt_image, pair.response_b) for pair in pairs
        ]
        batch = (
            self._batch[name].tolist()
            for name in ("input_ids", "attention_mask", "completion_mask")
        )
        for (prompt, response), ids, seen, scored in zip(rows, *batch, strict=True):
            assert [token for token, one in zip(ids, seen, strict=True) if one] == prompt + response
            assert [token for token, one in zip(ids, scored, strict=True) if one] == response

    def step(self) -> Done:
        """See Side."""
        self._optimizer.zero_grad()
        loss = self._trainer.training_step(self._trainer.model, dict(self._batch))
        self._optimizer.step()
        metrics: Mapping[str, list[float]] = self._trainer._metrics["train"]
        return Done(loss.item(), metrics["logps/chosen"][-1], metrics["logps/rejected"][-1])


class OurSide:
    """DPO's two cells in one packed row, with a reference table."""

    def __init__(
        self,
        shape: Shape,
        options: argparse.Namespace,
        examples: list[Example],
        *,
        tower: bool = False,
        reference: bool = False,
    ) -> None:
        self._model = make_model(shape, options.device, getattr(torch, options.dtype))
        if options.recompute:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
            self._model.train()
        self._optimizer, self._reference_in_the_bill = _adamw(self._model, options), reference
        vlm = Vlm(self._model, make_processor(shape), "llava-llama")
        self._packed = pack(_tokens(vlm, examples), IMAGE, cells=DPO.cells).to(options.device)
        self._pixels = pixel_values(vlm, [example.image for example in examples])
        self._features = None if tower else self._see()
        with torch.no_grad():
            self._reference_P32 = self._logps()

    @torch.no_grad()
    def _see(self) -> Tensor:
        assert isinstance(self._pixels, Tensor)
        return vision_features(self._model, self._pixels)

    def _logps(self) -> Tensor:
        features = self._see() if self._features is None else self._features
        return logps_of_features(self._model, self._packed, features, None)

    def step(self) -> Done:
        """See Side."""
        self._optimizer.zero_grad()
        logps_P32 = self._logps()
        if self._reference_in_the_bill:
            with torch.no_grad():  # the pass that makes the table, once per pair
                self._logps()
        scores = Scores(
            D_P32=logps_P32 - self._reference_P32,
            logps_P32=logps_P32,
            num_tokens_P2=self._packed.num_tokens_P2,
        )
        loss = DPO(scores)[0].mean()
        loss.backward()
        self._optimizer.step()
        logps_a, logps_b = logps_P32.detach()[:, IMAGE_A].mean(dim=0).tolist()
        return Done(loss.item(), logps_a, logps_b)


def _adamw(model: Any, options: argparse.Namespace) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=1e-5,
        foreach=options.device == "cuda",
    )


def _config(options: argparse.Namespace, folder: str, *, precompute: bool) -> Any:
    """TRL's settings: its defaults, but for what both sides must share."""
    from trl.trainer.dpo_config import DPOConfig

    return DPOConfig(
        output_dir=folder,
        beta=DPO.coefficients.beta_dpo,
        per_device_train_batch_size=options.pairs,
        max_length=None,
        report_to="none",
        use_cpu=options.device == "cpu",
        bf16=False,
        gradient_checkpointing=options.recompute,
        disable_tqdm=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        precompute_ref_log_probs=precompute,
    )


def _expect_refusal(make: Callable[[], Any]) -> None:
    try:
        make()
    except ValueError as error:
        if "precompute_ref_log_probs" in str(error):
            return
        raise
    raise SystemExit(
        "this TRL precomputes the reference of image data; let it, so that the comparison stays"
        " fair"
    )


def _dataset(examples: list[Example]) -> Any:
    from datasets import Dataset

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}]

    answers = [
        {"chosen": turn("assistant", each.answer_a), "rejected": turn("assistant", each.answer_b)}
        for each in examples
    ]
    prompts = [{"images": [each.image], "prompt": turn("user", each.question)} for each in examples]
    return Dataset.from_list(
        [prompt | answer for prompt, answer in zip(prompts, answers, strict=True)]
    )


def _tokens(vlm: Vlm, examples: list[Example]) -> list[PairTokens]:
    pairs = []
    for each in examples:
        image, text = (
            encode_prompt(vlm, each.question, with_image=with_image) for with_image in (True, False)
        )
        pairs.append(
            PairTokens(
                image,
                text,
                encode_response(vlm, each.answer_a),
                encode_response(vlm, each.answer_b),
            )
        )
    return pairs


def measure_trl(shape: Shape, options: argparse.Namespace) -> str:
    """Seconds per pair of TRL and of ours on DPO, in turn, as a table with what both computed.

    Raises:
        SystemExit: In fp32 the two sides' losses or log-probabilities differ by more than
            `TOLERANCE`, relative, in any step.
    """
    from transformers.utils import logging
    from trl import __version__

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    examples = make_examples(shape, options.pairs)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trainer that was made to be refused
        makers: dict[str, Callable[[], Side]] = {
            f"TRL {__version__}": lambda: TrlSide(shape, options, examples, folder),
            "ours with the tower": lambda: OurSide(shape, options, examples, tower=True),
            "ours": lambda: OurSide(shape, options, examples),
            "ours with the reference": lambda: OurSide(shape, options, examples, reference=True),
        }
        timed: Timed = {name: ([], []) for name in makers}
        # Large models must be held in memory one side at a time; the others take turns.
        for names in [[name] for name in makers] if options.one_at_a_time else [list(makers)]:
            _in_turn({name: makers[name]() for name in names}, timed, options)
            gc.collect()
            torch.cuda.empty_cache()
    return _table(timed, options)


def _in_turn(sides: Mapping[str, Side], timed: Timed, options: argparse.Namespace) -> None:
    for _ in range(options.rounds + 1):
        for name, side in sides.items():
            _timed_step(side, options, *timed[name])


def _timed_step(
    side: Side, options: argparse.Namespace, seconds: list[float], done: list[Done]
) -> None:
    started_s = time.perf_counter()
    done.append(side.step())
    if options.device == "cuda":
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - started_s)


def _table(timed: Timed, options: argparse.Namespace) -> str:
    trl_name, *_ = timed
    trl_seconds, trl_done = timed[trl_name]
    trl_s = statistics.median(trl_seconds[1:]) / options.pairs
    lines = [
        (
            f"\nDPO, one image per pair, {options.pairs} pairs a step, {options.dtype}; TRL refuses"
            " to store the reference of image data"
        ),
        f"{'':<26}{'s/pair':>9}{'ratio':>8}{'loss differs':>14}{'logps differ':>14}",
    ]
    for name, (seconds, done) in timed.items():
        each = list(zip(done, trl_done, strict=True))
        loss = max(_differ(ours.loss, trl.loss) for ours, trl in each)
        logps = max(
            max(_differ(ours.logps_a, trl.logps_a), _differ(ours.logps_b, trl.logps_b))
            for ours, trl in each
        )
        if options.dtype == "float32" and max(loss, logps) > TOLERANCE:
            raise SystemExit(
                f"{name}: the loss differs from TRL's by {loss:.1e}, log-probabilities by"
                f" {logps:.1e}: nothing to compare"
            )
        s_per_pair = statistics.median(seconds[1:]) / options.pairs
        lines.append(
            f"{name:<26}{s_per_pair:>9.3f}{trl_s / s_per_pair:>8.2f}{loss:>14.1e}{logps:>14.1e}"
        )
    moved = (
        f"the loss went from {trl_done[0].loss:.4f} to {trl_done[-1].loss:.4f} in"
        f" {len(trl_done) - 1} steps on both sides"
    )
    return "\n".join((*lines, moved))


def _differ(a: float, b: float) -> float:
    return abs(a - b) / abs(b)
