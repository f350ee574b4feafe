"""Joining the Ray cluster there is, or starting a quiet local one."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._private.state import state as _state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tdtrain.compute import Compute
from tdtrain.machine import cores

T = TypeVar("T")
SPARE_CPUS = 2
"""For the tasks that bring data, which need little: a pipeline that finds no CPU waits for ever."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it where a submitted job runs."""
NODES_COME_S = 60.0
"""Of a cluster that was just made some nodes, and what its autoscaler may add, are known a little later."""


def _joins() -> bool:
    """Whether there is a cluster to join."""
    address = os.environ.get("RAY_ADDRESS")
    return address != "local" if address else JOB in os.environ


def beside_us() -> NodeAffinitySchedulingStrategy:
    """Where an actor of the driver's belongs: on its node, so that it outlives every other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def connect(num_cpus: int | None = None, at_least: float = 2) -> dict[str, float]:
    """Connects this process to Ray, where it is not connected yet. Returns what the cluster has, by resource.

    Inside a job, or with RAY_ADDRESS set, that cluster is joined; otherwise a local one starts.

    Args:
        num_cpus: logical CPUs of a local cluster; by default those of the machine and SPARE_CPUS. A cluster that is
            joined keeps its own.
        at_least: a local cluster has so many beside SPARE_CPUS, even where the machine has not.
    """
    # These announce defaults and how many processes a pool has.
    for name in (
        "ray._private.authentication.authentication_token_setup",
        "ray.data._internal.progress",
        "ray.train",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*exclude_resources.*")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Two trainings and their data tasks are a dozen processes; Ray warns from four times this number on.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(6, cores())))
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Threads of an operation wait for each other by spinning; beside other processes that makes it 10 times as slow.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not ray.is_initialized():
        in_job, local = JOB in os.environ, not _joins()
        address = "local" if local else os.environ.get("RAY_ADDRESS") or "auto"
        if not local:  # Ray's record of trainings
            os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
        ray.init(
            address=address,
            num_cpus=(num_cpus or SPARE_CPUS + max(ceil(at_least), cores())) if local else None,
            include_dashboard=False if local else None,
            logging_level=logging.WARNING,
            log_to_driver=not local,
            runtime_env=None if in_job else _package(local),
        )
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return ray.cluster_resources()


def cores_of_machine() -> int | None:
    """CPUs for training, where the cluster is a single machine: all but SPARE_CPUS, and no more than there are; None
    where there are more machines."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return max(1, min(cores(), int(alive[0]["Resources"].get("CPU", 1)) - SPARE_CPUS)) if len(alive) == 1 else None


def wherever(function: Callable[..., T], *args: Any, memory: float) -> T:
    """What a function returns that runs once: in this process where the cluster is a single machine, else on a node
    that has a CPU and so many bytes of memory, or has the most.

    Raises: MemoryError where that was not enough.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    if len(alive) < 2 and not (alive and grows()):
        return function(*args)
    most = max((has.get("memory", 0.0) for has in alive if has.get("CPU", 0.0) >= 1), default=0.0)
    needs: Any = {"memory": int(min(memory, most))} if most else {}
    task: Any = ray.remote(num_cpus=1, max_retries=0, **needs)(function)
    try:
        return ray.get(task.remote(*args))
    except (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError) as error:
        raise MemoryError(f"{memory / 2**30:.1f} GiB are needed on one node, and whoever did it there died") from error


def drop_orphaned_groups() -> None:
    """Gives back what actors of this job had reserved that are dead: Ray does so when the whole job is, and Ray Train's
    own cleaner asks a dashboard, which a local cluster has not."""
    kind: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # made by protobuf
    own, nobody = ray.get_runtime_context().get_job_id(), ray.ActorID.nil().binary()  # what the driver reserved stays
    for content in _state._connect_and_get_accessor().get_placement_group_table():
        group = kind.FromString(content)
        gone = group.state == kind.REMOVED
        orphaned = group.creator_actor_dead and group.creator_actor_id != nobody
        if orphaned and group.creator_job_id.hex() == own and not gone:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def check_label(labels: Mapping[str, str], field: str = "worker_label") -> None:
    """Raises ValueError where no node has these labels, so that workers would wait for ever."""
    there = [node.get("Labels", {}) for node in ray.nodes() if node["Alive"]]
    if grows():  # a node that comes may have it
        return
    if not any(labels.items() <= own.items() for own in there):
        words = ", ".join(f"{key}={value}" for key, value in labels.items())
        seen = sorted({f"{key}={value}" for own in there for key, value in own.items() if "node-id" not in key})
        raise ValueError(f"{field}={words}, and no node has that label; there are {', '.join(seen) or 'none'}")


def at_most(there: Mapping[str, float]) -> dict[str, float]:
    """What a cluster has or, where it grows, may have, by resource.

    Args:
        there: what it has.
    """
    told = _state.get_max_resources_from_cluster_config() or {}
    return {kind: max(there.get(kind, 0.0), float(told.get(kind, 0))) for kind in {*there, *told}}


def within_reach(labels: Mapping[str, str]) -> dict[str, float]:
    """What nodes with these labels have together or, where the cluster grows, all may have, by resource."""
    there: Counter[str] = Counter()
    for node in (node for node in ray.nodes() if node["Alive"] and labels.items() <= node.get("Labels", {}).items()):
        there.update(node["Resources"])
    return at_most(there)


def are_others(labels: Mapping[str, str]) -> bool:
    """Whether there are nodes without these labels, or may be."""
    alive = [node.get("Labels", {}) for node in ray.nodes() if node["Alive"]]
    return grows() or any(not labels.items() <= own.items() for own in alive)


def grows() -> bool:
    """Whether an autoscaler may add nodes."""
    return _state.get_max_resources_from_cluster_config() is not None


def check_elastic(compute: Compute) -> None:
    """Raises ValueError where there is a node without the label of elastic workers that has room for one: Ray Train
    would count on it, and wait for ever.

    Args:
        compute: with what was left out decided.
    """
    if compute.min_workers is None or not compute.labels:
        return
    for node in (node for node in ray.nodes() if node["Alive"]):
        if not compute.labels.items() <= node.get("Labels", {}).items() and _fits(compute, node):
            raise ValueError(
                f"min_workers={compute.min_workers} with worker_label={compute.worker_label}: Ray Train counts room "
                f"for workers without regard to labels, and node {node['NodeManagerAddress']}, which has room, has no "
                "such label; label it, leave either out, or have workers ask for what labelled nodes alone have, such "
                "as gpus_per_worker"
            )


def whose(compute: Compute) -> str:
    """Who has what a run may use, with its verb."""
    return f"nodes with worker_label={compute.worker_label} have" if compute.labels else "the cluster has"


def check_room_on_a_node(compute: Compute) -> None:
    """Raises ValueError where no single node has room for one worker, however much the cluster has.

    Args:
        compute: with what was left out decided.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and _fits(compute, node)]
    if not any(compute.labels.items() <= node.get("Labels", {}).items() for node in nodes):
        of = f"worker_label={compute.worker_label}" if compute.labels else "the cluster"
        raise ValueError(
            f"cpus_per_worker={compute.cpus:g} and gpus_per_worker={compute.gpus:g}, and no node of {of} has "
            "both, so that training could never start; give less"
        )


def check_room(compute: Compute) -> None:
    """Raises ValueError where workers would wait for ever: there is no room for them, and none comes.

    Args:
        compute: with what was left out decided.
    """
    until = time.monotonic() + (NODES_COME_S if _joins() else 0.0)
    while True:
        try:
            return _check_room(compute, within_reach(compute.labels))
        except ValueError:
            if time.monotonic() >= until:
                raise
        time.sleep(2.0)


def _check_room(compute: Compute, resources: Mapping[str, float]) -> None:
    workers = compute.num_workers if compute.min_workers is None else compute.min_workers
    field = "num_workers" if compute.min_workers is None else "min_workers"
    for kind, each in (("CPU", compute.cpus), ("GPU", compute.gpus)):
        if workers * each > (has := resources.get(kind, 0.0)):
            raise ValueError(
                f"{field}={workers} with {kind.lower()}s_per_worker={each:g}, and {whose(compute)} {has:g} {kind}s, so "
                "that training could never start; give less"
            )
    if grows():
        return
    check_room_on_a_node(compute)
    nodes = [node for node in ray.nodes() if node["Alive"] and _fits(compute, node)]
    labelled = [node for node in nodes if compute.labels.items() <= node.get("Labels", {}).items()]
    if compute.placement == "STRICT_SPREAD" and len(labelled) < workers:
        raise ValueError(
            f"placement=STRICT_SPREAD with {field}={workers}, and {len(labelled)} nodes have room for one, so that "
            "training could never start; use SPREAD, or fewer workers"
        )


def _fits(compute: Compute, node: Mapping[str, Any]) -> bool:
    """Whether a node has what one worker reserves."""
    has = node["Resources"]
    return has.get("CPU", 0) >= compute.cpus and has.get("GPU", 0) >= compute.gpus


def _package(local: bool) -> dict:
    """Makes workers find this package where it is not installed. A submitted job has its own working_dir instead."""
    package = Path(__file__).resolve().parent
    if not local:
        return {"py_modules": [str(package)]}
    return {
        "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, (str(package.parent), os.environ.get("PYTHONPATH"))))}
    }
