"""Training under Ray Train, the driver's side; `ray_worker` is the worker's.

What this module imports is loaded by four of Ray's own processes a run, so it imports no model: on two cores that took
a minute of every run.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import ray.train.torch

from tdtrain.data.ingest import data_config, dataset
from tdtrain.data.plan import Loader, Plan
from tdtrain.data.storage import absolute, open_folder
from tdtrain.train.board import Board, watching
from tdtrain.train.torch_group import ReachableTorchConfig

if TYPE_CHECKING:
    from tdtrain.train.language import LanguageJob
    from tdtrain.train.worker import Job, Watch


def fit_on_ray(job: Job | LanguageJob, output: Path, watch: Watch) -> None:
    """Trains with a worker group and publishes the best weights at `output`.

    Raises: Diverged and ValueError, see `tdtrain.train.worker.work`; ray.train.TrainingFailedError when the workers
    failed more than `compute.max_failures` times.
    """
    from tdtrain.train.checkpoint import publish

    run, compute = job.run, job.run.compute
    storage = absolute(run.storage)
    record = f"{storage}/{run.name}"
    board = Board.remote()  # type: ignore[attr-defined]
    score = "score" if job.validation else None
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"job": ray.put(job), "board": board},
        torch_config=ReachableTorchConfig(backend="nccl" if compute.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=compute.num_workers,
            use_gpu=compute.gpus > 0,
            resources_per_worker={"CPU": compute.cpus} | ({"GPU": compute.gpus} if compute.gpus else {}),
            placement_strategy=compute.placement,
            label_selector=compute.labels or None,  # type: ignore[call-arg]
        ),
        # A callable is asked again at each start of the workers: a resumed run reads only what is left.
        datasets={"train": partial(what_is_left, job.plan, job.recipe, job.total_steps, compute.num_workers, record)},
        dataset_config=data_config(),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=compute.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=score, checkpoint_score_order="min"
            ),
        ),
    )
    with watching(board, watch, run.name, job.total_steps), _own_interrupts():
        try:
            result = trainer.fit()
        finally:
            if (failure := ray.get(board.failure.remote())) is not None:
                raise failure from None
    assert result.best_checkpoints
    chosen, _ = min(result.best_checkpoints, key=lambda kept: (kept[1]["score"], -kept[1]["step"]))
    assert result.checkpoint is not None
    with chosen.as_directory() as best_folder, result.checkpoint.as_directory() as last_folder:
        publish(Path(best_folder), Path(last_folder), output)
    ray.kill(board)


@contextlib.contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ctrl-C does afterwards what it did before. Ray Train's handler stays, would abort a run that has ended, and keeps
    four of its processes alive."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _train_worker(config: dict[str, Any]) -> None:
    from tdtrain.train.ray_worker import train_worker

    train_worker(config)


def what_is_left(plan: Plan, recipe: Loader, total_steps: int, workers: int, record: str) -> ray.data.Dataset:
    """The micro batches after the last committed checkpoint of the run whose checkpoints lie in `record`."""
    return dataset(plan, recipe, committed_step(record), total_steps, workers)


def committed_step(record: str) -> int:
    """The step of the checkpoint that Ray Train will hand to restarted workers; 0 before the first.

    Read from Ray Train's own record of committed checkpoints: a folder may lie there that was never committed.
    """
    folder, snapshot = open_folder(record), "checkpoint_manager_snapshot.json"
    if not folder.exists(snapshot):
        return 0
    latest = json.loads(folder.read(snapshot))["latest_checkpoint_result"]
    return int(latest["metrics"]["step"]) if latest else 0
