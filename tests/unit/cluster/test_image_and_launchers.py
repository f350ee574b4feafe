"""The image holds what the manifests start, and `ray up` takes the launchers."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray.autoscaler._private.util import prepare_config, validate_config

from tdtrain.may_grow import MAY_GROW
from tests.unit.cluster.commands import IN_IMAGE
from tests.unit.cluster.manifests import REPOSITORY, cluster_of, groups_of, pods_of, render

LAUNCHERS = sorted((REPOSITORY / "cluster" / "launchers").glob("*.yaml"))


def _dockerfile() -> str:
    text = (REPOSITORY / "cluster" / "image" / "Dockerfile").read_text()
    return re.sub(r"\\\n\s*", " ", text)


def test_the_image_is_small_pinned_and_not_of_root() -> None:
    build, final = _dockerfile().split("\nFROM ")[1:]
    assert build.splitlines()[0].endswith(" AS build")
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["1000:1000"]
    assert "pip install" not in final
    torch, rest = build.split("ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt\n")
    assert "WORKDIR /src\nCOPY constraints.txt ./\n" in torch and "pip install" in rest
    for command in re.findall(r"pip install [^&;\n]*", torch):
        assert "constraints.txt)" in command, command
    paths = re.findall(r"PATH=(/opt/venv/bin:\$PATH:/usr/local/nvidia/bin)(?:'| )", final)
    assert len(paths) == 2, "login shells begin with a PATH of their own"
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64 " in final
    assert re.search(rf"^COPY rayjobs {IN_IMAGE}rayjobs$", final, re.MULTILINE)


def test_the_image_is_given_what_it_copies_and_nothing_else() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", _dockerfile(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert "*" in ignored and let_in == copied
    assert all((REPOSITORY / source).exists() for source in copied)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_image_says_what_it_needs() -> None:
    told = subprocess.run(["make", "image", "ENGINE="], cwd=REPOSITORY, capture_output=True, text=True)
    assert told.returncode and "needs docker or podman" in told.stderr
    shown = subprocess.run(
        ["make", "-n", "image", "ENGINE=podman", "VARIANT=cuda"], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout
    asked = set(re.findall(r"--build-arg (\w+)=", shown))
    assert asked == {"VARIANT"} and asked <= set(re.findall(r"ARG (\w+)", _dockerfile()))
    assert re.search(r"--tag tdtrain:[\d.]+-cuda ", shown)


def test_probes_ask_where_ray_answers() -> None:
    (cluster,) = render("clusters/cpu")
    spec = cluster_of(cluster)
    assert spec is not None
    for _, group in groups_of(spec):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = group["template"]["spec"]["containers"][0][probe]["httpGet"]
            assert asked == {"path": "/api/healthz", "port": DEFAULT_DASHBOARD_AGENT_LISTEN_PORT}


def test_the_platform_starts_its_services_as_they_are_started() -> None:
    from mlflow.cli import server

    pods = {one["metadata"]["name"]: pod for one in render("platform") for _, pod in pods_of(one)}
    mlflow, redis = (pods[name]["spec"]["containers"][0] for name in ("mlflow", "redis"))
    assert mlflow["command"] == ["mlflow"] and mlflow["args"][0] == "server"
    told = server.make_context("server", mlflow["args"][1:]).params
    assert told["backend_store_uri"].startswith("sqlite:////mlflow/") and "mlflow:5000" in told["allowed_hosts"]
    assert "$(REDIS_PASSWORD)" not in str(redis), "an argument can be read by everybody on the node"


def _launcher(path: Any) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_ray_takes_a_launcher(path: Any) -> None:
    config = prepare_config(_launcher(path))
    validate_config(config)
    assert config["provider"]["type"] == path.stem
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    for command in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert not config[command], "the image cannot be written to"
    starts = [config[f"{node}_start_ray_commands"][-1] for node in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in _launcher(path)["file_mounts"].values()
    ours = re.search(r'^version = "(.*)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert ours is not None and config["docker"]["image"] == f"tdtrain:{ours[1]}-cuda"


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_a_launcher_s_head_says_which_nodes_may_come(path: Any) -> None:
    config = _launcher(path)
    (told,) = [word for word in shlex.split(config["head_start_ray_commands"][-1]) if word.startswith(f"{MAY_GROW}=")]
    types = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert json.loads(told.partition("=")[2]) == [
        {"nodes": kind["max_workers"], "resources": kind["resources"], "labels": kind["labels"]} for kind in types
    ]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("place", ["top", "docker", "node"])
def test_a_misspelt_launcher_is_refused(path: Any, place: str) -> None:
    config = _launcher(path)
    if place == "node":
        config["available_node_types"]["spot"]["min_worker"] = 0
    elif place == "docker":
        config["docker"]["pull_before_runs"] = True
    else:
        config["idle_timeout"] = 5
    with pytest.raises(ValidationError):
        validate_config(prepare_config(config))
