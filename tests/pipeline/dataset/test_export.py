import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.recipe import UserError
from pipeline.core.schema import SCHEMA_VERSION, Candidate, MvcError, mvc_schema, read_mvc
from pipeline.dataset.export import Split, export
from pipeline.sources.mvc_json import MvcJsonSection, MvcJsonSource
from pipeline.sources.scenes.source import ScenesSection, ScenesSource

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def mvc(tmp_path: Path) -> Path:
    """An MVC folder of drawn scenes: 40 pairs in two training shards, 5 in validation; row 0's side
    b is row 1's side a.
    """
    folder = tmp_path / "mvc"
    (folder / "data").mkdir(parents=True)
    section = ScenesSection(kind="scenes", num_pairs=45)
    rows = [
        _row(number, candidate)
        for number, candidate in enumerate(ScenesSource(section).read(0, 45))
    ]
    rows[0]["image_b"] = rows[1]["image_a"]
    for name, part in {
        "train-00000-of-00002": rows[:25],
        "train-00001-of-00002": rows[25:40],
        "validation-00000-of-00001": rows[40:],
    }.items():
        pq.write_table(
            pa.Table.from_pylist(part, schema=mvc_schema()),
            folder / f"data/{name}.parquet",
            row_group_size=10,
        )
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    return folder


def _row(number: int, pair: Candidate) -> dict[str, Any]:
    fields = {
        name: getattr(pair, name)
        for name in ("source", "source_id", "category", "operation", "group", "license", "question")
    }
    images = {
        "image_a": {"bytes": pair.image_a, "path": None},
        "image_b": {"bytes": pair.image_b, "path": None},
    }
    return {
        **fields,
        **images,
        "pair_id": f"{number:032x}",
        "answer_a": pair.caption_a,
        "answer_b": pair.caption_b,
        "meta": pair.meta,
    }


def _read_back(listed: Path) -> list[Candidate]:
    source = MvcJsonSource(MvcJsonSection(kind="mvc_json", path=str(listed)))
    rows = list(source.read(0, source.count()))
    assert all(isinstance(row, Candidate) for row in rows)
    return rows  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["out", "data"])
@pytest.mark.parametrize("split", get_args(Split))
def test_what_was_exported_reads_back_as_it_was(
    mvc: Path, tmp_path: Path, name: str, split: Split
) -> None:
    out = tmp_path / "repo" / name
    table = read_mvc(mvc, split)
    assert export(mvc, "mvc_json", out, split) == table.num_rows
    rows = _read_back(out / "mvc.json")
    assert len(rows) == table.num_rows
    for row, expected in zip(rows, table.to_pylist(), strict=True):
        assert (row.image_a, row.image_b) == (
            expected["image_a"]["bytes"],
            expected["image_b"]["bytes"],
        )
        assert (row.question, row.caption_a, row.caption_b) == (
            expected["question"],
            expected["answer_a"],
            expected["answer_b"],
        )
        assert [getattr(row, key) for key in ("category", "operation", "group", "license")] == [
            expected[key] for key in ("category", "operation", "group", "license")
        ]


def test_a_record_has_what_the_authors_trainer_reads(mvc: Path, tmp_path: Path) -> None:
    export(mvc, "mvc_json", tmp_path / "data")
    records = json.loads((tmp_path / "data/mvc.json").read_text())
    for record in records:
        for key in ("chosen_images", "rejected_images"):
            (path,) = record[key]
            with Image.open(tmp_path / path) as image:  # started in the folder above data/
                assert image.format == "PNG" and path.endswith(".png")
        texts = [
            record[key]
            for key in (
                "system_prompt",
                "instruction_prompt",
                "chosen_response",
                "rejected_response",
            )
        ]
        assert all(isinstance(text, str) for text in texts)


def test_an_image_of_several_pairs_is_written_once(mvc: Path, tmp_path: Path) -> None:
    export(mvc, "mvc_json", tmp_path / "out")
    records = json.loads((tmp_path / "out/mvc.json").read_text())
    assert records[0]["rejected_images"] == records[1]["chosen_images"]
    named = {
        path for record in records for path in record["chosen_images"] + record["rejected_images"]
    }
    assert {f"images/{path.name}" for path in (tmp_path / "out/images").iterdir()} == named


def test_a_system_prompt_survives_the_way_in_and_out(mvc: Path, tmp_path: Path) -> None:
    _change(mvc, lambda rows: rows[0].update(meta=json.dumps({"system_prompt": "Be brief."})))
    export(mvc, "mvc_json", tmp_path / "out", "validation")
    assert json.loads((tmp_path / "out/mvc.json").read_text())[0]["system_prompt"] == "Be brief."
    assert json.loads(_read_back(tmp_path / "out/mvc.json")[0].meta) == {
        "system_prompt": "Be brief."
    }


def test_exporting_again_replaces_the_export_and_leaves_no_stale_image(
    mvc: Path, tmp_path: Path
) -> None:
    export(mvc, "mvc_json", tmp_path / "out", "train")
    export(mvc, "mvc_json", tmp_path / "out", "validation")
    export(mvc, "mvc_json", tmp_path / "other", "validation")
    first, second = (
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()}
        for d in (tmp_path / "out", tmp_path / "other")
    )
    assert first == second


def test_a_folder_with_something_else_in_it_is_refused_and_untouched(
    mvc: Path, tmp_path: Path
) -> None:
    for out in (mvc, tmp_path / "theirs"):
        out.mkdir(exist_ok=True)
        (out / "mvc.json").write_text("mine")
        with pytest.raises(UserError, match="one of an earlier export, found"):
            export(mvc, "mvc_json", out)
        assert (out / "mvc.json").read_text() == "mine"
    with pytest.raises(UserError, match="one of an earlier export, found"):
        export(mvc, "mvc_json", tmp_path / "theirs/mvc.json")


def test_a_damaged_image_stops_the_export_before_there_is_a_list(mvc: Path, tmp_path: Path) -> None:
    _change(mvc, lambda rows: rows[3].update(image_b=None))
    with pytest.raises(MvcError, match="pair 0{30}2b: image_b"):
        export(mvc, "mvc_json", tmp_path / "out", "validation")
    assert not (tmp_path / "out/mvc.json").exists()


def _change(mvc: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = mvc / "data/validation-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=mvc_schema()), path)


def test_an_empty_split_and_a_folder_that_is_no_mvc_are_named(mvc: Path, tmp_path: Path) -> None:
    (mvc / "data/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(MvcError, match="'validation' has no rows"):
        export(mvc, "mvc_json", tmp_path / "out", "validation")
    with pytest.raises(MvcError, match="manifest.json"):
        export(tmp_path, "mvc_json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pair_becomes_two_preferences_between_texts_under_one_image_each(
    mvc: Path, tmp_path: Path
) -> None:
    _change(mvc, lambda rows: rows[0].update(meta=json.dumps({"system_prompt": "Be brief."})))
    assert export(mvc, "trl", tmp_path / "out", "validation") == 5
    rows = pq.read_table(tmp_path / "out/validation.parquet").to_pylist()
    pairs = read_mvc(mvc, "validation").to_pylist()
    assert len(rows) == 10
    for number, (pair, row) in enumerate(
        zip([pair for pair in pairs for _ in "ab"], rows, strict=True)
    ):
        side, other = "ab" if number % 2 == 0 else "ba"
        assert row["images"] == [{"bytes": pair[f"image_{side}"]["bytes"], "path": None}]
        assert row["prompt"][-1] == {"role": "user", "content": pair["question"]}
        assert row["chosen"] == [{"role": "assistant", "content": pair[f"answer_{side}"]}]
        assert row["rejected"] == [{"role": "assistant", "content": pair[f"answer_{other}"]}]
        assert (row["side"], row["pair_id"], row["license"]) == (
            side,
            pair["pair_id"],
            pair["license"],
        )
    assert [row["prompt"][0]["role"] for row in rows] == ["system"] * 2 + ["user"] * 8


def test_another_split_replaces_the_first_in_a_folder_for_trl(mvc: Path, tmp_path: Path) -> None:
    for split in get_args(Split):
        export(mvc, "trl", tmp_path / "out", split)
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["validation.parquet"]
    with pytest.raises(MvcError, match="image_b"):
        _change(mvc, lambda rows: rows[3].update(image_b=None))
        export(mvc, "trl", tmp_path / "out", "validation")
    assert not list((tmp_path / "out").glob("*.parquet"))


@pytest.mark.slow
def test_trl_itself_makes_batches_of_what_load_dataset_reads(mvc: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from datasets import load_dataset
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    export(mvc, "trl", tmp_path / "out", "validation")
    rows = load_dataset(
        str(tmp_path / "out"), split="validation", cache_dir=str(tmp_path / "cache")
    )
    processor = _small_processor(sorted({word for row in rows for word in _words(row)}))
    batch = DataCollatorForVisionPreference(processor)([rows[0], rows[1]])
    # each row's image for its chosen and for its rejected response
    assert batch["pixel_values"].shape == (4, 3, 28, 28)
    texts = [
        processor.tokenizer.decode(ids[mask.bool()]).removesuffix("<end>").split()
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    answers = [
        row[key][0]["content"] for key in ("chosen", "rejected") for row in (rows[0], rows[1])
    ]
    assert texts == [_split(answer) for answer in answers]
    assert texts[0] == texts[3] != texts[1] == texts[2]


def _split(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text)


def _words(row: dict[str, Any]) -> list[str]:
    return [
        word
        for key in ("prompt", "chosen", "rejected")
        for message in row[key]
        for word in _split(message["content"])
    ]


def _small_processor(words: list[str]) -> Any:
    """A LLaVA processor with one token per word and small images."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    special = ["<pad>", "<image>", "<end>", "user:", "assistant:"]
    tokenizer = Tokenizer(
        models.WordLevel(
            {word: number for number, word in enumerate([*special, *words])}, unk_token="<pad>"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=special[1:],
    )
    template = (
        "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else"
        " %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif"
        " %} {% endfor %}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}assistant: {%"
        " endif %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return LlavaProcessor(
        images, fast, patch_size=14, vision_feature_select_strategy="full", chat_template=template
    )


@pytest.mark.slow
def test_the_command_writes_beside_the_folder_and_loads_neither_ray_nor_torch(
    lean_command: Callable[..., Any], mvc: Path
) -> None:
    lean_command("export", mvc, "--to", "mvc_json", "--split", "validation", without="datasets")
    assert len(_read_back(mvc.with_name("mvc-mvc_json-validation") / "mvc.json")) == 5
