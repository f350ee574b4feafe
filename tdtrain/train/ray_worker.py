"""Training under Ray Train, the worker's side."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch

from tdtrain.data.batches import from_bytes
from tdtrain.train.loop import Diverged
from tdtrain.train.state import Record, State
from tdtrain.train.worker import Job


class RayContext:
    """One worker of a Ray Train worker group."""

    def __init__(self, job: Job, board: Any) -> None:
        ours = ray.train.get_context()
        self.rank, self.world_size = ours.get_world_rank(), ours.get_world_size()
        self.device = ray.train.torch.get_device()
        self._job, self._board = job, board

    def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        for row in ray.train.get_dataset_shard("train").iter_batches(batch_size=1, prefetch_batches=2):
            yield from from_bytes(row["batches"][0])

    def track(self, record: Record) -> None:
        if self.rank == 0:
            self._board.post.remote(record)

    def commit(self, state: State, fill: Callable[[Path], None]) -> None:
        last = state.history[-1]
        score = 0.0 if last.score is None else last.score
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder))
            ray.train.report(
                {"step": state.step, "score": score, "loss": last.loss},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
            )

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        committed = ray.train.get_checkpoint()
        if committed is None:
            yield None
        else:
            with committed.as_directory() as folder:
                yield Path(folder)


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    job, board = ray.get(config["job"]), config["board"]
    if ray.get(board.failure.remote()) is not None:
        return  # started again, into the same wall
    try:
        job.work(RayContext(job, board))
    except Diverged as error:  # by all workers alike, so that none waits for another
        ray.get(board.fail.remote(Diverged(str(error))))
    except ValueError as error:
        ray.get(board.fail.remote(ValueError(str(error))))
        raise  # the others may be waiting for this one: Ray ends them all
