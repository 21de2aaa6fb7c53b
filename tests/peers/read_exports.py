"""Reads model folders with whatever transformers the path gives, and writes what came out.

A program of its own, because it runs with other versions than the tests: `read_exports.py JOBS
OUT`. JOBS is JSON: of each name the `folder`, the `base` where the folder holds adapters alone, and
`inputs`, a file of tensors for the model. OUT becomes an npz file.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

QUESTIONS = ("What is shown?", "Größe, 答案 und 😀: 1\u00bd?", "two  blanks\n\nlines\ttab")


def picture() -> Image.Image:
    """What is shown: smooth, of odd size, so that resizing has something to do."""
    y, x = np.mgrid[0:61, 0:83]
    return Image.fromarray(np.stack([3 * x, 4 * y, (x * y) % 251], axis=-1).astype(np.uint8))


def tokens_and_pixels(processor: Any, *, with_image: bool) -> list[dict[str, Any]]:
    """What the processor makes of each question, by its own template."""
    made = []
    for question in QUESTIONS:
        content = [{"type": "image"}] if with_image else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images = {"images": [picture()]} if with_image else {}
        made.append(dict(processor(text=[text], return_tensors="pt", **images)))
    return made


def logits_of(model: Any, inputs: dict[str, Any]) -> Any:
    """The logits of every token, on given tensors."""
    known = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in inputs.items() if name in known}
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def load(folder: str, base: str | None) -> Any:
    """The model of a folder; of adapters, its base with them on it."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        base or folder, dtype=torch.float32, attn_implementation="eager"
    )
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder).get_base_model()
    return model.eval()


def read(folder: str, base: str | None, inputs: str) -> dict[str, Any]:
    """Tokens, pixels and logits of one folder."""
    found: dict[str, Any] = {}
    processor = transformers.AutoProcessor.from_pretrained(folder, use_fast=True)
    for with_image in (False, True):
        for number, made in enumerate(tokens_and_pixels(processor, with_image=with_image)):
            found[f"ids-{with_image}-{number}"] = made["input_ids"].numpy()
            if with_image:
                found[f"pixels-{number}"] = made["pixel_values"].float().numpy()
    for name, options in (("slow", {"use_fast": False}), ("default", {})):
        images = transformers.AutoImageProcessor.from_pretrained(folder, **options)
        found[f"pixels-{name}"] = np.asarray(images(picture(), return_tensors="pt")["pixel_values"])
    model = load(folder, base)
    found["logits"] = logits_of(model, dict(torch.load(inputs))).numpy()
    found["dtype"] = np.array(str(transformers.AutoConfig.from_pretrained(base or folder).dtype))
    return found


def main(jobs: str, out: str) -> None:
    """Reads all, each error as the text that it is."""
    results: dict[str, Any] = {"version": np.array(transformers.__version__)}
    for name, job in json.loads(Path(jobs).read_text()).items():
        try:
            found = read(job["folder"], job.get("base"), job["inputs"])
        except Exception as error:  # a test shows it
            found = {"error": np.array(f"{type(error).__name__}: {error}"[:300])}
        results |= {f"{name}/{key}": value for key, value in found.items()}
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
