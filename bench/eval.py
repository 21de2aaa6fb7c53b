#!/usr/bin/env python3
"""What packing, batching and keeping answers save in an evaluation, and that none of them changes a
number.

    python bench/eval.py                                  # some minutes on 2 free cores
    python bench/eval.py --pairs 4 --questions 16 --items 500 --rounds 1      # does it run at all

1. Log-likelihood: the six log-probabilities of each pair (three image conditions, two responses) in
  one packed pass, against six separate unpadded passes with logits at response positions only, and
  against one padded batch with logits everywhere. Each side runs the vision tower for the images
  that it needs, and all must agree to 1e-5 nats per token.
2. Generation: answers in batches against one by one; the texts must be equal.
3. A rerun with every answer kept: a process of its own on a benchmark of many items, under every
  image condition; it must import neither torch nor Ray.

Sides take turns in one process with the same threads and precision. Models are random: what is
timed does not depend on what was learned.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from eval.config import EvalSection  # noqa: E402
from eval.generation.cache import Answer, AnswerStore  # noqa: E402
from eval.plan import evaluated_models, plan_evaluation  # noqa: E402
from eval.suite.requests import requests_of  # noqa: E402

ANSWERS = (
    "A red star stands to the left of a blue circle on a dark ground.",
    "A blue circle stands to the left of a red star on a dark ground.",
)
QUESTION = (
    "Which shapes are in the picture, and how do they stand to each other? Answer in one sentence."
)


def model_of(*, large: bool) -> Any:
    """A random LLaVA: the demonstration's size, or one in which the language model takes most of
    the time, as in real ones.

    Of the large one's language model a fifth is the head over the vocabulary (LLaVA-1.5-7B: 2 %,
    with Qwen2-0.5B: 28 %).
    """
    import torch

    from training.tiny.config import TinySection
    from training.tiny.model import make_untrained

    torch.manual_seed(0)
    if not large:
        return make_untrained([QUESTION, *ANSWERS], TinySection())
    sizes = {
        "image_px": 168,
        "patch_px": 14,
        "vision_dim": 64,
        "vision_layers": 2,
        "text_dim": 256,
        "text_layers": 6,
    }
    vlm = make_untrained([QUESTION, *ANSWERS], TinySection(**sizes))
    vlm.model.resize_token_embeddings(4096)
    return vlm


def pictures(count: int, size_px: int = 168) -> list[Image.Image]:
    """Different noise in every picture."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (size_px, size_px, 3), np.uint8)) for _ in range(count)
    ]


def alternately(
    sides: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The median seconds of each side, run in turn after one warm-up each, and what it made."""
    made = {name: run() for name, run in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started_s = time.perf_counter()
            made[name] = run()
            seconds[name].append(time.perf_counter() - started_s)
    return {name: statistics.median(values) for name, values in seconds.items()}, made


BATCH_PAIRS = 8


class Pairs:
    """The same pairs for three ways to score them; each gives [pairs, 6]: image a, image b, no
    image, by answer a and b.
    """

    def __init__(self, num_pairs: int) -> None:
        from training.models.attention import SPLIT, set_attention
        from training.models.packing import PairTokens
        from training.models.vlm import encode_prompt, encode_response, pixel_values

        self.vlm = model_of(large=True)
        # as `load_vlm` does; for the other two ways it is plain sdpa
        set_attention(self.vlm.model, SPLIT)
        self.model, self.num_pairs = self.vlm.model.eval(), num_pairs
        self.prompts = [
            encode_prompt(self.vlm, QUESTION, with_image=with_image) for with_image in (True, False)
        ]
        self.responses = [encode_response(self.vlm, text) for text in ANSWERS]
        self.pairs = [
            PairTokens(self.prompts[0], self.prompts[1], *self.responses) for _ in range(num_pairs)
        ]
        self.pixels_I3HW = pixel_values(self.vlm, pictures(2 * num_pairs))
        sides = [(side, self.prompts[side == "none"]) for side in ("a", "b", "none")]
        self.sequences = [
            (side, prompt + response, len(response))
            for side, prompt in sides
            for response in self.responses
        ]

    def pixels_of(self, pair: int, side: str) -> Any:
        """One image, or None."""
        return None if side == "none" else self.pixels_I3HW[2 * pair + (side == "b")][None]

    def packed(self) -> Any:
        """The product's way: some pairs in one row."""
        import torch

        from training.models.logps import pair_logps
        from training.models.packing import pack

        parts = []
        for start in range(0, self.num_pairs, BATCH_PAIRS):
            some = self.pairs[start : start + BATCH_PAIRS]
            both_I3HW = self.pixels_I3HW[2 * start : 2 * (start + len(some))]
            batch = pack(some, self.vlm.image_token_id, self.vlm.num_image_tokens)
            parts.append(
                pair_logps(self.model, batch, both_I3HW[0::2], both_I3HW[1::2]).view(-1, 6)
            )
        return torch.cat(parts)

    def separate(self) -> Any:
        """One unpadded pass per sequence, logits at response positions only."""
        import torch

        rows = []
        for pair in range(self.num_pairs):
            for side, ids, length in self.sequences:
                inputs = torch.tensor([ids])
                pixels = self.pixels_of(pair, side)
                hidden = self.model.model(
                    input_ids=inputs, pixel_values=pixels, use_cache=False
                ).last_hidden_state
                logits = self.model.lm_head(hidden[0, -length - 1 : -1]).float().log_softmax(-1)
                rows.append(logits.gather(1, inputs[0, -length:, None]).sum())
        return torch.stack(rows).view(-1, 6)

    def padded(self) -> Any:
        """Batches padded to the longest sequence, logits everywhere."""
        import torch

        rows = []
        longest = max(len(ids) for _, ids, _ in self.sequences)
        table = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids, _ in self.sequences])
        mask = torch.tensor(
            [[1] * len(ids) + [0] * (longest - len(ids)) for _, ids, _ in self.sequences]
        )
        for start in range(0, self.num_pairs, BATCH_PAIRS):
            some = range(start, min(start + BATCH_PAIRS, self.num_pairs))
            pixels = torch.cat(
                [
                    self.pixels_of(pair, side)
                    for pair in some
                    for side, _, _ in self.sequences
                    if side != "none"
                ]
            )
            inputs, seen = table.repeat(len(some), 1), mask.repeat(len(some), 1)
            logits = self.model(
                input_ids=inputs, attention_mask=seen, pixel_values=pixels, use_cache=False
            ).logits
            logps = logits[:, :-1].float().log_softmax(-1).gather(2, inputs[:, 1:, None])[..., 0]
            for row in range(len(inputs)):
                _, ids, length = self.sequences[row % 6]
                rows.append(logps[row, len(ids) - length - 1 : len(ids) - 1].sum())
        return torch.stack(rows).view(-1, 6)


def log_likelihood(num_pairs: int, rounds: int) -> dict[str, Any]:
    """Packed, separate and padded passes over the same pairs."""
    import torch

    pairs = Pairs(num_pairs)
    with torch.inference_mode():
        seconds, made = alternately(
            {"packed": pairs.packed, "separate": pairs.separate, "padded": pairs.padded}, rounds
        )
    lengths = torch.tensor([length for _, _, length in pairs.sequences])
    apart = {
        name: float(((made[name] - made["packed"]).abs() / lengths).max())
        for name in ("separate", "padded")
    }
    assert max(apart.values()) < 1e-5, f"the three ways disagree by {apart} nats per token"
    return {
        "pairs": num_pairs,
        "prompt_tokens": len(pairs.prompts[0]),
        "response_tokens": [len(response) for response in pairs.responses],
        "seconds": seconds,
        "times_faster_than_separate": seconds["separate"] / seconds["packed"],
        "times_faster_than_padded": seconds["padded"] / seconds["packed"],
        "largest_difference_nats_per_token": max(apart.values()),
    }


def generation(num_questions: int, rounds: int, batch: int = 16) -> dict[str, Any]:
    """Greedy answers in batches against one by one."""
    from training.models.generation import generate

    vlm = model_of(large=False)
    images = pictures(num_questions, 64)
    questions = [f"{QUESTION} {'Look closely. ' * (index % 4)}" for index in range(num_questions)]

    def answers(size: int) -> list[str]:
        found = []
        for start in range(0, num_questions, size):
            found += generate(
                vlm,
                images[start : start + size],
                questions[start : start + size],
                max_new_tokens=24,
            )
        return found

    seconds, made = alternately(
        {"batched": lambda: answers(batch), "single": lambda: answers(1)}, rounds
    )
    assert made["batched"] == made["single"], "a batch changes answers"
    return {
        "questions": num_questions,
        "batch": batch,
        "seconds": seconds,
        "times_faster": seconds["single"] / seconds["batched"],
    }


def write_pope(folder: Path, num_items: int) -> None:
    """A benchmark in POPE's format: 18 questions per image, as in the original."""
    rng = np.random.default_rng(0)
    (folder / "val2014").mkdir(parents=True)
    num_images = max(2, num_items // 18)
    small = rng.integers(0, 256, (num_images, 12, 16, 3), np.uint8)
    for number in range(num_images):
        picture = Image.fromarray(small[number]).resize((640, 480), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        (folder / "val2014" / f"{number}.jpg").write_bytes(buffer.getvalue())
    splits = ("random", "popular", "adversarial")
    for place, split in enumerate(splits):
        lines = [
            {
                "question_id": number,
                "image": f"{number % num_images}.jpg",
                "text": f"Is there a thing {number} here?",
                "label": ("yes", "no")[number % 2],
            }
            for number in range(place, num_items, len(splits))
        ]
        (folder / f"coco_pope_{split}.json").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )


RERUN = (
    "import sys\n"
    "from eval.config import EvalSection\n"
    "from eval.run_eval import evaluate, plan_evaluation\n"
    "section = EvalSection.model_validate_json(open(sys.argv[1]).read())\n"
    "evaluate(plan_evaluation(section))\n"
    "assert not {'torch', 'ray', 'transformers'} & set(sys.modules), 'loaded torch or Ray'\n"
)


def cached_rerun(num_items: int, folder: Path) -> dict[str, Any]:
    """A whole evaluation of which every answer is kept, in a process of its own."""
    from training.models.vlm import save_vlm

    save_vlm(model_of(large=False), folder / "model")
    write_pope(folder / "pope", num_items)
    recipe = EvalSection.model_validate(
        {
            "model": str(folder / "model"),
            "base": "none",
            "out": str(folder / "out"),
            "answers": {"cache": str(folder / "answers.sqlite")},
            "benchmarks": [
                {"name": "pope", "source": str(folder / "pope"), "expected_size": num_items}
            ],
        }
    )
    plan = plan_evaluation(recipe)
    model, run = evaluated_models(plan)["after"], plan.runs[0]
    requests = [
        request
        for condition in run.image_inputs
        for request in requests_of(run, model, condition, plan.section)
    ]
    with AnswerStore(folder / "answers.sqlite") as store:
        texts = ("Yes.", "No", "It may be.")
        store.put(
            (request.key, Answer(texts[int(request.key[:4], 16) % 3], 2, ended=True))
            for request in requests
        )
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    started_s, before = time.perf_counter(), os.times()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", RERUN, str(folder / "recipe.json")], env=environment, check=True
    )
    after = os.times()
    cpu_s = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {
        "items": num_items,
        "answers": len(requests),
        "seconds": time.perf_counter() - started_s,
        "cpu_seconds": cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="Where the results go as JSON.")
    options = parser.parse_args()
    results = {
        "log_likelihood": log_likelihood(options.pairs, options.rounds),
        "generation": generation(options.questions, options.rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        results["cached_rerun"] = cached_rerun(options.items, Path(folder))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    packed, said, again = results["log_likelihood"], results["generation"], results["cached_rerun"]
    print(
        f"log-likelihood, {packed['pairs']} pairs: packed"
        f" {packed['times_faster_than_separate']:.2f}x over separate unpadded passes,"
        f" {packed['times_faster_than_padded']:.2f}x over padded ones with all logits; equal to"
        f" {packed['largest_difference_nats_per_token']:.1e} nats per token\ngeneration,"
        f" {said['questions']} questions: batches of {said['batch']} {said['times_faster']:.2f}x"
        f" over one by one, equal texts\nrerun, {again['items']:,} items, {again['answers']:,} kept"
        f" answers: {again['seconds']:.1f} s ({again['cpu_seconds']:.1f} s CPU)"
    )


if __name__ == "__main__":
    main()
