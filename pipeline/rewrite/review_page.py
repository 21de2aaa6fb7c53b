"""`svco rewrite-audit DIR`: rewrites beside their captions, for a person who judges them.

The page shows random, worst and failed ones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from markupsafe import Markup

from pipeline.core.manifest import Manifest
from pipeline.core.progress import say
from pipeline.core.schema import SPLITS, MvcError, read_manifest, read_places, shard_paths
from pipeline.core.storage import read_table
from pipeline.pages.page import (
    PageSection,
    cards,
    marked_differences,
    pair_card,
    paragraph,
    render_page,
)
from pipeline.text.stemming import FREE, stems

Row = dict[str, Any]

_TEXTS = (
    "pair_id",
    "question",
    "answer_a",
    "answer_b",
    "caption_a",
    "caption_b",
    "rewrite_status",
    "rewrite_model",
)
_IMAGES = ("image_a", "image_b")


def num_words_off(row: Mapping[str, Any]) -> int:
    """How many content words both answers add to their captions or leave out, question words aside.

    "A red star." -> "There is a lovely red star."   ->  1
    """
    asked, *sides = (
        set(stems(row[name] or ""))
        for name in ("question", "answer_a", "caption_a", "answer_b", "caption_b")
    )
    return sum(
        len((said - stated - asked - FREE) | (stated - said - FREE))
        for said, stated in (sides[:2], sides[2:])
    )


def write_audit(folder: Path, page: Path, num_shown: int) -> dict[str, int]:
    """Writes the page; returns how many rewrites each of its sections is drawn from.

    Raises:
        MvcError: `folder` is no MVC folder, or holds no row.
    """
    manifest = read_manifest(folder)
    rows = _rows_in([path for split in SPLITS for path in shard_paths(folder, split)])
    if not rows:
        raise MvcError(f"{folder}: expected rows in data/, found none; there is nothing to judge")
    tries = _tries(folder, manifest)
    by_model = [row for row in rows if row["rewrite_status"] in ("llm", "llm_retried")]
    dropped = _rows_in(sorted((folder / "rejects").glob("*.parquet")))
    groups = {
        # pair_id is a hash: its order is nobody's choice.
        "Random": sorted(by_model or rows, key=lambda row: row["pair_id"]),
        "Worst: most words added or left out": sorted(
            (row for row in by_model if num_words_off(row)), key=lambda row: -num_words_off(row)
        ),
        "Passed at the second try": [row for row in rows if row["rewrite_status"] == "llm_retried"],
        "Failed: written by the template instead": [
            row for row in rows if row["rewrite_status"] == "fallback"
        ],
        "Failed: rejected": [
            row for row in dropped if tries.get(row["pair_id"], {}).get("status") == "rejected"
        ],
    }
    sections = [
        PageSection(heading, _sheet(group, tries, num_shown))
        for heading, group in groups.items()
        if group or heading.startswith(("Random", "Failed: written"))
    ]
    lead = (
        "Captions above, what was written beneath; words in which the sides differ are marked. No"
        " check replaces reading."
    )
    render_page(f"Rewrites of {manifest.get('name') or folder.name}", sections, page, lead)
    return {heading: len(group) for heading, group in groups.items()}


def _rows_in(paths: Sequence[Path]) -> list[Row]:
    """Texts of all rows of some shards, with where each lies."""
    return [
        {**row, "place": (path, number)}
        for path in paths
        for number, row in enumerate(
            pq.read_table(path, columns=list(_TEXTS), partitioning=None).to_pylist()
        )
    ]


def _tries(folder: Path, manifest: Manifest) -> dict[str, Row]:
    """What was tried for each pair, from the build's stage folder; empty where that is gone."""
    fingerprint = (manifest.get("fingerprints") or {}).get("rewrite", "")
    work = folder / ".work" / "rewrite" / fingerprint
    paths = sorted(work.glob("tries-*.parquet")) if fingerprint else []
    return {row["pair_id"]: row for path in paths for row in read_table(path).to_pylist()}


def _sheet(rows: Sequence[Row], tries: Mapping[str, Row], num_shown: int) -> Markup:
    chosen = rows[:num_shown]
    pictures = read_places([row["place"] for row in chosen], _IMAGES)
    shown = [
        _card(row | images, tries.get(row["pair_id"]))
        for row, images in zip(chosen, pictures, strict=True)
    ]
    return paragraph(f"{len(chosen):,} of {len(rows):,}") + cards(shown)


def _card(row: Row, tried: Row | None) -> Markup:
    captions = marked_differences(row["caption_a"] or "", row["caption_b"] or "")
    answers = marked_differences(row["answer_a"] or "-", row["answer_b"] or "-")
    bytes_a, bytes_b = ((row[name] or {}).get("bytes") for name in _IMAGES)
    sides = [
        [Markup('<span class="soft">{}</span>').format(caption), answer]
        for caption, answer in zip(captions, answers, strict=True)
    ]
    written_by = filter(None, (row["rewrite_status"], row["rewrite_model"], row["pair_id"]))
    refused = zip(tried["reasons"], tried["refused"], strict=True) if tried else ()
    below = [
        " \u00b7 ".join(written_by),
        *(
            Markup('<b class="bad">{}</b> <span class="soft">{}</span>').format(why, text[:400])
            for why, text in refused
        ),
    ]
    return pair_card(bytes_a, bytes_b, sides[0], sides[1], below, row["question"] or "")


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An MVC folder, as a build makes it.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; by default DIR/rewrite_audit.html.")
    ] = None,
    num_shown: Annotated[
        int, typer.Option(min=1, help="How many rewrites each section shows.")
    ] = 40,
) -> None:
    """Make a page of rewrites for a person to judge."""
    page = out or folder / "rewrite_audit.html"
    for heading, number in write_audit(folder, page, num_shown).items():
        say(f"{number:>8,}  {heading}")
    say(f"page  {page}")
