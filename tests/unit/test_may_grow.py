"""Nodes that an autoscaler may add are counted on, where the head says so, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
import ray

from tdtrain.compute import Compute
from tdtrain.may_grow import MAY_GROW
from tdtrain.ray_start import check_elastic, check_label, check_room, cores_of_machine, grows, within_reach
from tdtrain.search.admission import room
from tdtrain.search.runs import SearchRun

SPOT = {"nodes": 2, "resources": {"CPU": 8, "GPU": 1}, "labels": {"pool": "spot"}}
LARGE = {"nodes": 1, "resources": {"CPU": 32}}


def node(cpus: float, gpus: float = 0.0, **labels: str) -> dict[str, Any]:
    own = {"Resources": {"CPU": cpus, "GPU": gpus}, "Labels": labels, "NodeManagerAddress": "10.0.0.1"}
    return {"Alive": True, **own}


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A head alone, and two groups that may come."""
    monkeypatch.setenv(MAY_GROW, json.dumps([SPOT, LARGE]))
    nodes = [node(0, **{"ray.io/node-id": "1"})]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    return nodes


def test_nodes_that_may_come_are_counted_on_and_none_twice(living: list[dict[str, Any]]) -> None:
    for _ in range(3):  # one of the group after the other is there
        assert within_reach({}) == {"CPU": 48.0, "GPU": 2.0} and within_reach({"pool": "spot"})["CPU"] == 16
        check_label({"pool": "spot"})
        check_room(Compute(num_workers=2, worker_label="pool=spot", placement="STRICT_SPREAD").on(2, None))
        living.append(node(8, 1, pool="spot"))
    assert within_reach({})["GPU"] == 3  # a third that the group does not know is there nevertheless
    living[1]["Alive"] = living[2]["Alive"] = living[3]["Alive"] = False
    living.append(node(4, pool="spot"))  # of another kind
    assert within_reach({"pool": "spot"}) == {"CPU": 20.0, "GPU": 2.0}


def test_a_head_alone_is_no_single_machine_where_others_may_come(living: list[dict[str, Any]]) -> None:
    assert cores_of_machine() is None and grows()
    assert room(SearchRun(), Compute(), within_reach({}))[1] == 2
    with pytest.raises(ValueError, match="num_workers=3 with gpus_per_worker=1, and the cluster may have 2 GPUs"):
        room(SearchRun(), Compute(num_workers=3, gpus_per_worker=1), within_reach({}))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"num_workers": 49}, "num_workers=49 with cpus_per_worker=1, and the cluster may have 48 CPUs"),
        ({"num_workers": 17, "worker_label": "pool=spot"}, "nodes with worker_label=pool=spot may have 16 CPUs"),
        ({"cpus_per_worker": 33}, "cpus_per_worker=33 and gpus_per_worker=0, and no node of the cluster"),
        ({"cpus_per_worker": 9, "worker_label": "pool=spot"}, "cpus_per_worker=9 .* no node with worker_label=pool=s"),
        ({"num_workers": 2, "cpus_per_worker": 9, "placement": "STRICT_SPREAD"}, "and 1 nodes have room for one"),
    ],
)
def test_what_no_node_that_comes_has_is_refused(asked: dict, why: str, living: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=why):
        check_room(Compute(**asked).on(0, None))


def test_a_label_that_no_node_will_have_is_refused_at_once(living: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"worker_label=pool=spots, and .* nor has one that may come; .* pool=spot$"):
        check_label({"pool": "spots"})
    with pytest.raises(ValueError, match=f"worker_label=pool=spot: .* node of {MAY_GROW}, which has room"):
        check_elastic(Compute(num_workers=2, min_workers=1, worker_label="pool=spot").on(0, None))


def test_who_is_refused_on_a_cluster_is_told_how_to_say_that_nodes_may_come(
    living: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MAY_GROW)
    assert within_reach({}) == {"CPU": 0.0, "GPU": 0.0} and not grows()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("tdtrain.ray_start.NODES_COME_S", 0.0)
    for check in (lambda: check_room(Compute()), lambda: check_label({"pool": "spot"})):
        with pytest.raises(ValueError, match=f"an autoscaler may add others, say so in {MAY_GROW}"):
            check()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("yes", "Invalid JSON"),
        ('{"nodes": 1}', "valid array"),
        ('[{"nodes": 0, "resources": {}}]', "0.nodes"),
        ('[{"nodes": 1, "resources": {}, "label": {}}]', "0.label"),
    ],
)
def test_what_cannot_be_read_is_named(told: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAY_GROW, told)
    with pytest.raises(ValueError, match=rf"{MAY_GROW}=.*{why}.*as in \[.*or unset it"):
        grows()
