"""What a worker sends arrives once, in order, also when it stops in the middle."""

import threading
from pathlib import Path

import pytest

from training.runtime.driver_messages import DriverProgress, follow, send


def test_lines_and_progress_arrive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages, done = tmp_path / "m.jsonl", threading.Event()
    listener = threading.Thread(target=follow, args=(messages, done))
    listener.start()
    send(messages, kind="say", text="hello")
    with DriverProgress(messages, "train", 3, "steps") as progress:
        for _ in range(3):
            progress.advance(1, loss=0.5)
    done.set()
    listener.join()
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "hello"
    assert shown[1].startswith("train: 3 steps in")
    assert len(shown) == 2


def test_nothing_sent_is_nothing_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = threading.Event()
    done.set()
    follow(tmp_path / "never.jsonl", done)
    assert capsys.readouterr().err == ""


def test_a_worker_that_stops_in_the_middle_leaves_no_finished_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages, done = tmp_path / "m.jsonl", threading.Event()
    DriverProgress(messages, "train", 3, "steps").__enter__()
    done.set()
    follow(messages, done)
    assert capsys.readouterr().err == ""
