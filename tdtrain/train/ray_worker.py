"""Training under Ray Train, the worker's side."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch

from tdtrain.data.ingest import dealt
from tdtrain.data.storage import Folder
from tdtrain.train.board import Start
from tdtrain.train.loop import Diverged
from tdtrain.train.nodes import check_own_node
from tdtrain.train.room import NotSaved, scratch, whole_or_gone
from tdtrain.train.state import Record, State
from tdtrain.train.whole import name_of
from tdtrain.train.worker import Job

UNSCORED = sys.float_info.max
"""Of a checkpoint that was not measured: the worst. Ray Train's record is JSON, which has no infinity."""
ASK_EVERY_S = 2.0
"""For notice; spot instances have 30 seconds of it and more."""


class RayContext:
    """One worker of a Ray Train worker group."""

    def __init__(self, job: Job, board: Any, record: Folder) -> None:
        ours = ray.train.get_context()
        self.rank, self.world_size = ours.get_world_rank(), ours.get_world_size()
        self.device = ray.train.torch.get_device()
        self.storage = record
        self.notice = RayNotice(self.rank)
        self._job, self._board = job, board
        self._start: Start = ray.get(board.start.remote())

    def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        stream = ray.train.get_dataset_shard("train").iter_batches(batch_size=1, prefetch_batches=2)
        rows = (row["batches"][0] for row in stream)
        return dealt(rows, self._job.recipe.parts, self.rank, self.world_size)

    def track(self, record: Record) -> None:
        if self.rank == 0:
            self._board.post.remote(record)

    def commit(self, state: State, fill: Callable[[Path], None]) -> None:
        last = state.history[-1]
        score = UNSCORED if last.score is None else last.score
        name = name_of(state.step, self._start.suffix)
        with scratch(f"{self.storage.root} {self.rank}") as folder:
            fill(folder)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            with whole_or_gone(self.storage.within(name), size):
                ray.train.report(
                    {"step": state.step, "score": score, "loss": last.loss},
                    checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
                    checkpoint_dir_name=name,
                )

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        if self._start.checkpoint is None:
            yield None
        else:
            with self._start.checkpoint.as_directory() as folder:
                yield Path(folder)


class RayNotice:
    """What Ray Train tells its workers of nodes that are drained, each node once."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._asked = time.monotonic()
        self._heard: set[str] = set()

    def due(self) -> bool:
        return self._rank == 0 and time.monotonic() > self._asked + ASK_EVERY_S

    def given(self) -> bool:
        self._asked = time.monotonic()
        info = ray.train.get_preemption_info()
        going = set(info.preempted_node_ids) if info else set()
        new, self._heard = going - self._heard, self._heard | going
        return bool(new)


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    job, board = ray.get(config["job"]), config["board"]
    if ray.get(board.failure.remote()) is not None:
        return  # started again, into the same wall
    try:
        check_own_node(config["versions"], config["places"])
        job.work(RayContext(job, board, config["record"]))
    except Diverged as error:  # by all workers alike, so that none waits for another
        ray.get(board.fail.remote(Diverged(str(error))))
    except (ValueError, NotSaved) as error:
        kind = NotSaved if isinstance(error, NotSaved) else ValueError
        ray.get(board.fail.remote(kind(str(error))))
        raise  # the others may be waiting for this one: Ray ends them all
