"""`docs/results.md`'s tables and pictures, from the rows and the committed facts alone. What they mean is written by hand.

The page keeps everything outside its markers: <!-- study:NAME --> ... <!-- /study -->.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.study_plan import CANDIDATES, MAX_NLL_RISE, OBJECTIVES, TITLES, chosen_settings
from bench.study_stats import Estimate, Pairs, adjusted_p, difference, estimate, relative_fall

Row = Mapping[str, Any]
SLICES = {"all": "every kind", "source": "the kinds of the source", "target": "the kinds of the target"}
# Which numbers answer which question: trained on every kind, measured on every kind; trained on some, measured on others.
QUESTIONS = {"all": "all", "transfer": "target"}
BAR = 0.22  # the paper's headline: so much fewer hallucinations than the base


def found_of(rows: Sequence[Row], facts: Row, train: str, inside: str, measure: str) -> dict[str, Estimate]:
    """A measure of the base and of every objective that was trained on `train`, over a slice of the test's pairs."""
    pairs = Pairs.of(facts["test_pairs"])
    categories = None if inside == "all" else facts["slices"][inside]
    own = [row for row in rows if row["world"] == facts["world"] and row["measured"] == "test"]
    groups = {"base": [row for row in own if row["stage"] == "base"]}
    for name in (*OBJECTIVES, *CANDIDATES):
        groups[name] = [row for row in own if row["stage"] == "test" and row["objective"] == name and row["train"] == train]
    return {name: estimate(of, pairs, measure, categories) for name, of in groups.items() if of}


def percent(found: Estimate) -> str:
    """A share with its interval, in percent."""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines))


def main_table(rows: Sequence[Row], facts: Row, train: str) -> str:
    """Hallucination with its relative fall, paired scores, ability kept; against the base and against S-VCO."""
    inside = QUESTIONS[train]
    names = ("hallucination", "text_score", "image_score", "group_score", "misled", "helped", "nll")
    found = {name: found_of(rows, facts, train, inside, name) for name in names}
    said, nll = found["hallucination"], found["nll"]
    if "base" not in said:
        return "No rows yet."
    against = {name: difference(value, said["svco"]) for name, value in said.items() if "svco" in said and name not in ("base", "svco")}
    p = adjusted_p({name: value for name, value in against.items() if name in OBJECTIVES})
    lines = []
    for name, value in said.items():
        fall, rise = relative_fall(value, said["base"]), difference(nll[name], nll["base"])
        kept = "" if name == "base" else "yes" if rise.value <= MAX_NLL_RISE else "no"
        reached = fall.value >= BAR and fall.low > 0 and kept == "yes"
        lines.append([
            TITLES[name],
            percent(value),
            "" if name == "base" else percent(fall) + (" *" if reached else ""),
            (percent(against[name]) + (f", p {p[name]:.3f}" if name in p else "")) if name in against else "",
            *[f"{100 * found[one][name].value:.1f}" for one in ("text_score", "image_score", "group_score", "misled", "helped")],
            "" if name == "base" else f"{rise:+.2f} {kept}",
        ])  # fmt: skip
    header = ["", "hallucination, %", "fewer than the base, %", "minus S-VCO, points", "text", "image", "group", "misled", "helped"]
    return table([*header, "NLL minus base's, nats / token; ability kept"], lines)


def why_table(rows: Sequence[Row], facts: Row, train: str) -> str:
    """What may explain the numbers, means over seeds: dependency on the image, margins, likelihoods of texts, the size of the step."""
    inside = QUESTIONS[train]
    known = next((row["measures"][inside].keys() for row in rows if row["world"] == facts["world"]), ())
    columns = {
        "image_gain": "gained by the image", "flip_rate": "flip rate", "accuracy_bias_follows": "right, scene follows the bias",
        "accuracy_bias_breaks": "right, scene breaks the bias",
        "matching_none_nats": "attend margin", "none_contradictory_nats": "reject margin",
        "own_nats_per_token": "own text, own image", "own_no_image_nats_per_token": "own text, no image",
        "own_other_image_nats_per_token": "own text, other image", "other_nats_per_token": "other text, own image",
        "silent_answers": "silent answers",
    }  # fmt: skip
    columns = {key: title for key, title in columns.items() if key in known}  # no photograph follows or breaks a bias
    lines = []
    for name in ("base", *OBJECTIVES, *CANDIDATES):
        wanted = ("-", "base") if name == "base" else (train, "test")
        own = [r for r in rows if r["world"] == facts["world"] and r["measured"] == "test" and (r["train"], r["stage"]) == wanted]
        own = [row for row in own if name == "base" or row["objective"] == name]
        if own:
            means = [sum(row["measures"][inside][key] for row in own) / len(own) for key in columns]
            step = sum(row.get("step_size", 0.0) for row in own) / len(own)
            lines.append([TITLES[name], *[f"{mean:.2f}" for mean in means], f"{step:.3f}"])
    return table(["", *columns.values(), "step size"], lines) if lines else "No rows yet."


def settings_table(rows: Sequence[Row], facts: Row) -> str:
    """The setting that every objective was given, and whether it keeps ability on validation."""
    chosen = chosen_settings(rows, facts["world"], (*OBJECTIVES, *CANDIDATES))
    lines = [
        [TITLES[name], f"{setting.lr:g}", "" if name == "sft" else f"{setting.beta:g}", "yes" if keeps else "no"]
        for name, (setting, keeps) in chosen.items()
    ]
    return table(["", "learning rate", "beta", "ability kept"], lines) if lines else "No rows yet."


def ablation_table(rows: Sequence[Row], facts: Row) -> str:
    """S-VCO with one thing changed, on every kind; S-VCO itself with the ablations' seeds first."""
    pairs, own = Pairs.of(facts["test_pairs"]), [row for row in rows if row["world"] == facts["world"]]
    ablated = [row for row in own if row["stage"] == "ablation"]
    seeds = {row["seed"] for row in ablated}
    whole = [r for r in own if (r["stage"], r["objective"], r["train"]) == ("test", "svco", "all") and r["seed"] in seeds]
    if not ablated or not whole:
        return "No rows yet."
    groups = {"S-VCO": whole}
    for row in ablated:
        groups.setdefault(row["objective"], []).append(row)
    lines = []
    reference = estimate(whole, pairs, "hallucination")
    for name, of in groups.items():
        value = estimate(of, pairs, "hallucination")
        scores = [f"{100 * estimate(of, pairs, one).value:.1f}" for one in ("text_score", "image_score", "group_score")]
        lines.append([name, percent(value), "" if of is whole else percent(difference(value, reference)), *scores])
    return table(["", "hallucination, %", "minus S-VCO, points", "text", "image", "group"], lines)


def base_table(facts: Mapping[str, Row]) -> str:
    """The bases as they were committed: where the prior is neutral, and where it misleads."""
    lines = [
        [world, SLICES[inside], *[f"{100 * found[name]:.1f}" for name in ("accuracy_neutral", "accuracy_misled", "hallucination")]]
        for world, of in facts.items()
        for inside, found in of["base"].get("test", {}).items()
    ]
    return table(["world", "measured on", "right, prior neutral, %", "right, prior misleads, %", "hallucination, %"], lines)


def sections(rows: Sequence[Row], facts: Mapping[str, Row]) -> dict[str, str]:
    """Every generated part of the page, by its marker's name."""
    found = {"bases": base_table(facts)}
    for world, of in facts.items():
        found[f"{world} settings"] = settings_table(rows, of)
        for train in QUESTIONS:
            found[f"{world} {train}"] = main_table(rows, of, train)
            found[f"{world} {train} why"] = why_table(rows, of, train)
        if any(row["stage"] == "ablation" and row["world"] == world for row in rows):
            found[f"{world} ablations"] = ablation_table(rows, of)
    return found


def fill(page: str, parts: Mapping[str, str]) -> str:
    """The page with its marked parts replaced; parts that it has no marker for are added at the end."""
    for name, text in parts.items():
        marked = f"<!-- study:{name} -->\n\n{text}\n\n<!-- /study -->"
        pattern = re.compile(rf"<!-- study:{re.escape(name)} -->.*?<!-- /study -->", re.DOTALL)
        page = pattern.sub(lambda _: marked, page) if pattern.search(page) else f"{page.rstrip()}\n\n{marked}\n"  # noqa: B023
    return page


def write_report(rows: Sequence[Row], facts: Mapping[str, Row], docs: Path) -> None:
    """Writes the page's tables and the pictures beside it."""
    from bench.study_plots import draw
    from pipeline.store import write_text

    page = docs / "results.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Results of the miniature study\n"
    write_text(page, fill(text, sections(rows, facts)))
    draw(rows, facts, docs)
