"""A head that falls comes back with what it knew, and the job, submitted again, has the model it would have had."""

from __future__ import annotations

import re
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cluster.local.hosts import Hosts
from tdtrain.train.in_process import fit_here
from tdtrain.train.launch import plan_job
from tdtrain.train.runs import TrainRun
from tests.corpora import packed_lines

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fault_kinds import FAULTS, Ground, checkpoints

pytestmark = pytest.mark.cluster
WAIT_S = 600
LEARNT = "adapter_model.safetensors"


@pytest.mark.usefixtures("permitted")
def test_a_job_goes_on_after_the_head_fell_and_learns_the_same_bits(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: no head outlives its machine")
    out = tmp_path / "out"
    command = [
        "python", "rayjobs/lora_ocr.py", "--model_name", "ppocrv6-tiny",
        "--rank", "2", "--target_modules", "all", "--dataset_path", packed_lines(tmp_path, num=120), "--output_dir",
        str(out), "--epochs", "14", "--batch_size", "12", "--learning_rate", "1e-3", "--evaluations", "5",
        "--max_evaluation_lines", "10", "--num_workers", "1", "--cpus_per_worker", "1",
    ]  # fmt: skip
    with ExitStack() as stack:
        ground = Ground(stack.enter_context(Hosts(2, cpus=2, redis=True)), out, Random(0), stack)
        job, began = ground.submit(command), time.monotonic()
        while not checkpoints(out):
            assert job.poll() is None and time.monotonic() < began + WAIT_S, ground.log.read_text()[-3000:]
            time.sleep(2)
        kept = max(checkpoints(out))
        FAULTS["head"](ground)
        assert job.wait(WAIT_S) == 0, ground.log.read_text()[-3000:]
    first, second = ground.log.read_text().split("-again-1", 1)
    assert "FAILED: " in first  # the head knows it
    steps = [int(step) for step in re.findall(r"student +([0-9]+)/[0-9]+", second)]
    assert steps[0] > kept
    planned = plan_job(TrainRun.model_validate_json((out / "adapter" / "run.json").read_text()))
    alone = planned.run.compute.model_copy(update={"num_workers": 0})
    run = planned.run.model_copy(update={"storage": str(tmp_path / "alone"), "compute": alone})
    fit_here(replace(planned, run=run), tmp_path / "expected", lambda name, record, total: None)
    assert (out / "adapter" / LEARNT).read_bytes() == (tmp_path / "expected" / LEARNT).read_bytes()
