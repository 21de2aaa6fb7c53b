"""The whole way of a rewritten data set: the user's commands, a model on a server of ours, a Hub of
ours, and `load_dataset`.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import BuildSection
from pipeline.core.images import data_uri
from pipeline.core.ray_pool import Pool
from pipeline.core.recipe import load_recipe
from pipeline.core.schema import SPLITS, read_manifest, read_mvc
from pipeline.rewrite.checks import ChecksSection, answers_failure, question_failure
from pipeline.stages.finalize import publish
from pipeline.stages.plan import plan_build
from pipeline.stages.runner import Build
from tests.pipeline.chat_server import ChatServer
from tests.pipeline.hub_server import Hub, serve
from tests.pipeline.verify.test_build import judging

ROOT = Path(__file__).resolve().parents[2]
NUM_PAIRS = 60
REPO = "stars/huts"

pytestmark = pytest.mark.slow


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub of our own."""
    made = Hub()
    served = serve(made)
    yield made
    made.released.set()
    served.shutdown()
    served.server_close()


def svco(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "svco", *arguments]
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def asked(out: Path, server: ChatServer) -> list[str]:
    """Overrides: a writer and a judge on our server, without an audit."""
    endpoint = {
        "model": "m",
        "base_url": server.base_url,
        "api_key_env": "null",
        "cache": out.parent / "replies",
    }
    judge = [f"verify.judge.endpoint.{name}={value}" for name, value in endpoint.items()]
    writer = [f"rewrite.endpoint.{name}={value}" for name, value in endpoint.items()]
    return [
        f"out={out}",
        "rewrite.backend=openai",
        "rewrite.max_usd=null",
        "audit.enabled=false",
        *writer,
        *judge,
    ]


def check_every_row(out: Path, num_rows: int) -> None:
    """Question and answers of every published row pass all checks."""
    checks = ChecksSection()
    rows = [row for split in SPLITS for row in read_mvc(out, split).to_pylist()]
    assert len(rows) == num_rows
    for row in rows:
        captions, answers = (
            tuple(row[f"{name}_{side}"] for side in "ab") for name in ("caption", "answer")
        )
        assert question_failure(row["question"], *captions, checks) is None, row["question"]
        assert answers_failure(row["question"], answers, captions, checks) is None, answers
        assert row["rewrite_status"] == "llm" and row["rewrite_model"] == "m-0001"


def publish_and_load(out: Path, hub: Hub, tmp_path: Path) -> None:
    """One commit, from which `datasets` reads pictures and texts."""
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
    }
    svco("publish", str(out), "--repo", REPO, **own)
    repo = hub.repo(REPO)
    assert [one.message for one in repo.commits] == [
        "initial commit",
        "Publish v1 with the S-VCO toolkit",
    ]
    kept = read_manifest(out)["rows"]["by_split"]
    first = {split: read_mvc(out, split).slice(0, 1).to_pylist()[0] for split in SPLITS}
    expected = {
        split: [
            kept[split],
            row["question"],
            row["answer_a"],
            hashlib.sha256(row["image_b"]["bytes"]).hexdigest(),
        ]
        for split, row in first.items()
    }
    code = (
        "import hashlib, json, sys\nfrom datasets import Image, load_dataset\nfound = {}\nfor"
        f" split in ('train', 'validation'):\n    pairs = load_dataset({REPO!r}, split=split,"
        " revision='v1')\n    assert pairs[0]['image_a'].size[0] > 30 and"
        " all(row['image_b'].size[1] > 30 for row in pairs)\n    raw ="
        " pairs.cast_column('image_b', Image(decode=False))[0]\n    sha256 ="
        " hashlib.sha256(raw['image_b']['bytes']).hexdigest()\n    found[split] = [len(pairs),"
        " raw['question'], raw['answer_a'], sha256]\nprint(json.dumps(found))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1]) == expected


@pytest.mark.ray
def test_scenes_become_a_data_set_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ChatServer(delay_s=0.01) as server:
        options = [f"sources.0.num_pairs={NUM_PAIRS}", "workers.chunk_pairs=20"]
        svco("build", "--recipe", "recipes/mvc_demo.yaml", *asked(out, server), *options)
        assert set(server.answered.values()) == {1}
    verified = read_manifest(out)["verify"]
    assert (
        verified["margins"]["num_pairs"] == NUM_PAIRS
        and verified["margins"]["frac_positive"]["both"] > 0.7
    )
    assert verified["judge"]["verdicts"]["judged_a_of_a"] == {
        "true": 0,
        "false": 0,
        "missing": NUM_PAIRS,
    }
    check_every_row(out, NUM_PAIRS)
    publish_and_load(out, hub, tmp_path)


def test_hands_are_rewritten_and_judged_row_by_row(test_data: Path, tmp_path: Path) -> None:
    lines = (
        (test_data / "hands/pairs.jsonl").read_text().splitlines()[:: 6750 // NUM_PAIRS][:NUM_PAIRS]
    )
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    captions: dict[str, str] = {}  # of each picture
    for pair in map(json.loads, lines):
        # as the judge is shown them: three were taken with the camera on its side
        for side in "ab":
            uri = data_uri((test_data / "hands" / pair[f"image_{side}"]).read_bytes())
            captions[uri.split(",")[1]] = pair[f"caption_{side}"]

    def verdict(answer: str, image: str) -> str:
        return f'raw {{"verdict": "{"true" if captions[image] in answer else "false"}"}}'

    out = tmp_path / "out"
    with ChatServer(judging(verdict), delay_s=0.01) as server:
        source = [
            f"sources.0.path={tmp_path / 'pairs.jsonl'}",
            f"sources.0.root={test_data / 'hands'}",
            "sources.0.license=Apache-2.0",
        ]
        strict = [
            "verify.on_contradiction=drop",
            "verify.on_affirmation=drop",
            "verify.on_missing_judgement=drop",
        ]
        more = [
            *source,
            *strict,
            *asked(out, server),
            "workers.chunk_pairs=20",
            "validation.fraction=0.2",
        ]
        job = Build(
            plan_build(load_recipe(ROOT / "recipes/mvc_llm.yaml", more, BuildSection)),
            Pool(0).map,
            1,
        )
        job.run()
    publish(job)
    assert set(server.answered.values()) == {1}
    manifest: dict[str, Any] = read_manifest(out)
    num_kept = manifest["rows"]["kept"]
    assert num_kept + manifest["rows"]["dropped"] == NUM_PAIRS and num_kept > NUM_PAIRS * 0.9
    assert (
        manifest["verify"]["judge"]["verdicts"]["judged_a_of_b"]["false"]
        == manifest["verify"]["num_verified"]
    )
    assert not manifest["verify"]["dropped_by_reason"]
    check_every_row(out, num_kept)
