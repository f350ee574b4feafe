"""Every node of the cluster is looked at before a training reserves any: see `tdtrain.train.probe`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tdtrain.machine import memory
from tdtrain.ray_start import nodes_in_reach
from tdtrain.train.probe import Place, Seen, differences, gpus_here, look, marked, there, versions

T = TypeVar("T")
ANSWER_S = 300
"""A node may have to install the job's runtime env first."""
WAYS_OUT = {
    "output_dir": "give a folder on a disk that all nodes share",
    "storage_path": "give s3:// or a folder on a disk that all nodes share",
    "teacher_cache": "give s3:// or a folder on a disk that all nodes share",
}
READ_WAY_OUT = "put it where all nodes read it, on a shared disk or in s3://"
SAME_VERSIONS = "install what the driver has, in the node's image or by the job's runtime env"
NO_CODE = "does not find this package; submit with --working-dir ., from its folder"


def check_nodes(writes: Mapping[str, str], reads: Mapping[str, str]) -> None:
    """Asks each living node whether it sees these folders and has the driver's versions, where there are several.

    On those that an autoscaler adds later `check_own_node` does so.

    Args:
        writes: folders that workers write to, by the field of the run.
        reads: folders that they read.

    Raises: ValueError that names field, folder, nodes and a way out.
    """
    nodes = _living()
    if len(nodes) < 2:
        return
    with marked(writes) as places:
        answers = _ask(nodes, (*places, *there(reads)))
    if problems := complaints(answers, {**writes, **reads}):
        raise ValueError("; and ".join(problems))


def check_own_node(expected: Mapping[str, str], places: tuple[Place, ...]) -> None:
    """What `check_nodes` asks a node, asked by a worker of its own, which may have come since.

    Args:
        expected: versions of the driver.
        places: that it reads.

    Raises: ValueError as `check_nodes` does.
    """
    answers = {ray.util.get_node_ip_address(): look(places, "")}
    if problems := complaints(answers, {place.field: place.path for place in places}, expected):
        raise ValueError("; and ".join(problems))


def complaints(
    answers: Mapping[str, Seen | str], paths: Mapping[str, str], expected: Mapping[str, str] | None = None
) -> list[str]:
    """What is wrong, each with the nodes that it is wrong with.

    Args:
        answers: of each node, by its address; in words where there is none.
        paths: of the fields that a node may complain about.
        expected: versions; by default those of this process.
    """
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for address, answer in answers.items():
        if isinstance(answer, str):
            wrong["", f"{answer}; mend or end that node"].append(address)
            continue
        for field, reason in answer.amiss.items():
            wrong[f"{field}={paths[field]} on ", f"{reason}; {WAYS_OUT.get(field, READ_WAY_OUT)}"].append(address)
        if other := differences(expected or versions(), answer.versions):
            wrong["", f"has {other}; {SAME_VERSIONS}"].append(address)
    return [f"{where}node {', '.join(sorted(who))} {what}" for (where, what), who in wrong.items()]


def memory_of_nodes(labels: Mapping[str, str], with_gpus: bool) -> tuple[list[float], list[float]]:
    """Bytes that nodes with these labels have, and bytes of each of their GPUs, as far as they say.

    Args:
        with_gpus: only of nodes that have some.

    Returns: nothing where an autoscaler may bring others of which nobody says what memory they have.
    """
    nodes = [node for node in nodes_in_reach(labels) if not with_gpus or node["Resources"].get("GPU")]
    to_come = [node for node in nodes if "NodeID" not in node]
    if any("memory" not in node["Resources"] for node in to_come):
        return [], []
    nodes = [node for node in nodes if "NodeID" in node]
    here: dict[str, tuple] = {node["NodeID"]: () for node in nodes}
    limits = _on_each(memory, here)
    host = [min(_told_ray(node), _number(limits[node["NodeID"]])) for node in nodes] + [*map(_told_ray, to_come)]
    answers = _on_each(gpus_here, here) if with_gpus else {}
    return host, [size for answer in answers.values() if isinstance(answer, list) for size in answer]


def _told_ray(node: Mapping[str, Any]) -> float:
    """Bytes for tasks and for objects. Ray divides a machine's memory, or a container's, between them; KubeRay gives
    tasks all that a container has, with the objects that are in it."""
    return sum(node["Resources"].get(kind, 0.0) for kind in ("memory", "object_store_memory"))


def _number(answer: int | str) -> float:
    """An answer, no bound where there is none."""
    return inf if isinstance(answer, str) else answer


def _living() -> dict[str, str]:
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _ask(nodes: Mapping[str, str], places: tuple[Place, ...]) -> dict[str, Seen | str]:
    answers = _on_each(look, {node: (places, node) for node in nodes})
    still = (node for node in _living() if node in answers)  # one that fell gets no work
    return by_address((nodes[node], answers[node]) for node in still)


def _on_each(function: Callable[..., T], arguments: Mapping[str, tuple]) -> dict[str, T | str]:
    """What a function returns on each of these nodes; in words where there is none."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*told): node
        for node, told in arguments.items()
    }
    ended, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    answers: dict[str, T | str] = {node: f"has not answered within {ANSWER_S} s" for node in asked.values()}
    for answer in ended:
        try:
            answers[asked[answer]] = ray.get(answer)
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            answers[asked[answer]] = NO_CODE if "No module named 'tdtrain" in last else f"runs no task ({last})"
    return answers


def by_address(answers: Iterable[tuple[str, Seen | str]]) -> dict[str, Seen | str]:
    """What each address answers: of two nodes there, the one that looked; the other is the host's life before."""
    found: dict[str, Seen | str] = {}
    for address, answer in answers:
        if not isinstance(found.get(address), Seen):
            found[address] = answer
    return found
