"""Joining the Ray cluster there is, or starting a quiet local one."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tdtrain.compute import Compute
from tdtrain.machine import cores
from tdtrain.may_grow import MAY_GROW, coming, groups

T = TypeVar("T")
SPARE_CPUS = 2
"""For the tasks that bring data, which need little: a pipeline that finds no CPU waits for ever."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it where a submitted job runs."""
NODES_COME_S = 60.0
"""Of a cluster that was just made some nodes are known a little later."""


def _joins() -> bool:
    """Whether there is a cluster to join."""
    address = os.environ.get("RAY_ADDRESS")
    return address != "local" if address else JOB in os.environ


def beside_us() -> NodeAffinitySchedulingStrategy:
    """Where an actor of the driver's belongs: on its node, so that it outlives every other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def connect(num_cpus: int | None = None, at_least: float = 2) -> None:
    """Connects this process to Ray, where it is not connected yet.

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


def cores_of_machine() -> int | None:
    """CPUs for training, where the cluster is a single machine: all but SPARE_CPUS, and no more than there are; None
    where there are more machines, or may be."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    if grows() or len(alive) != 1:
        return None
    return max(1, min(cores(), int(alive[0]["Resources"].get("CPU", 1)) - SPARE_CPUS))


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


def grows() -> bool:
    """Whether an autoscaler may add nodes."""
    return bool(groups())


def nodes_in_reach(labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The nodes with these labels, those that an autoscaler may add among them."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [node for node in (*alive, *coming(alive)) if labels.items() <= node.get("Labels", {}).items()]


def within_reach(labels: Mapping[str, str]) -> dict[str, float]:
    """What nodes with these labels have together, those that an autoscaler may add among them, by resource."""
    there: Counter[str] = Counter()
    for node in nodes_in_reach(labels):
        there.update(node["Resources"])
    return dict(there)


def are_others(labels: Mapping[str, str]) -> bool:
    """Whether there are nodes without these labels, or may be."""
    return any(not labels.items() <= node.get("Labels", {}).items() for node in nodes_in_reach({}))


def check_label(labels: Mapping[str, str], field: str = "worker_label") -> None:
    """Raises ValueError where no node has these labels, and none that comes will, so that workers would wait for
    ever."""
    _once_nodes_are_known(partial(_check_label, labels, field))


def _check_label(labels: Mapping[str, str], field: str) -> None:
    if not nodes_in_reach(labels):
        words = ", ".join(f"{key}={value}" for key, value in labels.items())
        every = nodes_in_reach({})
        seen = sorted({f"{key}={value}" for node in every for key, value in node.get("Labels", {}).items()})
        there = ", ".join(label for label in seen if "node-id" not in label) or "none"
        nor = ", nor has one that may come" if grows() else ""
        raise ValueError(f"{field}={words}, and no node has that label{nor}; there are {there}{or_say()}")


def or_say() -> str:
    """The way out where a job is refused for nodes that an autoscaler would bring, of which nobody has said so."""
    return f"; where an autoscaler may add others, say so in {MAY_GROW} (docs/deploy.md)" if _joins() else ""


def _once_nodes_are_known(check: Callable[[], None]) -> None:
    until = time.monotonic() + (NODES_COME_S if _joins() else 0.0)
    while True:
        try:
            return check()
        except ValueError:
            if time.monotonic() >= until:
                raise
        time.sleep(2.0)


def check_elastic(compute: Compute) -> None:
    """Raises ValueError where there is a node without the label of elastic workers that has room for one, or may come:
    Ray Train would count on it, and wait for ever.

    Args:
        compute: with what was left out decided.
    """
    if compute.min_workers is None or not compute.labels:
        return
    for node in nodes_in_reach({}):
        if not compute.labels.items() <= node.get("Labels", {}).items() and _fits(compute, node):
            raise ValueError(
                f"min_workers={compute.min_workers} with worker_label={compute.worker_label}: Ray Train counts room "
                f"for workers without regard to labels, and node {node['NodeManagerAddress']}, which has room, has no "
                "such label; label it, leave either out, or have workers ask for what labelled nodes alone have, such "
                "as gpus_per_worker"
            )


def whose(compute: Compute) -> str:
    """Who has what a run may use, with its verb."""
    if compute.labels:
        return f"nodes with worker_label={compute.worker_label} {'may ' if grows() else ''}have"
    return f"the cluster {'may have' if grows() else 'has'}"


def check_room_on_a_node(compute: Compute) -> None:
    """Raises ValueError where no single node has room for one worker, however much the cluster has.

    Args:
        compute: with what was left out decided.
    """
    if not any(_fits(compute, node) for node in nodes_in_reach(compute.labels)):
        which = f"with worker_label={compute.worker_label}" if compute.labels else "of the cluster"
        raise ValueError(
            f"cpus_per_worker={compute.cpus:g} and gpus_per_worker={compute.gpus:g}, and no node {which} has both, so "
            f"that training could never start; give less{or_say()}"
        )


def check_room(compute: Compute) -> None:
    """Raises ValueError where workers would wait for ever: there is no room for them, and none comes.

    Args:
        compute: with what was left out decided.
    """
    _once_nodes_are_known(partial(_check_room, compute))


def _check_room(compute: Compute) -> None:
    resources = within_reach(compute.labels)
    workers = compute.num_workers if compute.min_workers is None else compute.min_workers
    field = "num_workers" if compute.min_workers is None else "min_workers"
    for kind, each in (("CPU", compute.cpus), ("GPU", compute.gpus)):
        if workers * each > (has := resources.get(kind, 0.0)):
            raise ValueError(
                f"{field}={workers} with {kind.lower()}s_per_worker={each:g}, and {whose(compute)} {has:g} {kind}s, so "
                f"that training could never start; give less{or_say()}"
            )
    check_room_on_a_node(compute)
    nodes = [node for node in nodes_in_reach(compute.labels) if _fits(compute, node)]
    if compute.placement == "STRICT_SPREAD" and len(nodes) < workers:
        raise ValueError(
            f"placement=STRICT_SPREAD with {field}={workers}, and {len(nodes)} nodes have room for one, so that "
            f"training could never start; use SPREAD, or fewer workers{or_say()}"
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
