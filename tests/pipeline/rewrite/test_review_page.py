"""The page of rewrites, and the estimate of their cost, on small folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import BuildSection
from pipeline.core.recipe import RecipeError
from pipeline.dataset.validate import problems
from pipeline.rewrite.review_page import num_words_off, write_audit
from pipeline.rewrite.types import Pair
from pipeline.sources.pairs import PairsSection
from pipeline.sources.scenes.source import ScenesSection
from pipeline.stages.estimate import estimate, pair_tokens, print_estimate
from pipeline.stages.plan import plan_build
from tests.pipeline.chat_server import ChatServer, rewritten
from tests.pipeline.model_builds import built, coloured_balls, settings


@pytest.fixture
def source(tmp_path: Path) -> PairsSection:
    return coloured_balls(tmp_path)


ROW = {"question": "What colour is it?", "caption_a": "A red star.", "caption_b": "A blue star."}


@pytest.mark.parametrize(
    ("answer_a", "answer_b", "number"),
    [
        ("A red star.", "A blue star.", 0),
        ("The star's colour is red.", "You see a blue star.", 0),
        ("There is a lovely red star.", "There is a blue star.", 1),
        ("It is red.", "It is a large blue star.", 2),
    ],
)
def test_words_added_and_words_left_out_are_counted(
    answer_a: str, answer_b: str, number: int
) -> None:
    assert num_words_off({**ROW, "answer_a": answer_a, "answer_b": answer_b}) == number


def mischief(body: dict[str, Any]) -> str:
    """Lovely balls for item 31, something that is no ball for 32, and good manners otherwise."""
    data, is_retry = body["messages"][1]["content"], len(body["messages"]) > 2
    if "item 32." in data:
        return "raw <script>alert(1)</script>"
    if "item 33." in data and not is_retry:
        return "refusal"
    if "item 31." in data and '"question"' in data:
        return "raw " + rewritten(body).replace("The picture shows this:", "A lovely day:")
    return "answer"


@pytest.mark.slow
def test_the_page_shows_random_worst_and_failed_rewrites_with_what_was_refused(
    source: PairsSection, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with ChatServer(mischief) as server:
        built(source, settings(server, tmp_path), out)
    found = write_audit(out, out / "rewrite_audit.html", 5)
    assert list(found.values()) == [23, 1, 1, 1, 0]
    page = (out / "rewrite_audit.html").read_text()
    worst = page[page.index("Worst: most words added") :]
    assert "A lovely day" in worst.split("Passed at the second try")[1]
    assert "reply_not_json" in page and "&lt;script&gt;" in page and "<script>" not in page
    assert "reply_refused" in page and page.count('class="card"') == 5 + 1 + 1 + 1
    assert [one.line() for one in problems(out, quick=False)] == []


@pytest.mark.slow
def test_rejected_rewrites_have_a_section_of_their_own(
    source: PairsSection, tmp_path: Path
) -> None:
    with ChatServer(mischief) as server:
        built(source, settings(server, tmp_path, on_failure="reject"), tmp_path / "out")
    assert write_audit(tmp_path / "out", tmp_path / "page.html", 5)["Failed: rejected"] == 1
    assert "Failed: rejected" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_the_estimate_is_near_what_a_build_then_uses(
    source: PairsSection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = {"usd_per_million_input_tokens": 10.0, "usd_per_million_output_tokens": 30.0}
    with ChatServer() as server:
        section = settings(server, tmp_path, endpoint=prices)
        build = {
            "sources": (source,),
            "out": str(tmp_path / "out"),
            "workers": {"chunk_pairs": 7},
            "audit": {"enabled": False},
        }
        plan = plan_build(BuildSection(**build, rewrite=section))
        before = estimate(plan)
        print_estimate(plan)
        assert server.num_requests == 0
        facts = built(source, section, tmp_path / "out")["rewrite"]
        after = estimate(plan)
    assert (
        (before.num_pairs, before.is_exact) == (after.num_pairs, not after.is_exact) == (24, False)
    )
    assert before.prompt_tokens == pytest.approx(facts["num_prompt_tokens"], rel=0.2)
    # our server is terse
    assert (
        facts["num_completion_tokens"]
        <= before.completion_tokens
        <= 2 * facts["num_completion_tokens"]
    )
    shown = capsys.readouterr().err
    assert (
        "USD" in shown
        and f"{section.endpoint.usd(before.prompt_tokens, before.completion_tokens):,.2f}" in shown
    )  # type: ignore[union-attr]


def test_the_estimate_grows_with_the_captions() -> None:
    short, long = (
        pair_tokens(Pair("A red star." * n, "A blue star." * n, "other")) for n in (1, 20)
    )
    assert long[0] > short[0] + 200 and long[1] > short[1] + 100


def test_the_template_costs_nothing_and_says_so(tmp_path: Path) -> None:
    plan = plan_build(
        BuildSection(
            sources=(ScenesSection(kind="scenes", num_pairs=3),), out=str(tmp_path / "out")
        )
    )
    with pytest.raises(RecipeError, match="asks no model and costs nothing"):
        print_estimate(plan)


@pytest.mark.slow
def test_a_published_recipe_names_the_model_and_no_address(
    source: PairsSection, tmp_path: Path
) -> None:
    with ChatServer() as server:
        built(source, settings(server, tmp_path), tmp_path / "out")
    endpoint = json.loads((tmp_path / "out/manifest.json").read_text())["recipe"]["rewrite"][
        "endpoint"
    ]
    assert (endpoint["model"], endpoint["base_url"], endpoint["cache"]) == ("m", None, None)
