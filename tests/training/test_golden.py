"""Our packed trainer core against the numbers of the official one (tests/golden/README.md)."""

import json
import os
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.config import OptimSection
from training.models.attention import DENSE, SPLIT
from training.models.loading import load_model
from training.models.logps import logps_of_features, pair_logps, vision_features
from training.models.packing import Packed, PairTokens, pack
from training.objectives.losses import Objective, Scores, Values
from training.objectives.terms import Coefficients
from training.trainer.optimizer import adamw

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SEQUENCES = (
    ("img_chosen_res_chosen", 0, 0),
    ("img_chosen_res_rejected", 0, 1),
    ("img_rejected_res_chosen", 1, 0),
    ("img_rejected_res_rejected", 1, 1),
    ("no_img_res_chosen", 2, 0),
    ("no_img_res_rejected", 2, 1),
)
TERMS = {
    "img_win_vs_no_img": "attend_a",
    "no_img_vs_img_lose": "reject_a",
    "img_lose_vs_no_img": "attend_b",
    "no_img_vs_img_win": "reject_b",
}


def _folders() -> list[Path]:
    roots = [Path(__file__).parents[1] / "golden"]
    if os.environ.get("SVCO_GOLDEN"):
        roots.append(Path(os.environ["SVCO_GOLDEN"]))
    return sorted({path.parent.resolve() for root in roots for path in root.rglob("golden.json")})


@dataclass(frozen=True)
class Golden:
    """One recorded run: its numbers, its pairs in our packed form, its pixels."""

    folder: Path
    says: dict[str, Any]
    packed: Packed
    pixels_a: Tensor
    pixels_b: Tensor
    coefficients: Coefficients
    attention: str

    def model(self, name: str) -> Any:
        model = load_model(self.folder / name, attention=self.attention)
        model.model.vision_tower.requires_grad_(False)
        return model

    def logps(self, model: Any) -> Tensor:
        return pair_logps(model, self.packed, self.pixels_a, self.pixels_b)

    def svco(self, policy_P32: Tensor, reference_P32: Tensor) -> tuple[Tensor, Values]:
        scores = Scores(
            D_P32=policy_P32 - reference_P32,
            logps_P32=policy_P32,
            num_tokens_P2=self.packed.num_tokens_P2,
        )
        return Objective("svco", self.coefficients)(scores)


@pytest.fixture(
    scope="module",
    params=product(_folders(), (SPLIT, DENSE)),
    ids=lambda param: f"{param[0].name}-{param[1]}",
)
def golden(request: pytest.FixtureRequest) -> Golden:
    folder, attention = request.param
    says = json.loads((folder / "golden.json").read_text())
    pixels = load_file(folder / "pixels.safetensors")
    pixels_a, pixels_b = pixels["pixel_values_chosen"], pixels["pixel_values_rejected"]
    image, bos = says["special"]["image_token"], says["special"]["bos"]
    with torch.no_grad():
        num_image_tokens = vision_features(load_model(folder / "policy"), pixels_a[:1]).shape[1]
    pairs = [
        PairTokens(
            [bos] + [image] * num_image_tokens + p["question"],
            [bos, *p["question"]],
            p["chosen"],
            p["rejected"],
        )
        for p in says["pairs"]
    ]
    coefficients = Coefficients(
        **{f"beta_{ours}": says["betas"][theirs] for theirs, ours in TERMS.items()}
    )
    return Golden(
        folder,
        says,
        pack(pairs, image, num_image_tokens),
        pixels_a,
        pixels_b,
        coefficients,
        attention,
    )


def _table(recorded: dict[str, list[float]]) -> Tensor:
    table_P32 = torch.empty(len(recorded[SEQUENCES[0][0]]), 3, 2)
    for name, condition, response in SEQUENCES:
        table_P32[:, condition, response] = torch.tensor(recorded[name])
    return table_P32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy", "reference"])
def test_the_six_logps_of_each_pair_are_the_official_ones(golden: Golden, name: str) -> None:
    with torch.no_grad():
        ours_P32 = golden.logps(golden.model(name))
    torch.testing.assert_close(ours_P32, _table(golden.says[f"{name}_logps"]), **CLOSE)


def test_loss_metrics_and_gradient_norms_are_the_official_ones(golden: Golden) -> None:
    policy = golden.model("policy")
    with torch.no_grad():
        reference_P32 = golden.logps(golden.model("reference"))
    policy_P32 = golden.logps(policy)
    loss_P, values = golden.svco(policy_P32, reference_P32)
    loss_P.mean().backward()

    assert loss_P.mean().item() == pytest.approx(golden.says["loss"], rel=1e-5)
    metrics, D_P32 = golden.says["metrics"], (policy_P32 - reference_P32).detach()
    for theirs, ours in TERMS.items():
        assert _mean_loss(values, ours) == pytest.approx(
            metrics[f"train_losses/{theirs}_loss"], rel=1e-5
        )
        margin = metrics[f"train_reward_margin/{theirs}_reward_margins"]
        assert values[f"margin_{ours}"].mean().item() == pytest.approx(margin, rel=1e-5, abs=2e-5)
        accuracy = metrics[f"train_reward_acc/{theirs}_reward_accuracies"]
        assert values[f"accuracy_{ours}"].mean().item() == pytest.approx(accuracy, rel=1e-5)
    for name, condition, response in SEQUENCES:
        logratio = D_P32[:, condition, response].mean().item()
        assert logratio == pytest.approx(
            metrics[f"train_rewards/rewards_{name}"], rel=1e-5, abs=2e-5
        )
        logps = policy_P32[:, condition, response].mean().item()
        assert logps == pytest.approx(metrics[f"train_logps/policy_logps_{name}"], rel=1e-5)

    ours = {
        name: p.grad.norm().item() for name, p in policy.named_parameters() if p.grad is not None
    }
    recorded = {_our_name(name): norm for name, norm in golden.says["grad_norms"].items()}
    assert ours == pytest.approx(recorded, rel=1e-5, abs=1e-6)


def _mean_loss(values: Values, term: str) -> float:
    """A term that a beta of 0 removes has no loss here, and 0 in the official metrics."""
    return values[f"loss_{term}"].mean().item() if f"loss_{term}" in values else 0.0


def test_a_term_that_is_removed_counts_as_no_loss() -> None:
    zeros_P32 = torch.zeros(1, 3, 2)
    scores = Scores(D_P32=zeros_P32, logps_P32=zeros_P32, num_tokens_P2=torch.ones(1, 2))
    _, values = Objective("svco", Coefficients(beta_attend_b=0.0))(scores)
    assert [_mean_loss(values, term) for term in ("attend_a", "attend_b")] == [
        pytest.approx(0.6931472),
        0.0,
    ]


def _our_name(official: str) -> str:
    """transformers 4.45 to 5: the wrapped models moved below `model`, the language model's head to
    the top.
    """
    if official.startswith("language_model.lm_head."):
        return official.removeprefix("language_model.")
    if official.startswith("language_model.model."):
        return "model.language_model." + official.removeprefix("language_model.model.")
    return "model." + official


def _adamw_settings(stated: str) -> dict[str, Any]:
    """The numbers in a text such as "AdamW(lr=1e-3, betas=(0.9,0.95), weight_decay=0)"."""
    match = re.fullmatch(r"AdamW\((.*)\)", stated.strip())
    assert match, f"expected AdamW(..), got {stated!r}"
    values = dict(re.findall(r"(\w+)\s*=\s*(\([^)]*\)|[^,]+)", match[1]))
    betas = tuple(float(beta) for beta in values.pop("betas").strip("()").split(","))
    return {"betas": betas, **{name: float(value) for name, value in values.items()}}


def test_the_recorded_settings_are_read_from_their_text() -> None:
    stated = "AdamW(lr=2e-4, betas=(0.8, 0.999), eps=1e-6, weight_decay=0.1)"
    assert _adamw_settings(stated) == {
        "lr": 2e-4,
        "betas": (0.8, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.1,
    }


def _optimizer(parameters: list[Any], stated: str) -> torch.optim.Optimizer:
    """The trainer's own optimizer wherever it can do what is stated, else one as stated."""
    settings = _adamw_settings(stated)
    (beta1, beta2), decay = settings["betas"], settings["weight_decay"]
    if (beta1, settings["eps"], decay) == (0.9, 1e-8, 0.0):
        return adamw(
            parameters, OptimSection(lr=settings["lr"], adam_beta2=beta2, weight_decay=decay)
        )
    return torch.optim.AdamW(parameters, **settings)


@pytest.mark.slow
def test_the_training_trajectory_is_the_official_one(golden: Golden) -> None:
    says = golden.says["trajectory"]
    recorded = says["loss_and_grad_norm"]
    assert len(recorded) == int(says["steps"])
    policy = golden.model(says["start"])
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, says["optimizer"])
    with torch.no_grad():  # the tower is frozen, so its features are made once, as in the trainer
        features_a, features_b = (
            vision_features(policy, golden.pixels_a),
            vision_features(policy, golden.pixels_b),
        )
        reference_P32 = golden.logps(golden.model("reference"))
    ours = []
    for _ in recorded:
        loss_P, _ = golden.svco(
            logps_of_features(policy, golden.packed, features_a, features_b), reference_P32
        )
        optimizer.zero_grad()
        loss_P.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, float(says["clip_grad_norm"]))
        optimizer.step()
        ours.append([loss_P.mean().item(), norm.item()])
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(recorded), rtol=1e-5, atol=1e-6)
