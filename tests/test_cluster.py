"""The files that start clusters: by Ray's own validation where it has one, by their contents
otherwise. Nothing is started.
"""

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CLUSTER, RAYJOB, DOCKERFILE = (
    ROOT / "cluster.yaml",
    ROOT / "deploy" / "rayjob.yaml",
    ROOT / "deploy" / "Dockerfile",
)
ENTRY_FILES = ("pipeline/build_mvc.py", "training/train_svco.py", "eval/run_eval.py")
RAY = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def _validate(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(cluster)))


@pytest.mark.slow
def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    _validate(cluster)


@pytest.mark.parametrize(
    "change", [{"idle_timeout_minute": 5}, {"head_node_type": "haed"}, {"max_workers": "ten"}]
)
def test_ray_would_refuse_a_mistake_in_it(cluster: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(iter(change))):
        _validate(cluster | change)


def test_the_head_runs_no_task_and_no_worker_waits_idle(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in cluster["head_start_ray_commands"][-1]
    assert [kind["min_workers"] for kind in types.values()] == [0] * len(types)
    assert {name for name, kind in types.items() if kind["resources"].get("GPU")} == {"gpu", "gpu8"}
    assert all(
        kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        for name, kind in types.items()
        if name != "head"
    )
    assert sum(kind["max_workers"] for kind in types.values()) == cluster["max_workers"]


def test_ports_are_closed_and_the_token_is_asked_for(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    assert yaml.safe_load(RAYJOB.read_text().split("\n---\n")[0])["spec"]["rayClusterSpec"][
        "authOptions"
    ] == {"mode": "token"}


def test_every_image_holds_the_ray_that_was_tested(cluster: dict[str, Any]) -> None:
    assert RAY is not None
    images = [cluster["docker"]["head_image"], cluster["docker"]["worker_image"]]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert all(image.startswith(f"rayproject/ray:{RAY[1]}-py311") for image in images), images
    assert _rayjob()["spec"]["rayClusterSpec"]["rayVersion"] == RAY[1]


def test_each_machine_mounts_the_disk_that_containers_see(cluster: dict[str, Any]) -> None:
    mounted = [
        option.removeprefix("-v ").split(":")[0]
        for option in cluster["docker"]["run_options"]
        if option.startswith("-v ")
    ]
    prepared = " ".join(cluster["initialization_commands"])
    assert mounted == ["/mnt/svco", "/mnt/cache"]
    assert all(folder in prepared for folder in mounted)


def test_what_a_user_has_to_fill_in_is_marked(cluster: dict[str, Any]) -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text()
    assert CLUSTER.read_text().count("# CHANGE") == 6, "the file's head says how many"
    for placeholder in ("ami-CHANGE", "fs-CHANGE", "svco-head", "svco-worker"):
        assert placeholder in CLUSTER.read_text()
        assert placeholder in guide


@pytest.mark.parametrize("name", ["iam-head.json", "iam-worker.json"])
def test_policies_allow_no_action_on_everything(name: str) -> None:
    for statement in json.loads((ROOT / "deploy" / name).read_text())["Statement"]:
        actions = (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
        assert statement["Effect"] == "Allow"
        assert not {"*", "ec2:*", "s3:*", "iam:*"} & set(actions)
        if statement["Resource"] == "*":
            assert statement["Condition"], f"{name}: {statement['Sid']} is bounded by nothing"


def _rayjob() -> dict[str, Any]:
    return next(
        document
        for document in yaml.safe_load_all(RAYJOB.read_text())
        if document["kind"] == "RayJob"
    )


def _pods() -> list[dict[str, Any]]:
    cluster = _rayjob()["spec"]["rayClusterSpec"]
    return [
        cluster["headGroupSpec"]["template"]["spec"],
        *(group["template"]["spec"] for group in cluster["workerGroupSpecs"]),
    ]


def _commands() -> list[list[str]]:
    """The job of the file and the two that its head names in comments, as words."""
    named = [
        line.removeprefix("#").strip()
        for line in RAYJOB.read_text().splitlines()
        if re.match(r"#   (pipeline|eval)/\w+\.py ", line)
    ]
    return [shlex.split(line) for line in (_rayjob()["spec"]["entrypoint"], *named)]


def test_all_three_jobs_exist_with_recipes_and_absolute_paths() -> None:
    commands = _commands()
    scripts = [
        next(word for word in words if word.endswith(".py")).removeprefix("/home/ray/svco/")
        for words in commands
    ]
    assert sorted(scripts) == sorted(ENTRY_FILES)
    for words in commands:
        recipe = words[words.index("--recipe") + 1].removeprefix("/home/ray/svco/")
        assert (ROOT / recipe).is_file(), recipe
        for key, _, value in (word.partition("=") for word in words[words.index("--recipe") + 2 :]):
            no_path = key.startswith("workers.") or key.rpartition(".")[2] in ("device", "dtype")
            assert no_path or value.startswith("/data/"), (
                f"{key}={value}: a job's paths are absolute"
            )


def test_every_pod_of_a_job_shares_the_data_and_the_image() -> None:
    pods = _pods()
    claims = {
        document["metadata"]["name"]: document
        for document in yaml.safe_load_all(RAYJOB.read_text())
        if document["kind"] != "RayJob"
    }
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
        claim = claims[volumes["data"]["persistentVolumeClaim"]["claimName"]]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert _rayjob()["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    worker = pods[1]["containers"][0]["resources"]
    assert worker["limits"] == worker["requests"], (
        "Kubernetes takes no fraction of a GPU and no request above its limit"
    )


def test_the_image_copies_what_exists_and_every_package() -> None:
    copied = [
        words[2:-1]
        for words in map(str.split, DOCKERFILE.read_text().splitlines())
        if words[:1] == ["COPY"]
    ]
    sources = {source for words in copied for source in words}
    assert all((ROOT / source).exists() for source in sources)
    assert {
        "pipeline",
        "training",
        "eval",
        "recipes",
        "pyproject.toml",
        "constraints.txt",
    } <= sources
