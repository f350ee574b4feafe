"""Training under Ray Train: the trainer on the driver's side, the context on the worker's."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch

from tdtrain.data.batches import from_bytes
from tdtrain.data.ingest import data_config, dataset
from tdtrain.data.storage import absolute, open_folder
from tdtrain.train.checkpoint import publish
from tdtrain.train.loop import Diverged, Record, State
from tdtrain.train.worker import Job, Watch, work

POLL_S = 0.5


def fit_on_ray(job: Job, output: Path, watch: Watch) -> None:
    """Trains with a worker group and publishes the best weights at `output`.

    Raises: Diverged; ray.train.TrainingFailedError when the workers failed more than `compute.max_failures` times.
    """
    run, compute = job.run, job.run.compute
    storage = absolute(run.storage)
    board = Board.remote()  # type: ignore[attr-defined]
    score = "validation_cer" if job.validation else None
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": ray.put(job), "board": board},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if compute.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=compute.num_workers,
            use_gpu=compute.gpus_per_worker > 0,
            resources_per_worker={"CPU": compute.cpus_per_worker}
            | ({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {}),
            placement_strategy=compute.placement,
        ),
        # A callable is asked again at each start of the workers: a resumed run reads only what is left.
        datasets={"train": lambda: dataset(job.plan, job.recipe, committed_step(storage, run.name), job.total_steps)},
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
    with _watching(board, watch, run.name, job.total_steps):
        result = trainer.fit()
    if (failure := ray.get(board.failure.remote())) is not None:
        raise Diverged(failure)
    assert result.best_checkpoints
    chosen, _ = min(result.best_checkpoints, key=lambda kept: (kept[1]["validation_cer"], -kept[1]["step"]))
    assert result.checkpoint is not None
    with chosen.as_directory() as best_folder, result.checkpoint.as_directory() as last_folder:
        publish(Path(best_folder), Path(last_folder), output)


def committed_step(storage: str, name: str) -> int:
    """The step of the checkpoint that Ray Train will hand to restarted workers; 0 before the first.

    Read from Ray Train's own record of committed checkpoints: a folder may lie there that was never committed.
    """
    folder, record = open_folder(f"{storage}/{name}"), "checkpoint_manager_snapshot.json"
    if not folder.exists(record):
        return 0
    latest = json.loads(folder.read(record))["latest_checkpoint_result"]
    return int(latest["metrics"]["step"]) if latest else 0


@ray.remote(num_cpus=0)
class Board:
    """Where a run's first worker writes how it goes, and the driver reads it."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._failure: str | None = None

    def post(self, record: Record) -> None:
        """Adds a step."""
        self._records.append(record)

    def take(self) -> list[Record]:
        """The steps since the last call."""
        records, self._records = self._records, []
        return records

    def fail(self, reason: str) -> None:
        """Says that the run cannot go on, and a restart would not help."""
        self._failure = reason

    def failure(self) -> str | None:
        """What `fail` was told."""
        return self._failure


@contextlib.contextmanager
def _watching(board: Any, watch: Watch, name: str, total_steps: int) -> Iterator[None]:
    ended = threading.Event()

    def poll() -> None:
        last = False
        while not last:
            last = ended.wait(POLL_S)
            for record in ray.get(board.take.remote()):
                watch(name, record, total_steps)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class RayContext:
    """One worker of a Ray Train worker group."""

    def __init__(self, job: Job, board: Any) -> None:
        ours = ray.train.get_context()
        self.rank, self.world_size = ours.get_world_rank(), ours.get_world_size()
        self.device = ray.train.torch.get_device()
        self._job, self._board = job, board

    def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        for row in ray.train.get_dataset_shard("train").iter_batches(batch_size=1, prefetch_batches=4):
            yield from_bytes(row["batch"][0])

    def track(self, record: Record) -> None:
        if self.rank == 0:
            self._board.post.remote(record)

    def commit(self, state: State, fill: Callable[[Path], None]) -> None:
        last = state.history[-1]
        cer = 0.0 if last.validation_cer is None else last.validation_cer
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder))
            ray.train.report(
                {"step": state.step, "validation_cer": cer, "loss": last.loss},
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
    try:
        work(job, RayContext(job, board))
    except Diverged as error:
        ray.get(board.fail.remote(str(error)))  # not raised: Ray would start the workers again, into the same wall
