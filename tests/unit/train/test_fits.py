"""Whether a language model has room, against machines of all sizes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray

from tdtrain import machine
from tdtrain.compute import Compute
from tdtrain.config import LoraDocumentRun
from tdtrain.may_grow import MAY_GROW
from tdtrain.search.admission import check_memory
from tdtrain.search.space import parse_axis
from tdtrain.train import nodes
from tdtrain.train.fits import GIB, Room, check_fits, judge, room_of
from tdtrain.train.memory import Memory, Sizes
from tdtrain.train.probe import gpus_here

LLAMA = Sizes(
    frozen=8_030_000_000, packed=0, trained=27_000_000, largest_layer=525_000_000, kept=(20 * GIB, 5 * GIB), working=0
)
NEEDED = Memory(weights=15 * GIB, gradients=GIB, optimizer=GIB, activations=20 * GIB, working=GIB)


def said(room: Room, gpus: float = 1.0, **options: object) -> str:
    compute, room = Compute(num_workers=2, gpus_per_worker=gpus, **options), room._replace(on_gpu=gpus > 0)
    return judge(LoraDocumentRun(model_name="llama"), compute, LLAMA, NEEDED, True, room)


@pytest.mark.parametrize(
    ("room", "gpus", "why"),
    [
        (
            Room(100 * GIB, 16 * GIB),
            1.0,
            r"takes 17.0 GiB of each worker's GPU before .*there are 16.0; use zero_stage=3",
        ),
        (Room(14 * GIB, 80 * GIB), 1.0, r"first holds all weights, 15.0 GiB of its host, which has 14.0"),
        (Room(16 * GIB), 0.0, r"num_workers=2 and zero_stage=0 takes 17.0 GiB of each worker's host"),
    ],
)
def test_what_can_never_have_room_is_refused(room: Room, gpus: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        said(room, gpus)


def test_what_may_have_none_is_said_and_what_nobody_knows_is_not() -> None:
    assert "up to 38.0 GiB of each worker's GPU" in said(Room(100 * GIB, 24 * GIB))
    assert said(Room(100 * GIB, 80 * GIB)) == said(Room(None)) == said(Room(None, None)) == ""
    assert said(Room(100 * GIB, 16 * GIB), offload=True, zero_stage=3) == ""


def test_a_small_model_has_room_here_and_a_container_has_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LoraDocumentRun(model_name="smollm2-135m", max_tokens=256)
    assert check_fits(run, Compute(num_workers=0)) == ""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "MEMORY", limit)
    whole = machine.memory()
    limit.write_text("max\n")
    assert machine.memory() == whole > 1e8
    limit.write_text("100000000\n")
    assert room_of(Compute(num_workers=0)) == Room(1e8)
    with pytest.raises(ValueError, match="model_name=smollm2-135m with num_workers=0"):
        check_fits(run, Compute(num_workers=0))
    axes = [parse_axis("lora.rank=choice(8, 64)"), parse_axis("optimisation.learning_rate=log(1e-4, 1e-2)")]
    for at_once, gib in ((1, 1), (8, 8), (8, 1)):
        limit.write_text(f"{gib * GIB}\n")
        if gib < at_once:
            with pytest.raises(ValueError, match="model_name=smollm2-135m"):
                check_memory(run, axes, Compute(num_workers=0), at_once)
        else:
            check_memory(run, axes, Compute(num_workers=0), at_once)


def test_the_fewest_workers_have_to_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeRO-3 spreads what each holds over them."""
    run = LoraDocumentRun(model_name="smollm2-135m", max_tokens=256)
    compute = Compute(num_workers=8, zero_stage=3, gpus_per_worker=0)
    monkeypatch.setattr("tdtrain.train.fits.room_of", lambda compute, at_once: Room(GIB, 0.2 * GIB, on_gpu=True))
    assert "GiB of each worker's GPU are needed" in check_fits(run, compute)
    with pytest.raises(ValueError, match=r"with min_workers=2 and zero_stage=3 takes .* each worker's GPU before"):
        check_fits(run, compute.model_copy(update={"min_workers": 2}))


def test_a_node_has_no_more_than_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KubeRay says all of a container's memory for tasks, and objects beside it."""
    limit = tmp_path / "memory.max"
    limit.write_text(f"{12 * GIB}\n")
    monkeypatch.setattr(machine, "MEMORY", limit)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB))
    told = {"memory": 12.0 * GIB, "object_store_memory": 3.6 * GIB}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "NodeID": "a", "Resources": told}])
    monkeypatch.setattr(nodes, "_on_each", lambda function, arguments: {node: function() for node in arguments})
    assert room_of(Compute(num_workers=2, gpus_per_worker=0)) == Room(6.0 * GIB)
    limit.write_text("max\n")
    assert nodes.memory_of_nodes({}, with_gpus=False) == ([15.6 * GIB], [])
    monkeypatch.setattr(nodes, "_on_each", lambda function, arguments: dict.fromkeys(arguments, "has not answered"))
    assert nodes.memory_of_nodes({}, with_gpus=True) == ([], [])  # none has GPUs
    assert nodes.memory_of_nodes({}, with_gpus=False) == ([15.6 * GIB], [])


def test_nodes_that_may_come_have_the_memory_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"Alive": True, "NodeID": "a", "Resources": {"CPU": 8.0, "memory": 7.5 * GIB}}
    monkeypatch.setattr(ray, "nodes", lambda: [there])
    monkeypatch.setattr(nodes, "_on_each", lambda function, arguments: dict.fromkeys(arguments, 9.0 * GIB))
    groups = [{"nodes": 3, "resources": {"CPU": 8, "memory": 8 * GIB}}]
    monkeypatch.setenv(MAY_GROW, json.dumps(groups))
    assert nodes.memory_of_nodes({}, with_gpus=False) == ([7.5 * GIB, 8 * GIB, 8 * GIB], [])
    del groups[0]["resources"]["memory"]  # type: ignore[attr-defined]
    monkeypatch.setenv(MAY_GROW, json.dumps(groups))
    assert nodes.memory_of_nodes({}, with_gpus=False) == ([], [])


def test_gpus_say_how_large_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == []
    tool.write_text("#!/bin/sh\necho 81559\necho '[N/A]'\n")
    tool.chmod(0o755)
    assert gpus_here() == [81559 * 2**20]
