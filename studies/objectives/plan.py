"""Which runs the study is made of, and the rules by which it decides; pure functions of rows.

The rule for settings: four per objective, one seed, trained on `all`, measured on `valid`. A
setting keeps ability if the true captions of `valid` are at most `MAX_NLL_RISE` nats per token less
likely than under the base. Of the settings that keep it the one with the fewest answers that are
not right wins, of equal ones the one with the highest group score; if none keeps it, of all of them
(and the table says so). `QUESTIONS` says which test runs take the setting that wins over which
pairs of `valid`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from studies.objectives.run import BASE, Run, Setting

MAX_NLL_RISE = 0.1
SEEDS, ABLATION_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
LRS, BETAS = (4e-4, 1.2e-3), (0.1, 0.5)
SFT_LRS = (2e-4, 4e-4, 8e-4, 1.6e-3)
ABLATION_BETAS = (0.03, 0.1, 0.3)
OBJECTIVES = ("sft", "dpo", "dpo_symmetric", "mdpo", "mpo", "symmpo", "vco", "svco")
# Sums that the trainer knows, run after the eight: does S-VCO lack an anchor?
CANDIDATES: dict[str, tuple[str, dict[str, float]]] = {
    "svco+sft": ("svco", {"sft": 1.0}),
    "svco+anchor": ("svco", {"anchor": 1.0}),
}
TITLES = {
    "base": "base",
    "sft": "SFT",
    "dpo": "DPO",
    "dpo_symmetric": "symmetric DPO",
    "mdpo": "mDPO",
    "mpo": "MPO",
    "symmpo": "SymMPO",
    "vco": "VCO",
    "svco": "S-VCO",
    "svco+sft": "S-VCO + SFT",
    "svco+anchor": "S-VCO + anchors",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A folder to train on, a slice of the test to measure, and one of validation to choose on."""

    train: str
    inside: str
    chosen_on: str


QUESTIONS = {
    "all": Question("all", "all", "all"),
    "transfer": Question("transfer", "target", "source"),  # nothing is chosen on the target
    "transfer at the settings of all": Question("transfer", "target", "all"),
}
Row = Mapping[str, Any]


def settings(objective: str) -> list[Setting]:
    """The four settings that an objective is tried with."""
    if objective == "sft":
        return [Setting(name="sft", lr=lr) for lr in SFT_LRS]
    name, plus = CANDIDATES.get(objective, (objective, {}))
    return [Setting(name=name, lr=lr, beta=beta, plus=dict(plus)) for lr in LRS for beta in BETAS]


def base_runs(world: str) -> list[Run]:
    """The base on both held-out folders."""
    return [
        Run(
            world=world,
            stage="base",
            train="-",
            measured=measured,
            objective=f"{BASE} on {measured}",
        )
        for measured in ("valid", "test")
    ]


def tune_runs(world: str, objectives: Sequence[str]) -> list[Run]:
    """Every setting of every objective, once."""
    return [
        Run(
            world=world,
            stage="tune",
            train="all",
            measured="valid",
            objective=objective,
            setting=setting,
        )
        for objective in objectives
        for setting in settings(objective)
    ]


def test_runs(world: str, chosen: Mapping[str, Mapping[str, Setting]]) -> list[Run]:
    """The runs that answer every question, once each and seed by seed: a stopped sweep is even.

    Args:
        chosen: Settings by question and objective.
    """
    runs = [
        Run(
            world=world,
            stage="test",
            train=QUESTIONS[name].train,
            measured="test",
            objective=objective,
            setting=setting,
            seed=seed,
        )
        for seed in SEEDS
        for name, settings_of in chosen.items()
        for objective, setting in settings_of.items()
    ]
    return list({run.key: run for run in runs}.values())


def ablation_runs(svco: Setting) -> list[Run]:
    """S-VCO on scenes, as chosen but for one thing.

    The filter, either term alone, fewer pairs, other betas, the other learning rate.
    """
    attend, reject = ("beta_attend_a", "beta_attend_b"), ("beta_reject_a", "beta_reject_b")
    kinds = [
        ("raw", "filter off", svco),
        ("filtered", "filter on", svco),
        ("all", "attend only", replace(svco, zero=reject)),
        ("all", "reject only", replace(svco, zero=attend)),
        ("quarter", "1/4 of the pairs", svco),
        ("half", "1/2 of the pairs", svco),
        *[
            ("all", f"beta {beta:g}", replace(svco, beta=beta))
            for beta in ABLATION_BETAS
            if beta != svco.beta
        ],
        *[("all", f"learning rate {lr:g}", replace(svco, lr=lr)) for lr in LRS if lr != svco.lr],
    ]
    return [
        Run(
            world="scenes",
            stage="ablation",
            train=train,
            measured="test",
            objective=name,
            setting=setting,
            seed=seed,
        )
        for seed in ABLATION_SEEDS
        for train, name, setting in kinds
    ]


def keeps_ability(row: Row, base: Row, inside: str = "all") -> bool:
    """Whether the true captions are nearly as likely as under the base, or likelier."""
    fall: float = (
        base["measures"][inside]["own_nats_per_token"]
        - row["measures"][inside]["own_nats_per_token"]
    )
    return fall <= MAX_NLL_RISE


def choose(rows: Sequence[Row], base: Row, inside: str = "all") -> tuple[Row, bool]:
    """The row whose setting wins by the rule above on a slice, and whether it keeps ability there.

    Raises:
        ValueError: No rows.
    """
    if not rows:
        raise ValueError("expected rows of some settings to choose from, got none")
    keeping = [row for row in rows if keeps_ability(row, base, inside)]

    def rank(row: Row) -> tuple[float, float, str]:
        measures = row["measures"][inside]
        return measures["hallucination"], -measures["group_score"], row["key"]

    return min(keeping or rows, key=rank), bool(keeping)


def setting_of(row: Row) -> Setting:
    """The setting that a row was made with."""
    values = dict(row["setting"])
    return Setting(**{**values, "zero": tuple(values["zero"])})


def chosen_settings(
    rows: Sequence[Row], world: str, objectives: Sequence[str], inside: str = "all"
) -> dict[str, tuple[Setting, bool]]:
    """The setting that wins on a slice, and whether it keeps ability.

    Of every objective all of whose settings have been tried.
    """
    own = [row for row in rows if row["world"] == world]
    base = [row for row in own if row["stage"] == "base" and row["measured"] == "valid"]
    chosen = {}
    for objective in objectives:
        tried = [row for row in own if row["stage"] == "tune" and row["objective"] == objective]
        if base and len(tried) == len(settings(objective)):
            row, keeps = choose(tried, base[0], inside)
            chosen[objective] = setting_of(row), keeps
    return chosen


def rows_of(rows: Sequence[Row], world: str, question: Question) -> dict[str, list[Row]]:
    """The test rows that answer a question, by objective: those of the setting that was chosen."""
    chosen = chosen_settings(rows, world, (*OBJECTIVES, *CANDIDATES), question.chosen_on)
    tested = [
        row
        for row in rows
        if (row["world"], row["stage"], row["train"]) == (world, "test", question.train)
    ]
    by_objective = {
        name: [row for row in tested if row["objective"] == name and setting_of(row) == setting]
        for name, (setting, _) in chosen.items()
    }
    return {name: of for name, of in by_objective.items() if of}
