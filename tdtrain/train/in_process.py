"""Training in this process, without Ray: for tests, for debugging, and to know what Ray costs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from tdtrain.compute import Compute
from tdtrain.data.training_set import stream
from tdtrain.train.checkpoint import LocalStore, publish
from tdtrain.train.language import LanguageJob
from tdtrain.train.notice import NEVER, Notice
from tdtrain.train.state import Record, State
from tdtrain.train.whole import names, to_resume_from
from tdtrain.train.worker import Job, Watch


def fit_here(job: Job | LanguageJob, output: Path, watch: Watch) -> None:
    """Trains to the end, resuming from the newest whole checkpoint, and publishes the best weights at `output`."""
    store = LocalStore(Path(job.run.storage) / job.run.name)
    with alone(job.run.compute):
        job.work(LocalContext(job, store, watch))
    publish(store.folder, names(store.folder), output)


class LocalContext:
    """One worker, in this process."""

    rank = 0
    world_size = 1
    notice: Notice = NEVER

    def __init__(self, job: Job | LanguageJob, store: LocalStore, watch: Watch) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._job, self._store, self._watch = job, store, watch
        self.storage = store.folder

    def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        return stream(self._job.plan, self._job.recipe, first_step, self._job.total_steps)

    def track(self, record: Record) -> None:
        self._watch(self._job.run.name, record, self._job.total_steps)

    def commit(self, state: State, fill: Callable[[Path], None]) -> None:
        self._store.commit(state.step, fill)

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        name = to_resume_from(self.storage)
        yield None if name is None else Path(self.storage.path(name))


@contextlib.contextmanager
def alone(compute: Compute) -> Iterator[None]:
    """DeepSpeed wants a process group even for one."""
    if not (compute.zero_stage or compute.shard_teacher) or dist.is_initialized():
        yield
        return
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
