"""What the model says about a few fixed pairs as it trains, in samples.jsonl beside the metrics."""

import json
from pathlib import Path
from typing import Any

from training.data.pairs import PairReader
from training.models.generation import generate
from training.models.vlm import Vlm
from training.run_plan import SAMPLES


def sample_answers(
    reader: PairReader, vlm: Vlm, *, num_pairs: int, max_new_tokens: int
) -> list[dict[str, Any]]:
    """Greedy answers to the questions of the first pairs of a split, about either image."""
    pairs = range(min(num_pairs, len(reader)))
    answers = generate(
        vlm,
        [reader.image(int(number)) for pair in pairs for number in reader.images_P2[pair]],
        [reader.questions[pair] for pair in pairs for _ in range(2)],
        max_new_tokens=max_new_tokens,
    )
    return [
        {
            "pair_id": reader.pair_ids[pair],
            "question": reader.questions[pair],
            "answer_a": answers[2 * pair],
            "answer_b": answers[2 * pair + 1],
        }
        for pair in pairs
    ]


def append_samples(out: Path, step: int, samples: list[dict[str, Any]]) -> None:
    """Adds the answers of one evaluation to the file."""
    with (out / SAMPLES).open("a", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n" for sample in samples
        )
