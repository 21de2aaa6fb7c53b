"""The pictures of `docs/results.md`: transparent SVGs in mid-tones for light and dark pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.objectives.plan import MAX_NLL_RISE, TITLES
from studies.objectives.stats import Estimate, difference, estimates

Row = Mapping[str, Any]
# text and axes; then one colour a question
INK, HERE, THERE, LEAKED = "#808890", "#2f81c7", "#e0853d", "#9b6fc4"
LOOKS = {  # by question: colour, place beside the line, label
    "all": (HERE, -0.22, "trained on every kind"),
    "transfer": (THERE, 0.0, "trained on some kinds, measured on others"),
    "transfer at the settings of all": (LEAKED, 0.22, "the same, settings chosen on every kind"),
}


def draw(rows: Sequence[Row], facts: Mapping[str, Row], docs: Path) -> list[Path]:
    """Writes the pictures for which there are rows; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = {
        **dict.fromkeys(names, INK),
        "font.size": 9,
        "svg.hashsalt": "study",
        "svg.fonttype": "none",
        "savefig.transparent": True,
    }
    made = []
    with mpl.rc_context(style):
        for world, of in facts.items():
            if estimates(rows, of, "all", "not_right").keys() - {"base"}:
                made += [
                    _hallucination(rows, of, docs / f"study-{world}.svg"),
                    _ability(rows, of, docs / f"study-{world}-ability.svg"),
                ]
    return made


def _hallucination(rows: Sequence[Row], facts: Row, path: Path) -> Path:
    """Hallucination of each objective, in training's kinds and beyond; the bases as lines."""
    from matplotlib import pyplot

    shares = {question: estimates(rows, facts, question, "not_right") for question in LOOKS}
    names = [
        name for name in TITLES if name != "base" and any(name in of for of in shares.values())
    ]
    figure, axes = pyplot.subplots(figsize=(7.2, 0.5 * len(names) + 1.4), layout="constrained")
    for question, of in shares.items():
        colour, shift, label = LOOKS[question]
        shown = [(place, of[name]) for place, name in enumerate(names) if name in of]
        _points(axes, [(value, place + shift) for place, value in shown], colour, label)
        if "base" in of:
            axes.axvline(100 * of["base"].value, color=colour, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(
        f"answers that are not right, %, 95 % intervals; dotted: the base ({facts['world']})"
    )
    figure.legend(frameon=False, loc="outside upper left", fontsize=8)
    return _saved(figure, path)


def _ability(rows: Sequence[Row], facts: Row, path: Path) -> Path:
    """What is lost of the likelihood of true captions, against the hallucination that is left."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(7.2, 3.8), layout="constrained")
    for axes, question in zip(panels, ("all", "transfer"), strict=True):
        colour = LOOKS[question][0]
        said, nll = (estimates(rows, facts, question, measure) for measure in ("not_right", "nll"))
        places: list[tuple[float, float, str]] = []
        for name, value in said.items():
            rise = difference(nll[name], nll["base"])
            spread = [[100 * (value.value - value.low)], [100 * (value.high - value.value)]]
            across = [[rise.value - rise.low], [rise.high - rise.value]]
            tint = INK if name == "base" else colour
            axes.errorbar(
                rise.value,
                100 * value.value,
                yerr=spread,
                xerr=across,
                fmt="o",
                color=tint,
                markersize=4,
                elinewidth=0.7,
            )
            places.append((100 * value.value, rise.value, TITLES[name]))
        _label(axes, places)
        axes.axvline(MAX_NLL_RISE, color=INK, linestyle=":", linewidth=1)  # the rule for "kept"
        axes.set_title(
            "every kind" if question == "all" else "other kinds than trained", fontsize=9
        )
        axes.set_xlabel("true captions: NLL minus the base's, nats / token")
        _bare(axes)
    panels[0].set_ylabel("answers that are not right, %")
    return _saved(figure, path)


def _label(axes: Any, places: list[tuple[float, float, str]]) -> None:
    """Names beside their points (height, place, name), moved up where the one below would be
    covered.
    """
    low, high = axes.get_ylim()
    gap, free = (high - low) / 22, low
    for height, place, name in sorted(places):
        free = max(height + gap / 4, free + gap)
        axes.annotate(
            name,
            (place, height),
            xytext=(place, free),
            fontsize=7,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.4},
        )


def _points(axes: Any, shown: Sequence[tuple[Estimate, float]], colour: str, label: str) -> None:
    values = [100 * value.value for value, _ in shown]
    low = [100 * (value.value - value.low) for value, _ in shown]
    high = [100 * (value.high - value.value) for value, _ in shown]
    axes.errorbar(
        values,
        [place for _, place in shown],
        xerr=[low, high],
        fmt="o",
        color=colour,
        markersize=4,
        capsize=2,
        label=label,
    )
    _bare(axes)


def _bare(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _saved(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
