"""`docs/results.md`'s tables and pictures, from the rows and the committed facts alone. What they
mean is written by hand.

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


def groups_of(rows: Sequence[Row], facts: Row, question: str) -> dict[str, list[Row]]:
    """The rows that answer a question: of the base, and of each objective the seeds that all of
    them have; of candidates that are whole.
    """
    base = [
        row
        for row in rows
        if (row["world"], row["stage"], row["measured"]) == (facts["world"], "base", "test")
    ]
    found = rows_of(rows, facts["world"], QUESTIONS[question])
    same = shared_seeds({name: of for name, of in found.items() if name in OBJECTIVES})
    seeds = {row["seed"] for of in same.values() for row in of}
    whole = {
        name: [row for row in found.get(name, []) if row["seed"] in seeds] for name in CANDIDATES
    }
    return (
        ({"base": base} if base else {})
        | same
        | {name: of for name, of in whole.items() if of and len(of) == len(seeds)}
    )


def found_of(rows: Sequence[Row], facts: Row, question: str, measure: str) -> dict[str, Estimate]:
    """A measure of the base and of every objective, over the pairs that the question asks about."""
    pairs, inside = Pairs.of(facts["test_pairs"]), QUESTIONS[question].inside
    categories = None if inside == "all" else facts["slices"][inside]
    return {
        name: estimate(of, pairs, measure, categories)
        for name, of in groups_of(rows, facts, question).items()
        if of
    }


def percent(found: Estimate) -> str:
    """A share with its interval, in percent."""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)
    )


def main_table(rows: Sequence[Row], facts: Row, question: str) -> str:
    """What the models say: answers that are not right, against the base and against S-VCO; false
    claims; silence.
    """
    wrong, false, silent = (
        found_of(rows, facts, question, name) for name in ("not_right", "false", "silent")
    )
    if "base" not in wrong:
        return "No rows yet."
    against, sooner = _against_svco(wrong), _seeds_below_svco(rows, facts, question)
    p = adjusted_p({name: value for name, value in against.items() if name in OBJECTIVES})
    lines = []
    for name, value in wrong.items():
        fall = None if name == "base" else relative_fall(false[name], false["base"])
        beside = (
            [percent(against[name]), sooner[name], f"{p[name]:.3f}" if name in p else ""]
            if name in against
            else ["", "", ""]
        )
        lines.append(
            [
                TITLES[name],
                percent(value),
                *beside,
                percent(false[name]),
                "" if fall is None else percent(fall) + (" *" if fall.low >= BAR else ""),
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


def _against_svco(found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {
        name: difference(value, found["svco"])
        for name, value in found.items()
        if "svco" in found and name not in ("base", "svco")
    }


def _seeds_below_svco(rows: Sequence[Row], facts: Row, question: str) -> dict[str, str]:
    """Of how many seeds fewer answers are not right than S-VCO's of the same seed."""
    groups, inside = groups_of(rows, facts, question), QUESTIONS[question].inside
    of = {
        name: {row["seed"]: row["measures"][inside]["hallucination"] for row in found}
        for name, found in groups.items()
    }
    svco = of.get("svco", {})
    below = {
        name: sum(value < svco[seed] for seed, value in found.items())
        for name, found in of.items()
        if name != "base" and svco
    }
    return {name: f"{number}/{len(svco)}" for name, number in below.items()}


def scores_table(rows: Sequence[Row], facts: Row, question: str) -> str:
    """What the models find likelier, and what they have kept: paired scores, accuracy by the prior,
    the fit of true captions.
    """
    names = ("text_score", "image_score", "group_score", "misled", "helped", "neutral", "nll")
    found = {name: found_of(rows, facts, question, name) for name in names}
    if "base" not in found["nll"]:
        return "No rows yet."
    lines = []
    for name in found["nll"]:
        rise = difference(found["nll"][name], found["nll"]["base"])
        kept = (
            "yes" if rise.high <= MAX_NLL_RISE else "no" if rise.low > MAX_NLL_RISE else "unclear"
        )
        scores = [f"{100 * found[one][name].value:.1f}" for one in names[:-2]]
        cells = [
            *scores,
            percent(found["neutral"][name]),
            "" if name == "base" else f"{rise:+.2f} {kept}",
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
    """What may explain the numbers, means over seeds: dependency on the image, margins, likelihoods
    of texts, the size of the step.
    """
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
    """Every setting that was tried: what is not right on validation, over all pairs and over the
    source's; what was chosen for which.
    """
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
        setting, found = setting_of(row), row["measures"]
        taken = [
            inside
            for inside, of in chosen.items()
            if row["objective"] in of and of[row["objective"]][0] == setting
        ]
        rise = (
            base["measures"]["all"]["own_nats_per_token"] - found["all"]["own_nats_per_token"]
            if base
            else float("nan")
        )
        wrong = [f"{100 * found[inside]['hallucination']:.1f}" for inside in ("all", "source")]
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
            else f"{percent(difference(wrong[name], wrong[compared]))} to {compared}"
        )
        scores = [
            f"{100 * estimate(of, pairs, one).value:.1f}"
            for one in ("false", "text_score", "image_score", "group_score")
        ]
        lines.append([name, percent(wrong[name]), beside, *scores])
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
                f"{100 * found[name]:.1f}"
                for name in ("accuracy_neutral", "accuracy_misled", "hallucination")
            ],
        ]
        for world, of in facts.items()
        for inside, found in of["base"].get("test", {}).items()
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
    found = {"bases": base_table(facts)}
    for world, of in facts.items():
        found[f"{world} settings"] = settings_table(rows, of)
        for question in QUESTIONS:
            found[f"{world} {question}"] = main_table(rows, of, question)
            found[f"{world} {question} scores"] = scores_table(rows, of, question)
            found[f"{world} {question} why"] = why_table(rows, of, question)
        if any(row["stage"] == "ablation" and row["world"] == world for row in rows):
            found[f"{world} ablations"] = ablation_table(rows, of)
    return found


def fill(page: str, parts: Mapping[str, str]) -> str:
    """The page with its marked parts replaced; parts that it has no marker for are added at the
    end.
    """
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
