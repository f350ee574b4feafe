"""What a fault strikes is drawn from its generator, and jobs are struck until each fault has struck often enough."""

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
from faults import SOAK, Run, Strike, Study, missing, table


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


def job(fault: str, strikes: int = 0, submitted: int = 1, failed: str = "", weights: str = "same") -> Run:
    struck = [Strike(fault=fault, at_s=1.0, workers_s=4.0 + i, checkpoint_s=10.0 + i) for i in range(strikes)]
    return Run(fault=fault, turn=0, strikes=struck, submitted=submitted, failed=failed, weights=weights)


def test_a_fault_strikes_often_enough_however_many_jobs_that_takes() -> None:
    study = Study(faults=("worker", "head"), moments=3)
    whole = job("")
    for runs, next_one in (
        ([], ""),
        ([whole], "worker"),
        ([whole, job("worker", 2)], "worker"),
        ([whole, job("worker", 2), job("worker", 1)], "head"),
        ([whole, job("worker", 3), *[job("head", 0, failed="no end")] * 2], "head"),
        ([whole, job("worker", 3), *[job("head", 0, failed="no end")] * 3], None),  # it never will
    ):
        assert missing(study, runs) == next_one
    soak = study.model_copy(update={"soak_min": 30})
    assert [missing(soak, runs) for runs in ([], [whole], [whole, job(SOAK, 30)])] == ["", SOAK, None]


def test_the_table_says_what_became_of_all_that_were_struck() -> None:
    jobs = [job("worker", 2), job("worker", 3, submitted=3, weights="other"), job("worker", 1, failed="no end")]
    jobs[0].again = 1
    heads, _, row = [line.split(" | ") for line in table([job(""), *jobs]).splitlines()]
    told = dict(zip(heads, row, strict=True))
    assert (told["struck"], told["went on by itself"], told["by hand"]) == ("6", "3", "2")
    assert told["submitted again for that"] == "1"
    assert (told["new workers after"], told["next checkpoint after"]) == ("5 s (6)", "11 s (12)")
    assert (told["jobs"], told["came to their end"], told["same weights"]) == ("3", "2", "1")
