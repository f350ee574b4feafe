"""A job goes on by itself where hosts come and go, and each step learns from what it should."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
import yaml

from cluster.local.hosts import GCS_PORT, HEAD, Hosts
from cluster.local.network import address
from tdtrain.compute import evaluation_steps
from tdtrain.data.storage import open_folder
from tdtrain.data.training_set import stream
from tdtrain.train.checkpoint import progress
from tdtrain.train.in_process import fit_here
from tdtrain.train.launch import plan_job
from tdtrain.train.ledger import amiss
from tdtrain.train.runs import TrainRun
from tdtrain.train.state import Record
from tdtrain.train.whole import names, step_of
from tdtrain.train.worker import Job
from tests.checkpoints import committed
from tests.corpora import packed_lines

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
WAIT_S = 600
BATCH = 12
EVERY = 70
"""Steps from one evaluation to the next, where twenty are asked for."""
POLL_S = 2
"""Asking takes a tenth of a second of a core."""
WORKER = "RayTrainWorker"
LEARNING_RATE = 1e-4
"""At 1e-3 this training is chaotic: noise of 3e-7 a step in the weights is 0.2 % of the loss after 70 steps, and all of
it after 120. Here it is 0.01 % after 200, where moments that were lost at step 70 double it."""
LOSS_TOLERANCE = 1e-3
"""Of each step's loss, relative, in fp32: sums are taken in another order. (7e-5 was measured in 140 steps.)"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_lines(tmp_path_factory.mktemp("shared"), num=120)


@pytest.fixture(autouse=True)
def all_hosts(hosts: Hosts) -> Iterator[None]:
    """Whatever a test has done to them, they are there afterwards."""
    yield
    for number in hosts.network.numbers:
        if not hosts.processes("raylet", number):  # the head learns of it only after a while
            hosts.start(number)
    hosts.wait_for(len(hosts.network.numbers))


class Running:
    """A job that adapts a reader, of more epochs than it is watched for; it is stopped at the end of the block."""

    def __init__(self, hosts: Hosts, corpus: str, out: Path, *options: str) -> None:
        self._hosts, self.out, self._id = hosts, out, out.parent.name
        self._token = hosts.token_file.read_text()
        command = [
            "ray", "job", "submit", "--working-dir", ".", "--no-wait", "--submission-id", self._id, "--",
            "python", "rayjobs/lora_ocr.py", "--model_name", "ppocrv6-tiny", "--rank", "2", "--target_modules", "all",
            "--dataset_path", corpus, "--output_dir", str(out), "--epochs", "200", "--batch_size", str(BATCH),
            "--learning_rate", str(LEARNING_RATE), "--max_evaluation_lines", "10", *options,
        ]  # fmt: skip
        done = hosts.run(command, HEAD, cwd=ROOT, timeout_s=300)
        assert done.returncode == 0, done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._hosts.ask(f"/api/jobs/{self._id}/stop", self._token, body="{}")
        while self.workers():
            time.sleep(POLL_S)

    def ask(self, path: str = "") -> str:
        return self._hosts.ask(f"/api/jobs/{self._id}{path}", self._token, on=HEAD)[1]

    def until(self, there: Callable[[], object]) -> None:
        """Waits, as long as the job runs."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(ConnectionError):  # everything is slow while processes start
                if there():
                    return
                status = json.loads(self.ask())["status"]
                in_time = time.monotonic() < began + WAIT_S
                assert in_time and status in ("PENDING", "RUNNING"), f"{status}: {self.ask('/logs')[-5000:]}"
            time.sleep(POLL_S)

    def workers(self) -> set[tuple[int, int]]:
        return set(self._hosts.processes(WORKER))

    def check_rows(self) -> tuple[Job, list[Record]]:
        """Looks what the newest whole checkpoint has learnt from. Returns: the job as it was planned, and its steps."""
        record = next(iter(self.out.glob("checkpoints/*/student")))
        newest = max((name for name in names(open_folder(record)) if step_of(name) <= committed(self.out)), key=step_of)
        planned = plan_job(TrainRun.model_validate_json((record / newest / "model" / "run.json").read_text()))
        steps = planned.plan.steps(1)
        ids = [one for batch in stream(planned.plan, planned.recipe, 0, steps) for one in batch["ids"].tolist()]
        assert len(ids) == len(set(ids)) == planned.plan.num_lines
        history = progress(record / newest).history
        assert amiss(history, ids, steps) == [] and len(history) > steps
        return planned, history


def undisturbed(job: Job, steps: int, folder: Path) -> list[Record]:
    """The first steps of a job that one worker takes in this process."""
    once = job.run.optimisation.model_copy(update={"evaluations": 1})
    alone = job.run.compute.model_copy(update={"num_workers": 0, "min_workers": None, "zero_stage": 0})
    run = job.run.model_copy(update={"storage": str(folder), "optimisation": once, "compute": alone})
    records: list[Record] = []

    class Enough(Exception):
        pass

    def watch(_: str, record: Record, __: int) -> None:
        records.append(record)
        if len(records) == steps:
            raise Enough

    with contextlib.suppress(Enough):
        fit_here(replace(job, run=run), folder / "out", watch)
    return records


def off_schedule(job: Running) -> int:
    """Waits for a checkpoint that no evaluation asked for, which the next one may push out. Returns: its step."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        there = (
            step_of(name) for record in job.out.glob("checkpoints/*/student") for name in names(open_folder(record))
        )
        if step := next((step for step in there if step % EVERY), 0):
            return step
        time.sleep(0.05)
    raise AssertionError(job.ask("/logs")[-5000:])


def notice(deadline_s: int) -> list[str]:
    """What a pod on a spot node runs when the node is wanted back, as the manifests have it, but for the deadline."""
    spot = yaml.safe_load((ROOT / "cluster/kuberay/components/spot/kustomization.yaml").read_text())
    changes = [change for patch in spot["patches"] for change in yaml.safe_load(patch["patch"])]
    (hook,) = [change["value"]["preStop"] for change in changes if change["path"].endswith("/lifecycle")]
    *shell, told = hook["exec"]["command"]
    told, times = re.subn(r"seconds [0-9]+; sleep [0-9]+$", f"seconds {deadline_s}", told)
    assert times == 1, told
    return [*shell, told]


def test_two_workers_of_whom_one_goes_with_notice_go_on_as_one_and_grow_back(
    hosts: Hosts, corpus: str, tmp_path: Path
) -> None:
    """Nothing goes with the host, though only every seventieth step is saved; under ZeRO, whose state is converted
    twice, there are the same rows in each step, and the losses of one worker that nothing happens to."""
    hosts.stop(3)
    hosts.wait_for(2)
    options = (
        "--num_workers", "2", "--min_workers", "1", "--placement", "SPREAD", "--cpus_per_worker", "2", "--zero_stage",
        "1", "--precision", "fp32", "--evaluations", "20", "--resize_every_s", "5",
    )  # fmt: skip
    with Running(hosts, corpus, tmp_path / "out", *options) as job:
        job.until(lambda: re.search(r"student +[1-9][0-9]*/", job.ask("/logs")))
        assert {host for host, _ in job.workers()} == {1, 2}, job.ask("/logs")[-3000:]
        told = hosts.run(notice(40), 2, {"RAY_ADDRESS": f"{address(HEAD)}:{GCS_PORT}"})
        assert told.returncode == 0, told.stdout[-3000:]
        noticed = off_schedule(job)
        job.until(lambda: committed(job.out) >= noticed)
        saved = committed(job.out)
        hosts.stop(2)
        job.until(lambda: [host for host, _ in job.workers()] == [1])
        job.until(lambda: committed(job.out) > saved)
        hosts.start(2)
        job.until(lambda: {host for host, _ in job.workers()} == {1, 2})
        kept = committed(job.out)
        job.until(lambda: committed(job.out) > kept)
    planned, history = job.check_rows()
    assert all(step % EVERY == 0 for step in evaluation_steps(planned.run.optimisation, planned.total_steps))
    alone = undisturbed(planned, len(history), tmp_path / "alone")
    assert [(record.rows, record.rows_crc) for record in history] == [(one.rows, one.rows_crc) for one in alone]
    off = [abs(record.loss / one.loss - 1) for record, one in zip(history, alone, strict=True)]
    assert max(off) < LOSS_TOLERANCE
