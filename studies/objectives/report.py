"""`docs/results.md`'s tables and pictures, from the rows and the committed facts alone.

What they mean is written by hand.
The page keeps everything outside its markers: <!-- study:NAME --> ... <!-- /study -->.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.objectives.plan import (
    CANDIDATES,
    MAX_NLL_RISE,
    OBJECTIVES,
    QUESTIONS,
    TITLES,
    chosen_settings,
    rows_of,
    setting_of,
)
from studies.objectives.stats import (
    Estimate,
    Pairs,
    adjusted_p,
    difference,
    estimate,
    estimates,
    groups_of,
    relative_fall,
    shared_seeds,
)

Row = Mapping[str, Any]
SLICES = {
    "all": "every kind",
    "source": "the kinds of the source",
    "target": "the kinds of the target",
}
BAR = 0.22  # the paper's headline: so much fewer hallucinations than the base


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)
    )


def main_table(rows: Sequence[Row], facts: Row, question: str) -> str:
    """What the models say: answers that are not right, against the base and S-VCO; false; none."""
    wrong, false, silent = (
        estimates(rows, facts, question, name) for name in ("not_right", "false", "silent")
    )
    if "base" not in wrong:
        return "No rows yet."
    against, sooner = _against_svco(wrong), _seeds_below_svco(rows, facts, question)
    p = adjusted_p({name: value for name, value in against.items() if name in OBJECTIVES})
    lines = []
    for name, value in wrong.items():
        fall = None if name == "base" else relative_fall(false[name], false["base"])
        beside = (
            [
                against[name].shown("percent", is_difference=True),
                sooner[name],
                ("<0.001" if p[name] < 0.001 else f"{p[name]:.3f}") if name in p else "",
            ]
            if name in against
            else ["", "", ""]
        )
        lines.append(
            [
                TITLES[name],
                value.shown("percent"),
                *beside,
                false[name].shown("percent"),
                "" if fall is None else fall.shown("percent") + (" *" if fall.low >= BAR else ""),
                f"{100 * silent[name].value:.1f}",
            ]
        )
    header = [
        "",
        "not right, %",
        "minus S-VCO, points",
        "seeds below S-VCO",
        "p",
        "false claims, %",
        "fewer than the base, %",
        "no claim, %",
    ]
    return table(header, lines)


def _against_svco(by_name: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {
        name: difference(value, by_name["svco"])
        for name, value in by_name.items()
        if "svco" in by_name and name not in ("base", "svco")
    }


def _seeds_below_svco(rows: Sequence[Row], facts: Row, question: str) -> dict[str, str]:
    """Of how many seeds fewer answers are not right than S-VCO's of the same seed."""
    groups, inside = groups_of(rows, facts, question), QUESTIONS[question].inside
    by_seed = {
        name: {row["seed"]: row["measures"][inside]["hallucination"] for row in group}
        for name, group in groups.items()
    }
    svco = by_seed.get("svco", {})
    below = {
        name: sum(value < svco[seed] for seed, value in of.items())
        for name, of in by_seed.items()
        if name != "base" and svco
    }
    return {name: f"{number}/{len(svco)}" for name, number in below.items()}


def scores_table(rows: Sequence[Row], facts: Row, question: str) -> str:
    """What models find likelier and have kept: paired scores, accuracy by prior, fit."""
    names = ("text_score", "image_score", "group_score", "misled", "helped", "neutral", "nll")
    measured = {measure: estimates(rows, facts, question, measure) for measure in names}
    nll = measured["nll"]
    if "base" not in nll:
        return "No rows yet."
    lines = []
    for name in nll:
        rise = difference(nll[name], nll["base"])
        kept = (
            "yes" if rise.high <= MAX_NLL_RISE else "no" if rise.low > MAX_NLL_RISE else "unclear"
        )
        scores = [f"{100 * measured[measure][name].value:.1f}" for measure in names[:-2]]
        cells = [
            *scores,
            measured["neutral"][name].shown("percent"),
            "" if name == "base" else f"{rise.shown('nats')} {kept}",
        ]
        lines.append([TITLES[name], *cells])
    right = [f"right, prior {status}, %" for status in ("misleads", "helps", "neutral")]
    return table(
        [
            "",
            "text",
            "image",
            "group",
            *right,
            "true captions: NLL minus the base's, nats / token; kept",
        ],
        lines,
    )


def why_table(rows: Sequence[Row], facts: Row, question: str) -> str:
    """What may explain the numbers, means over seeds: flips, margins, likelihoods, step size."""
    inside = QUESTIONS[question].inside
    known = next(
        (row["measures"][inside].keys() for row in rows if row["world"] == facts["world"]), ()
    )
    columns = {
        "flip_rate": "flip rate",
        "accuracy_bias_follows": "right, scene follows the bias",
        "accuracy_bias_breaks": "right, scene breaks the bias",
        "matching_none_nats": "attend margin, nats / text",
        "none_contradictory_nats": "reject margin, nats / text",
        "own_nats_per_token": "own text, own image, nats / token",
        "own_no_image_nats_per_token": "own text, no image",
        "own_other_image_nats_per_token": "own text, other image",
    }
    # no photograph follows or breaks a bias
    columns = {key: title for key, title in columns.items() if key in known}
    lines = []
    for name, own in groups_of(rows, facts, question).items():
        means = [sum(row["measures"][inside][key] for row in own) / len(own) for key in columns]
        step = sum(row.get("step_size", 0.0) for row in own) / len(own)
        lines.append([TITLES[name], *[f"{mean:.2f}" for mean in means], f"{step:.3f}"])
    return table(["", *columns.values(), "step size"], lines) if lines else "No rows yet."


def settings_table(rows: Sequence[Row], facts: Row) -> str:
    """Every setting that was tried: what is not right on validation, and what it was chosen for."""
    own = [row for row in rows if row["world"] == facts["world"]]
    base = next((row for row in own if row["stage"] == "base" and row["measured"] == "valid"), None)
    chosen = {
        inside: chosen_settings(rows, facts["world"], (*OBJECTIVES, *CANDIDATES), inside)
        for inside in ("all", "source")
    }
    lines = []
    for row in sorted(
        (row for row in own if row["stage"] == "tune"),
        key=lambda row: [*TITLES].index(row["objective"]),
    ):
        setting, measures = setting_of(row), row["measures"]
        taken = [
            inside
            for inside, of in chosen.items()
            if row["objective"] in of and of[row["objective"]][0] == setting
        ]
        rise = (
            base["measures"]["all"]["own_nats_per_token"] - measures["all"]["own_nats_per_token"]
            if base
            else float("nan")
        )
        wrong = [f"{100 * measures[inside]['hallucination']:.1f}" for inside in ("all", "source")]
        beta = "" if row["objective"] == "sft" else f"{setting.beta:g}"
        lines.append(
            [
                TITLES[row["objective"]],
                f"{setting.lr:g}",
                beta,
                *wrong,
                f"{rise:+.2f}",
                ", ".join(SLICES[inside] for inside in taken),
            ]
        )
    header = [
        "",
        "learning rate",
        "beta",
        "not right, %",
        "of the source's kinds, %",
        "NLL minus the base's",
        "wins over",
    ]
    return table(header, lines) if lines else "No rows yet."


def ablation_table(rows: Sequence[Row], facts: Row) -> str:
    """S-VCO with one thing changed, on every kind; S-VCO itself with the ablations' seeds first."""
    pairs, own = (
        Pairs.of(facts["test_pairs"]),
        [row for row in rows if row["world"] == facts["world"]],
    )
    groups = {"S-VCO": rows_of(rows, facts["world"], QUESTIONS["all"]).get("svco", [])}
    for row in (row for row in own if row["stage"] == "ablation"):
        groups.setdefault(row["objective"], []).append(row)
    if len(groups) < 2 or not groups["S-VCO"]:
        return "No rows yet."
    groups = shared_seeds(groups)
    wrong = {name: estimate(of, pairs, "not_right") for name, of in groups.items()}
    lines = []
    for name, of in groups.items():
        compared = {"S-VCO": None, "filter on": "filter off"}.get(name, "S-VCO")
        beside = (
            ""
            if compared is None or compared not in wrong
            else difference(wrong[name], wrong[compared]).shown("percent", is_difference=True)
            + f" to {compared}"
        )
        scores = [
            f"{100 * estimate(of, pairs, measure).value:.1f}"
            for measure in ("false", "text_score", "image_score", "group_score")
        ]
        lines.append([name, wrong[name].shown("percent"), beside, *scores])
    return table(
        ["", "not right, %", "difference, points", "false claims, %", "text", "image", "group"],
        lines,
    )


def base_table(facts: Mapping[str, Row]) -> str:
    """The bases as they were committed: where the prior is neutral, and where it misleads."""
    lines = [
        [
            world,
            SLICES[inside],
            *[
                f"{100 * measures[name]:.1f}"
                for name in ("accuracy_neutral", "accuracy_misled", "hallucination")
            ],
        ]
        for world, of in facts.items()
        for inside, measures in of["base"].get("test", {}).items()
    ]
    return table(
        [
            "world",
            "measured on",
            "right, prior neutral, %",
            "right, prior misleads, %",
            "not right, %",
        ],
        lines,
    )


def sections(rows: Sequence[Row], facts: Mapping[str, Row]) -> dict[str, str]:
    """Every generated part of the page, by its marker's name."""
    parts = {"bases": base_table(facts)}
    for world, of in facts.items():
        parts[f"{world} settings"] = settings_table(rows, of)
        for question in QUESTIONS:
            parts[f"{world} {question}"] = main_table(rows, of, question)
            parts[f"{world} {question} scores"] = scores_table(rows, of, question)
            parts[f"{world} {question} why"] = why_table(rows, of, question)
        if any(row["stage"] == "ablation" and row["world"] == world for row in rows):
            parts[f"{world} ablations"] = ablation_table(rows, of)
    return parts


def fill(page: str, parts: Mapping[str, str]) -> str:
    """The page with its marked parts replaced; those without a marker are added at the end."""
    for name, text in parts.items():
        marked = f"<!-- study:{name} -->\n\n{text}\n\n<!-- /study -->"
        pattern = re.compile(rf"<!-- study:{re.escape(name)} -->.*?<!-- /study -->", re.DOTALL)
        page = (
            pattern.sub(lambda _: marked, page)  # noqa: B023
            if pattern.search(page)
            else f"{page.rstrip()}\n\n{marked}\n"
        )
    return page


def write_report(rows: Sequence[Row], facts: Mapping[str, Row], docs: Path) -> None:
    """Writes the page's tables and the pictures beside it."""
    from pipeline.core.storage import write_text
    from studies.objectives.plots import draw

    page = docs / "results.md"
    text = (
        page.read_text(encoding="utf-8") if page.is_file() else "# Results of the miniature study\n"
    )
    write_text(page, fill(text, sections(rows, facts)))
    draw(rows, facts, docs)
