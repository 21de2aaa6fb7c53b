import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.recipe import RecipeError, Section, load_recipe
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.hub import HubSource
from pipeline.sources.hub_config import PRESETS, HubSection


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def picture(number: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 20 % 256, 100, 50)).save(buffer, kind)
    return buffer.getvalue()


def _row(number: int, **changes: Any) -> dict[str, Any]:
    images = {
        "left": {"bytes": picture(number), "path": None},
        "right": {"bytes": picture(number + 50, "PNG"), "path": "x.png"},
    }
    texts = {
        "text_a": f"A hat {number}.",
        "text_b": f"A cap {number}.",
        "kind": "colour",
        "person": f"p{number % 2}",
    }
    return {**images, **texts, **changes}


COLUMNS = {
    "image_a": "left",
    "image_b": "right",
    "caption_a": "text_a",
    "caption_b": "text_b",
    "category": "kind",
    "group": "person",
}
IMAGES = {"left": datasets.Image(), "right": datasets.Image()}
TEXTS = {name: datasets.Value("string") for name in ("text_a", "text_b", "kind", "person")}


def _parquet(folder: Path, rows: list[dict[str, Any]], **features: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    schema = datasets.Features({**IMAGES, **TEXTS, **features}).arrow_schema
    # Not Dataset.to_parquet, which would replace paths by the bytes behind them.
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "train.parquet")
    return folder


def _open(path: Path, **options: Any) -> HubSource:
    return HubSource(
        HubSection.model_validate(
            {
                "kind": "hub",
                "path": str(path),
                "columns": COLUMNS,
                "category_map": {"colour": "attribute"},
            }
            | options
        )
    )


def _read(path: Path, **options: Any) -> list[Candidate | Malformed]:
    source = _open(path, **options)
    return list(source.read(0, source.count()))


def test_a_parquet_folder_gives_the_bytes_that_were_stored(tmp_path: Path) -> None:
    rows = _read(
        _parquet(tmp_path / "d", [_row(number) for number in range(5)]), license="MIT", name="mine"
    )
    assert rows[3] == Candidate(
        source="mine",
        source_id="row-3",
        category="attribute",
        operation="captured",
        group="p1",
        image_a=picture(3),
        image_b=picture(53, "PNG"),
        caption_a="A hat 3.",
        caption_b="A cap 3.",
        license="MIT",
    )
    assert [row.image_a for row in rows if isinstance(row, Candidate)] == [
        picture(number) for number in range(5)
    ]


def test_any_range_gives_the_same_rows_also_when_opened_anew(tmp_path: Path) -> None:
    folder = _parquet(tmp_path / "d", [_row(number) for number in range(7)])
    whole = _read(folder)
    assert whole == [
        row for start in range(0, 7, 3) for row in _open(folder).read(start, start + 3)
    ]


def test_a_slice_of_a_split_is_a_split(tmp_path: Path) -> None:
    assert (
        _open(
            _parquet(tmp_path / "d", [_row(number) for number in range(5)]), split="train[1:3]"
        ).count()
        == 2
    )


def test_class_labels_numbers_and_lists(tmp_path: Path) -> None:
    features = {
        "kind": datasets.ClassLabel(names=["count", "colour"]),
        "person": datasets.Value("float64"),
        "id": datasets.Value("int64"),
    }
    features |= {
        "boxes": [{"x": datasets.Value("int64")}],
        "license": [{"x": datasets.Value("string")}],
    }
    row = _row(0, kind=1, person=7.0, id=41, boxes=[{"x": 3}], license=[{"x": "MIT"}])
    columns = {**COLUMNS, "meta": ["boxes", "left"]}
    (read,) = _read(_parquet(tmp_path / "d", [row], **features), columns=columns, license="CC0-1.0")
    assert isinstance(read, Candidate)
    assert (read.category, read.group, read.source_id, read.license) == (
        "attribute",
        "7",
        "41",
        "CC0-1.0",
    )
    assert json.loads(read.meta) == {"boxes": [{"x": 3}]}  # bytes cannot stand there


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"left": None}, "image_a_missing"),
        ({"right": {"bytes": None, "path": "none.png"}}, "image_b_file_missing"),
        ({"right": {"bytes": None, "path": "../outside.png"}}, "image_b_outside_root"),
        ({"right": {"bytes": None, "path": "/etc/hostname"}}, "image_b_outside_root"),
        ({"right": {"bytes": None, "path": "zip://x.png::/etc/hostname"}}, "image_b_outside_root"),
        ({"right": {"bytes": b"x" * 5000, "path": None}}, "image_b_file_too_large"),
        ({"text_b": None}, "caption_b_missing"),
        ({"kind": "taste"}, "category_unknown"),
    ],
)
def test_a_bad_row_costs_itself_and_says_why(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    (tmp_path / "outside.png").write_bytes(picture(1))
    before, bad, after = _read(
        _parquet(tmp_path / "d", [_row(0), _row(1, **changes), _row(2)]), max_image_bytes=4000
    )
    assert isinstance(before, Candidate) and isinstance(after, Candidate)
    assert isinstance(bad, Malformed) and (bad.reason, bad.source_id) == (reason, "row-1")


def test_a_caption_that_is_no_text_and_an_image_that_is_a_number(tmp_path: Path) -> None:
    folder = _parquet(tmp_path / "d", [_row(0, left=3)], left=datasets.Value("int64"))
    assert [row.reason for row in _read(folder) if isinstance(row, Malformed)] == [
        "image_a_not_an_image_column"
    ]
    folder = _parquet(
        tmp_path / "e", [_row(0, text_a=["x"])], text_a=datasets.List(datasets.Value("string"))
    )
    assert [row.reason for row in _read(folder) if isinstance(row, Malformed)] == [
        "caption_a_not_text"
    ]


def test_an_image_folder_with_its_files_beside_or_in_an_archive(tmp_path: Path) -> None:
    lines = [
        {
            "left_file_name": f"{n}a.jpg",
            "right_file_name": f"{n}b.png",
            "text_a": "A hat.",
            "text_b": "A cap.",
        }
        for n in range(3)
    ]
    files = {"metadata.jsonl": "\n".join(map(json.dumps, lines)).encode()}
    files |= {f"{n}a.jpg": picture(n) for n in range(3)} | {
        f"{n}b.png": picture(n + 9, "PNG") for n in range(3)
    }
    (tmp_path / "plain/train").mkdir(parents=True)
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped/train.zip", "w") as archive:
        for name, data in files.items():
            (tmp_path / "plain/train" / name).write_bytes(data)
            archive.writestr(name, data)
    columns = {name: COLUMNS[name] for name in ("image_a", "image_b", "caption_a", "caption_b")}
    for folder in ("plain", "zipped"):
        rows = _read(tmp_path / folder, columns=columns)
        assert [(row.image_a, row.image_b) for row in rows if isinstance(row, Candidate)] == [
            (picture(n), picture(n + 9, "PNG")) for n in range(3)
        ]


def test_the_coco_counterfactuals_preset_reads_the_unpacked_download(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(2):
        (tmp_path / f"images/7_{number}_img.jpg").write_bytes(picture(number))
    line = {
        "id": "7",
        "image_0": "7_0_img",
        "image_1": "7_1_img",
        "caption_0": "A dog runs.",
        "caption_1": "A cat runs.",
    }
    (tmp_path / "examples.jsonl").write_text(
        json.dumps(line) + "\n" + json.dumps({**line, "image_1": "../x"}) + "\n"
    )
    section = HubSection.model_validate(
        {"kind": "hub", "preset": "coco_counterfactuals", "path": str(tmp_path / "examples.jsonl")}
    )
    source = HubSource(section)
    good, bad = source.read(0, 2)
    assert isinstance(good, Candidate) and isinstance(bad, Malformed)
    assert (good.image_a, good.image_b, good.caption_a, good.caption_b) == (
        picture(0),
        picture(1),
        "A dog runs.",
        "A cat runs.",
    )
    assert (good.source, good.source_id, good.category, good.license) == (
        "coco_counterfactuals",
        "7",
        "object",
        "CC-BY-4.0",
    )
    # images/../x.jpg is inside the folder, and not there
    assert bad.reason == "image_b_file_missing"
    first = source.identity()
    (tmp_path / "images/7_1_img.jpg").write_bytes(picture(30) + b"!")
    assert HubSource(section).identity() != first


def test_the_vismin_preset_joins_each_edit_with_its_original(tmp_path: Path) -> None:
    def row(key: str, source: str | None, caption: str, category: str | None) -> dict[str, Any]:
        image = {"bytes": picture(len(key) + 3 * (source is None)), "path": None}
        return {
            "image_id": key,
            "image": image,
            "caption": caption,
            "source_image_id": source,
            "category": category,
        }

    rows = [
        row("10_1", "10", "Two cats.", "counting"),
        row("10", None, "One cat.", None),
        row("11", "none", "A lost one.", "object"),
        row("10_22", "10", "A cat on a mat.", "relation"),
    ]
    tmp_path.joinpath("d").mkdir()
    datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet(
        str(tmp_path / "d/train.parquet")
    )
    source = HubSource(
        HubSection.model_validate({"kind": "hub", "preset": "vismin", "path": str(tmp_path / "d")})
    )
    count, lost, position = source.read(0, source.count())
    assert (
        isinstance(count, Candidate)
        and isinstance(position, Candidate)
        and isinstance(lost, Malformed)
    )
    assert (count.caption_a, count.caption_b, count.category, count.source_id) == (
        "One cat.",
        "Two cats.",
        "count",
        "10_1",
    )
    assert (position.category, position.image_a, position.image_b) == (
        "position",
        rows[1]["image"]["bytes"],
        rows[3]["image"]["bytes"],
    )
    assert count.group == position.group == "10"
    assert lost.reason == "original_missing"


def test_the_magicbrush_preset_says_that_captions_are_missing_and_takes_those_that_are_named(
    tmp_path: Path,
) -> None:
    features = {
        "img_id": datasets.Value("string"),
        "turn_index": datasets.Value("int32"),
        "instruction": datasets.Value("string"),
    }
    features |= {
        "source_img": datasets.Image(),
        "target_img": datasets.Image(),
        "before": datasets.Value("string"),
    }
    image = {"bytes": picture(1), "path": None}
    row = {
        "img_id": "9",
        "turn_index": 1,
        "instruction": "add a hat",
        "source_img": image,
        "target_img": image,
        "before": "A dog.",
    }
    (tmp_path / "d").mkdir()
    datasets.Dataset.from_list([row], features=datasets.Features(features)).to_parquet(
        str(tmp_path / "d/train.parquet")
    )
    given = {"kind": "hub", "preset": "magicbrush", "path": str(tmp_path / "d")}
    (bare,) = HubSource(HubSection.model_validate(given)).read(0, 1)
    assert isinstance(bare, Malformed) and (bare.reason, bare.group) == ("caption_a_missing", "9")
    captions = {"columns": {"caption_a": "before", "caption_b": "instruction"}}
    (full,) = HubSource(HubSection.model_validate(given | captions)).read(0, 1)
    assert isinstance(full, Candidate) and json.loads(full.meta) == {
        "instruction": "add a hat",
        "turn_index": 1,
    }


def test_what_the_recipe_gives_wins_over_a_preset_and_the_resolved_section_reads_as_itself() -> (
    None
):
    given = {
        "kind": "hub",
        "preset": "vismin",
        "license": "mine",
        "columns": {"id": None},
        "category_map": {"counting": "other"},
    }
    section = HubSection.model_validate(given)
    assert (section.license, section.columns.id, section.columns.image_a, section.path) == (
        "mine",
        None,
        "image",
        "mair-lab/vismin",
    )
    assert section.category_map == {"counting": "other", "relation": "position"}
    assert HubSection.model_validate(section.model_dump(mode="json")) == section
    assert hash(pickle.loads(pickle.dumps(section))) == hash(section)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_a_valid_section(preset: str) -> None:
    section = HubSection.model_validate({"kind": "hub", "preset": preset, "path": "ORG/NAME"})
    assert section.license and section.name == preset


def test_a_misspelt_preset_is_explained_like_any_other_key(tmp_path: Path) -> None:
    class Recipe(Section):
        source: HubSection

    (tmp_path / "r.yaml").write_text("source: {kind: hub, path: x, preset: vismim}")
    with pytest.raises(RecipeError, match="source.preset: Input should be 'vismin'"):
        load_recipe(tmp_path / "r.yaml", [], Recipe)


def test_only_what_lies_on_a_disk_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    local = [
        HubSection(kind="hub", path=path).PATHS
        for path in ("mine", "./none", "~/none", str(tmp_path))
    ]
    assert local == [("path",)] * 4
    assert HubSection(kind="hub", path="mair-lab/vismin").PATHS == ()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"columns": {**COLUMNS, "caption_b": "texts"}},
            "no column 'texts' .for caption_b.; it has .*text_a, text_b.*columns.caption_b=NAME",
        ),
        ({"columns": {**COLUMNS, "license": "terms"}}, "no column 'terms' .for license."),
        ({"columns": {**COLUMNS, "meta": ["note"]}}, "no column 'note' .for meta."),
        ({"columns": {**COLUMNS, "original": "person"}}, "has no column 'id'"),
        ({"split": "test"}, "split 'test', cannot be read .*Unknown split"),
        ({"config": "small"}, "BuilderConfig 'small' not found"),
        ({"split": "train[:0]"}, "corresponds to no data"),
        ({"columns": {**COLUMNS, "id": "text_a", "original": "nothing"}}, "has no pairs"),
    ],
)
def test_a_wrong_map_split_or_configuration_is_one_clear_line(
    tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    folder = _parquet(tmp_path / "d", [_row(0)], nothing=datasets.Value("string"))
    with pytest.raises(RecipeError, match=complaint) as caught:
        _open(folder, **options)
    assert "\n" not in str(caught.value)


def test_places_that_hold_no_data_set_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/train.parquet").write_bytes(b"no Parquet at all")
    (tmp_path / "script").mkdir()
    (tmp_path / "script/script.py").write_text("import datasets")
    (tmp_path / "notes.txt").write_text("x")
    expected = {
        "none": "is not there; give a Hub id",
        "empty": "doesn't contain any data files",
        "broken": "Arrow",
        "script": "scripts are no longer supported",
        "notes.txt": "expected a file that ends in .jsonl",
    }
    for name, complaint in expected.items():
        with pytest.raises(RecipeError, match=complaint) as caught:
            _open(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # what the environment variable sets at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        RecipeError, match="'no-such-org/no-such-set'.* cannot be read .*give a Hub id .ORG/NAME."
    ) as caught:
        HubSource(HubSection(kind="hub", path="no-such-org/no-such-set"))
    assert "\n" not in str(caught.value)


def test_identity_changes_with_the_data_and_the_settings_but_not_with_the_place(
    tmp_path: Path,
) -> None:
    folder = _parquet(tmp_path / "d", [_row(number) for number in range(3)])
    first = _open(folder).identity()
    assert _open(folder, license="MIT").identity() != first
    folder.rename(tmp_path / "e")
    assert _open(tmp_path / "e").identity() == first
    _parquet(tmp_path / "e", [_row(number) for number in range(4)])
    assert _open(tmp_path / "e").count() == 4
    assert _open(tmp_path / "e").identity() != first


def test_real_photographs_pass_untouched(tmp_path: Path, test_data: Path) -> None:
    lines = [
        json.loads(line) for line in (test_data / "hands/pairs.jsonl").read_text().splitlines()[:20]
    ]
    files = {
        key: [(test_data / "hands" / line[key]).read_bytes() for line in lines]
        for key in ("image_a", "image_b")
    }
    rows = [
        {**line, **{key: {"bytes": files[key][number], "path": None} for key in files}}
        for number, line in enumerate(lines)
    ]
    data = (
        datasets.Dataset.from_list(rows)
        .cast_column("image_a", datasets.Image())
        .cast_column("image_b", datasets.Image())
    )
    (tmp_path / "d").mkdir()
    data.to_parquet(str(tmp_path / "d/train.parquet"))
    read = list(HubSource(HubSection(kind="hub", path=str(tmp_path / "d"))).read(0, 20))
    assert [row.image_a for row in read if isinstance(row, Candidate)] == files["image_a"]
    assert [(row.source_id, row.group, row.category) for row in read] == [
        (line["id"], line["group"], line["category"]) for line in lines
    ]
