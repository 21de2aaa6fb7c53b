"""Every training recipe that ships, with all its options as they stand, on a tiny model of its
family: two steps end on the weights of a plain loop with six separate passes per pair.
"""

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from pipeline.core.images import decode_rgb
from pipeline.core.ray_pool import Pool
from pipeline.core.recipe import UserError, load_recipe
from pipeline.core.schema import read_mvc
from tests.conftest import ROOT
from tests.training.gloo import two_workers
from tests.training.tiny_families import MAKERS, separate_logps
from training import make_reference as reference
from training.config import TrainSection
from training.data.pairs import epoch_order
from training.models.model_folder import add_older_names
from training.models.vlm import Vlm, load_vlm
from training.run_plan import plan_reference
from training.runtime.environment import LocalEnv
from training.trainer.loop import fit

pytestmark = pytest.mark.slow

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("svco_*.yaml"))
FAMILIES = {
    "llava-1.5": "llava-llama",
    "interleave": "llava-qwen2",
    "Qwen2.5": "qwen2_5_vl",
    "Qwen3": "qwen3_vl",
    "tiny": "llava-qwen2",
}
MERGER = re.compile(r"merger|deepstack_merger_list\.\d+")
NUM_PAIRS, NUM_STEPS = 6, 2
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family, its tensors by their published names."""
    folders = {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}
    for folder in folders.values():
        add_older_names(folder)
    return folders


def section_of(name: str, model: Path, data: Path, out: Path, **more: Any) -> TrainSection:
    """A recipe as it stands, but for the model, the data and the number of steps."""
    out.mkdir(parents=True)
    settings = [f"model={model}", f"data={data}", f"out={out}", f"optim.max_steps={NUM_STEPS}"]
    values = load_recipe(name, settings, TrainSection).model_dump(mode="json")
    for key, change in more.items():
        values[key] = {**values[key], **change} if isinstance(change, dict) else change
    return TrainSection.model_validate(values)


def _family(name: str) -> str:
    published = load_recipe(name, ["data=x", "out=x"], TrainSection).model
    return next(family for part, family in FAMILIES.items() if part in published)


def _fit_all(rank: int, world_size: int, sections: list[TrainSection]) -> None:
    for section in sections:
        fit(section, LocalEnv(rank, world_size))


def _train(sections: list[TrainSection]) -> None:
    """Alone, or by two workers where the recipe has several."""
    if sections[0].workers.num_workers > 1:
        two_workers(_fit_all, sections)
    else:
        _fit_all(0, 1, sections)


# No recipe spreads Qwen models over workers, but any can be told to.
@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, _family(name)) for name in RECIPES),
        ("svco_llava_1_5_7b", "qwen2_5_vl"),
        ("svco_llava_1_5_7b", "qwen3_vl"),
    ],
)
def test_two_steps_end_on_the_weights_of_a_plain_loop(
    name: str,
    family: str,
    models: dict[str, Path],
    make_mvc: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = functools.partial(section_of, name, models[family], make_mvc(NUM_PAIRS, 1))
    asked = make(tmp_path / "asked")
    if asked.lora is not None and asked.lora.quantize:
        if importlib.util.find_spec("bitsandbytes") is None:
            with pytest.raises(UserError, match=r"lora.quantize=nf4 needs bitsandbytes; pip inst"):
                fit(asked, LocalEnv())
        else:
            fit(asked, LocalEnv())
        make = functools.partial(make, lora={"quantize": None})
    # The table, and what the tower sees, as `svco reference` makes them of this recipe.
    monkeypatch.setattr(reference, "Pool", lambda *_: Pool(0))
    monkeypatch.setattr(reference, "ray_session", nullcontext)
    table = make(tmp_path / "table", store_features=True, workers={"use_gpu": False})
    reference.make_reference(plan_reference(table))
    in_full = {"weights": "float32", "precision": "float32"}
    changes: dict[str, dict[str, Any]] = {
        "as it stands": {},
        "in another order": {"train": {"attention": "dense"}},
        "kept": {"train": {"cache_vision": not asked.train.cache_vision}},
        "stored": {"reference": table.out},
        "float32": {"train": in_full},
    }
    runs = {run: make(tmp_path / run, **change) for run, change in changes.items()}
    _train(list(runs.values()))
    base = _weights(models[family])
    moves = {run: _moves(base, _weights(runs[run].out)) for run in runs}
    slow = {run: _moves(base, plain_loop(runs[run])) for run in ("as it stands", "float32")}
    assert torch.equal(moves["kept"], moves["as it stands"])
    assert torch.equal(moves["stored"], moves["as it stands"])
    # Adam makes whole steps of the rounding in the smallest gradients, so moves are compared whole.
    assert _off(moves["float32"], slow["float32"]) < 1e-3
    if asked.train.precision == "bfloat16":
        spread = _off(moves["in another order"], moves["as it stands"])
        assert _off(moves["as it stands"], slow["as it stands"]) < 2 * spread


def _weights(folder: str | Path) -> Weights:
    """As transformers reads them, whatever their names in the files."""
    return dict(AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").state_dict())


def _moves(base: Weights, weights: Weights) -> Tensor:
    """How far each weight is from where it began, all in one row."""
    assert weights.keys() == base.keys()
    return torch.cat([(weights[name] - base[name]).double().flatten() for name in sorted(base)])


def _off(one: Tensor, other: Tensor) -> float:
    """The distance of two results as a share of the way from the start."""
    assert other.norm() > 0
    return ((one - other).norm() / other.norm()).item()


def plain_loop(section: TrainSection) -> Weights:
    """The weights after the steps of a recipe, the slow way, from transformers' own forward."""
    low = section.train.precision == "bfloat16"
    torch.manual_seed(section.seed)
    vlm = load_vlm(section.model)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        section.model, dtype=torch.float32, attn_implementation="sdpa"
    )
    trained = _what_moves(model, section)
    rounded = low and section.workers.shard
    vlm = Vlm(_Rounded(model) if rounded else model, vlm.processor, vlm.family)
    rows = read_mvc(section.data, "train").to_pylist()
    # what stands between "ASSISTANT:" and an answer
    follow = " " if vlm.family == "llava-llama" else ""
    texts = [(row["question"], *(follow + row[f"answer_{side}"] for side in "ab")) for row in rows]
    images = [[decode_rgb(row[f"image_{side}"]["bytes"]) for row in rows] for side in "ab"]

    def logps(pair: int) -> Tensor:
        sides = [[images[side][pair]] for side in (0, 1)]
        with _precision(model, low=low):
            return separate_logps(vlm, [texts[pair]], *sides)[0]

    with torch.no_grad():
        reference = [logps(pair) for pair in range(len(rows))]
    optim = section.optim
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": optim.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=optim.lr,
        betas=(0.9, optim.adam_beta2),
    )
    assert optim.batch_pairs >= len(rows)
    for epoch in range(NUM_STEPS):  # the warmup is over after one, and the cosine not yet begun
        optimizer.zero_grad()
        for pair in epoch_order(len(rows), section.seed, epoch).tolist():
            D = logps(pair) - reference[pair]
            margins = D[0, 0] - D[2, 0], D[2, 0] - D[1, 0], D[1, 1] - D[2, 1], D[2, 1] - D[0, 1]
            losses = [nn.functional.softplus(-0.1 * margin) for margin in margins]
            (torch.stack(losses).sum() / len(rows)).backward()
        nn.utils.clip_grad_norm_(trained, optim.clip_norm)
        optimizer.step()
    return _merged(model, section)


def _what_moves(model: Any, section: TrainSection) -> list[Any]:
    """Freezes the rest, and adds adapters where there are to be any.

    What moves is in fp32 and never rounded; the rest is held as the recipe says.
    """
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if not _is_whole(name, section):
            parameter.data = parameter.data.to(getattr(torch, section.train.weights))
    if section.lora is not None:
        from peft import LoraConfig

        model.add_adapter(
            LoraConfig(
                r=section.lora.rank,
                lora_alpha=section.lora.alpha,
                target_modules=rf"model\.language_model\..*\.{section.lora.targets}",
            )
        )
    for name, parameter in model.named_parameters():
        if _is_whole(name, section) or "lora_" in name:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _is_whole(name: str, section: TrainSection) -> bool:
    """Whether a parameter of the base is trained."""
    projects = "projector" in name or "merger" in name
    return projects or (section.lora is None and not _is_of_tower(name))


class _Rounded(nn.Module):
    """A model whose weights, but for the tower's, are rounded to bfloat16 in each pass, as workers
    that share them do.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **inputs: Any) -> Any:
        weights = {
            name: parameter if _is_of_tower(name) else parameter.bfloat16()
            for name, parameter in self.model.named_parameters()
        }
        return torch.func.functional_call(self.model, weights, (), inputs)


def _is_of_tower(name: str) -> bool:
    return ("visual" in name or "vision_tower" in name) and "merger" not in name


@contextmanager
def _precision(model: Any, *, low: bool) -> Iterator[None]:
    """Computes in bfloat16 by autocast, but for the frozen tower, which computes in the type of its
    weights, whatever it is; what its mergers take is then put into the type of theirs.
    """
    tower = getattr(model.model, "visual", None) or model.model.vision_tower
    mergers = [module for name, module in tower.named_modules() if MERGER.fullmatch(name)]
    parts = [(tower, False), *((merger, low) for merger in mergers)]
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        for module, enabled in parts:
            module.forward = _under_autocast(module, module.forward, enabled)
        yield
    for module, _ in parts:
        del module.forward


def _under_autocast(module: Any, forward: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    def within(*args: Any, **named: Any) -> Any:
        if isinstance(args[0], Tensor):
            args = (args[0].to(next(module.parameters()).dtype), *args[1:])
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            return forward(*args, **named)

    return within


def _merged(model: Any, section: TrainSection) -> Weights:
    """The weights as a whole model; adapters are added to the base as it is stored."""
    moved = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    whole = AutoModelForImageTextToText.from_pretrained(section.model)
    weights = whole.state_dict()
    for name, value in moved.items():
        layer, is_adapter, _ = name.partition(".lora_A.")
        if is_adapter:
            scale = section.lora.alpha / section.lora.rank if section.lora else 0
            added = scale * moved[f"{layer}.lora_B.default.weight"] @ value
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + added
        elif ".lora_B." not in name:
            weights[name] = value
    whole.load_state_dict(weights)
    return dict(whole.state_dict())
