"""The card of a finetuned model: README.md of a folder that `svco train` wrote, made from its record svco.json."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.card import CITATION

Record = Mapping[str, Any]


def render_model_card(repo: str, record: Record) -> str:
    """The card's text. Of the base model's terms nothing is known here, so the header states no licence.

    Args:
        repo: ORG/NAME on the Hub.
        record: What svco.json says, without paths of this machine; may be empty.
    """
    base, recipe = str(record.get("base_model") or ""), record.get("recipe") or {}
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        header |= {"base_model": base, "base_model_relation": "finetune"}
    header["tags"] = ["s-vco", "visual-contrast", "hallucination", "preference"]
    parts = ["---\n" + yaml.safe_dump(header, sort_keys=False).rstrip() + "\n---", f"# {repo.split('/')[-1]}"]
    parts.append(
        f"A vision-language model finetuned from `{base or 'a base model'}` on pairs of images that differ in one meaningful detail, "
        "so that it attends to the image it is asked about. Its licence is that of the base model, together with the terms of the data."
    )
    parts.append(_USE.replace("ORG/NAME", repo))
    facts = {
        "objective": (record.get("objective") or {}).get("name"),
        "pairs": (record.get("pairs") or {}).get("train"),
        "steps": record.get("steps"),
        "learning rate": (recipe.get("optim") or {}).get("lr"),
        "data": record.get("data"),
        "sha256 of the data's manifest": record.get("data_sha256"),
    }
    stated = [f"| {name} | `{value}` |" for name, value in facts.items() if value not in (None, "")]
    if stated:
        parts += ["## How it was made", "\n".join(["| | |", "|---|---|", *stated])]
    start, final = record.get("start") or {}, record.get("final") or {}
    measured = [f"| {name.replace('_', ' ')} | {start[name]:.4g} | {final[name]:.4g} |" for name in final if name in start]
    if measured:
        parts += ["## On the held-out pairs of its data", "\n".join(["| | before | after |", "|---|---|---|", *measured])]
    return "\n\n".join([*parts, "## Citation", CITATION]) + "\n"


_USE = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("ORG/NAME")
processor = AutoProcessor.from_pretrained("ORG/NAME")
```"""
