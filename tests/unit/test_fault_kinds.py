"""What a fault strikes is drawn from its generator."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from fault_kinds import FAULTS, WORKER, Ground


def test_a_worker_that_is_struck_may_be_on_any_host_that_has_one(tmp_path: Path) -> None:
    struck: list[Any] = []
    running = [(2, 11), (3, 12)]
    hosts: Any = SimpleNamespace(processes=lambda what: running, kill=lambda what, on=None: struck.append((what, on)))
    for seed in range(20):
        for _ in range(2):
            FAULTS["worker"](Ground(hosts, tmp_path, Random(seed), ExitStack()))
    assert set(struck) == {(WORKER, 2), (WORKER, 3)} and struck[::2] == struck[1::2]
    running.clear()
    with pytest.raises(LookupError):  # another turn, then
        FAULTS["worker"](Ground(hosts, tmp_path, Random(0), ExitStack()))
