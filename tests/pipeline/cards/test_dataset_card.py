import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cards.dataset_card import hub_license, render_card

Make = Callable[..., Path]


@pytest.fixture
def stated(published: Make) -> dict[str, Any]:
    """The manifest of a small folder."""
    manifest: dict[str, Any] = json.loads((published() / "manifest.json").read_text())
    return manifest


def _header(card: str) -> dict[str, Any]:
    header: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return header


def test_the_header_tells_the_hub_where_the_splits_are_and_under_which_terms(
    stated: dict[str, Any],
) -> None:
    header = _header(render_card(stated))
    assert header["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*"},
                {"split": "validation", "path": "data/validation-*"},
            ],
        },
        {"config_name": "rejects", "data_files": "rejects/*.parquet"},
    ]
    assert (header["pretty_name"], header["license"], header["size_categories"]) == (
        "Stars <and> huts",
        "mit",
        ["n<1K"],
    )


def test_the_header_names_no_split_and_no_config_without_rows(stated: dict[str, Any]) -> None:
    stated["rows"] |= {
        "kept": 10,
        "dropped": 0,
        "by_split": {"train": 10, "validation": 0},
        "dropped_by_reason": {},
    }
    card = render_card(stated)
    assert _header(card)["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    ]
    assert "drop reason |" not in card
    assert "There is no validation split." in card


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["CC-BY-4.0"], {"license": "cc-by-4.0"}),
        ([" apache-2.0 "], {"license": "apache-2.0"}),
        (["MIT", "CC-BY-4.0"], {"license": "other", "license_name": "mit-and-cc-by-4.0"}),
        (["Unsplash (own terms)"], {"license": "other", "license_name": "unsplash-own-terms"}),
        (["", "MIT"], {"license": "other", "license_name": "not-stated-and-mit"}),
        ([""], {"license": "unknown"}),
        ([], {"license": "unknown"}),
    ],
)
def test_the_licence_is_one_that_all_rows_share_or_other(
    names: list[str], expected: dict[str, str]
) -> None:
    assert hub_license(names) == expected


@pytest.mark.parametrize(
    ("kept", "size"),
    [
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (10**6, "n>1M"),
    ],
)
def test_the_size_category_is_the_hubs(kept: int, size: str, stated: dict[str, Any]) -> None:
    stated["rows"]["kept"] = kept
    assert _header(render_card(stated))["size_categories"] == [size]


def test_counts_bounds_and_models_stand_in_the_card(stated: dict[str, Any]) -> None:
    selection = {
        "by_category": {"count": {"clip_image_cos": {}}},
        "dinov2_image_cos": {"max_quantile": 0.8},
        "exempt": [{"operation": "flip"}],
    }
    stated["recipe"]["selection"] |= selection
    stated["recipe"]["encoders"]["dinov2"] |= {
        "revision": "abc123",
        "files": {"model.safetensors": "f" * 64},
    }
    card = render_card(stated)
    for line in (
        "10 of 13 candidates were kept; the other 3 are in `rejects/`",
        "| `train` | 8 |",
        "| `attribute` | 5 | 2 |",
        "| `count` | 5 | 1 |",
        "| `source-0` | 5 | 2 |",
        "| `clip_image_cos_below_min` | 2 |\n| `over_cap_group` | 1 |",
        "| `clip_image_cos` | `all` | `min 0.7` |",
        "| `dinov2_image_cos` | `all` | `max_quantile 0.8` |",
        "| `clip_image_cos` | `count` | `none` |",
        "Rows that the recipe exempts are judged by none of them.",
        "- `clip`, model `ViT-X`, pretrained `own`",
        "- `dinov2`, model `d/2`, revision `abc123`; `model.safetensors` `ffffffffffffffff`",
        "backend `template`",
        "| `MIT` | 10 |",
        "- `pairs`: name `source-0`, path `pairs.jsonl`",
        "arXiv:2502.13928",
    ):
        assert line in card
    assert "- `pixels`" not in card  # it did not run


def test_the_audit_is_told_and_a_warning_becomes_a_known_limit(stated: dict[str, Any]) -> None:
    assert "## Shortcut audit" not in render_card(stated)
    measured = {"auc": 0.914, "auc_low": 0.88, "auc_high": 0.94, "clues": []}
    stated["audit"] = [
        {
            "source": "edits",
            "operation": "inpaint",
            "num_pairs": 9,
            "num_audited": 8,
            "verdict": "warning",
            "separability": measured,
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
    stated["warnings"] = ["shortcut audit: told above", "one group holds 40% of the pairs"]
    card = render_card(stated)
    assert "| `edits` | `inpaint` | 8 | `0.91 (0.88 to 0.94)` | `warning` |" in card
    assert "| `s` | `captured` | 0 |  | `not applicable` |" in card
    limits = card.split("## Known limits")[1].split("##")[0]
    assert "The shortcut audit warns" in limits and "told above" not in limits
    assert "- `one group holds 40% of the pairs`" in limits


def test_texts_of_the_data_are_never_markup_in_the_card(stated: dict[str, Any]) -> None:
    stated["name"] = "# [x](http://y)\n<b>*bold*</b>"
    stated["licenses"] = {"a|b `c`\n# heading <script>": 3}
    stated["rows"]["kept_by_source"] = {"<img src=x> | y": 10}
    stated["recipe"]["sources"][0]["path"] = "x`]\n---\n"
    stated["recipe"]["note"] = "```\n</details>\n````\n# out"
    card = render_card(stated)
    assert "\n# \\# \\[x\\](http://y) \\<b\\>\\*bold\\*\\</b\\>\n" in card
    assert "| `a\\|b 'c' # heading <script>` | 3 |" in card
    assert "| `<img src=x> \\| y` | 10 | 0 |" in card
    assert "path `x'] ---`" in card
    opening = next(line for line in card.splitlines() if line.endswith("`yaml"))
    assert opening == "`````yaml"  # longer than any run inside
    assert card.count("\n---\n") == 1  # the end of the header
    assert _header(card)["pretty_name"] == "# [x](http://y) <b>*bold*</b>"


def test_the_folder_with_its_card_is_read_by_load_dataset(
    published: Make, stated: dict[str, Any], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    folder = published()
    (folder / "README.md").write_text(render_card(stated))
    options = {"cache_dir": str(tmp_path / "cache")}
    pairs = datasets.load_dataset(str(folder), split="validation", **options)
    assert len(pairs) == 2 and pairs[0]["image_a"].size == (48, 48)
    rejects = datasets.load_dataset(str(folder), "rejects", split="train", **options)
    assert sorted(rejects["drop_reason"]) == [
        "clip_image_cos_below_min",
        "clip_image_cos_below_min",
        "over_cap_group",
    ]


def test_sources_that_the_toolkit_knows_are_cited(stated: dict[str, Any]) -> None:
    stated["recipe"]["sources"] += [
        {"kind": "finecops_ref", "path": "finecops-ref"},
        {"kind": "hub", "preset": "vismin", "name": "vismin"},
    ]
    section = render_card(stated).split("## Citation")[1]
    lines = [line for line in section.splitlines() if line.startswith("- ")]
    assert (
        "Cite" not in lines[0] and "arXiv:2409.14750" in lines[1] and "arXiv:2407.16772" in lines[2]
    )


def test_the_card_tells_what_was_verified_and_that_it_proves_nothing(
    stated: dict[str, Any],
) -> None:
    assert "Answers were compared" not in render_card(stated)
    stated["recipe"]["verify"] = {
        "min_answer_margin": 0.01,
        "on_contradiction": "drop",
        "on_affirmation": "keep",
    }
    said = {"true": 9, "false": 1, "missing": 0}
    stated["verify"] = {
        "margins": {"num_pairs": 10, "frac_positive": {"a": 1.0, "b": 0.9, "both": 0.9}},
        "judge": {"model": "a|b", "verdicts": {"judged_a_of_a": said}},
    }
    card = render_card(stated)
    assert (
        "in 90.0 % of the pairs" in card and "pairs below 0.01 on either side were left out" in card
    )
    assert "passing it does not make an answer right" in card
    assert (
        "on_contradiction `drop`, on_affirmation `keep`" in card
        and "| `judged_a_of_a` | 9 | 1 |" in card
    )
