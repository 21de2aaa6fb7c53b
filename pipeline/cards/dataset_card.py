"""The dataset card: README.md of a published folder, with the header that tells the Hub where the
splits are.

Made from the manifest alone, so that it can be made again. What comes from data stands in code
spans or tables, as text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pipeline.cards.model_card import CITATION
from pipeline.core.schema import CATEGORIES, SCORE_COLUMNS, SPLITS

Manifest = Mapping[str, Any]

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# The identifiers of https://huggingface.co/docs/hub/repositories-licenses that data sets of
# pictures carry.
_HUB_LICENSES = (
    "apache-2.0 mit cc cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0"
    " cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0"
    " cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 odbl odc-by pddl bsd-3-clause unlicense"
).split()
_WHAT = """Pairs of images that differ in one meaningful detail. Each pair has one question and two answers: `answer_a` is right for
`image_a` and wrong for `image_b`, and the other way round. Made for finetuning vision-language models with S-VCO
([arXiv:2502.13928](https://arxiv.org/abs/2502.13928)), so that each answer attends to its own image and rejects the other."""
_USE = """```python
from datasets import load_dataset

pairs = load_dataset("PATH_OR_HUB_ID", split="train")    # image_a and image_b are pictures
left = load_dataset("PATH_OR_HUB_ID", "rejects", split="train")    # what was dropped, with drop_reason
```

With the S-VCO toolkit, on a copy of this folder:

```bash
hf download PATH_OR_HUB_ID --repo-type dataset --local-dir DIR    # from the Hub
svco validate DIR    # is every file what the manifest says?
svco train --recipe recipes/svco_tiny.yaml model=YOUR_LLAVA data=DIR out=OUT
svco eval --recipe recipes/eval_contrast.yaml model=OUT data=DIR out=EVAL
```"""
_COLUMNS = """| column | what it holds |
|---|---|
| `pair_id` | names the pair by its content: both images and captions, in either order |
| `source`, `source_id` | where the pair comes from |
| `category`, `operation` | what differs, and how the second image came about (`captured`: neither was made from the other) |
| `group` | the original image, person or scene; a group is never split between train and validation |
| `image_a`, `image_b` | the images; where one was made from the other, a is the original |
| `question`, `answer_a`, `answer_b` | one question for both images, and the right answer for each |
| `caption_a`, `caption_b` | the texts of the source |
| `clip_image_cos`, `dinov2_image_cos`, `pixels_image_cos` | how alike the two images are; null where that encoder did not run |
| `caption_margin_a`, `caption_margin_b` | how much nearer a caption is to its own image than to the other one, by CLIP |
| `rewrite_status`, `rewrite_model` | who wrote question and answers |
| `license` | as the source states it |
| `image_a_sha256`, `image_b_sha256` | of the encoded bytes |
| `meta` | what else the source tells, as JSON |"""


# Of the sources that the toolkit knows by kind or preset.
_PAPERS = {
    "countercurate": (
        "Zhang et al., CounterCurate, Findings of ACL 2024, arXiv:2402.13254; its photographs are"
        " those of Flickr30k"
    ),
    "finecops_ref": (
        "Liu et al., FineCops-Ref, EMNLP 2024, arXiv:2409.14750; its photographs are those of GQA"
    ),
    "vismin": "Awal et al., VisMin, NeurIPS 2024, arXiv:2407.16772",
    "coco_counterfactuals": "Le et al., COCO-Counterfactuals, NeurIPS 2023, arXiv:2309.14356",
    "magicbrush": "Zhang et al., MagicBrush, NeurIPS 2023, arXiv:2306.10012",
}


def render_card(
    manifest: Manifest, *, repo: str = "", exceptions: Mapping[str, int] | None = None
) -> str:
    """The card's text: header, what it is, counts, how it was made, limits, licences, citation.

    Args:
        repo: ORG/NAME on the Hub, where it is published.
        exceptions: Licences (and numbers of pairs) that are published because the publisher answers
            for them.
    """
    parts = [
        "---\n"
        + yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True).rstrip()
        + "\n---"
    ]
    parts += [f"# {_plain(manifest['name'])}", _WHAT]
    sections = {
        "How to use it": [_USE.replace("PATH_OR_HUB_ID", repo or "PATH_OR_HUB_ID")],
        "What is in it": list(_counts(manifest["rows"])),
        "Columns": [_COLUMNS],
        "How it was made": list(_construction(manifest)),
        "Shortcut audit": list(_audit(manifest.get("audit") or [])),
        "Known limits": ["\n".join(f"- {limit}" for limit in _limits(manifest))],
        "Licences": list(_licences(manifest.get("licenses") or {}, exceptions or {})),
        "Citation": [
            "Cite the method, and the sources below as their authors ask.",
            CITATION,
            _sources(manifest["recipe"]),
        ],
    }
    for heading, body in sections.items():
        parts += [f"## {heading}", *body] if body else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(manifest: Manifest) -> dict[str, Any]:
    """What the Hub reads: where the splits are, how large it is, under which terms, what it is for."""
    counts = manifest["rows"]
    files = [
        {"split": split, "path": f"data/{split}-*"}
        for split in SPLITS
        if counts["by_split"].get(split)
    ]
    configs: list[dict[str, Any]] = (
        [{"config_name": "default", "data_files": files}] if files else []
    )
    if counts["dropped"]:
        configs.append({"config_name": "rejects", "data_files": "rejects/*.parquet"})
    return {
        "pretty_name": " ".join(manifest["name"].split()),
        **hub_license(list(manifest.get("licenses") or {})),
        "size_categories": [
            next((name for limit, name in _SIZES if counts["kept"] < limit), "n>1M")
        ],
        "task_categories": ["image-text-to-text", "visual-question-answering"],
        "tags": [
            "visual-contrast",
            "counterfactual",
            "hallucination",
            "preference",
            "s-vco",
            "image",
        ],
        "configs": configs,
    }


def hub_license(names: Sequence[str]) -> dict[str, str]:
    """The header's licence: one that the Hub knows if all rows share it, otherwise "other" and the
    names.

    ["CC-BY-4.0"]  ->  cc-by-4.0        ["MIT", "own terms"]  ->  other, mit-and-own-terms        [""]  ->  unknown
    """
    known = [name.strip().lower() for name in names]
    if len(known) == 1 and known[0] in _HUB_LICENSES:
        return {"license": known[0]}
    if not any(known):
        return {"license": "unknown"}
    # The Hub takes a name of lower case letters, digits, points and hyphens.
    slugs = [re.sub(r"[^a-z0-9.]+", "-", name).strip("-") or "not-stated" for name in known]
    return {"license": "other", "license_name": "-and-".join(slugs)[:96]}


def _counts(counts: Mapping[str, Any]) -> Iterator[str]:
    kept, dropped = counts["kept"], counts["dropped"]
    yield (
        f"{kept:,} of {counts['in']:,} candidates were kept; the other {dropped:,} are in"
        " `rejects/` with their `drop_reason`."
    )
    yield _table(["split", "pairs"], counts["by_split"].items())
    for name in ("category", "source"):
        columns = [counts.get(f"{what}_by_{name}") or {} for what in ("kept", "dropped")]
        order = (
            [value for value in CATEGORIES if value in columns[0] or value in columns[1]]
            if name == "category"
            else []
        )
        values = [*order, *sorted({value for column in columns for value in column} - set(order))]
        if values:
            yield _table(
                [name, "kept", "dropped"],
                [[value, *(column.get(value, 0) for column in columns)] for value in values],
            )
    if dropped:
        yield _table(
            ["drop reason", "rows"],
            sorted(counts["dropped_by_reason"].items(), key=lambda item: -item[1]),
        )


def _construction(manifest: Manifest) -> Iterator[str]:
    recipe = manifest["recipe"]
    encoders = [
        line
        for name, section in (recipe.get("encoders") or {}).items()
        if (line := _encoder(name, section))
    ]
    yield "Images are compared by these encoders; scores are cosines rounded to four decimals:"
    yield "\n".join(f"- {line}" for line in encoders) or "- none"
    bounds = list(_bounds(recipe.get("selection") or {}))
    yield (
        "A pair stays within these inclusive bounds:" if bounds else "No bound was set on a score."
    )
    if bounds:
        yield _table(["score", "of", "bound"], bounds)
        yield (
            "Rows that the recipe exempts are judged by none of them."
            if recipe["selection"].get("exempt")
            else ""
        )
    rewrite = {
        key: value
        for key, value in (recipe.get("rewrite") or {}).items()
        if isinstance(value, str | int | float)
    }
    yield "Question and answers were written by: " + (
        ", ".join(f"{key} {_literal(value)}" for key, value in rewrite.items()) or "the source"
    )
    yield from _verification(manifest.get("verify") or {}, recipe.get("verify") or {})
    yield (
        "The whole recipe, with every default filled in; `manifest.json` has the fingerprint of"
        " each stage and the sha256 of each file."
    )
    dumped = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110).rstrip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", dumped)), default=0))
    yield f"<details><summary>recipe</summary>\n\n{fence}yaml\n{dumped}\n{fence}\n\n</details>"


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
            f"Answers were compared with both images by `clip` again: in {share:.1%} of the pairs"
            f" each answer is nearer to its own image ({kept}). Right answers pass this test;"
            " passing it does not make an answer right."
        )
    if judge := facts.get("judge"):
        choices = ", ".join(f"{key} {_literal(section[key])}" for key in _CHOICES if key in section)
        yield (
            f"A model that sees, {_literal(judge['model'])}, was asked whether each answer is true"
            f" of each of the two images ({choices}):"
        )
        said = judge["verdicts"].items()
        yield _table(
            ["asked", "true", "false", "missing"],
            [[name, *(one[word] for word in ("true", "false", "missing"))] for name, one in said],
        )


_CHOICES = ("on_contradiction", "on_affirmation", "on_missing_judgement")


def _encoder(name: str, section: Mapping[str, Any] | None) -> str:
    """One encoder in words, with its model and revision or the hashes of its local files; "" where
    it did not run.
    """
    if not section or section.get("enabled") is False:
        return ""
    stated = {
        key: section[key]
        for key in ("model", "pretrained", "revision", "pooling")
        if section.get(key)
    }
    files = section.get("files") or {}
    pairs = files.items() if isinstance(files, Mapping) else ()
    hashes = [f"{_literal(file)} {_literal(str(value)[:16])}" for file, value in pairs]
    return (
        f"`{name}`"
        + "".join(f", {key} {_literal(value)}" for key, value in stated.items())
        + ("; " + ", ".join(hashes) if hashes else "")
    )


def _bounds(selection: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(score, category, bound) of every band of the recipe; the general ones first."""
    for category, bands in {"all": selection, **(selection.get("by_category") or {})}.items():
        for score in SCORE_COLUMNS:
            stated = {
                side: bound for side, bound in (bands.get(score) or {}).items() if bound is not None
            }
            if stated or (category != "all" and score in bands):
                yield (
                    score,
                    category,
                    ", ".join(f"{side} {bound:g}" for side, bound in stated.items()) or "none",
                )


def _audit(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not results:
        return
    yield (
        "Can the original side of a pair be told from the edited one by format, compression, size,"
        " noise or blur alone? AUC 0.5 is chance, 1 is every time."
    )
    rows = []
    for result in results:
        found = result.get("separability") or {}
        auc = (
            f"{found['auc']:.2f} ({found['auc_low']:.2f} to {found['auc_high']:.2f})"
            if found
            else ""
        )
        rows.append(
            [
                result["source"],
                result["operation"],
                result["num_audited"],
                auc,
                str(result["verdict"]).replace("_", " "),
            ]
        )
    yield _table(["source", "operation", "pairs audited", "AUC (95 %)", "verdict"], rows)


def _limits(manifest: Manifest) -> Iterator[str]:
    recipe = manifest["recipe"]
    encoders = recipe.get("encoders") or {}
    yield (
        "Captions, categories and groups are the sources' own statements; nobody looked at each"
        " pair."
    )
    if (recipe.get("rewrite") or {}).get("backend") == "template":
        yield (
            "Questions and answers come from a template: correct where the captions are, and"
            " uniform in wording."
        )
    missing = [name for name in ("clip", "dinov2") if not encoders.get(name)]
    if missing:
        yield (
            f"{' and '.join(missing)} did not run, so nothing was selected by what an image means;"
            " the scores are null."
        )
    if any(result["verdict"] == "warning" for result in manifest.get("audit") or []):
        yield (
            "The shortcut audit warns: a model could learn how the edited side was made instead of"
            " what differs."
        )
    if not manifest["rows"]["by_split"].get("validation"):
        yield "There is no validation split."
    yield from (
        _literal(warning)
        for warning in manifest.get("warnings") or []
        if not str(warning).startswith("shortcut audit")
    )


def _licences(licenses: Mapping[str, int], exceptions: Mapping[str, int]) -> Iterator[str]:
    yield "Each pair keeps the terms of its source; check that they allow what you plan."
    yield (
        _table(
            ["licence", "kept pairs"],
            [[name or "(not stated)", number] for name, number in licenses.items()],
        )
        if licenses
        else ""
    )
    if exceptions:
        yield (
            "Of these terms it is not known that they let anybody pass images on. Who published"
            " this data set states to have that right."
        )
        yield _table(["licence", "pairs, dropped ones included"], exceptions.items())


def _sources(recipe: Mapping[str, Any]) -> str:
    """The sources, by kind and whatever names what was read."""
    named = ("name", "dataset", "preset", "repo", "path", "root")
    lines = []
    for source in recipe.get("sources") or []:
        stated = [
            f"{key} {_literal(source[key])}"
            for key in named
            if isinstance(source.get(key), str) and source[key]
        ]
        paper = _PAPERS.get(str(source.get("preset") or source.get("kind")), "")
        lines.append(
            f"- {_literal(source.get('kind', 'source'))}: "
            + ", ".join(stated)
            + (f". Cite {paper}." if paper else "")
        )
    return "\n".join(lines)


def _literal(value: object) -> str:
    """A text from data on one line, as code: no markup of its own."""
    return "`" + " ".join(str(value).replace("`", "'").split())[:200] + "`"


def _plain(words: str) -> str:
    """A text from data on one line, with everything that Markdown or HTML would read escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~])", r"\\\1", " ".join(words.split()))


def _table(columns: Sequence[str], rows: Any) -> str:
    """A table whose texts are code and whose numbers have separators."""
    cells = [
        [
            (
                f"{cell:,}"
                if isinstance(cell, int)
                else _literal(cell).replace("|", "\\|")
                if cell
                else ""
            )
            for cell in row
        ]
        for row in rows
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in cells])
