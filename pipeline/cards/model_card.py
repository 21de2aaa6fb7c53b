"""The card of a finetuned model: README.md of a folder that `svco train` wrote, made from its
record svco.json.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Record = Mapping[str, Any]

CITATION = """```bibtex
@inproceedings{wu2025svco,
  title     = {Symmetrical Visual Contrastive Optimization: Aligning Vision-Language Models with Minimal Contrastive Images},
  author    = {Wu, Shengguang and Sun, Fan-Yun and Wen, Kaiyue and Haber, Nick},
  booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics (ACL 2025)},
  year      = {2025},
  note      = {arXiv:2502.13928}
}
```"""


def render_model_card(repo: str, record: Record, adapter: Mapping[str, Any] | None = None) -> str:
    """The card's text. Of the base model's terms nothing is known here, so the header states no
    licence.

    Args:
        repo: ORG/NAME on the Hub.
        record: What svco.json says, without paths of this machine; may be empty.
        adapter: What adapter_config.json says, where the folder holds a PEFT adapter and not a
            whole model.
    """
    base = str((adapter or {}).get("base_model_name_or_path") or record.get("base_model") or "")
    recipe, is_adapter = record.get("recipe") or {}, adapter is not None
    header: dict[str, Any] = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
    }
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        header |= {
            "base_model": base,
            "base_model_relation": "adapter" if is_adapter else "finetune",
        }
    header["tags"] = ["s-vco", "visual-contrast", "hallucination", "preference"]
    parts = [
        "---\n" + yaml.safe_dump(header, sort_keys=False).rstrip() + "\n---",
        f"# {repo.split('/')[-1]}",
    ]
    name = f"`{base or 'a base model'}`"
    what = (
        f"A PEFT adapter for the vision-language model {name}, trained"
        if is_adapter
        else f"A vision-language model finetuned from {name}"
    )
    parts.append(
        f"{what} on pairs of images that differ in one meaningful detail, so that it attends to the"
        " image it is asked about. Its licence is that of the base model, together with the terms"
        " of the data."
    )
    parts.append(
        (_USE_ADAPTER if is_adapter else _USE).replace("ORG/NAME", repo).replace("BASE", base)
    )
    facts = {
        "adapter": (
            f"{adapter.get('peft_type', 'PEFT')}, rank {adapter.get('r', '?')}"
            if adapter is not None
            else None
        ),
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
    measured = [
        f"| {name.replace('_', ' ')} | {start[name]:.4g} | {final[name]:.4g} |"
        for name in final
        if name in start
    ]
    if measured:
        parts += [
            "## On the held-out pairs of its data",
            "\n".join(["| | before | after |", "|---|---|---|", *measured]),
        ]
    return "\n\n".join([*parts, "## Citation", CITATION]) + "\n"


_USE = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("ORG/NAME")
processor = AutoProcessor.from_pretrained("ORG/NAME")
```"""
_USE_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained("BASE"), "ORG/NAME")
processor = AutoProcessor.from_pretrained("BASE")
```"""


def portable(value: Any) -> Any:
    """A record with absolute paths cut to their last part: where things lay on this machine is
    nobody's business.
    """
    if isinstance(value, dict):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
