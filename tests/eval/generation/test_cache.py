"""An answer is found again only under everything that decided it, and survives whatever ends the
process.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eval.generation.cache import Answer, AnswerStore, answer_key
from pipeline.core.recipe import UserError

ROOT = Path(__file__).resolve().parents[3]


def test_the_key_holds_weights_prompt_picture_and_settings() -> None:
    settings = {"max_new_tokens": 8, "dtype": "float32"}
    key = answer_key("w", "p", "s", settings)
    assert key == answer_key("w", "p", "s", dict(reversed(settings.items())))
    others = [
        ("x", "p", "s", settings),
        ("w", "q", "s", settings),
        ("w", "p", None, settings),
        ("w", "p", "s", settings | {"dtype": "b"}),
    ]
    assert len({key, *(answer_key(*other) for other in others)}) == 5


def test_answers_come_back_whole_and_the_first_stays(tmp_path: Path) -> None:
    long = Answer("x" * 10_000 + "\n\u4e2d\u6587 \u2028", 2_500, ended=False)
    with AnswerStore(tmp_path / "a.sqlite") as store:
        store.put([("1", long), ("2", Answer("", 0, ended=True))])
        store.put(
            [
                ("1", Answer("other", 1, ended=True)),
                ("3", Answer("no", 1, ended=True, fault="reply_refused")),
            ]
        )
    with AnswerStore(tmp_path / "a.sqlite") as store:
        answers = store.get(["1", "2", "3", "4", "1"])
    assert answers == {
        "1": long,
        "2": Answer("", 0, True),
        "3": Answer("no", 1, True, "reply_refused"),
    }


def test_more_keys_than_one_statement_takes(tmp_path: Path) -> None:
    answers = {str(number): Answer(str(number), 1, ended=True) for number in range(1_700)}
    with AnswerStore(tmp_path / "a.sqlite") as store:
        store.put(answers.items())
        assert store.get([*answers, "none"]) == answers


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_put(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom eval.generation.cache import"
        " Answer, AnswerStore\nstore = AnswerStore(Path(sys.argv[1]))\nstore.put({str(n):"
        " Answer('kept', 1, True) for n in range(3)}.items())\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.sqlite")], env=environment, check=False
    )
    assert finished.returncode == -signal.SIGKILL
    with AnswerStore(tmp_path / "a.sqlite") as store:
        assert set(store.get(["0", "1", "2", "3"])) == {"0", "1", "2"}


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("something else, and long enough to be no empty file" * 40)
    with pytest.raises(UserError, match="answers.cache="):
        AnswerStore(tmp_path / "a.sqlite")
