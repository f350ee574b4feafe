"""A job goes on by itself where hosts come and go, and each step learns from what it should."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.local.hosts import HEAD, Hosts
from tdtrain.data.training_set import stream
from tdtrain.train.checkpoint import progress
from tdtrain.train.launch import plan_job
from tdtrain.train.ledger import amiss
from tdtrain.train.runs import TrainRun
from tests.checkpoints import committed
from tests.corpora import packed_lines

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
WAIT_S = 600
BATCH = 12
POLL_S = 2
"""Asking takes a tenth of a second of a core."""
WORKER = "RayTrainWorker"


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
    """A job that adapts a reader."""

    def __init__(self, hosts: Hosts, corpus: str, out: Path, epochs: int, *options: str) -> None:
        self._hosts, self.out, self._epochs = hosts, out, epochs
        self._id = out.parent.name
        command = [
            "ray", "job", "submit", "--working-dir", ".", "--no-wait", "--submission-id", self._id, "--",
            "python", "rayjobs/lora_ocr.py", "--model_name", "ppocrv6-tiny", "--rank", "2", "--target_modules", "all",
            "--dataset_path", corpus, "--output_dir", str(out), "--epochs", str(epochs), "--batch_size", str(BATCH),
            "--learning_rate", "1e-3", "--max_evaluation_lines", "10", *options,
        ]  # fmt: skip
        done = hosts.run(command, HEAD, cwd=ROOT, timeout_s=120)
        assert done.returncode == 0, done.stdout

    def ask(self, path: str = "") -> str:
        return self._hosts.ask(f"/api/jobs/{self._id}{path}", self._hosts.token_file.read_text(), on=HEAD)[1]

    def until(self, there: Callable[[], object]) -> None:
        """Waits, as long as the job has not failed."""
        began = time.monotonic()
        while not there():
            in_time = time.monotonic() < began + WAIT_S
            assert in_time and json.loads(self.ask())["status"] != "FAILED", self.ask("/logs")[-5000:]
            time.sleep(POLL_S)

    def workers(self) -> set[tuple[int, int]]:
        return set(self._hosts.processes(WORKER))

    def finish(self) -> None:
        """Waits for its end, and looks what it has learnt from."""
        self.until(lambda: json.loads(self.ask())["status"] == "SUCCEEDED")
        planned = plan_job(TrainRun.model_validate_json((self.out / "adapter" / "run.json").read_text()))
        steps = planned.plan.steps(1)
        ids = [one for batch in stream(planned.plan, planned.recipe, 0, steps) for one in batch["ids"].tolist()]
        assert len(ids) == len(set(ids)) == planned.plan.num_lines
        history = progress(self.out / "adapter").history
        assert amiss(history, ids, steps) == [] and len(history) == self._epochs * steps


def test_a_host_that_goes_with_notice_takes_nothing_with_it(hosts: Hosts, corpus: str, tmp_path: Path) -> None:
    """All is kept that was trained until the notice, though only the end would have been."""
    job = Running(
        hosts, corpus, tmp_path / "out", 15, "--num_workers", "2", "--placement", "STRICT_SPREAD",
        "--cpus_per_worker", "1", "--evaluations", "1",
    )  # fmt: skip
    job.until(lambda: re.search(r"student +[1-9][0-9]*/", job.ask("/logs")))
    before = job.workers()
    assert len(before) == 2, job.ask("/logs")[-3000:]
    host = max(host for host, _ in before)
    hosts.give_notice(host, 20)
    job.until(lambda: committed(job.out))
    kept = committed(job.out)
    time.sleep(5)
    assert committed(job.out) == kept
    hosts.stop(host)
    job.until(lambda: job.workers() - before)
    job.finish()
    assert kept < progress(job.out / "adapter").step


def test_with_a_host_less_fewer_workers_go_on_and_grow_back(hosts: Hosts, corpus: str, tmp_path: Path) -> None:
    job = Running(
        hosts, corpus, tmp_path / "out", 15, "--num_workers", "3", "--min_workers", "2", "--placement", "SPREAD",
        "--cpus_per_worker", "2", "--evaluations", "24", "--resize_every_s", "5",
    )  # fmt: skip
    job.until(lambda: committed(job.out))
    hosts.stop(3)
    job.until(lambda: {host for host, _ in job.workers()} == {1, 2} and len(job.workers()) == 2)
    kept = committed(job.out)
    job.until(lambda: committed(job.out) > kept)
    hosts.start(3)
    job.until(lambda: {host for host, _ in job.workers()} == {1, 2, 3})
    job.finish()
