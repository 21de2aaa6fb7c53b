"""The dataset card: README.md of a published folder, with the header that tells the Hub where the splits are."""

from typing import Any

import yaml

from pipeline.schema import SPLITS

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def render_card(manifest: dict[str, Any], licenses: list[str]) -> str:
    """The card's text from the manifest alone, so that it can be made again.

    Args:
        licenses: The licences found on kept rows.
    """
    counts = manifest["rows"]
    parts = [
        "---\n" + yaml.safe_dump(_header(manifest), sort_keys=False).rstrip() + "\n---",
        f"# {' '.join(manifest['name'].split())}",
        "Pairs of images that differ in one meaningful detail. Each pair has one question and two answers: `answer_a` is right for\n"
        "`image_a` and wrong for `image_b`, and the other way round. Made for finetuning with S-VCO (arXiv:2502.13928).",
        "## Counts",
        _markdown_table(["", "rows"], [["candidates", counts["in"]], ["kept", counts["kept"]], ["dropped", counts["dropped"]]]),
        _markdown_table(["split", "rows"], list(counts["by_split"].items())),
        _markdown_table(["category", "kept"], list(counts["kept_by_category"].items())),
        "Dropped rows are in `rejects/` with the columns of the data and `drop_reason`.",
        _markdown_table(["drop reason", "rows"], list(counts["dropped_by_reason"].items()))
        if counts["dropped"]
        else "Nothing was dropped.",
        "## How it was made",
        "The recipe with every default filled in; `manifest.json` has the fingerprint of each stage and the sha256 of each file.",
        "```yaml\n" + yaml.safe_dump(manifest["recipe"], sort_keys=False, width=110).rstrip() + "\n```",
        "Scores are cosines rounded to four decimals; an encoder that did not run leaves null.",
        "## Licences",
        "\n".join(f"- {_literal(name) if name else 'not stated'}" for name in licenses) or "- none: no row was kept",
    ]
    return "\n\n".join(parts) + "\n"


def _header(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the Hub reads: where the splits are, how large it is, what it is for."""
    counts = manifest["rows"]
    files = [{"split": split, "path": f"data/{split}-*"} for split in SPLITS if counts["by_split"].get(split)]
    configs: list[dict[str, Any]] = [{"config_name": "default", "data_files": files}] if files else []
    if counts["dropped"]:
        configs.append({"config_name": "rejects", "data_files": "rejects/*.parquet"})
    return {
        "pretty_name": manifest["name"],
        "configs": configs,
        "size_categories": [next((name for limit, name in _SIZES if counts["kept"] < limit), "n>1M")],
        "task_categories": ["image-text-to-text"],
        "tags": ["visual-contrast", "hallucination", "preference", "image"],
    }


def _literal(name: str) -> str:
    """A text from data on one line, as code: no markup of its own."""
    return "`" + " ".join(name.replace("`", "'").split())[:200] + "`"


def _markdown_table(columns: list[str], rows: list[Any]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows])
