"""One trial: a training in the process that Ray Tune gave it, or by workers that it drives, reported evaluation by
evaluation."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from ray.train import TrainingFailedError

from tdtrain.compute import evaluation_steps
from tdtrain.data.batches import decode
from tdtrain.data.training_set import stream
from tdtrain.evaluate.timing import time_readers
from tdtrain.models.load import load_reader
from tdtrain.models.stored import digest, num_stored
from tdtrain.search.state import reports_of
from tdtrain.search.trials import Trials
from tdtrain.train import checkpoint
from tdtrain.train.in_process import alone
from tdtrain.train.language import LanguageJob
from tdtrain.train.loop import Diverged
from tdtrain.train.notice import NEVER, Notice
from tdtrain.train.state import Record, State
from tdtrain.train.worker import Job

TIMED_LINES = 16
FAILURES = (Diverged, ValueError, torch.OutOfMemoryError, MemoryError, TrainingFailedError)
"""A trial that ends so is not tried again. Workers that fell were, by Ray Train, as often as they may."""
SEED = "seed"
"""Of a trial that is trained again."""
REPORTED = (
    "score", "now", "loss", "images_per_s", "epoch", "step", "complete", "begun", "in_steps_s", "in_trial_s",
    "parameters", "ms_per_line", "weights", "begun_from", "model", "failure",
)  # fmt: skip


def run_trial(values: dict[str, Any], trials: Trials, objectives: Sequence[str], journal: Path) -> None:
    """What Ray Tune runs. A trial that cannot be trained with these values says why, with the worst of figures.

    Args:
        values: by dotted path, as in `Axis.told`; also SEED.
        journal: of what trials reported, see `tdtrain.search.state`.
    """
    if reported_again(journal):
        return
    began = time.perf_counter()
    told = dict(values)
    seed = told.pop(SEED, None)
    try:
        job = trials.plan(told, seed)
        seen = [one["score"] for one in reports_of(journal).get(tune.get_context().get_trial_id(), []) if "now" in one]
        figures = Figures(job, objectives, began)
        if job.run.compute.num_workers > 1:
            fit_with_workers(job, trials.folder / tune.get_context().get_trial_id(), figures, min(seen, default=None))
        else:
            with alone(job.run.compute):
                job.work(TuneContext(job, figures))
    except FAILURES as error:
        tune.report(dict.fromkeys({"score", "now", *objectives}, math.inf) | {"failure": reason_of(error)})


def reason_of(error: BaseException) -> str:
    """One line of it; of Ray Train's errors the last, which is the worker's own."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if isinstance(error, TrainingFailedError):
        lines = lines[-1:]
    return " ".join(lines)[:500] or type(error).__name__


def reported_again(journal: Path) -> bool:
    """Whether this trial had come to its end, and its driver fell before Ray Tune wrote that down. Nothing is trained
    again: it reports what the journal has beyond what Ray Tune knows."""
    trial = tune.get_context().get_trial_id()
    seen = reports_of(journal).get(trial, [])
    if not seen or not (seen[-1].get("complete") or "failure" in seen[-1]):
        return False
    known, committed = 0, tune.get_checkpoint()
    if committed is not None:
        if not Path(committed.path).is_relative_to(journal.with_suffix("") / trial):
            return False  # it goes on from another's weights
        with committed.as_directory() as folder:
            known = checkpoint.progress(Path(folder)).step
    for one in (one for one in seen if one.get("step", math.inf) > known):
        figures = {name: value for name, value in one.items() if name in REPORTED}
        folder = journal.with_suffix("") / trial / str(one.get("checkpoint_dir_name"))
        there = one is seen[-1] and (folder / "progress.json").exists()
        tune.report(figures, checkpoint=tune.Checkpoint.from_directory(folder) if there else None)
    return True


def fit_with_workers(job: Job | LanguageJob, folder: Path, figures: Figures, best: float | None) -> None:
    """Trains with Ray Train's workers, which this process only drives; goes on with what lies in the folder.

    Args:
        best: score that an earlier process of this trial reported.
    """
    from tdtrain.train.on_ray import fit_on_ray

    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # Ray's record of trainings
    placed = job.run.model_copy(update={"storage": str(folder / "checkpoints")})
    job = replace(job, run=placed)  # type: ignore[arg-type]
    steps = sorted(evaluation_steps(job.run.optimisation, job.total_steps))

    def told(record: Record, complete: bool, model: Path | None = None) -> dict[str, Any]:
        """The figures, with the evaluation's number, which Ray Tune would count anew where a trial is gone on with."""
        number = 1 + sum(step < record.step for step in steps)
        return figures.at(record, complete, best, model) | {"training_iteration": number}

    def watch(_: str, record: Record, total_steps: int) -> None:
        figures.see(record)
        if record.score is not None and record.step < total_steps:  # the last when its weights are in their place
            tune.report(told(record, complete=False))

    model = folder / "model"
    if not (model / "progress.json").exists():
        fit_on_ray(job, model, watch)
    last = [record for record in checkpoint.progress(model).history if record.score is not None][-1]
    tune.report(told(last, complete=True, model=model) | {"model": str(model)})


class Figures:
    """What a trial reports."""

    def __init__(self, job: Job | LanguageJob, objectives: Sequence[str], began: float) -> None:
        self._job, self._objectives, self._began = job, objectives, began
        self._begun = time.time()  # tells one process of a trial from another
        self._in_steps_s = 0.0
        self._best = math.inf
        self._about: dict[str, float] = {}

    def see(self, record: Record) -> None:
        """A training step."""
        self._in_steps_s += self._job.run.optimisation.batch_size / max(record.images_per_s, 1e-9)

    def at(
        self, record: Record, complete: bool, best: float | None = None, model: Path | None = None
    ) -> dict[str, Any]:
        """The figures of an evaluation.

        Args:
            complete: training ends here by itself.
            best: score so far, where an earlier process saw some of it.
            model: folder of the weights.

        Raises: ValueError where nothing was measured.
        """
        if record.score is None:
            raise ValueError(
                "score is never reported, for no page of the validation split is annotated; annotate some pages"
            )
        self._best = min(self._best, record.score, math.inf if best is None else best)
        if model is not None and not self._about:
            self._about = self._measure(model)
        return dict.fromkeys(self._objectives, math.inf) | {  # what is not known yet, Ray Tune asks for all the same
            "score": self._best,
            "now": record.score,
            "loss": record.loss,
            "images_per_s": record.images_per_s,
            "epoch": record.epoch,
            "step": record.step,
            "complete": complete,
            "begun": self._begun,
            "in_steps_s": self._in_steps_s,
            "in_trial_s": time.perf_counter() - self._began,
            **self._about,
        }

    def _measure(self, model: Path) -> dict[str, float]:
        """What does not change while a model is trained."""
        about: dict[str, float] = {"parameters": num_stored(model)}
        if "ms_per_line" in self._objectives and isinstance(self._job, Job):
            images = [decode(raw) for raw, _ in self._job.validation[:TIMED_LINES]]
            timing = time_readers({"it": load_reader(str(model)).frozen()}, images)["it"]
            about["ms_per_line"] = timing.ms_per_line_p50
        return about


class TuneContext:
    """One worker, which is the trial's only one."""

    rank = 0
    world_size = 1
    notice: Notice = NEVER
    storage = None

    def __init__(self, job: Job | LanguageJob, figures: Figures) -> None:
        self.device = torch.device("cuda" if job.run.compute.gpus and torch.cuda.is_available() else "cpu")
        self._job, self._figures = job, figures
        self._begun_from: str | None = None

    def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        return stream(self._job.plan, self._job.recipe, first_step, self._job.total_steps)

    def track(self, record: Record) -> None:
        self._figures.see(record)

    def commit(self, state: State, fill: Callable[[Path], None]) -> None:
        patience = self._job.run.optimisation.patience
        done = state.step >= self._job.total_steps
        done = done or (patience is not None and state.evaluations_without_gain >= patience)
        with tempfile.TemporaryDirectory() as name:
            fill(Path(name))
            figures = self._figures.at(state.history[-1], done, state.best_score, Path(name) / "model")
            # Whose weights a trial went on from can be told from these.
            figures |= {"weights": digest(Path(name) / "model"), "begun_from": self._begun_from}
            tune.report(figures, checkpoint=tune.Checkpoint.from_directory(name))

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        committed = tune.get_checkpoint()
        if committed is None:
            yield None
        else:
            with committed.as_directory() as folder:
                self._begun_from = digest(Path(folder) / "model")
                yield Path(folder)
