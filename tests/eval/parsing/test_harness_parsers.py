"""The same answers, read by each harness: every cell of two tables that were made by running the
harnesses themselves.
"""

import pytest

from eval.benchmarks.ratios import equals_truth
from eval.parsing.harness_parsers import COMPAT_PARSERS, parser
from eval.question import Kind, Question
from pipeline.core.recipe import RecipeError


def question(kind: Kind, truth: str, choices: tuple[str, ...] = ()) -> Question:
    return Question(
        item_id="1",
        prompt="?",
        image=None,
        kind=kind,
        choices=choices,
        truth=truth,
        cluster="1",
        max_new_tokens=8,
    )


DOOR = question("choice", "B", ("Open", "Closed"))
DOG = question("yes_no", "yes")
# A column is what a harness gives: a letter; "ok" or "wrong" where it gives only that; "-" where it
# finds nothing.
CHOICE_COLUMNS = [
    ("svco", "mmvp"),
    ("svco", "realworldqa"),
    ("svco", "scienceqa"),
    ("lmms", "cvbench"),
    ("lmms", "mmvp"),
    ("lmms", "realworldqa"),
    ("lmms", "scienceqa"),
    ("vlmevalkit", "mmvp"),
]
CHOICE_TABLE = {
    "B": "ok ok B B B B ok B",
    "B.": "wrong ok B B B B ok B",
    "(B)": "ok ok - B B B wrong B",
    "(b) Closed": "ok ok - B B - wrong B",
    "B. Closed": "wrong wrong B B B B ok B",
    "b": "ok ok B B B - ok -",
    "Closed": "wrong wrong C C - - wrong B",
    "The answer is B.": "wrong wrong T T B B wrong B",
    "**B**": "wrong wrong - - - B wrong B",
    "Answer: B": "wrong wrong A A B B wrong B",
    "Based on the image, the answer is A.": "wrong wrong B B A A wrong A",
    "Both are open": "wrong wrong B B B B wrong A",
}
YES_NO_COLUMNS = [
    ("official", "pope"),
    ("lmms", "pope"),
    ("vlmevalkit", "pope"),
    ("official", "amber"),
    ("official", "naturalbench"),
]
YES_NO_TABLE = {
    "yes": "yes yes yes wrong yes",
    "Yes.": "yes wrong yes wrong yes",
    "No, there is no dog": "no wrong no wrong no",
    "There isn't a dog.": "yes wrong - wrong -",
    "Yes, there is no doubt.": "no wrong - wrong yes",
    "I cannot tell.": "yes wrong - wrong -",
    "": "yes wrong - wrong -",
    "NO": "yes no no wrong no",
}


def cells(
    table: dict[str, str], columns: list[tuple[str, str]]
) -> list[tuple[tuple[str, str], str, str]]:
    return [
        (column, said, cell)
        for said, row in table.items()
        for column, cell in zip(columns, row.split(), strict=True)
    ]


@pytest.mark.parametrize(("column", "said", "cell"), cells(CHOICE_TABLE, CHOICE_COLUMNS))
def test_every_cell_of_the_table_of_letters(column: tuple[str, str], said: str, cell: str) -> None:
    found = parser(*column)(DOOR, said)
    if cell in ("ok", "wrong"):
        assert equals_truth(DOOR, found) == (cell == "ok")
    else:
        assert (found.value or "-") == cell
        assert found.status == ("failed" if cell == "-" else "extracted")


@pytest.mark.parametrize(("column", "said", "cell"), cells(YES_NO_TABLE, YES_NO_COLUMNS))
def test_every_cell_of_the_table_of_yes_and_no(
    column: tuple[str, str], said: str, cell: str
) -> None:
    found = parser(*column)(DOG, said)
    assert (found.value or "-") == ("-" if cell == "wrong" else cell)


def test_cv_bench_is_read_as_mmvp_by_the_official_script_and_by_vlmevalkit() -> None:
    for harness in ("svco", "vlmevalkit"):
        for said in CHOICE_TABLE:
            assert parser(harness, "cvbench")(DOOR, said) == parser(harness, "mmvp")(DOOR, said)


def test_words_are_not_numbers_to_the_official_script() -> None:
    count = question("short", "2")
    assert parser("svco", "realworldqa")(count, "Two.").value == "two"
    assert parser("lmms", "realworldqa")(count, "It is green").value == "it is green"


def test_naturalbench_takes_the_article_for_an_option() -> None:
    assert parser("official", "naturalbench")(DOOR, "It is a door, so B").value == "A"


@pytest.mark.parametrize("key", COMPAT_PARSERS)
@pytest.mark.parametrize(
    "said", ["", " ", "\n", "Yes " * 2500, "(" * 10_000, "A" * 10_000, "\u00e9\u4e00\U0001f600"]
)
def test_any_text_is_read(key: tuple[str, str], said: str) -> None:
    for asked in (DOOR, DOG, question("short", "red")):
        found = COMPAT_PARSERS[key](asked, said)
        assert (found.value is None) == (found.status in ("failed", "ambiguous"))


def test_an_unknown_harness_or_benchmark_is_named() -> None:
    with pytest.raises(RecipeError, match="expected one of default, svco"):
        parser("lm-eval", "mmvp")
    with pytest.raises(RecipeError, match="no rule for 'mmvp'; it has one for pope"):
        parser("official", "mmvp")
