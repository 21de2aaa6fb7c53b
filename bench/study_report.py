"""`docs/results.md`'s tables and pictures, from the rows and the committed facts alone. What they mean is written by hand.

The page keeps everything outside its markers: <!-- study:NAME --> ... <!-- /study -->.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.study_plan import CANDIDATES, MAX_NLL_RISE, OBJECTIVES, TITLES, chosen_settings, setting_of
from bench.study_stats import Estimate, Pairs, adjusted_p, difference, estimate, relative_fall, shared_seeds

Row = Mapping[str, Any]
SLICES = {"all": "every kind", "source": "the kinds of the source", "target": "the kinds of the target"}
# Which numbers answer which question: trained on every kind, measured on every kind; trained on some, measured on others.
QUESTIONS = {"all": "all", "transfer": "target"}
BAR = 0.22  # the paper's headline: so much fewer hallucinations than the base


def groups_of(rows: Sequence[Row], facts: Row, train: str) -> dict[str, list[Row]]:
    """The test rows of the base and of every objective that was trained on `train`; of objectives, the seeds that all of them have."""
    own = [row for row in rows if row["world"] == facts["world"] and row["measured"] == "test"]
    tested = [row for row in own if row["stage"] == "test" and row["train"] == train]
    of = {name: [row for row in tested if row["objective"] == name] for name in (*OBJECTIVES, *CANDIDATES)}
    base = [row for row in own if row["stage"] == "base"]
    return ({"base": base} if base else {}) | shared_seeds({name: found for name, found in of.items() if found})


def found_of(rows: Sequence[Row], facts: Row, train: str, inside: str, measure: str) -> dict[str, Estimate]:
    """A measure of the base and of every objective that was trained on `train`, over a slice of the test's pairs."""
    pairs = Pairs.of(facts["test_pairs"])
    categories = None if inside == "all" else facts["slices"][inside]
    return {name: estimate(of, pairs, measure, categories) for name, of in groups_of(rows, facts, train).items() if of}


def percent(found: Estimate) -> str:
    """A share with its interval, in percent."""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines))


def main_table(rows: Sequence[Row], facts: Row, train: str) -> str:
    """What the models say: answers that are not right, against the base and against S-VCO; false claims; silence."""
    inside = QUESTIONS[train]
    wrong, false, silent = (found_of(rows, facts, train, inside, name) for name in ("not_right", "false", "silent"))
    if "base" not in wrong:
        return "No rows yet."
    against, sooner = _against_svco(wrong), _seeds_below_svco(rows, facts, train, inside)
    p = adjusted_p({name: value for name, value in against.items() if name in OBJECTIVES})
    lines = []
    for name, value in wrong.items():
        fall = None if name == "base" else relative_fall(false[name], false["base"])
        beside = [percent(against[name]), sooner[name], f"{p[name]:.3f}" if name in p else ""] if name in against else ["", "", ""]
        lines.append([
            TITLES[name], percent(value), *beside, percent(false[name]),
            "" if fall is None else percent(fall) + (" *" if fall.low >= BAR else ""), f"{100 * silent[name].value:.1f}",
        ])  # fmt: skip
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
    return {name: difference(value, found["svco"]) for name, value in found.items() if "svco" in found and name not in ("base", "svco")}


def _seeds_below_svco(rows: Sequence[Row], facts: Row, train: str, inside: str) -> dict[str, str]:
    """Of how many seeds fewer answers are not right than S-VCO's of the same seed."""
    of = {
        name: {row["seed"]: row["measures"][inside]["hallucination"] for row in found}
        for name, found in groups_of(rows, facts, train).items()
    }
    svco = of.get("svco", {})
    return {
        name: f"{sum(value < svco[seed] for seed, value in found.items())}/{len(svco)}"
        for name, found in of.items()
        if name != "base" and svco
    }


def scores_table(rows: Sequence[Row], facts: Row, train: str) -> str:
    """What the models find likelier, and what they have kept: paired scores, accuracy by the prior, the fit of true captions."""
    inside = QUESTIONS[train]
    names = ("text_score", "image_score", "group_score", "misled", "helped", "neutral", "nll")
    found = {name: found_of(rows, facts, train, inside, name) for name in names}
    if "base" not in found["nll"]:
        return "No rows yet."
    lines = []
    for name in found["nll"]:
        rise = difference(found["nll"][name], found["nll"]["base"])
        kept = "yes" if rise.high <= MAX_NLL_RISE else "no" if rise.low > MAX_NLL_RISE else "unclear"
        scores = [f"{100 * found[one][name].value:.1f}" for one in names[:-2]]
        cells = [*scores, percent(found["neutral"][name]), "" if name == "base" else f"{rise:+.2f} {kept}"]
        lines.append([TITLES[name], *cells])
    right = [f"right, prior {status}, %" for status in ("misleads", "helps", "neutral")]
    return table(["", "text", "image", "group", *right, "true captions: NLL minus the base's, nats / token; kept"], lines)


def why_table(rows: Sequence[Row], facts: Row, train: str) -> str:
    """What may explain the numbers, means over seeds: dependency on the image, margins, likelihoods of texts, the size of the step."""
    inside = QUESTIONS[train]
    known = next((row["measures"][inside].keys() for row in rows if row["world"] == facts["world"]), ())
    columns = {
        "flip_rate": "flip rate", "accuracy_bias_follows": "right, scene follows the bias",
        "accuracy_bias_breaks": "right, scene breaks the bias",
        "matching_none_nats": "attend margin, nats / text", "none_contradictory_nats": "reject margin, nats / text",
        "own_nats_per_token": "own text, own image, nats / token", "own_no_image_nats_per_token": "own text, no image",
        "own_other_image_nats_per_token": "own text, other image",
    }  # fmt: skip
    columns = {key: title for key, title in columns.items() if key in known}  # no photograph follows or breaks a bias
    lines = []
    for name, own in groups_of(rows, facts, train).items():
        means = [sum(row["measures"][inside][key] for row in own) / len(own) for key in columns]
        step = sum(row.get("step_size", 0.0) for row in own) / len(own)
        lines.append([TITLES[name], *[f"{mean:.2f}" for mean in means], f"{step:.3f}"])
    return table(["", *columns.values(), "step size"], lines) if lines else "No rows yet."


def settings_table(rows: Sequence[Row], facts: Row) -> str:
    """Every setting that was tried: what is not right on validation, over all pairs and over the source's; what was chosen for which."""
    own = [row for row in rows if row["world"] == facts["world"]]
    base = next((row for row in own if row["stage"] == "base" and row["measured"] == "valid"), None)
    chosen = {train: chosen_settings(rows, facts["world"], (*OBJECTIVES, *CANDIDATES), train) for train in QUESTIONS}
    lines = []
    for row in sorted((row for row in own if row["stage"] == "tune"), key=lambda row: [*TITLES].index(row["objective"])):
        setting, found = setting_of(row), row["measures"]
        taken = [train for train in QUESTIONS if row["objective"] in chosen[train] and chosen[train][row["objective"]][0] == setting]
        rise = base["measures"]["all"]["own_nats_per_token"] - found["all"]["own_nats_per_token"] if base else float("nan")
        wrong = [f"{100 * found[inside]['hallucination']:.1f}" for inside in ("all", "source")]
        beta = "" if row["objective"] == "sft" else f"{setting.beta:g}"
        said = {"all": "every kind", "transfer": "transfer"}
        lines.append([TITLES[row["objective"]], f"{setting.lr:g}", beta, *wrong, f"{rise:+.2f}", ", ".join(said[train] for train in taken)])
    header = ["", "learning rate", "beta", "not right, %", "of the source's kinds, %", "NLL minus the base's", "chosen for"]
    return table(header, lines) if lines else "No rows yet."


def ablation_table(rows: Sequence[Row], facts: Row) -> str:
    """S-VCO with one thing changed, on every kind; S-VCO itself with the ablations' seeds first."""
    pairs, own = Pairs.of(facts["test_pairs"]), [row for row in rows if row["world"] == facts["world"]]
    groups: dict[str, list[Row]] = {}
    for row in own:
        if (row["stage"], row["objective"], row["train"]) == ("test", "svco", "all"):
            groups.setdefault("S-VCO", []).append(row)
    for row in (row for row in own if row["stage"] == "ablation"):
        groups.setdefault(row["objective"], []).append(row)
    if len(groups) < 2 or "S-VCO" not in groups:
        return "No rows yet."
    groups = shared_seeds(groups)
    wrong = {name: estimate(of, pairs, "not_right") for name, of in groups.items()}
    lines = []
    for name, of in groups.items():
        compared = {"S-VCO": None, "filter on": "filter off"}.get(name, "S-VCO")
        beside = "" if compared is None or compared not in wrong else f"{percent(difference(wrong[name], wrong[compared]))} to {compared}"
        scores = [f"{100 * estimate(of, pairs, one).value:.1f}" for one in ("false", "text_score", "image_score", "group_score")]
        lines.append([name, percent(wrong[name]), beside, *scores])
    return table(["", "not right, %", "difference, points", "false claims, %", "text", "image", "group"], lines)


def base_table(facts: Mapping[str, Row]) -> str:
    """The bases as they were committed: where the prior is neutral, and where it misleads."""
    lines = [
        [world, SLICES[inside], *[f"{100 * found[name]:.1f}" for name in ("accuracy_neutral", "accuracy_misled", "hallucination")]]
        for world, of in facts.items()
        for inside, found in of["base"].get("test", {}).items()
    ]
    return table(["world", "measured on", "right, prior neutral, %", "right, prior misleads, %", "not right, %"], lines)


def sections(rows: Sequence[Row], facts: Mapping[str, Row]) -> dict[str, str]:
    """Every generated part of the page, by its marker's name."""
    found = {"bases": base_table(facts)}
    for world, of in facts.items():
        found[f"{world} settings"] = settings_table(rows, of)
        for train in QUESTIONS:
            found[f"{world} {train}"] = main_table(rows, of, train)
            found[f"{world} {train} scores"] = scores_table(rows, of, train)
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
