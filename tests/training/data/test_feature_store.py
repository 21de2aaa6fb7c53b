"""Stored vision features give the training that the tower would have given, bit by bit; a stale or
partial store is refused.
"""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.core.recipe import RecipeError, UserError
from pipeline.core.schema import sha256_hex
from tests.training.conftest import mvc_row, write_mvc
from tests.training.test_make_reference import section
from training import make_reference as reference
from training.data import vision_features as features
from training.data.feature_store import FeatureStore
from training.data.pairs import PairReader
from training.data.reference_table import feature_facts
from training.make_reference import make_reference
from training.models.families import parameters_of
from training.models.vlm import load_vlm, save_vlm
from training.run_plan import base_sha256, feature_parts, plan_reference
from training.runtime.environment import LocalEnv
from training.trainer.loop import fit

# Most of it trains or makes a reference.
pytestmark = pytest.mark.slow


def made(recipe: dict[str, Any], out: Path, **changes: Any) -> Path:
    make_reference(plan_reference(section(recipe, out, store_features=True, **changes)))
    return out


def trained(
    recipe: dict[str, Any], out: Path, **changes: Any
) -> tuple[dict[str, torch.Tensor], list[float]]:
    out.mkdir()
    fit(section(recipe, out, **changes), LocalEnv())
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    return load_file(out / "model.safetensors"), losses


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def no_tower(*_: Any) -> Any:
    raise AssertionError("the vision tower was run")


@pytest.mark.parametrize("weights", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_training_with_stored_features_is_training_without_bit_by_bit(
    weights: str, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = {"weights": weights, "precision": weights}
    table = made(recipe, tmp_path / "reference", train=use)
    plain = tmp_path / "plain"  # the same numbers without the features
    shutil.copytree(table, plain)
    for path in feature_parts(plain):
        path.unlink()
    (plain / "DONE.json").write_text(
        json.dumps(json.loads((table / "DONE.json").read_text()) | {"has_features": False})
    )
    weights_without, losses_without = trained(
        recipe, tmp_path / "without", reference=str(plain), train=use
    )
    monkeypatch.setattr(features, "vision_features", no_tower)
    for cached in (True, False):
        found, losses = trained(
            recipe,
            tmp_path / f"with-{cached}",
            reference=str(table),
            train={**use, "cache_vision": cached},
        )
        assert losses == losses_without
        assert all(torch.equal(found[name], weights_without[name]) for name in weights_without)


@pytest.mark.ray
def test_a_ray_actor_stores_the_same(one_ray: None, recipe: dict[str, Any], tmp_path: Path) -> None:
    here = made(recipe, tmp_path / "here")
    pool = made(recipe, tmp_path / "pool", workers={"num_workers": 1, "cpus_per_worker": 0.5})
    names = [path.name for path in feature_parts(here)]
    assert [path.name for path in feature_parts(pool)] == names != []
    for name in names:
        one, other = pq.read_table(here / name), pq.read_table(pool / name)
        assert one.select(["image_sha256", "num_features"]).equals(
            other.select(["image_sha256", "num_features"])
        )
        for values, others in zip(
            one["features"].to_pylist(), other["features"].to_pylist(), strict=True
        ):
            # Not bit by bit: an actor has another number of threads.
            torch.testing.assert_close(
                torch.frombuffer(values, dtype=torch.float32),
                torch.frombuffer(others, dtype=torch.float32),
            )


def test_a_dry_run_says_what_the_features_take_on_disk(
    recipe: dict[str, Any], command_here: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    parts = feature_parts(made(recipe, tmp_path / "made"))
    stored = sum(
        len(values) for path in parts for values in pq.read_table(path)["features"].to_pylist()
    )
    settings = [
        f"model={recipe['model']}",
        f"data={recipe['data']}",
        f"out={tmp_path / 'out'}",
        "workers.num_workers=0",
    ]
    code, said = command_here(reference.run, "--dry-run", *settings, "store_features=true")
    assert code == 0, said
    (found_mb,) = re.findall(r"features on disk.*?([0-9.]+) MB", said)
    assert float(found_mb) * 1e6 == pytest.approx(stored, rel=0.01)
    assert not (tmp_path / "out").exists()
    assert "features on disk" not in command_here(reference.run, "--dry-run", *settings)[1]


def test_images_of_any_size_are_stored_as_they_are_seen(
    tiny_qwen3_vl: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    rows = [mvc_row(index) for index in range(4)]
    rows[1] |= {
        "image_a": {"bytes": png(160, 64), "path": None},
        "image_a_sha256": sha256_hex(png(160, 64)),
    }
    recipe |= {
        "model": str(tiny_qwen3_vl),
        "data": str(write_mvc(tmp_path / "unlike", {"train": rows})),
    }
    table, vlm = made(recipe, tmp_path / "reference"), load_vlm(tiny_qwen3_vl)
    reader = PairReader(recipe["data"], "train", vlm)
    assert len(set(reader.num_image_tokens_I.tolist())) > 1
    store = FeatureStore(
        table, reader, feature_facts(base_sha256(section(recipe, tmp_path)) or "", vlm, "float32")
    )
    with torch.no_grad():
        seen = list(features.vision_features(vlm.model, reader.pixels(range(reader.num_images))))
    backwards = list(range(reader.num_images))[::-1]
    assert all(
        torch.equal(found, seen[number])
        for number, found in zip(backwards, store.read(backwards), strict=True)
    )


def test_a_killed_job_goes_on_with_the_missing_chunks(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHUNK_PAIRS", 4)
    monkeypatch.setattr(reference, "FILE_IMAGES", 8)
    whole = made(recipe, tmp_path / "whole")
    calls: list[tuple[str, int]] = []
    real = reference.ReferenceWriter.__call__

    def killed(self: Any, chunk: tuple[str, str, int]) -> None:
        calls.append((chunk[0], chunk[2]))
        if len(calls) in (3, 7):
            raise KeyboardInterrupt
        real(self, chunk)

    monkeypatch.setattr(reference.ReferenceWriter, "__call__", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            made(recipe, tmp_path / "killed")
    done = made(recipe, tmp_path / "killed")
    # four chunks of pairs, four of images, and the two that were broken off
    assert len(calls) == 2 * 4 + 2
    assert [path.name for path in feature_parts(done)] == [
        path.name for path in feature_parts(whole)
    ] and not (done / ".parts").exists()
    for path in (*feature_parts(done), done / "train.parquet"):
        assert pq.read_table(path) == pq.read_table(whole / path.name)


def test_a_table_without_features_takes_those_of_an_earlier_one_away(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    table = made(recipe, tmp_path / "reference")
    assert len(feature_parts(table)) == 2
    make_reference(plan_reference(section(recipe, table)))
    assert (
        not feature_parts(table)
        and not json.loads((table / "DONE.json").read_text())["has_features"]
    )


def test_a_store_that_lacks_images_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    table = made(recipe, tmp_path / "reference")
    whole = feature_parts(table, "validation")[0].read_bytes()
    for damage, message in (
        (
            None,
            "the features of 6 of 6 images of 'validation' are not in it .first that of pair .+",
        ),
        (whole[:100], "features-validation-00000.parquet cannot be read .+"),
    ):
        path = table / "features-validation-00000.parquet"
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(
            UserError,
            match=f"{message}; make it anew with `svco reference store_features=true`",
        ):
            trained(recipe, tmp_path / f"out{damage is None}", reference=str(table))
    shutil.rmtree(recipe["data"])
    write_mvc(Path(recipe["data"]), {"train": [mvc_row(index) for index in range(11)]})
    with pytest.raises(UserError, match=r"the features of 2 of 19 images of 'train' are not in it"):
        trained(recipe, tmp_path / "more", reference=str(table))


def test_features_of_another_tower_are_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    table = made(recipe, tmp_path / "reference")
    vlm = load_vlm(recipe["model"])
    with torch.no_grad():
        parameters_of(vlm.model, "vision tower")[0].add_(1)
    save_vlm(vlm, tmp_path / "other")
    with pytest.raises(
        UserError,
        match=r"features-train-00000.parquet was made from something else \(model_sha256 is",
    ):
        trained(recipe, tmp_path / "out", model=str(tmp_path / "other"), reference=str(table))
    with pytest.raises(
        UserError,
        match=r"made from something else \(features_dtype is bfloat16, there float32\)",
    ):
        trained(
            recipe,
            tmp_path / "out2",
            reference=str(table),
            train={"weights": "bfloat16", "precision": "bfloat16"},
        )


def test_features_of_a_tower_that_is_trained_are_neither_stored_nor_used(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"store_features: .+ set train.freeze_vision=true"):
        made(recipe, tmp_path / "reference", train={"freeze_vision": False})
    table = made(recipe, tmp_path / "reference")
    trained(recipe, tmp_path / "out", reference=str(table), train={"freeze_vision": False})
    before, after = (
        load_vlm(folder).model.state_dict() for folder in (recipe["model"], tmp_path / "out")
    )
    assert any(
        "vision_tower" in name and not torch.equal(before[name], after[name]) for name in before
    )
