"""How a data set was made, from its manifest: the card's sections on method, audit and limits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pipeline.cards.markdown import folded, literal, table
from pipeline.core.manifest import Manifest
from pipeline.core.schema import BOUNDED_SCORES

_JUDGE_CHOICES = ("on_contradiction", "on_affirmation", "on_missing_judgement")


def construction(manifest: Manifest) -> Iterator[str]:
    """Encoders, bounds, who wrote the texts, what was verified, and the whole recipe."""
    recipe = manifest["recipe"]
    encoders = [
        f"- {_encoder(name, section)}"
        for name, section in (recipe.get("encoders") or {}).items()
        if section and section.get("enabled") is not False
    ]
    yield "Images are compared by these encoders; scores are cosines rounded to four decimals:"
    yield "\n".join(encoders) or "- none"
    bounds = list(_bounds(recipe.get("selection") or {}))
    if bounds:
        yield "A pair stays within these inclusive bounds:"
        yield table(["score", "of", "bound"], bounds)
        if recipe["selection"].get("exempt"):
            yield "Rows that the recipe exempts are judged by none of them."
    else:
        yield "No bound was set on a score."
    writer = ", ".join(
        f"{key} {literal(value)}"
        for key, value in (recipe.get("rewrite") or {}).items()
        if isinstance(value, str | int | float)
    )
    yield f"Question and answers were written by: {writer or 'the source'}"
    yield from _verification(manifest.get("verify") or {}, recipe.get("verify") or {})
    yield (
        "The whole recipe, with every default filled in; `manifest.json` has the fingerprint of"
        " each stage and the sha256 of each file."
    )
    dumped = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110).rstrip()
    yield folded("recipe", dumped, "yaml")


def _verification(facts: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[str]:
    """What was measured of the answers once they were written, and what was made of it."""
    if (facts.get("margins") or {}).get("num_pairs"):
        bound, share = section.get("min_answer_margin"), facts["margins"]["frac_positive"]["both"]
        kept = (
            "no bound was set on it"
            if bound is None
            else f"pairs below {bound:g} on either side were left out"
        )
        yield (
            f"Answers were compared with both images by `clip` again: in {100 * share:.1f} % of"
            f" the pairs each answer is nearer to its own image ({kept}). Right answers pass this"
            " test; passing it does not make an answer right."
        )
    if judge := facts.get("judge"):
        choices = ", ".join(
            f"{key} {literal(section[key])}" for key in _JUDGE_CHOICES if key in section
        )
        yield (
            f"A model that sees, {literal(judge['model'])}, was asked whether each answer is true"
            f" of each of the two images ({choices}):"
        )
        words = ("true", "false", "missing")
        yield table(
            ["asked", *words],
            [
                [name, *(counts[word] for word in words)]
                for name, counts in judge["verdicts"].items()
            ],
        )


def _encoder(name: str, section: Mapping[str, Any]) -> str:
    """One encoder with its model and revision, or its files' hashes."""
    keys = ("model", "pretrained", "revision", "pooling")
    stated = [f", {key} {literal(section[key])}" for key in keys if section.get(key)]
    files = section.get("files")
    hashes = [
        f"{literal(file)} {literal(str(value)[:16])}"
        for file, value in (files.items() if isinstance(files, Mapping) else ())
    ]
    return f"`{name}`{''.join(stated)}" + ("; " + ", ".join(hashes) if hashes else "")


def _bounds(selection: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(score, category, bound) of every band of the recipe; the general ones first."""
    for category, bands in {"all": selection, **(selection.get("by_category") or {})}.items():
        for score in BOUNDED_SCORES:
            stated = [
                f"{side} {bound:g}"
                for side, bound in (bands.get(score) or {}).items()
                if bound is not None
            ]
            if stated or (category != "all" and score in bands):
                yield score, category, ", ".join(stated) or "none"


def audit(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the shortcut audit measured; nothing where it did not run."""
    if not results:
        return
    yield (
        "Can the original side of a pair be told from the edited one by format, compression, size,"
        " noise or blur alone? AUC 0.5 is chance, 1 is every time."
    )
    yield table(
        ["source", "operation", "pairs audited", "AUC (95 %)", "verdict"],
        [
            [
                result["source"],
                result["operation"],
                result["num_audited"],
                "{auc:.2f} ({auc_low:.2f} to {auc_high:.2f})".format(**result["separability"])
                if result.get("separability")
                else "",
                str(result["verdict"]).replace("_", " "),
            ]
            for result in results
        ],
    )


def limits(manifest: Manifest) -> list[str]:
    """What who uses the data set should know."""
    recipe = manifest["recipe"]
    encoders = recipe.get("encoders") or {}
    missing = [name for name in ("clip", "dinov2") if not encoders.get(name)]
    audited = manifest.get("audit") or []
    applies = {
        (
            "Captions, categories and groups are the sources' own statements; nobody looked at each"
            " pair."
        ): True,
        (
            "Questions and answers come from a template: correct where the captions are, and"
            " uniform in wording."
        ): (recipe.get("rewrite") or {}).get("backend") == "template",
        (
            f"{' and '.join(missing)} did not run, so nothing was selected by what an image means;"
            " the scores are null."
        ): bool(missing),
        (
            "The shortcut audit warns: a model could learn how the edited side was made instead of"
            " what differs."
        ): any(result["verdict"] == "warning" for result in audited),
        "There is no validation split.": not manifest["rows"]["by_split"].get("validation"),
    }
    warnings = [
        literal(warning)
        for warning in manifest.get("warnings") or []
        if not str(warning).startswith("shortcut audit")
    ]
    return [*(text for text, holds in applies.items() if holds), *warnings]
