"""How fast lines come out of the packed corpus as micro batches: in this process, and through Ray Data.

The same plan and the same augmentation as in training; nobody trains, so this is what a worker could be fed with.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from harness import Measured, Row, Settings, summary
from line_corpus import write_corpus

from tdtrain.compute import Compute
from tdtrain.data.batches import from_bytes
from tdtrain.data.ingest import dataset
from tdtrain.data.training_set import stream
from tdtrain.options import Optimisation
from tdtrain.ray_start import connect
from tdtrain.train.launch import plan_job
from tdtrain.train.runs import TrainRun
from tdtrain.train.worker import Job

BATCH = 32


def measure(settings: Settings) -> Measured:
    """Images a second, one epoch a turn."""
    connect()
    num = 400 if settings.quick else 8_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lines = write_corpus(root, num, num, seed=3)
        run = TrainRun(
            name="student",
            model="ppocrv6-tiny",
            lines=str(lines),
            storage=str(root),
            optimisation=Optimisation(batch_size=BATCH),
            compute=Compute(num_workers=0),
        )
        job = plan_job(run)
        ways = {"in process": lambda: _here(job), "Ray Data": lambda: _ray(job)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn, (name, way) in itertools.product(range(settings.repeats + 1), ways.items()):
            started = time.perf_counter()
            images = way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    rows: list[Row] = []
    for name, values in seconds.items():
        timed = summary(values)
        rows.append({"way": name, "images_per_s": round(images / timed["median_s"], 1), **timed})
    return Measured(rows, {}, f"{images} lines of 32 x 192 pixels, batches of {BATCH}; Ray Data starts anew each turn.")


def _here(job: Job) -> int:
    return sum(len(batch["labels"]) for batch in stream(job.plan, job.recipe, 0, job.plan.steps(1)))


def _ray(job: Job) -> int:
    rows = dataset(job.plan, job.recipe, 0, job.plan.steps(1))
    return sum(len(batch["labels"]) for row in rows.iter_rows() for batch in from_bytes(row["batches"]))
