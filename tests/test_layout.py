"""The house's rules, read off the syntax tree: who imports whom, forbidden names, sizes."""

import ast
import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "training", "eval", "svco")
SOURCES = sorted([*(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])
# What measures, studies and documents the packages is read like them.
BESIDE = sorted(
    path
    for folder in ("bench", "studies", "scripts", "docs")
    for path in (ROOT / folder).rglob("*.py")
)
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 400, 60, 14
FOLDERS = sorted({path.parent for path in SOURCES if path.parent != ROOT})
ONE_FILE_PER_THING = {ROOT / "eval/benchmarks"}

# `ray` only where a job starts, in the session that all jobs share, and in the trainer's
# environment (Ray Train's side of the seam).
RAY_MAY_BE_IMPORTED_BY = {
    "pipeline/core/ray_pool.py",
    "training/train_svco.py",
    "training/train_worker.py",
}
# A home, a work folder or a temporary one is a path of the machine that a text was written on.
# Ray's containers have /home/ray, and Ray itself writes below /tmp/ray; what follows a name or a
# placeholder is part of a relative path or an address.
MACHINE_PATH = re.compile(
    r"(?<![\w.}])/(?:home|root|work|workspace|tmp|opt|srv|scratch|Users|private|var/folders)/(?!ray\b)\w+"
)
FORBIDDEN_MODULE_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
DEPENDENCIES = (
    "ray torch torchvision transformers open_clip datasets huggingface_hub pyarrow fsspec s3fs PIL"
    " numpy sklearn cv2 pydantic omegaconf typer rich openai jinja2 matplotlib peft safetensors"
    " tensorboard pytest hypothesis trl tokenizers yaml"
).split()
ENTRY_FILES = (
    "pipeline/build_mvc.py",
    "training/train_svco.py",
    "training/make_reference.py",
    "eval/run_eval.py",
)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> set[str]:
    """Every imported module of a file, wherever in the file, as dotted names (`from a import b`
    counts as a.b).
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            pytest.fail(f"{_name(path)}:{node.lineno}: relative import; write the full name")
    return found


@pytest.mark.parametrize("path", [*SOURCES, *BESIDE], ids=_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES, (
        f"{_name(path)} has more than {MAX_FILE_LINES} lines; split it by idea"
    )
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, (
                f"{_name(path)}:{node.lineno} {node.name} has {length} lines; take a function out"
            )


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_ray_is_the_outermost_skin(path: Path) -> None:
    if any(module.split(".")[0] == "ray" for module in _imports(path)):
        assert _name(path) in RAY_MAY_BE_IMPORTED_BY, (
            f"{_name(path)} imports ray; move that to {sorted(RAY_MAY_BE_IMPORTED_BY)}"
        )


def test_module_names_are_free_of_collisions_and_drawers() -> None:
    taken = set(sys.stdlib_module_names) | set(DEPENDENCIES)
    for path in SOURCES:
        names = path.relative_to(ROOT).with_suffix("").parts
        assert not FORBIDDEN_MODULE_NAMES & set(names), f"{_name(path)}: name it by what it holds"
        # A script's own folder comes first on the path, and scripts lie directly below a package.
        direct = names[1] if len(names) > 1 else names[0]
        assert direct not in taken, f"{_name(path)}: a script would import it instead of {direct!r}"


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_a_folder_is_small_enough_to_read(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= MAX_MODULES or folder in ONE_FILE_PER_THING, (
        f"{_name(folder)} has {len(modules)} modules, at most {MAX_MODULES} are allowed"
    )


def _defined(module: str) -> set[str] | None:
    """The names at the top of a module of this repository; None for another's."""
    place = ROOT.joinpath(*module.split("."))
    if place.is_dir():
        return {path.stem for path in place.iterdir()}
    if not place.with_suffix(".py").is_file():
        return None
    tree = ast.parse(place.with_suffix(".py").read_text())
    stored = (node for statement in tree.body for node in ast.walk(statement))
    return {
        getattr(node, "name", None) or getattr(node, "asname", None) or getattr(node, "id", "")
        for node in stored
        if isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.alias | ast.Name
        )
    }


@pytest.mark.parametrize("path", BESIDE, ids=_name)
def test_what_a_script_imports_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            defined = _defined(node.module or "")
            assert defined is not None, f"{_name(path)}:{node.lineno}: there is no {node.module}"
            missing = {alias.name for alias in node.names} - defined
            assert not missing, f"{_name(path)}:{node.lineno}: {node.module} has no {missing}"


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {_distribution(re.split(r"[<>=\[]", line)[0]) for line in lines}
    owners = importlib.metadata.packages_distributions()
    for path in SOURCES:
        for name in {module.split(".")[0] for module in _imports(path)}:
            if name not in sys.stdlib_module_names and name not in PACKAGES:
                # what is not installed here is declared under the name that is imported
                known = {_distribution(owner) for owner in owners.get(name, [name])}
                assert known & declared, f"{_name(path)} imports {name}, which nothing declares"


def _distribution(name: str) -> str:
    return name.lower().replace("_", "-")


def test_every_package_folder_has_an_init_that_imports_nothing() -> None:
    folders = {path.parent for path in SOURCES if path.parent != ROOT}
    for folder in folders:
        assert (folder / "__init__.py").is_file(), f"{_name(folder)} needs an __init__.py"
        assert folder.name == "svco" or not _imports(folder / "__init__.py"), (
            f"{_name(folder)}/__init__.py must import nothing"
        )


@pytest.mark.slow
def test_no_six_lines_stand_twice() -> None:
    places: dict[tuple[str, ...], str] = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        imports = {
            line
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        lines = [
            (number, line.strip())
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if re.search(r"\w", line) and number not in imports and not line.strip().startswith("#")
        ]
        for start in range(len(lines) - 5):
            run = tuple(line for _, line in lines[start : start + 6])
            place = f"{_name(path)}:{lines[start][0]}"
            assert places.setdefault(run, place) == place, f"{place} repeats {places[run]}"


@pytest.mark.slow
def test_no_exception_is_swallowed() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert not all(isinstance(part, ast.Pass) for part in node.body), (
                    f"{_name(path)}:{node.lineno} swallows an exception"
                )


@pytest.mark.parametrize("name", ENTRY_FILES)
def test_entry_files_can_be_run(name: str) -> None:
    path = ROOT / name
    assert path.read_text().startswith("#!/usr/bin/env python3\n"), f"{name} needs a shebang"
    assert path.stat().st_mode & 0o111, f"{name} needs its run bit"


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRY_FILES)
def test_help_needs_neither_ray_nor_torch(name: str) -> None:
    module = name.removesuffix(".py").replace("/", ".")
    code = (
        f"import sys; sys.argv = ['x', '--help']\nimport {module}, pipeline.core.cli\n"
        f"try:\n    pipeline.core.cli.run_command({module}.run)\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "assert 'ray' not in sys.modules and 'torch' not in sys.modules, 'help loaded ray or torch'"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_nothing_in_the_repository_names_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    for name in listed:
        path = ROOT / name
        if path.suffix not in (".png", ".safetensors") and path.is_file():
            found = MACHINE_PATH.search(path.read_text(errors="ignore"))
            assert found is None, f"{name} holds a path of somebody's machine: {found[0]}"


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        # Put together here, so that this file names no machine either.
        *(
            (f"{before}/{folder}/x/y", True)
            for before in ("", " ", '"', "file://")
            for folder in ("home", "work", "tmp", "Users")
        ),
        *((f"/{folder}/x", False) for folder in ("tmp/ray", "home/ray", "data/mvc")),
        *(
            (f"{before}/x", False)
            for before in ("a/tmp", "build/work", "{out}/work", "https://a.org/opt")
        ),
    ],
)
def test_a_path_of_a_machine_is_told_from_others(text: str, is_found: bool) -> None:
    assert (MACHINE_PATH.search(text) is not None) == is_found


def _runs_foreign_code(tree: ast.AST) -> list[str]:
    """Uses of transformers' auto classes by which a model's own code could run."""
    # handed to what passes `trust_remote_code=False` on
    handed = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read"
        for argument in node.args
    }
    never = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "trust_remote_code"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is False
    }
    loads = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("from_pretrained", "from_config")
        and ast.unparse(node.value).startswith("Auto")
        and not ast.unparse(node.value).startswith("AutoHfQuantizer")
        and id(node) not in handed | never
    ]
    trusts = [
        f"line {node.value.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    return loads + trusts


@pytest.mark.parametrize("path", [*SOURCES, *BESIDE], ids=_name)
def test_no_code_that_a_model_brings_is_executed(path: Path) -> None:
    assert not _runs_foreign_code(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("AutoModel.from_pretrained(x)", True),
        ("AutoConfig.from_pretrained(x, trust_remote_code=True)", True),
        ("AutoTokenizer.from_pretrained(x, trust_remote_code=asked)", True),
        ("load(AutoModel.from_pretrained)", True),
        ("AutoModel.from_config(c)", True),
        ("AutoModel.from_pretrained(x, trust_remote_code=False)", False),
        ("read(x, AutoModel.from_pretrained, dtype=d)", False),
    ],
)
def test_code_that_trusts_a_model_is_told_from_code_that_does_not(
    code: str, is_found: bool
) -> None:
    assert bool(_runs_foreign_code(ast.parse(code))) == is_found
