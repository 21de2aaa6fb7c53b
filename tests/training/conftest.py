"""A real, tiny LLaVA with a trained tokenizer in either prompt format, and a small MVC folder."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.schema import SCHEMA_VERSION, mvc_schema, pair_id, sha256_hex
from tests.training.tiny_families import COLOURS, MAKERS, QUESTIONS, SHAPES, write_tiny_llava


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test: what a run leaves for others does not reach the next test."""
    monkeypatch.setenv("SVCO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session", params=["vicuna", "chatml"])
def tiny_llava(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA, once in each prompt format."""
    return write_tiny_llava(
        tmp_path_factory.mktemp(request.param), chatml=request.param == "chatml"
    )


@pytest.fixture(scope="session", params=sorted(MAKERS))
def tiny_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model, once of each family."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def tiny_qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Qwen3-VL, where one family with images of any size is enough."""
    return MAKERS["qwen3_vl"](tmp_path_factory.mktemp("qwen3-only"))


@pytest.fixture(scope="session")
def vicuna_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA in the LLaVA-1.5 format, where one format is enough."""
    return write_tiny_llava(tmp_path_factory.mktemp("vicuna-only"), chatml=False)


def draw(colour: str, shape: str, shift: int = 0) -> bytes:
    """A 32 pixel PNG of one coloured shape on grey."""
    canvas = np.full((32, 32, 3), 128, np.uint8)
    y, x = np.mgrid[:32, :32] - 16 + shift
    masks = {
        "square": (abs(y) < 9) & (abs(x) < 9),
        "circle": y**2 + x**2 < 100,
        "bar": abs(y) < 4,
        "cross": (abs(y) < 4) | (abs(x) < 4),
    }
    canvas[masks[shape]] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()


def mvc_row(index: int) -> dict[str, Any]:
    """A valid MVC row: two pictures that differ in colour."""
    colours, shape = list(COLOURS), SHAPES[index % 4]
    a, b = colours[index % 4], colours[(index // 4 + index + 1 + (index // 4 % 3 == 2)) % 4]
    image_a, image_b = draw(a, shape, index % 3), draw(b, shape, index % 3)
    caption_a, caption_b = f"A {a} {shape} on grey {index}.", f"A {b} {shape} on grey {index}."
    hashes = sha256_hex(image_a), sha256_hex(image_b)
    return {
        "pair_id": pair_id(hashes[0], caption_a, hashes[1], caption_b),
        "source": "drawn",
        "source_id": str(index),
        "category": "attribute",
        "operation": "render",
        "group": str(index),
        "image_a": {"bytes": image_a, "path": None},
        "image_b": {"bytes": image_b, "path": None},
        "question": QUESTIONS[index % 3],
        "answer_a": caption_a[: -len(f" {index}.")] + ".",
        "answer_b": caption_b[: -len(f" {index}.")] + ".",
        "caption_a": caption_a,
        "caption_b": caption_b,
        "rewrite_status": "template",
        "rewrite_model": "",
        "license": "CC0-1.0",
        "image_a_sha256": hashes[0],
        "image_b_sha256": hashes[1],
        "meta": json.dumps({"index": index}),
    }


def write_mvc(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """Writes an MVC folder of given rows, one shard per split."""
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        table = pa.Table.from_pylist(rows, schema=mvc_schema())
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    return folder


@pytest.fixture
def make_mvc(tmp_path: Path) -> Callable[..., Path]:
    """Makes an MVC folder of `num_train` and `num_validation` pairs; `change` may edit the training
    rows.
    """

    def make(
        num_train: int = 12,
        num_validation: int = 4,
        change: Callable[[list[dict[str, Any]]], None] | None = None,
    ) -> Path:
        train = [mvc_row(index) for index in range(num_train)]
        if change:
            change(train)
        validation = [mvc_row(100 + index) for index in range(num_validation)]
        splits = {"train": train, "validation": validation} if validation else {"train": train}
        return write_mvc(tmp_path / "mvc", splits)

    return make


def _plain_logps(model: Any, pairs: Any, image_token_id: int, pixels_a: Any, pixels_b: Any) -> Any:
    """The slow oracle: six separate unpadded passes per pair, the model's own forward and nothing
    shared.
    """
    import torch

    rows = []
    for index, pair in enumerate(pairs):
        for pixels in (pixels_a[index : index + 1], pixels_b[index : index + 1], None):
            prompt = pair.prompt_text if pixels is None else pair.prompt_image
            for response in (pair.response_a, pair.response_b):
                ids = torch.tensor([prompt + response])
                logits = (
                    model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[0].float()
                )
                logp = logits[len(prompt) - 1 : -1].log_softmax(-1)
                rows.append(logp.gather(1, torch.tensor(response)[:, None]).sum())
    return torch.stack(rows).view(len(pairs), 3, 2)


@pytest.fixture(scope="session")
def plain_logps() -> Callable[..., Any]:
    """`plain_logps(model, pairs, image_token_id, pixels_a, pixels_b)`: the six log-probabilities,
    the slow clear way.
    """
    return _plain_logps


@pytest.fixture
def recipe(vicuna_llava: Path, make_mvc: Callable[..., Path]) -> dict[str, Any]:
    """A training recipe of few small steps; a file with needs of its own has a fixture of this
    name.
    """
    return {
        "model": str(vicuna_llava),
        "data": str(make_mvc(9, 3)),
        "eval_every_steps": 0,
        "workers": {"num_workers": 0},
        "optim": {"lr": 1e-2, "batch_pairs": 4, "micro_batch_pairs": 2},
        "log": {"num_samples": 0},
    }
