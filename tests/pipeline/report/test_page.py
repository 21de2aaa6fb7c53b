"""report.html from a published folder alone, and the parts that it is made of."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.schema import MvcError
from pipeline.pages.page import marked_differences
from pipeline.report.page import write_report
from pipeline.report.rows import read_rows
from pipeline.report.scores import histogram
from pipeline.selection.rules import ScoreBound

ROOT = Path(__file__).resolve().parents[3]
TRAIN = "data/train-00000-of-00001.parquet"

Splits = dict[str, list[dict[str, Any]]]
Make = Callable[..., Path]


def _page(folder: Path, result: dict[str, Any] | None = None) -> str:
    write_report(folder, result or {})
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(published: Make) -> str:
    """The page of the folder as it comes."""
    return _page(published())


def _unscored(splits: Splits) -> None:
    """No encoder ran: a page without plots is made quickly."""
    for rows in splits.values():
        for row in rows:
            row |= {"clip_image_cos": None, "dinov2_image_cos": None}


def _rows_of(page: str, heading: str) -> list[list[str]]:
    """The body of the first table behind a heading, as texts."""
    body = page.split(f">{heading}</h")[1].split("<tbody>")[1].split("</tbody>")[0]
    return [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", row)]
        for row in body.split("</tr>")[:-1]
    ]


@pytest.mark.slow
def test_the_page_counts_what_lies_in_the_folder(page: str) -> None:
    assert "10 of 13 candidates were kept (76.9 %)." in page
    tiles = re.findall('<div class="tile"><b>(.*?)</b>(.*?)</div>', page)
    assert tiles == [("13", "candidates"), ("8", "train"), ("2", "validation"), ("3", "dropped")]
    assert _rows_of(page, "By category") == [
        ["attribute", "7", "5", "2", "71.4 %", ""],
        ["count", "6", "5", "1", "83.3 %", ""],
    ]
    assert _rows_of(page, "By source") == [
        ["source-0", "7", "5", "2", "71.4 %", ""],
        ["source-1", "6", "5", "1", "83.3 %", ""],
    ]
    assert [row[:3] for row in _rows_of(page, "Why rows left")] == [
        ["clip_image_cos_below_min", "2", "66.7 %"],
        ["over_cap_group", "1", "33.3 %"],
    ]
    assert _rows_of(page, "Licences") == [["MIT", "source-0", "5"], ["MIT", "source-1", "5"]]
    assert _rows_of(page, "Bounds") == [["clip_image_cos", "all", "0.7", ""]]


@pytest.mark.slow
def test_every_section_is_linked_at_the_top_and_nothing_is_loaded_from_elsewhere(page: str) -> None:
    links = re.findall('<a href="#(section-[0-9]+)">(.*?)</a>', page)
    assert [
        re.search(f'<section id="{anchor}"><h2>(.*?)</h2>', page)[1] for anchor, _ in links
    ] == [name for _, name in links]  # type: ignore[index]
    assert [name for _, name in links] == [
        "Rows",
        "Why rows left",
        "Scores",
        "Thresholds",
        "Kept pairs",
        "Dropped pairs",
        "Licences",
        "Recipe",
    ]
    assert not re.search(r'(src|href)="(?!data:|#)', page)


@pytest.mark.slow
def test_as_many_cards_are_shown_as_the_recipe_says(page: str) -> None:
    assert page.count('<div class="card">') == 4 + 2 + 1
    assert page.count('src="data:image/jpeg;base64,') == 2 * (4 + 2 + 1)
    assert '<p class="soft">4 of 10</p>' in page and '<p class="soft">all 1</p>' in page
    # The score that a pair left for stands out, and only that one.
    assert page.count('<b class="bad"><span class="whole">clip 0.6000</span></b>') == 2
    assert page.count('<b class="bad">') == 2
    assert page.count("A <mark>red</mark> star beside hut number") == 4 + 3


def test_what_the_build_knows_besides_is_shown(published: Make) -> None:
    folder = published(_unscored)
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {
        "auc": 0.91,
        "auc_low": 0.88,
        "auc_high": 0.94,
        "clues": [{"feature": "num_bytes", "auc": 0.9}],
    }
    manifest["audit"] = [
        {
            "source": "edits",
            "operation": "inpaint",
            "num_pairs": 9,
            "num_audited": 8,
            "verdict": "warning",
            "separability": found,
        },
        {
            "source": "s",
            "operation": "captured",
            "num_pairs": 9,
            "num_audited": 0,
            "verdict": "not_applicable",
            "separability": None,
        },
    ]
    manifest["warnings"] = ["one group holds 40% & more"]
    manifest["links"] = {
        "num_groups": 12,
        "num_linked_groups": 11,
        "largest_rows": 3,
        "largest_groups": 2,
        "frac_largest": 0.2308,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stages = [
        {"name": "ingest", "reused": True, "seconds": 0.0, "fingerprint": "aa"},
        {"name": "embed", "reused": False, "seconds": 6.04, "fingerprint": "bb"},
    ]
    page = _page(
        folder,
        {"stages": stages, "throughput": {"unique images": 3000, "images per second": 412.345}},
    )
    assert "0.91" in page and "0.88 to 0.94" in page and "num_bytes" in page
    assert '<p class="bad">one group holds 40% &amp; more</p>' in page
    assert "<b>3 (23.1 %)</b>pairs in the largest" in page
    assert _rows_of(page, "How long it took") == [
        ["ingest", "reused", "", "aa"],
        ["embed", "6.0 s", "", "bb"],
    ]
    assert _rows_of(page, "Throughput") == [
        ["unique images", "3,000"],
        ["images per second", "412.3"],
    ]


def test_texts_of_the_data_are_never_markup_and_long_ones_are_cut(published: Make) -> None:
    bad = "<script>alert(1)</script> & more"

    def change(splits: Splits) -> None:
        _unscored(splits)
        for rows in splits.values():
            for row in rows:
                row |= {
                    "question": bad,
                    "source": bad,
                    "source_id": bad,
                    "license": bad,
                    "category": bad,
                    "operation": bad,
                }
                row |= {"answer_a": f"{bad} red", "answer_b": f"{bad} blue"}
        splits["rejects"][0] |= {"drop_reason": bad, "answer_a": "long " * 2000}

    page = _page(published(change))
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more <mark>red</mark>" in page
    shown = re.sub("<[^>]+>", "", page)
    assert "(10,000 characters)" in shown and "long " * 100 not in shown
    assert "Stars &lt;and&gt; huts" in page


def test_a_folder_without_rejects_scores_or_recipe_has_a_page_too(published: Make) -> None:
    def change(splits: Splits) -> None:
        del splits["rejects"]
        _unscored(splits)

    folder = published(change)
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1}))
    page = _page(folder)
    assert "10 of 10 candidates were kept (100.0 %)." in page
    assert "Nothing was dropped." in page and "No row reached scoring." in page
    assert "Dropped pairs" not in page and "Thresholds" not in page


def test_a_row_without_a_picture_says_so(published: Make) -> None:
    def change(splits: Splits) -> None:
        _unscored(splits)
        splits["rejects"][0]["image_b"] = None

    page = _page(published(change))
    assert page.count("no picture") == 1


def test_pictures_are_read_of_the_shown_pairs_only(published: Make) -> None:
    folder = published(_unscored)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["report"] = {"num_kept_shown": 1, "num_dropped_shown": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rows = read_rows(folder)
    (shown,) = rows.sample(rows.kept, 1)
    place = rows.table.select(["file", "row"]).slice(int(shown), 1).to_pylist()[0]
    num_spoiled = 0
    for number, path in enumerate(rows.files):
        metadata, data = pq.read_metadata(path), bytearray(path.read_bytes())
        for group in range(metadata.num_row_groups):
            if (number, group) == (place["file"], place["row"] // 3):
                continue
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                if chunk.path_in_schema.startswith("image_") and chunk.path_in_schema.endswith(
                    ".bytes"
                ):
                    start = chunk.dictionary_page_offset or chunk.data_page_offset
                    data[start : start + chunk.total_compressed_size] = (
                        b"\xff" * chunk.total_compressed_size
                    )
                    num_spoiled += 1
        path.write_bytes(data)
    assert num_spoiled == 2 * (3 + 1 + 1 - 1)
    assert _page(folder).count('src="data:image/jpeg;base64,') == 2
    with pytest.raises(OSError):
        rows.read(range(len(rows.table)))


def test_rows_are_read_in_the_order_in_which_they_are_asked_for(published: Make) -> None:
    rows = read_rows(published())
    ids = rows.table["pair_id"].to_pylist()
    asked = [12, 0, 7, 9, 3, 3]
    assert [row["pair_id"] for row in rows.read(asked)] == [ids[at] for at in asked]


def test_a_sample_takes_the_categories_in_turn_each_by_pair_id(published: Make) -> None:
    rows = read_rows(published())
    table = rows.table.to_pylist()
    mask = np.array([number != 4 for number in range(13)])
    queues = {
        name: sorted(
            (row["pair_id"], at)
            for at, row in enumerate(table)
            if row["category"] == name and mask[at]
        )
        for name in ("attribute", "count")
    }
    expected = []
    while any(queues.values()):
        expected += [queue.pop(0)[1] for queue in queues.values() if queue]
    assert rows.sample(mask, 100).tolist() == expected
    assert rows.sample(mask, 5).tolist() == expected[:5]
    assert rows.sample(np.zeros(13, bool), 5).tolist() == []


def test_a_histogram_holds_every_scored_pair_and_a_line_per_bound() -> None:
    values, kept = (
        np.array([0.5, 0.6, np.nan, 0.9, 0.9]),
        np.array([False, False, False, True, True]),
    )
    bounds = [
        ScoreBound("clip_image_cos", ("count",), 0.7, 0.95),
        ScoreBound("dinov2_image_cos", ("count",), 0.1, None),
    ]
    (axes,) = histogram(values, kept, "clip_image_cos", bounds).axes
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert [line.get_xdata()[0] for line in axes.lines] == [0.7, 0.95]
    # One value only, and nothing dropped: still a picture.
    (axes,) = histogram(np.array([0.5]), np.array([True]), "clip_image_cos", []).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kept"]


@pytest.mark.parametrize(
    ("left", "right", "marked"),
    [
        ("A red star.", "A blue star.", ("A <mark>red</mark> star.", "A <mark>blue</mark> star.")),
        (
            "One dog here",
            "Two cats here",
            ("<mark>One dog</mark> here", "<mark>Two cats</mark> here"),
        ),
        ("a dog", "A dog!", ("a dog", "A dog<mark>!</mark>")),
        ("a <b>", "a & b", ("a <mark>&lt;</mark>b<mark>&gt;</mark>", "a <mark>&amp;</mark> b")),
        (
            "the man's hat",
            "the woman's hat",
            ("the <mark>man&#39;s</mark> hat", "the <mark>woman&#39;s</mark> hat"),
        ),
        ("", "new", ("", "<mark>new</mark>")),
        ("same", "same", ("same", "same")),
    ],
)
def test_words_that_differ_are_marked_and_texts_stay_texts(
    left: str, right: str, marked: tuple[str, str]
) -> None:
    assert marked_differences(left, right) == marked


def test_a_shard_that_cannot_be_read_is_one_clear_error(published: Make) -> None:
    folder = published()
    (folder / TRAIN).write_bytes(b"no parquet")
    with pytest.raises(MvcError, match="train-00000-of-00001.parquet: cannot be read as Parquet"):
        read_rows(folder)


@pytest.mark.slow
def test_the_command_makes_the_page_again_without_ray_and_torch(
    lean_command: Callable[..., Any], published: Make
) -> None:
    folder = published(_unscored)
    stage = {"name": "embed", "reused": False, "seconds": 1.0, "fingerprint": "cc"}
    (folder / "result.json").write_text(json.dumps({"stages": [stage]}))
    lean_command("report", folder)
    assert _rows_of((folder / "report.html").read_text(), "How long it took") == [
        ["embed", "1.0 s", "", "cc"]
    ]
