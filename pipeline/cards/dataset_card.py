"""The dataset card: README.md of a published folder, made from its manifest alone.

Its header tells the Hub where the splits are. What comes from data stands in code spans or tables,
as text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from pipeline.cards.construction import audit, construction, limits
from pipeline.cards.licenses import canonical
from pipeline.cards.markdown import literal, plain, table
from pipeline.cards.model_card import CITATION
from pipeline.core.manifest import Manifest
from pipeline.core.schema import CATEGORIES, SPLITS

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# The identifiers of https://huggingface.co/docs/hub/repositories-licenses that data sets of
# pictures carry.
_HUB_LICENSES = (
    "apache-2.0 mit cc cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0"
    " cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0"
    " cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 odbl odc-by pddl bsd-3-clause unlicense"
).split()
# The order of the header.
_KEYS = ("pretty_name license license_name size_categories task_categories tags configs").split()
_WHAT = """Pairs of images that differ in one meaningful detail. Each pair has one question and \
two answers: `answer_a` is right for
`image_a` and wrong for `image_b`, and the other way round. Made for finetuning vision-language \
models with S-VCO
([arXiv:2502.13928](https://arxiv.org/abs/2502.13928)), so that each answer attends to its own \
image and rejects the other."""
_USE = """```python
from datasets import load_dataset

pairs = load_dataset("PATH_OR_HUB_ID", split="train")    # image_a and image_b are pictures
left = load_dataset("PATH_OR_HUB_ID", "rejects", split="train")    # what was dropped, with \
drop_reason
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
| `category`, `operation` | what differs, and how the second image came about (`captured`: neither \
was made from the other) |
| `group` | the original image, person or scene; a group is never split between train and \
validation |
| `image_a`, `image_b` | the images; where one was made from the other, a is the original |
| `question`, `answer_a`, `answer_b` | one question for both images, and the right answer for each |
| `caption_a`, `caption_b` | the texts of the source |
| `clip_image_cos`, `dinov2_image_cos`, `pixels_image_cos` | how alike the two images are; null \
where that encoder did not run |
| `caption_margin_a`, `caption_margin_b` | how much nearer a caption is to its own image than to \
the other one, by CLIP |
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
    sections = {
        "How to use it": [_USE.replace("PATH_OR_HUB_ID", repo or "PATH_OR_HUB_ID")],
        "What is in it": _counts(manifest["rows"]),
        "Columns": [_COLUMNS],
        "How it was made": construction(manifest),
        "Shortcut audit": audit(manifest.get("audit") or []),
        "Known limits": ["\n".join(f"- {limit}" for limit in limits(manifest))],
        "Licences": _terms(manifest.get("licenses") or {}, exceptions or {}),
        "Citation": [
            "Cite the method, and the sources below as their authors ask.",
            CITATION,
            "\n".join(map(_source, manifest["recipe"].get("sources") or [])),
        ],
    }
    parts = [f"---\n{_header(manifest).to_yaml(original_order=_KEYS)}\n---"]
    parts += [f"# {plain(manifest['name'])}", _WHAT]
    for heading, body in sections.items():
        paragraphs = [paragraph for paragraph in body if paragraph]
        parts += [f"## {heading}", *paragraphs] if paragraphs else []
    return "\n\n".join(parts) + "\n"


def _header(manifest: Manifest) -> DatasetCardData:
    """What the Hub reads: where the splits are, how large it is, its terms, what it is for."""
    counts = manifest["rows"]
    files = [
        {"split": split, "path": f"data/{split}-*"}
        for split in SPLITS
        if counts["by_split"].get(split)
    ]
    configs = {"default": files, "rejects": "rejects/*.parquet" if counts["dropped"] else ""}
    return DatasetCardData(
        pretty_name=" ".join(manifest["name"].split()),
        **hub_license(list(manifest.get("licenses") or {})),
        size_categories=[next((name for limit, name in _SIZES if counts["kept"] < limit), "n>1M")],
        task_categories=["image-text-to-text", "visual-question-answering"],
        tags=["visual-contrast", "counterfactual", "hallucination", "preference", "s-vco", "image"],
        configs=[{"config_name": name, "data_files": at} for name, at in configs.items() if at],
    )


def hub_license(names: Sequence[str]) -> dict[str, str]:
    """The header's license: one that the Hub knows if all rows share it, or "other" and the names.

    ["CC-BY-4.0"]         ->  cc-by-4.0
    ["MIT", "own terms"]  ->  other, mit-and-own-terms
    [""]                  ->  unknown
    """
    if len(names) == 1 and canonical(names[0]) in _HUB_LICENSES:
        return {"license": canonical(names[0])}
    known = [name.strip().lower() for name in names]
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
    yield table(["split", "pairs"], counts["by_split"].items())
    for name in ("category", "source"):
        columns = [counts.get(f"{what}_by_{name}") or {} for what in ("kept", "dropped")]
        there = sorted({value for column in columns for value in column})
        # categories in the order of their definition, whatever else behind them
        order = dict.fromkeys([*CATEGORIES, *there] if name == "category" else there)
        if there:
            yield table(
                [name, "kept", "dropped"],
                [[v, *(column.get(v, 0) for column in columns)] for v in order if v in there],
            )
    if dropped:
        yield table(
            ["drop reason", "rows"],
            sorted(counts["dropped_by_reason"].items(), key=lambda item: -item[1]),
        )


def _terms(licenses: Mapping[str, int], exceptions: Mapping[str, int]) -> Iterator[str]:
    yield "Each pair keeps the terms of its source; check that they allow what you plan."
    if licenses:
        yield table(
            ["licence", "kept pairs"],
            [[name or "(not stated)", number] for name, number in licenses.items()],
        )
    if exceptions:
        yield (
            "Of these terms it is not known that they let anybody pass images on. Who published"
            " this data set states to have that right."
        )
        yield table(["licence", "pairs, dropped ones included"], exceptions.items())


def _source(source: Mapping[str, Any]) -> str:
    """A source by its kind and whatever names what was read."""
    stated = [
        f"{key} {literal(source[key])}"
        for key in ("name", "dataset", "preset", "repo", "path", "root")
        if isinstance(source.get(key), str) and source[key]
    ]
    paper = _PAPERS.get(str(source.get("preset") or source.get("kind")))
    cite = f". Cite {paper}." if paper else ""
    return f"- {literal(source.get('kind', 'source'))}: {', '.join(stated)}{cite}"
