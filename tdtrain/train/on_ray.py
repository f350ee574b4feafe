"""Training under Ray Train, the driver's side; `ray_worker` is the worker's.

What this module imports is loaded by four of Ray's own processes a run, so it imports no model: on two cores that took
a minute of every run.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import ray.train
import ray.train.torch

from tdtrain.compute import Compute
from tdtrain.data.ingest import data_config, dataset
from tdtrain.data.plan import Loader, Plan
from tdtrain.data.storage import Folder, absolute, open_folder
from tdtrain.ray_orphans import drop_orphaned_groups, drop_orphaned_requests
from tdtrain.ray_start import beside_us
from tdtrain.train.board import Board, Start, watching
from tdtrain.train.probe import there, versions
from tdtrain.train.torch_group import ReachableTorchConfig
from tdtrain.train.whole import BEST_KEPT, by_score, names, step_of, to_resume_from

if TYPE_CHECKING:
    from tdtrain.train.language import LanguageJob
    from tdtrain.train.runs import LanguageRun, TrainRun
    from tdtrain.train.worker import Job, Watch

T = TypeVar("T")
PAUSES_S = (1, 2, 5, 10, 20, 40, 60)
FOLDERS = {"model", "lines", "teacher", "sequences"}
"""Fields of a run that may be folders which every worker reads, whole before it starts."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's own record of the checkpoints of a run."""


def fit_on_ray(job: Job | LanguageJob, output: Path, watch: Watch) -> None:
    """Trains with a worker group and publishes the best weights at `output`.

    Raises: Diverged, NotSaved and ValueError, see `tdtrain.train.worker.work`; ray.train.TrainingFailedError when the
    workers failed more than `compute.max_failures` times.
    """
    run = job.run
    record = open_folder(f"{absolute(run.storage)}/{run.name}")
    board = new_board()
    with watching(board, watch, run.name, job.total_steps), _own_interrupts():
        try:
            result = _whatever_is_killed(partial(_trainer, job, record, board), run.compute.max_failures, board)
        finally:
            if (failure := ray.get(board.failure.remote())) is not None:
                raise failure from None
    _publish(record, {Path(kept.path).name for kept, _ in result.best_checkpoints or ()}, output)
    ray.kill(board)


def _publish(record: Folder, told: set[str], output: Path) -> None:
    """The best model of a run at `output`; `told`: checkpoints that a shared disk may list late, for another host wrote
    them. A storage that is away is waited for."""
    from tdtrain.train.checkpoint import publish

    _patiently(lambda: publish(record, sorted(told | set(names(record))), output))


def _whatever_is_killed(
    trainer: Callable[[], ray.train.torch.TorchTrainer], max_failures: int, board: Any
) -> ray.train.Result:
    """Ray Train's controller is one process, which nobody restarts: another one goes on from what is stored.

    Raises: ray.exceptions.RayActorError where that has been done `max_failures` times.
    """
    failures = 0
    while True:
        drop_orphaned_groups()
        drop_orphaned_requests()
        try:
            return trainer().fit()
        except ray.exceptions.RayActorError:
            failures += 1
            if failures > max_failures:
                raise
            time.sleep(1.0)  # until Ray has taken notice
            ray.get(board.say.remote("Ray Train's controller is gone; another one goes on from the newest checkpoint"))


def _trainer(job: Job | LanguageJob, record: Folder, board: Any) -> ray.train.torch.TorchTrainer:
    run, compute = job.run, job.run.compute
    drop_broken_snapshot(record)
    score = "score" if job.validation else None
    return ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"job": ray.put(job), "board": board, "record": record} | _to_look_for(run),
        torch_config=ReachableTorchConfig(backend="nccl" if compute.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=_num_workers(compute),
            elastic_resize_monitor_interval_s=compute.resize_every_s,
            use_gpu=compute.gpus > 0,
            resources_per_worker={"CPU": compute.cpus} | ({"GPU": compute.gpus} if compute.gpus else {}),
            placement_strategy=compute.placement,
            label_selector=compute.labels or None,  # type: ignore[call-arg]
        ),
        # A callable is asked again at each start of the workers: a resumed run reads only what is left.
        datasets={"train": partial(what_is_left, job.plan, job.recipe, job.total_steps, record, board, compute)},
        dataset_config=data_config(),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=absolute(run.storage),
            failure_config=ray.train.FailureConfig(max_failures=compute.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=BEST_KEPT, checkpoint_score_attribute=score, checkpoint_score_order="min"
            ),
        ),
    )


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


def _to_look_for(run: TrainRun | LanguageRun) -> dict[str, Any]:
    """What each worker's node has to have, see `check_own_node`."""
    told = run.model_dump(include=FOLDERS)
    folders = {field: absolute(path) for field, path in told.items() if path and ("://" in path or Path(path).is_dir())}
    return {"versions": versions(), "places": there(folders)}


def _num_workers(compute: Compute) -> Any:  # Ray Train's types leave out (fewest, most)
    fewest, most = compute.min_workers, compute.num_workers
    return most if fewest is None else (fewest, most)


def _train_worker(config: dict[str, Any]) -> None:
    from tdtrain.train.ray_worker import train_worker

    train_worker(config)


def new_board() -> Any:
    """On the driver's node, and there again where its process is killed; each start of workers tells it anew."""
    options = {"scheduling_strategy": beside_us(), "max_restarts": -1, "max_task_retries": -1}
    return Board.options(**options).remote()  # type: ignore[attr-defined]


def what_is_left(
    plan: Plan, recipe: Loader, total_steps: int, record: Folder, board: Any, compute: Compute
) -> ray.data.Dataset:
    """The micro batches after a run's newest whole checkpoint; called at each start of its workers, before they run.

    Which checkpoint that is, is decided here and nowhere else: data and all workers have to agree on it.

    Args:
        record: where the run's checkpoints lie.
        board: tells the workers.

    Raises: OSError where the storage does not answer for minutes.
    """
    name = _patiently(lambda: to_resume_from(record, lambda words: ray.get(board.say.remote(words))))
    if name is not None:
        drop_leftovers(record, name)
    held = None if name is None else ray.train.Checkpoint(record.path(name), record.filesystem)
    ray.get(board.begin.remote(Start(held, time.strftime("%Y%m%dT%H%M%S", time.gmtime()))))
    at_once = None if compute.min_workers is None else compute.num_workers
    return dataset(plan, recipe, 0 if name is None else step_of(name), total_steps, at_once)


def _patiently(read: Callable[[], T]) -> T:
    """What is done with a storage that may not answer at once: a host has just fallen, or its network."""
    for pause_s in PAUSES_S:
        try:
            return read()
        except OSError:
            time.sleep(pause_s)
    return read()


def drop_leftovers(record: Folder, chosen: str) -> None:
    """Removes checkpoints that Ray Train does not know of, for they were being written when workers fell, or its record
    was lost. What workers go on from stays, and so do the best.

    Args:
        chosen: what workers go on from.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # then the next start sees to it
        known, held = _known(record) if record.exists(SNAPSHOT) else set(), names(record)
        for name in set(held) - known - {chosen, *by_score(record, held)[:BEST_KEPT]}:
            record.delete_folder(name)


def _known(record: Folder) -> set[str]:
    """The checkpoints that Ray Train's record names."""
    return {one["checkpoint_dir_name"] for one in json.loads(record.read(SNAPSHOT))["checkpoint_results"]}


def drop_broken_snapshot(record: Folder) -> None:
    """Ray Train does not start from a snapshot that was cut, or that names a checkpoint which is gone. Without any it
    does, and nothing is lost: checkpoints are found by what is in them.

    Raises: OSError where the storage does not answer for minutes.
    """
    if wrong := _patiently(partial(_wrong_with_snapshot, record)):
        _patiently(partial(record.delete, SNAPSHOT))
        warnings.warn(f"Ray Train's {record.path(SNAPSHOT)} {wrong}; training does without it", stacklevel=2)


def _wrong_with_snapshot(record: Folder) -> str:
    """In words; empty where nothing is."""
    if not record.exists(SNAPSHOT):
        return ""
    try:
        gone = ", ".join(sorted(_known(record) - set(names(record))))
        return f"names {gone}, which is gone" if gone else ""
    except (ValueError, KeyError, TypeError):
        return "was not written to its end"
