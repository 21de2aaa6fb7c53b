"""The card of a finetuned model: README.md of a folder that `svco train` wrote.

Made from the folder's record, svco.json.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipeline.core.training_record import TrainingRecord, measured_rows

CITATION = """```bibtex
@inproceedings{wu2025svco,
  title     = {Symmetrical Visual Contrastive Optimization: Aligning Vision-Language Models with \
Minimal Contrastive Images},
  author    = {Wu, Shengguang and Sun, Fan-Yun and Wen, Kaiyue and Haber, Nick},
  booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational \
Linguistics (ACL 2025)},
  year      = {2025},
  note      = {arXiv:2502.13928}
}
```"""

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
# The order of the header.
_KEYS = ["library_name", "pipeline_tag", "base_model", "base_model_relation", "tags"]


def render_model_card(
    repo: str, record: TrainingRecord, adapter: Mapping[str, Any] | None = None
) -> str:
    """The card's text: header, what it is, how to use it, how it was made, what was measured.

    Args:
        repo: ORG/NAME on the Hub.
        record: What svco.json says, without paths of this machine; may be empty.
        adapter: What adapter_config.json says, where the folder holds a PEFT adapter and not a
            whole model.
    """
    base = str((adapter or {}).get("base_model_name_or_path") or record.get("base_model") or "")
    header = _header(repo, record, base, is_adapter=adapter is not None)
    name = f"`{base or 'a base model'}`"
    what = (
        f"A vision-language model finetuned from {name}"
        if adapter is None
        else f"A PEFT adapter for the vision-language model {name}, trained"
    )
    use = _USE if adapter is None else _USE_ADAPTER
    parts = [
        f"---\n{header.to_yaml(original_order=_KEYS)}\n---",
        f"# {repo.split('/')[-1]}",
        f"{what} on pairs of images that differ in one meaningful detail, so that it attends to the"
        " image it is asked about. Its licence is that of the base model, together with the terms"
        " of the data.",
        use.replace("ORG/NAME", repo).replace("BASE", base),
    ]
    if stated := _facts(record, adapter):
        parts += ["## How it was made", "\n".join(["| | |", "|---|---|", *stated])]
    if measured := measured_rows(record.get("start") or {}, record.get("final") or {}):
        rows = [f"| {' | '.join(row)} |" for row in measured]
        parts += [
            "## On the held-out pairs of its data",
            "\n".join(["| | before | after |", "|---|---|---|", *rows]),
        ]
    return "\n\n".join([*parts, "## Citation", CITATION]) + "\n"


def _header(repo: str, record: TrainingRecord, base: str, *, is_adapter: bool) -> ModelCardData:
    """What the Hub reads; of the base model's terms nothing is known here, so it states no license.

    What was measured on the held-out pairs becomes the Hub's model-index.
    """
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", base)
    data = str(record.get("data") or "")
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=data,
            dataset_name=data,
            dataset_split="validation",
            metric_type=metric,
            metric_value=after,
        )
        for metric, after in (record.get("final") or {}).items()
        if data and math.isfinite(after) and metric in (record.get("start") or {})
    ]
    return ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="image-text-to-text",
        base_model=base if named else None,
        base_model_relation=("adapter" if is_adapter else "finetune") if named else None,
        tags=["s-vco", "visual-contrast", "hallucination", "preference"],
        model_name=repo.split("/")[-1] if results else None,
        eval_results=results or None,
    )


def _facts(record: TrainingRecord, adapter: Mapping[str, Any] | None) -> list[str]:
    """Rows on how the model was trained, of what the record states."""
    facts = {
        "adapter": (
            f"{adapter.get('peft_type', 'PEFT')}, rank {adapter.get('r', '?')}"
            if adapter is not None
            else None
        ),
        "objective": (record.get("objective") or {}).get("name"),
        "pairs": (record.get("pairs") or {}).get("train"),
        "steps": record.get("steps"),
        "learning rate": ((record.get("recipe") or {}).get("optim") or {}).get("lr"),
        "data": record.get("data"),
        "sha256 of the data's manifest": record.get("data_sha256"),
    }
    return [f"| {name} | `{value}` |" for name, value in facts.items() if value not in (None, "")]


def portable(value: Any) -> Any:
    """A record with absolute paths cut to their last part.

    Where things lay on this machine is nobody's business.
    """
    if isinstance(value, dict):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
