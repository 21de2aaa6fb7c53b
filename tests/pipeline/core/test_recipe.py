from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

from pipeline.core.recipe import (
    JOB_ENVIRONMENT_VARIABLE,
    RecipeError,
    Section,
    absolute_path,
    fingerprint,
    has_hub_form,
    is_hub_id,
    load_recipe,
    resolved_yaml,
)


class Pear(Section):
    kind: Literal["pear"]
    path: str = "tree"
    seeds: int = 3


class Plum(Section):
    kind: Literal["plum"]
    stones: int = 1


class Basket(Section):
    fruits: list[Annotated[Pear | Plum, Field(discriminator="kind")]]
    rate: float = 1e-3
    out: str

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if not self.fruits:
            raise ValueError("fruits: a basket needs one, or leave it at home")
        return self


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "basket.yaml"
    path.write_text("fruits: [{kind: pear}]\nout: ???\n")
    return path


def test_overrides_reach_into_lists_and_numbers_are_numbers(recipe: Path) -> None:
    basket = load_recipe(recipe, ["fruits.0.path=/a=b", "rate=1e-4", "out=x"], Basket)
    assert basket == Basket(fruits=[Pear(kind="pear", path="/a=b")], rate=1e-4, out="x")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["out=x", "fruits.0.pth=1"], "fruits.0.pth: unknown key, did you mean 'path'?"),
        (["out=x", "fruit=1"], "fruit: unknown key, did you mean 'fruits'?"),
        (["out=x", "rate=fast"], "rate: .*number.*'fast'"),
        (["out=x", "fruits.0.kind=fig"], "fruits.0: .*'fig'.*'pear', 'plum'"),
        (["out=x", "fruits.0.seeds=1.5"], "fruits.0.seeds: .*1.5"),
        (["out=x", "fruits.7.path=x"], "override 'fruits.7.path=x' cannot be applied"),
        (["out=x", "rate"], "override 'rate': expected key=value"),
        (["out=x", "rate=nan"], "rate: .*finite"),
        ([], "out is required; give out=VALUE"),
    ],
)
def test_errors_name_the_key_what_came_and_what_is_allowed(
    recipe: Path, overrides: list[str], expected: str
) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe(recipe, overrides, Basket)


def test_a_recipe_that_does_not_go_together_is_not_shown_whole(recipe: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, ["out=x", "fruits=[]"], Basket)
    assert (
        str(caught.value)
        == f"recipe {str(recipe)!r}: fruits: a basket needs one, or leave it at home"
    )


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="found none"):
        load_recipe(tmp_path / "none.yaml", [], Basket)
    (tmp_path / "bad.yaml").write_text("a: [1, 2")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml", [], Basket)


def test_the_resolved_recipe_loads_to_the_same_value(recipe: Path, tmp_path: Path) -> None:
    basket = load_recipe(recipe, ["out=x"], Basket)
    (tmp_path / "again.yaml").write_text(resolved_yaml(basket))
    assert load_recipe(tmp_path / "again.yaml", [], Basket) == basket


def test_a_fingerprint_depends_on_values_and_not_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(Pear(kind="pear")) != fingerprint(Pear(kind="pear", seeds=4))
    assert fingerprint("a", "bc") != fingerprint("ab", "c")


def test_a_relative_path_is_refused_inside_a_ray_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_ENVIRONMENT_VARIABLE, raising=False)
    assert Path(absolute_path("x/y", "out")).is_absolute()
    monkeypatch.setenv(JOB_ENVIRONMENT_VARIABLE, "{}")
    assert absolute_path("/data/x", "out") == "/data/x"
    assert absolute_path("s3://bucket/x", "out") == "s3://bucket/x"
    with pytest.raises(RecipeError, match=r"out=x/y: .*out=/data/x/y"):
        absolute_path("x/y", "out")


@pytest.mark.parametrize(
    ("text", "with_org", "bare"),
    [
        ("org/name", True, True),
        ("org/name-1.5_b", True, True),
        ("1org/2name", True, True),
        ("name", False, True),
        ("here/model", False, False),  # a folder of this name is there
        ("here", False, False),
        ("file.json", False, False),
        ("./org/name", False, False),
        ("../org/name", False, False),
        ("/org/name", False, False),
        ("~/name", False, False),
        (".", False, False),
        ("", False, False),
        ("org/name/", False, False),
        ("org/name/part", False, False),
        ("org/name@main", False, False),
        ("org/name@0123456789abcdef", False, False),
        ("C:\\models\\name", False, False),
        ("org\\name", False, False),
        ("s3://org/name", False, False),
        ("hf://datasets/org/name", False, False),
        ("hf-hub:org/name", False, False),
        ("my models/name", False, False),
        ("org/n\u00e4me", False, False),
    ],
)
def test_what_lies_here_is_a_path_and_what_may_be_an_id_is_one(
    text: str, with_org: bool, bare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    (tmp_path / "file.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(text) is with_org
    assert is_hub_id(text, needs_org=False) is bare


def test_the_form_of_an_id_does_not_depend_on_what_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert has_hub_form("org/name") and not is_hub_id("org/name")
    assert not has_hub_form("name") and has_hub_form("name", needs_org=False)
