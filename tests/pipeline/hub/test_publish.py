import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from pipeline.cards.licenses import exceptions, refused
from pipeline.core.cli import run_command
from pipeline.core.recipe import UserError
from pipeline.core.schema import MvcError
from pipeline.core.storage import sha256_file
from pipeline.hub.publish import OWNER, publish, write_dry_run
from pipeline.hub.publish import run as publish_command
from pipeline.hub.repository import HubError
from pipeline.hub.upload_plan import plan_upload
from tests.pipeline import hub_server as server

ROOT = Path(__file__).resolve().parents[3]
REPO = "stars/huts"
SHARDS = [
    "data/train-00000-of-00001.parquet",
    "data/validation-00000-of-00001.parquet",
    "rejects/rejects-00000-of-00001.parquet",
]

Make = Callable[..., Path]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A Hub of our own, which the library is set to."""
    made = server.Hub()
    served = server.serve(made)
    for name, value in _environment(made, tmp_path).items():
        monkeypatch.setenv(name, value)
    # read when the library was imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield made
    made.released.set()
    served.shutdown()
    served.server_close()


def _environment(hub: Any, folder: Path) -> dict[str, str]:
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "hf"),
    }
    return own | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command in this process; returns its exit code and all that it printed."""

    def call(folder: Path, *arguments: str, repo: str = REPO) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["svco publish", str(folder), "--repo", repo, *arguments])
        with pytest.raises(SystemExit) as stop:
            run_command(publish_command)
        printed = capfd.readouterr()
        return int(stop.value.code or 0), printed.out + printed.err

    return call


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "svco", "publish", str(folder), "--repo", REPO, *arguments]


def _split_train(folder: Path, seal: Callable[[Path], None]) -> None:
    """The training shard becomes two."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / SHARDS[0])
    for index, part in enumerate((table.slice(0, 5), table.slice(5))):
        pq.write_table(part, folder / f"data/train-0000{index}-of-00002.parquet", row_group_size=3)
    (folder / SHARDS[0]).unlink()
    seal(folder)


def _seal(folder: Path) -> None:
    """The manifest again, of the shards that lie there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.glob("*/*.parquet"))
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_folder_becomes_a_private_repository_in_one_commit_with_a_tag(
    hub: Any, published: Make
) -> None:
    folder = published()
    for name in (
        ".lock",
        ".work/embed/part.parquet",
        "data/.train-00000.parquet.tmp",
        "result.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not for the Hub")
    commit, tag = publish(plan_upload(folder, REPO), REPO)
    repo = hub.repo(REPO)
    assert repo.is_private and repo.tags == {"v1": commit} == {tag: commit}
    assert [one.message for one in repo.commits] == [
        "initial commit",
        "Publish v1 with the S-VCO toolkit",
    ]
    files = repo.commits[-1].files
    assert sorted(files) == sorted([".gitattributes", "README.md", "manifest.json", *SHARDS])
    for name in ("manifest.json", *SHARDS):
        assert files[name].data == (folder / name).read_bytes()
    assert f'load_dataset("{REPO}", split="train")' in files["README.md"].data.decode()


def test_a_new_repository_is_public_only_when_told_and_one_that_is_there_stays_as_it_is(
    hub: Any, published: Make
) -> None:
    upload = plan_upload(published(), REPO)
    publish(upload, REPO, is_public=True)
    assert not hub.repo(REPO).is_private
    publish(upload, "stars/other")
    publish(upload, "stars/other", is_public=True)
    assert hub.repo("stars/other").is_private


def test_publishing_the_same_again_changes_nothing(hub: Any, published: Make) -> None:
    upload = plan_upload(published(), REPO)
    first = publish(upload, REPO)
    assert publish(upload, REPO) == first
    assert len(hub.repo(REPO).commits) == 2 and len(hub.uploads) == 3


def test_a_second_version_removes_stale_shards_and_leaves_what_is_not_ours(
    hub: Any, published: Make
) -> None:
    folder = published()
    first, _ = publish(plan_upload(folder, REPO), REPO)
    repo = hub.repo(REPO)
    theirs = server.Blob(b"a page of theirs", is_lfs=False)
    repo.commit("somebody adds a page", repo.commits[-1].files | {"NOTES.md": theirs})
    _split_train(folder, _seal)
    second, tag = publish(plan_upload(folder, REPO), REPO)
    files = repo.commits[-1].files
    assert tag == "v2" and repo.tags == {"v1": first, "v2": second} and len(repo.commits) == 4
    assert sorted(name for name in files if name.startswith("data/train")) == [
        f"data/train-0000{index}-of-00002.parquet" for index in (0, 1)
    ]
    assert (
        files["NOTES.md"] is theirs and files[SHARDS[1]].data == (folder / SHARDS[1]).read_bytes()
    )
    assert SHARDS[0] in repo.at("v1").files


def test_an_interrupted_upload_goes_on_without_sending_finished_files_again(
    hub: Any, published: Make
) -> None:
    upload = plan_upload(published(), REPO)
    hub.refuse_uploads_after = 1
    with pytest.raises(HubError, match="the same command goes on from there"):
        publish(upload, REPO)
    assert list(hub.repo(REPO).commits[-1].files) == [".gitattributes"] and not hub.repo(REPO).tags
    hub.refuse_uploads_after = None
    publish(upload, REPO)
    assert len(hub.uploads) == len(set(hub.uploads)) == 3
    assert len(hub.repo(REPO).commits) == 2


@pytest.mark.slow
def test_a_connection_that_breaks_in_the_middle_of_a_file_is_taken_up_again(
    hub: Any, published: Make
) -> None:
    hub.drop_next_upload = True
    publish(plan_upload(published(), REPO), REPO)
    assert len(hub.uploads) == 3 and len(hub.repo(REPO).commits) == 2


@pytest.mark.slow
def test_a_publisher_killed_in_the_middle_leaves_nothing_half_published(
    hub: Any, published: Make
) -> None:
    folder = published()
    hub.hang_uploads_after = 2
    process = subprocess.Popen(
        _command(folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while sum(request.startswith("PUT") for request in hub.requests) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.hang_uploads_after = None
    hub.released.set()
    assert len(hub.repo(REPO).commits) == 1 and len(hub.uploads) == 2
    publish(plan_upload(folder, REPO), REPO)
    assert len(hub.uploads) == len(set(hub.uploads)) == 3 and len(hub.repo(REPO).commits) == 2


def test_a_concurrent_commit_is_noticed_and_nothing_is_published(hub: Any, published: Make) -> None:
    folder = published()
    publish(plan_upload(folder, REPO), REPO)
    repo = hub.repo(REPO)
    _split_train(folder, _seal)
    theirs = {"README.md": server.Blob(b"# theirs", is_lfs=False)}
    hub.before_commit = lambda: repo.commit("somebody is faster", theirs)
    with pytest.raises(
        HubError, match="somebody else committed there meanwhile, so nothing was published"
    ):
        publish(plan_upload(folder, REPO), REPO)
    assert repo.commits[-1].files == theirs and list(repo.tags) == ["v1"]


def test_a_commit_whose_answer_was_lost_is_found_by_the_next_run(hub: Any, published: Make) -> None:
    upload = plan_upload(published(), REPO)

    def fail(_: object) -> None:
        raise ConnectionAbortedError

    hub.after_commit = fail
    with pytest.raises(HubError, match="it sees whether the commit was made"):
        publish(upload, REPO)
    assert len(hub.repo(REPO).commits) == 2 and not hub.repo(REPO).tags
    hub.after_commit = None
    commit, tag = publish(upload, REPO)
    assert len(hub.repo(REPO).commits) == 2 and hub.repo(REPO).tags == {tag: commit} == {
        "v1": hub.repo(REPO).commits[-1].oid
    }


@pytest.mark.parametrize("damage", ["changed", "lost", "left"])
def test_what_the_hub_holds_is_compared_with_what_was_pushed(
    hub: Any, published: Make, damage: str
) -> None:
    def spoil(commit: Any) -> None:
        if damage == "changed":
            data = commit.files[SHARDS[0]].data
            commit.files[SHARDS[0]] = server.Blob(data[:-1] + b"?", is_lfs=True)
        elif damage == "lost":
            del commit.files["manifest.json"]
        else:
            commit.files["data/train-00001-of-00002.parquet"] = server.Blob(
                b"of an older version", is_lfs=True
            )

    hub.after_commit = spoil
    wrong = {
        "changed": SHARDS[0],
        "lost": "manifest.json",
        "left": "data/train-00001-of-00002.parquet",
    }[damage]
    with pytest.raises(
        HubError, match=f"does not hold what was pushed: {re.escape(wrong)}; do not use it"
    ):
        publish(plan_upload(published(), REPO), REPO)
    assert not hub.repo(REPO).tags


@pytest.mark.slow
def test_a_tag_can_be_chosen_and_never_moves(hub: Any, published: Make) -> None:
    folder = published()
    commit, _ = publish(plan_upload(folder, REPO), REPO, tag="v1.0")
    assert publish(plan_upload(folder, REPO), REPO, tag="v1.0") == (commit, "v1.0")
    _split_train(folder, _seal)
    sent = len(hub.uploads)
    with pytest.raises(HubError, match="'v1.0' names an earlier version"):
        publish(plan_upload(folder, REPO), REPO, tag="v1.0")
    assert len(hub.uploads) == sent
    assert publish(plan_upload(folder, REPO), REPO)[1] == "v1"


def test_the_token_appears_nowhere(
    hub: Any, published: Make, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published()
    code, printed = run(folder)
    assert code == 0 and "published v1" in printed
    monkeypatch.setenv("HF_TOKEN", f"{hub.token}_wrong")
    code, refused_once = run(folder)
    assert code == 2 and "does not accept the Hub token" in refused_once
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.may_write, hub.says = False, f"{hub.token} may not write"
    (folder / "report.html").write_text("a page")
    code, refused_twice = run(folder)
    assert code == 2 and "(token) may not write" in refused_twice
    texts = [
        printed,
        refused_once,
        refused_twice,
        *(commit.message for commit in hub.repo(REPO).commits),
    ]
    texts += [
        blob.data.decode(errors="ignore")
        for commit in hub.repo(REPO).commits
        for blob in commit.files.values()
    ]
    assert not any(hub.token in text for text in texts)


def test_without_a_token_one_line_says_what_to_do(
    hub: Any, published: Make, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    # read when the library was imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "nowhere")
    code, printed = run(published())
    assert code == 2 and printed.splitlines()[1:] == [
        "error: no Hub token: set HF_TOKEN, or log in with `hf auth login`; it needs write access"
    ]
    assert not hub.requests


@pytest.mark.slow
def test_the_command_is_content_with_the_login_file(
    hub: Any, published: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text(hub.token)
    monkeypatch.delenv("HF_TOKEN")
    subprocess.run(
        _command(published(), "--tag", "first"), cwd=ROOT, capture_output=True, check=True
    )
    assert list(hub.repo(REPO).tags) == ["first"]


def test_a_hub_that_is_not_there_is_said_in_one_sentence(
    published: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_some")
    with pytest.raises(HubError, match="the Hub could not be reached"):
        publish(plan_upload(published(), REPO), REPO)


@pytest.mark.slow
def test_a_dry_run_writes_exactly_what_would_be_pushed_and_loads_neither_ray_nor_torch(
    lean_command: Callable[..., Any], hub: Any, published: Make
) -> None:
    folder = published()
    (folder / "report.html").write_text("a page")
    finished = lean_command("publish", folder, "--repo", REPO, "--dry-run", without="datasets")
    for name in ("README.md", "manifest.json", "report.html", *SHARDS):
        assert name in finished.stderr
    assert not hub.requests
    publish(plan_upload(folder, REPO), REPO)
    pushed = {
        name: blob.data
        for name, blob in hub.repo(REPO).commits[-1].files.items()
        if name != ".gitattributes"
    }
    assert pushed == _contents(folder.with_name(f"{folder.name}-publish"))


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name[0] != "."
    }


def test_a_dry_run_replaces_a_dry_run_and_nothing_else(published: Make, tmp_path: Path) -> None:
    folder, out = published(), tmp_path / "dry"
    write_dry_run(plan_upload(folder, REPO), out)
    _split_train(folder, _seal)
    write_dry_run(plan_upload(folder, REPO), out)
    assert set(_contents(out)) == {
        "README.md",
        "manifest.json",
        *SHARDS[1:],
        *(f"data/train-0000{i}-of-00002.parquet" for i in (0, 1)),
    }
    (out / OWNER.marks[0]).unlink()
    with pytest.raises(UserError, match="earlier dry run of svco publish, found"):
        write_dry_run(plan_upload(folder, REPO), out)


def test_a_folder_that_does_not_validate_is_refused(published: Make) -> None:
    folder = published()
    with (folder / SHARDS[0]).open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match=r"not published, data/train.*sha256.*svco validate"):
        plan_upload(folder, REPO)
    with pytest.raises(MvcError, match="found none of them"):
        plan_upload(folder / "data", REPO)


LICENCES = [
    ("CC-BY-4.0", ""),
    (" cc by 4.0 ", ""),
    ("CC0", ""),
    ("GPL-3.0-or-later", ""),
    ("MIT OR our own terms", ""),
    ("CC-BY-4.0 AND Apache-2.0", ""),
    ("", "is not stated"),
    ("  ", "is not stated"),
    ("CC-BY-NC-4.0", "non-commercial"),
    ("CC-BY-NC-ND-4.0", "non-commercial"),
    ("for non-commercial use", "non-commercial"),
    ("CC-BY-ND-4.0", "adaptations"),
    ("research only", "who may use it"),
    ("CounterCurate: cc; Flickr30k images: research only, see their terms", "who may use it"),
    ("no redistribution", "passing it on"),
    ("All rights reserved", "reserves"),
    ("unknown", "not among"),
    ("see the terms of GQA", "not among"),
    ("Unsplash", "not among"),
    ("CC-BY-4.0 AND CC-BY-NC-4.0", "non-commercial"),
    ("(MIT OR CC0) AND research only", "who may use it"),
    ("research only AND MIT", "who may use it"),
    ("MITigated", "not among"),
]


@pytest.mark.parametrize(("text", "reason"), LICENCES)
def test_a_licence_passes_only_if_it_is_known_to_let_anybody_share(text: str, reason: str) -> None:
    found = refused({text: 1})
    assert reason in found[text] if reason else not found


def test_an_exception_covers_what_it_names_and_no_more() -> None:
    licenses = {
        "research only": 3,
        "CC-BY-4.0 AND research only": 2,
        "CC-BY-NC-4.0": 1,
        "MIT": 5,
        "": 4,
    }
    assert set(refused(licenses, ["Research Only"])) == {"CC-BY-NC-4.0", ""}
    assert exceptions(licenses, ["research only", "MIT"]) == {
        "research only": 3,
        "CC-BY-4.0 AND research only": 2,
    }
    assert "" in refused(licenses, [""])


def _license(splits: dict[str, list[dict[str, Any]]], split: str, text: str | None) -> None:
    splits[split][0]["license"] = text


def test_a_pair_that_may_not_be_passed_on_stops_it_with_its_number_reason_and_remedy(
    published: Make,
) -> None:
    folder = published(
        lambda splits: (
            _license(splits, "train", "research only"),
            _license(splits, "rejects", "research only"),
        )
    )
    with pytest.raises(UserError) as caught:
        plan_upload(folder, REPO)
    assert "1 kept and 1 dropped pairs under 'research only': it limits who may use it" in str(
        caught.value
    )
    assert "--allow-license 'research only'" in str(caught.value)


def test_a_pair_without_a_licence_can_only_be_given_one(published: Make) -> None:
    folder = published(lambda splits: _license(splits, "validation", ""))
    for allowed in ([], [""], ["MIT"]):
        with pytest.raises(
            UserError,
            match=(
                "no licence.*state the licence in the recipe and build again, or leave out that"
                " source$"
            ),
        ):
            plan_upload(folder, REPO, allowed)


def test_the_licences_are_those_of_the_rows_whatever_the_manifest_says(published: Make) -> None:
    folder = published(lambda splits: _license(splits, "train", "research only"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"licenses": {"MIT": 10}}))
    with pytest.raises(UserError, match="research only"):
        plan_upload(folder, REPO)


def test_the_card_tells_of_exceptions(published: Make) -> None:
    folder = published(lambda splits: _license(splits, "train", "research only"))
    card = plan_upload(folder, REPO, ["research only"]).files["README.md"].decode()
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["license"], header["license_name"]) == ("other", "mit-and-research-only")
    section = card.split("## Licences")[1].split("\n## ")[0]
    assert "states to have that right" in section and section.rstrip().endswith(
        "| `research only` | 1 |"
    )
    assert (
        "states to have that right"
        not in plan_upload(published(), REPO, ["research only"]).files["README.md"].decode()
    )


@pytest.mark.slow
def test_load_dataset_reads_pictures_and_texts_from_the_hub(
    hub: Any, published: Make, tmp_path: Path
) -> None:
    folder = published()
    publish(plan_upload(folder, REPO), REPO)
    code = (
        f"from datasets import load_dataset\npairs = load_dataset({REPO!r}, split='train',"
        " revision='v1')\nassert len(pairs) == 8 and pairs[0]['image_a'].size == (48, 48) and"
        f" 'star' in pairs[0]['answer_a'], pairs[0]\nassert len(load_dataset({REPO!r},"
        f" split='validation')) == 2\nassert len(load_dataset({REPO!r}, 'rejects', split='train'))"
        " == 3\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a finetuned model, as a training run leaves it; its weights are numbers of no
    meaning.
    """
    folder = tmp_path / "trained"
    (folder / "base").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    for name in (
        "chat_template.jinja",
        "tokenizer.json",
        "metrics.jsonl",
        "recipe.yaml",
        ".lock",
        ".svco_train",
        "base/config.json",
    ):
        (folder / name).write_text("{}")
    for index in (1, 2):
        save_file(
            {f"w{index}": np.full(8, index, np.float32)},
            folder / f"model-0000{index}-of-00002.safetensors",
        )
    weight_map = {f"w{index}": f"model-0000{index}-of-00002.safetensors" for index in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    record = {
        "base_model": "org/base-7b",
        "data": str(tmp_path / "mvc"),
        "data_sha256": "ab" * 32,
        "steps": 12,
        "pairs": {"train": 90},
        "objective": {"name": "svco"},
        "start": {"loss": 2.7726},
        "final": {"loss": 1.25},
        "recipe": {"out": str(folder), "optim": {"lr": 1e-6}},
    }
    (folder / "svco.json").write_text(json.dumps(record))
    return folder


def test_a_model_folder_becomes_a_model_repository(hub: Any, model: Path, tmp_path: Path) -> None:
    weights = [f"model-0000{index}-of-00002.safetensors" for index in (1, 2)]
    # of an earlier run, not in the index
    save_file({"old": np.zeros(2, np.float32)}, model / "model.safetensors")
    publish(plan_upload(model, REPO), REPO)
    files = hub.repo(REPO, "model").commits[-1].files
    expected = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "metrics.jsonl",
        "model.safetensors.index.json",
        "svco.json",
        "tokenizer.json",
    ]
    assert sorted(files) == sorted([".gitattributes", *expected, *weights])
    assert files[weights[0]].data == (model / weights[0]).read_bytes()
    record = json.loads(files["svco.json"].data)
    assert (record["data"], record["recipe"]["out"], record["base_model"]) == (
        "mvc",
        "trained",
        "org/base-7b",
    )
    assert not any(str(tmp_path).encode() in blob.data for blob in files.values())
    card = files["README.md"].data.decode()
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["base_model"], header["pipeline_tag"]) == ("org/base-7b", "image-text-to-text")
    assert "| objective | `svco` |" in card and "| loss | 2.7726 | 1.2500 |" in card
    (index,) = header["model-index"]
    assert index["name"] == REPO.split("/")[1]
    (result,) = index["results"]
    assert result["dataset"] == {"name": "mvc", "type": "mvc", "split": "validation"}
    assert result["metrics"] == [{"type": "loss", "value": 1.25}]


def test_a_model_saved_in_fewer_files_leaves_no_stale_weights(hub: Any, model: Path) -> None:
    publish(plan_upload(model, REPO), REPO)
    for path in model.glob("model*"):
        path.unlink()
    save_file({"w": np.ones(4, np.float32)}, model / "model.safetensors")
    (model / "README.md").write_text("---\nlicense: mit\n---\nmy own card")
    assert publish(plan_upload(model, REPO), REPO)[1] == "v2"
    files = hub.repo(REPO, "model").commits[-1].files
    assert [name for name in files if "safetensors" in name] == ["model.safetensors"]
    assert files["README.md"].data.endswith(b"my own card")


@pytest.mark.parametrize("damage", ["missing", "cut", "none"])
def test_a_model_whose_weights_are_not_all_there_is_refused(model: Path, damage: str) -> None:
    second = model / "model-00002-of-00002.safetensors"
    if damage == "missing":
        second.unlink()
    elif damage == "cut":
        second.write_bytes(second.read_bytes()[:-4])
    else:
        for path in model.glob("model*"):
            path.unlink()
    with pytest.raises(
        UserError,
        match=(
            "it has no weights"
            if damage == "none"
            else "model-00002-of-00002.safetensors.*cannot be read"
        ),
    ):
        plan_upload(model, REPO)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder as PEFT writes it: a LoRA on a real, tiny model, with the card that PEFT leaves
    unfilled.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    made = get_peft_model(
        LlamaForCausalLM(LlamaConfig(**shape)), LoraConfig(r=2, target_modules=["q_proj"])
    )
    made.peft_config["default"].base_model_name_or_path = "org/base-7b"
    made.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.slow
def test_an_adapter_folder_becomes_a_repository_that_names_its_base(
    hub: Any, adapter: Path, model: Path
) -> None:
    assert "[More Information Needed]" in (adapter / "README.md").read_text()
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "optimizer.bin").write_text("not for the Hub")
    publish(plan_upload(model, REPO), REPO)
    # what the whole model had there would shadow the adapter
    assert publish(plan_upload(adapter, REPO), REPO)[1] == "v2"
    files = hub.repo(REPO, "model").commits[-1].files
    weights = [
        name
        for name in files
        if name.endswith((".safetensors", ".bin", ".index.json")) or name == "config.json"
    ]
    assert weights == ["adapter_model.safetensors"] and {
        "adapter_config.json",
        "tokenizer.json",
        "README.md",
    } <= set(files)
    card = files["README.md"].data.decode()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["base_model"], header["base_model_relation"], header["library_name"]) == (
        "org/base-7b",
        "adapter",
        "peft",
    )
    assert (
        "PeftModel.from_pretrained" in card
        and '"org/base-7b"' in card
        and f'"{REPO}"' in card
        and "LORA, rank 2" in card
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base_model_name_or_path": "/data/models/base"}, "is a path of this machine"),
        ({"base_model_name_or_path": "build/models/base"}, "is a path of this machine"),
        ({"base_model_name_or_path": None}, "does not say whose adapter it is"),
        ({"base_model_name_or_path": "org/base"}, "it has no weights"),
    ],
)
def test_an_adapter_that_nobody_else_could_use_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    if message != "it has no weights":
        save_file({"w": np.ones(2, np.float32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=message):
        plan_upload(tmp_path, REPO)


def test_an_adapter_without_the_projector_that_was_trained_with_it_is_refused(
    adapter: Path,
) -> None:
    record = {"recipe": {"lora": {"merge": True}, "train": {"train_projector": True}}}
    (adapter.parent / "svco.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=f"the projector was trained too, .+ publish {adapter.parent}"
    ):
        plan_upload(adapter, REPO)
    record["recipe"]["train"]["train_projector"] = False
    (adapter.parent / "svco.json").write_text(json.dumps(record))
    assert plan_upload(adapter, REPO).proof == "adapter_config.json"


@pytest.mark.parametrize("repo", ["huts", "a/b/c", "../x/y", "a b/c", "a/"])
def test_a_repository_needs_an_owner_and_a_name(
    run: Callable[..., Any], tmp_path: Path, repo: str
) -> None:
    code, printed = run(tmp_path, repo=repo)
    assert code == 2 and "expected ORG/NAME" in printed
