"""Whether the documents say what the program does: messages, keys, files, commands and objectives
that they name exist.
"""

import ast
import contextlib
import importlib
import importlib.util
import io
import math
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SOURCES = [
    *(ROOT / "svco").glob("*.py"),
    *(
        path
        for package in ("pipeline", "training", "eval")
        for path in (ROOT / package).rglob("*.py")
    ),
]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
ENTRY_FILES = {
    "pipeline/build_mvc.py": "build",
    "pipeline/rewrite/review_page.py": "rewrite-audit",
    "training/train_svco.py": "train",
    "training/make_reference.py": "reference",
    "eval/run_eval.py": "eval",
}


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_recipe_reference_is_what_the_models_say() -> None:
    page = _script("recipe_reference").page()
    assert (ROOT / "docs" / "recipes.md").read_text() == page, (
        "run: python docs/recipe_reference.py"
    )
    anchors = re.findall(r'<a id="([^"]+)">', page)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(anchors)


def test_the_map_of_the_house_is_what_the_packages_say() -> None:
    page = _script("house_map").page()
    assert (ROOT / "docs" / "design.md").read_text() == page, "run: python docs/house_map.py"


def test_the_table_of_benchmarks_is_what_they_say() -> None:
    reference = _script("benchmark_reference")
    assert (ROOT / "docs" / "evaluation.md").read_text() == reference.page(), (
        "run: python docs/benchmark_reference.py"
    )
    rows = {
        line.split("`")[1]: line
        for line in reference.table().splitlines()
        if line.startswith("| `") and "`source`" not in line
    }
    for recipe in (ROOT / "recipes").glob("eval_*.yaml"):
        for entry in yaml.safe_load(recipe.read_text()).get("benchmarks", []):
            assert entry["source"] in rows[entry["name"]], (
                f"{recipe.name} fetches {entry['name']} from {entry['source']}"
            )


def test_a_key_is_shown_with_type_bounds_default_and_the_comment_beside_it() -> None:
    from training.config import OptimSection

    reference = _script("recipe_reference")
    rows = {
        line.split("`")[1]: line
        for line in reference.Reference("x").write(OptimSection)
        if line.startswith("| `")
    }
    assert (
        rows["batch_pairs"]
        == "| `batch_pairs` | integer, at least 1 | `32` | over all workers: the loss of a step is"
        " the mean over these |"
    )
    assert rows["max_steps"].startswith("| `max_steps` | integer or null, at least 1 | `null` |")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_of_ours_that_are_named_exist(page: Path) -> None:
    named = set(
        re.findall(
            r"(?<![\w/.-])((?:pipeline|training|eval|recipes|deploy|bench|docs|tests)/[\w/-]+\.\w+)",
            page.read_text(),
        )
    )
    named -= {"eval/statistics.py"}  # which is named as a mistake
    missing = sorted(name for name in named if "NAME" not in name and not (ROOT / name).exists())
    assert not missing, f"{page.name} names {missing}"


def test_the_picture_is_small_and_the_script_still_draws_one() -> None:
    assert (ROOT / "docs" / "pair.png").stat().st_size <= 150_000
    drawn, kept = (
        Image.open(io.BytesIO(_script("make_picture").picture())),
        Image.open(ROOT / "docs" / "pair.png"),
    )
    assert drawn.size == kept.size


def test_the_design_names_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    names = [
        *(re.split(r"[<>=\[]", line)[0] for line in listed),
        *(f"[{extra}]" for extra in extras),
    ]
    section = (ROOT / "docs" / "design.md").read_text().split("## Dependencies")[1].split("##")[0]
    missing = [
        name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", section)
    ]
    assert not missing, f"docs/design.md, Dependencies, lacks {missing}"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("version", "is_refused"),
    [((3, 10), True), ((3, 11), False), ((3, 12), False), ((3, 13), True)],
)
def test_make_asks_for_a_python_that_fits_before_it_makes_an_environment(
    version: tuple[int, int], is_refused: bool, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    pretend = f"import sys; sys.version_info = {(*version, 0)}; exec(sys.argv[1])"
    # What comes after the check would install for minutes, so the stand-in does nothing else.
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{pretend}" "$2"\nexit 7\n'
    )
    python.chmod(0o755)
    command = ["make", "install", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode and not (tmp_path / "venv").exists()
    assert ("expected 3.11 or 3.12: make demo PYTHON=python3.12" in made.stderr) == is_refused
    assert ("Error 7" in made.stderr) != is_refused


def _texts() -> set[str]:
    """Every text in the sources, with "…" where a value is filled in."""
    texts: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.add(
                    "".join(
                        part.value if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                )
    return texts


@pytest.mark.slow
def test_messages_in_the_troubleshooting_page_are_those_of_the_program() -> None:
    ours = (ROOT / "docs" / "troubleshooting.md").read_text().split("\n## Said by Ray")[0]
    titles = [match[1] for match in re.finditer(r"^### `(.+)`$", ours, re.MULTILINE)]
    assert len(titles) > 30
    everything = "\n".join(_texts())
    for title in titles:
        parts = [part.strip(" ,;:()") for part in title.split("…")]
        unknown = [part for part in parts if len(part) > 8 and part not in everything]
        assert not unknown, f"no message has {unknown}; the page says {title}"


def test_the_method_page_has_every_objective_and_every_coefficient() -> None:
    from training.objectives.terms import OBJECTIVES, Coefficients

    text = (ROOT / "docs" / "method.md").read_text()
    for name in OBJECTIVES:
        assert f"| `{name}` |" in text, name
    for name in Coefficients.model_fields:
        assert name in text, name


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            "svco": 4,
            "vco": 2,
            "dpo": 1,
            "dpo_symmetric": 2,
            "mdpo": 3,
            "symmpo": 3,
            "anchor": 2,
        }.items()
    ),
)
def test_the_method_page_gives_the_loss_that_training_starts_from(name: tuple[str, int]) -> None:
    from tests.training.objectives.probe import loss_at_start
    from training.objectives.losses import Objective

    objective, terms = name
    row = next(
        line
        for line in (ROOT / "docs" / "method.md").read_text().splitlines()
        if line.startswith(f"| `{objective}` |")
    )
    assert ("log 2" if terms == 1 else f"{terms} log 2") in row
    assert loss_at_start(Objective(objective)) == pytest.approx(terms * math.log(2), rel=1e-5)


def _blocks(page: Path) -> list[str]:
    """The command lines of a page's bash blocks, or of a recipe's comments, continued lines joined,
    their own comments gone.
    """
    if page.suffix == ".yaml":
        blocks = re.findall(
            r"^#\s+((?:[A-Z_]+=\S+ )?(?:svco|python) .*)$", page.read_text(), re.MULTILINE
        )
    else:
        blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.join(shlex.split(line, comments=True)))]


def _ours(words: list[str]) -> list[str] | None:
    """A command's verb and arguments if it is one of ours, however it is started."""
    if ("--" in words and words[:3] == ["ray", "job", "submit"]) or "submit" in words:
        words = words[words.index("--") + 1 :]
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[:1] == ["svco"]:
        return words[1:]
    if words[:1] == ["python"]:
        words = words[1:]
    return [ENTRY_FILES[words[0]], *words[1:]] if words and words[0] in ENTRY_FILES else None


def _documented() -> list[tuple[str, list[str]]]:
    found = [
        (page.name, _ours(shlex.split(line)))
        for page in [*PAGES, *RECIPES]
        for line in _blocks(page)
    ]
    return [(page, command) for page, command in found if command]


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """What each verb that a page names takes, as its own help says."""
    from svco.cli import VERBS, command_of

    named = {command[0] for _, command in _documented()} & set(VERBS)
    return {verb: _options_of(command_of(verb)) for verb in named}


def _options_of(command: Callable[..., None]) -> set[str]:
    from pipeline.core.cli import run_command

    shown, arguments = io.StringIO(), sys.argv
    sys.argv = ["svco", "--help"]
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            run_command(command)
    finally:
        sys.argv = arguments
    return set(re.findall(r"--[a-z][a-z0-9-]*", shown.getvalue()))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_recipe_says_how_it_is_used(recipe: Path) -> None:
    commands = [command for page, command in _documented() if page == recipe.name]
    assert any(f"recipes/{recipe.name}" in command for command in commands), (
        f"{recipe.name} holds no command that uses it"
    )


def test_every_documented_command_is_a_verb_with_options_that_it_has(
    options: dict[str, set[str]],
) -> None:
    commands = _documented()
    assert len(commands) > 15
    for page, (verb, *arguments) in commands:
        assert verb in options, f"{page}: svco {verb}"
        unknown = [
            word
            for word in arguments
            if word.startswith("--") and word.partition("=")[0] not in options[verb]
        ]
        assert not unknown, f"{page}: svco {verb} has no {unknown}"


SHAPES = {
    "build": "pipeline.config:BuildSection",
    "train": "training.config:TrainSection",
    "eval": "eval.config:EvalSection",
}


@pytest.mark.parametrize(
    ("page", "command"), [entry for entry in _documented() if "--recipe" in entry[1]]
)
def test_every_documented_override_fits_its_recipe(page: str, command: list[str]) -> None:
    from pipeline.core.recipe import load_recipe

    verb = {"reference": "train", "plan": "train"}.get(command[0], command[0])
    module, _, shape = SHAPES[verb].partition(":")
    recipe = command[command.index("--recipe") + 1]
    overrides = [word for word in command[1:] if "=" in word and not word.startswith("--")]
    given = {word.partition("=")[0] for word in overrides}
    required = {"build": ("out",), "train": ("data", "out"), "eval": ("out",)}[verb]
    overrides += [f"{key}=x" for key in required if key not in given]
    section = load_recipe(ROOT / recipe, overrides, getattr(importlib.import_module(module), shape))
    # A number says nothing of what it stands for, so the folder's placeholder must name the
    # benchmark.
    for number, name in re.findall(r"benchmarks\.(\d+)\.source=(\w+)_DIR", " ".join(overrides)):
        assert section.benchmarks[int(number)].name == name.lower(), (
            f"{page}: benchmarks.{number} is not {name}"
        )
