"""The commands in the manifests: each is run as far as --dry_run goes, by its script, and has to fit its cluster."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import runpy
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from tests.unit.cluster.manifests import REPOSITORY, Document

IN_IMAGE = "/opt/tdtrain/"
"""Where cluster/image/Dockerfile puts rayjobs/."""


def command_faults(document: Document) -> Iterator[str]:
    """Why a job's entrypoint would not run, or would wait for nodes that its cluster never has."""
    if document["kind"] != "RayJob":
        return
    name = f"RayJob {document['metadata']['name']}"
    try:
        run = dry_run(document["spec"]["entrypoint"])
    except ValueError as error:
        yield f"{name}: {error}"
        return
    groups = document["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    yield from (f"{name}: {fault}" for fault in _places(run, groups[0]))
    yield from (f"{name}: {fault}" for fault in _room(run, groups))


@functools.cache
def dry_run(entrypoint: str) -> dict[str, Any]:
    """The run that a command asks for, as its script resolves it.

    Raises: ValueError with what the script says, where it refuses its flags.
    """
    python, script, *flags = shlex.split(entrypoint)
    path = REPOSITORY / script.removeprefix(IN_IMAGE)
    if python != "python" or not script.startswith(IN_IMAGE) or not path.is_file():
        raise ValueError(f"{python} {script} is no script of ours in the image")
    said, given, importable = io.StringIO(), sys.argv, list(sys.path)
    sys.argv = [str(path), "--dry_run", *flags]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise ValueError(f"{path.name} refuses its flags: {said.getvalue()} {ended.code}") from None
    finally:
        sys.argv, sys.path[:] = given, importable
    return json.loads(said.getvalue())


def _places(run: dict[str, Any], group: Document) -> Iterator[str]:
    mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
    shared = [mount["mountPath"] for mount in mounts if mount["name"] in ("corpus", "runs")]
    for field, path in (("output_dir", run["output_dir"]), ("dataset_path", run["corpus"]["dataset_path"])):
        if path and "://" not in path and not any(f"{path}/".startswith(f"{mount}/") for mount in shared):
            yield f"{field}={path} is on no volume that all nodes share ({', '.join(shared)})"
    own = next(mount for mount in mounts if mount["name"] == "runs")["mountPath"]
    if not run["output_dir"].startswith(f"{own}/"):
        yield f"output_dir={run['output_dir']} cannot be written to; it belongs below {own}"


def _room(run: dict[str, Any], groups: list[Document]) -> Iterator[str]:
    compute, cache = run["compute"], run.get("cache", {})
    workers = max(1, compute["num_workers"]) * (1 + run.get("control", False))
    each = {"nvidia.com/gpu": compute["gpus_per_worker"] or 0, "cpu": compute["cpus_per_worker"] or 1}
    yield from _fits("worker_label", compute["worker_label"], groups, workers, each)
    each = {"nvidia.com/gpu": cache.get("teacher_gpus") or 0, "cpu": 1}
    yield from _fits("teacher_label", cache.get("teacher_label"), groups, cache.get("teacher_actors") or 0, each)


def _fits(field: str, told: str | None, groups: list[Document], number: int, each: dict[str, float]) -> Iterator[str]:
    label = dict([told.split("=", 1)]) if told else {}
    fitting = [group for group in groups if label.items() <= group.get("labels", {}).items()]
    if told and not fitting:
        yield f"{field}={told} is no label of a worker group, so the job is refused"
    for resource, amount in each.items():
        there = sum(_limit(group, resource) * group["maxReplicas"] for group in fitting)
        if number * amount > there:
            yield f"{number} with {amount} {resource} each ({field}={told}) do not fit into {there}"


def _limit(group: Document, resource: str) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get(resource, 0))
