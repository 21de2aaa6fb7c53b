"""What a build refuses in one line before any work, which no Ray is started for."""

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from pipeline.build_mvc import main

RECIPE = Path(__file__).resolve().parent.parent.parent / "recipes/mvc_pairs.yaml"


@pytest.fixture
def refused(command_here: Callable[..., tuple[int, str]], manifest: Callable[..., Path]) -> Callable[..., str]:
    """`refused(*options)`: what the job says, in one line, of a good manifest with these options."""

    def run(*options: str) -> str:
        code, printed = command_here(main, "--recipe", RECIPE, f"sources.0.path={manifest(1)}", *options)
        assert code == 2, printed
        assert "Traceback" not in printed and "starting Ray" not in printed
        return printed

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("out={tmp}/file/out",), "cannot be written"),
        (("out={tmp}/out", "selection.pixels_image_cos.min=2", "selection.pixels_image_cos.max=1"), "above"),
        (("out={tmp}/out", "selektion.pixels_image_cos.min=0"), "did you mean 'selection'"),
        (("out={tmp}/out", "encoders.pixels.enabled=false"), "every encoder is off"),
        pytest.param(
            ("out={tmp}/out", "encoders.clip={{model: hf-hub:nobody/nothing-like-this}}"), "error: encoders.clip", marks=pytest.mark.slow
        ),
        pytest.param(
            ("out={tmp}/out", "encoders.clip={{model: 'local-dir:/nowhere'}}"),
            "error: encoders.clip: cannot load 'local-dir:/nowhere'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_written_or_read_is_one_line(
    refused: Callable[..., str], options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read when the library was imported
    (tmp_path / "file").write_text("in the way")
    assert message in refused(*(option.format(tmp=tmp_path) for option in options))


def test_a_folder_that_holds_something_else_is_left_alone(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine/data").mkdir(parents=True)
    (tmp_path / "mine/data/mine.parquet").write_bytes(b"dear")
    assert "holds 'data', which no build made" in refused(f"out={tmp_path / 'mine'}")
    assert (tmp_path / "mine/data/mine.parquet").read_bytes() == b"dear"
