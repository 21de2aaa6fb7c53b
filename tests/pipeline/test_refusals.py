"""What a build refuses in one line before any work, which no Ray is started for."""

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from pipeline.build_mvc import embedders
from pipeline.build_mvc import run as build_command
from pipeline.config import BuildSection, WorkersSection
from pipeline.core.recipe import JOB_ENVIRONMENT_VARIABLE
from pipeline.embedding.encoders import ClipSection, EncodersSection
from pipeline.sources.scenes.source import ScenesSection

RECIPE = Path(__file__).resolve().parents[2] / "recipes/mvc_pairs.yaml"


@pytest.fixture
def refused(
    command_here: Callable[..., tuple[int, str]], manifest: Callable[..., Path]
) -> Callable[..., str]:
    """`refused(*options)`: what the job says, in one line, of a good manifest with these."""

    def run(*options: str) -> str:
        code, printed = command_here(
            build_command, "--recipe", RECIPE, f"sources.0.path={manifest(1)}", *options
        )
        assert code == 2, printed
        assert "Traceback" not in printed and "starting Ray" not in printed
        return printed

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("out={tmp}/file/out",), "cannot be written"),
        (
            (
                "out={tmp}/out",
                "selection.pixels_image_cos.min=2",
                "selection.pixels_image_cos.max=1",
            ),
            "above",
        ),
        (("out={tmp}/out", "selektion.pixels_image_cos.min=0"), "did you mean 'selection'"),
        (("out={tmp}/out", "encoders.pixels.enabled=false"), "every encoder is off"),
        pytest.param(
            ("out={tmp}/out", "encoders.clip={{model: hf-hub:nobody/nothing-like-this}}"),
            "error: encoders.clip",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("out={tmp}/out", "encoders.clip={{model: 'local-dir:/nowhere'}}"),
            "error: encoders.clip: cannot load 'local-dir:/nowhere'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_written_or_read_is_one_line(
    refused: Callable[..., str],
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # read when the library was imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "file").write_text("in the way")
    assert message in refused(*(option.format(tmp=tmp_path) for option in options))


def test_a_folder_that_holds_something_else_is_left_alone(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine/data").mkdir(parents=True)
    (tmp_path / "mine/data/mine.parquet").write_bytes(b"dear")
    assert "expected a new folder or one of an earlier build, found 'data'" in refused(
        f"out={tmp_path / 'mine'}"
    )
    assert (tmp_path / "mine/data/mine.parquet").read_bytes() == b"dear"


def test_in_a_job_the_stages_of_a_build_to_a_uri_need_a_shared_disk(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB_ENVIRONMENT_VARIABLE, "{}")
    assert "give work=/data/work" in refused("out=s3://bucket/mvc")


def test_one_embedder_for_each_gpu_or_two_cpus() -> None:
    section = BuildSection(sources=(ScenesSection(kind="scenes"),), out="x")
    on_gpu = section.model_copy(
        update={
            "encoders": EncodersSection(
                clip=ClipSection(model="builtin:scenes-clip", device="cuda")
            )
        }
    )
    promised = on_gpu.model_copy(update={"workers": WorkersSection(num_embedders=4)})
    assert embedders(section, {"CPU": 4096.0}) == 2048
    assert embedders(on_gpu, {"CPU": 4096.0, "GPU": 8.0}) == 8
    # machines that start when they are needed
    assert embedders(promised, {"CPU": 4096.0}) == 4
    # for which Ray is then asked, and says that it has none
    assert embedders(on_gpu, {"CPU": 4096.0}) == 1
