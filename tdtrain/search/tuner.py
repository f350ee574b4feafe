"""The search itself, by Ray Tune: who picks values, who stops trials, what runs at once, and going on after a fall."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import Callback, PlacementGroupFactory, ResumeConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher
from ray.tune.search.sample import Domain

from tdtrain.compute import Compute
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import Axis, Scalar
from tdtrain.search.state import drop_unknown, journal_of, keep_state, mend_state, write_report
from tdtrain.search.study import study_of
from tdtrain.search.trial import run_trial
from tdtrain.search.trials import Trials

ROUND = "training_iteration"
"""Tune's name of an evaluation's number."""
DRIVER_BYTES = 500_000_000
"""That the driver of a trial reserves: it trains nothing, and needs no CPU of its own."""
AGAIN = ResumeConfig(errored=ResumeConfig.ResumeType.RESUME)  # type: ignore[arg-type]
"""Who resumes tries again what failed."""
Told = Callable[[str, Mapping[str, Any], str], None]
"""Told of a trial, by name, that it began ("began", with its values), reported ("reported", with its figures), ended,
failed, or never was ("forgotten": it fell with the driver that had begun it)."""


def tune_trials(
    search: SearchRun, trials: Trials, rounds: int, at_once: int, base: Mapping[str, Scalar], told: Told
) -> list[Trial]:
    """Runs the search to its end, going on with what an earlier call left.

    Args:
        rounds: evaluations of a trial that nobody stops.
        at_once: trials that run side by side.
        base: the values of the job as it was given, tried first where the space holds them.
        told: of what happens, as it happens.
    """
    points = grid(trials.axes, search.num_trials) if search.searcher == "grid" else [dict(base)] if base else []
    picks = None if search.scheduler == "pbt" else study_of(search, trials.axes, points)
    folder = search.output_dir.absolute()
    return run_all(
        partial(run_trial, trials=trials, objectives=search.objectives, journal=journal_of(folder, "trials")),
        folder,
        "trials",
        num_trials_of(search, trials.axes),
        at_once,
        trials,
        told,
        searcher=picks,
        scheduler=scheduler_of(search, trials.axes, rounds),
        # PBT draws the first values itself.
        values={axis.path: domain_of(axis) for axis in trials.axes} if picks is None else {},
    )


def run_all(
    trainable: Callable,
    folder: Path,
    name: str,
    number: int,
    at_once: int,
    trials: Trials,
    told: Told,
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    values: dict[str, Any] | None = None,
) -> list[Trial]:
    """All trials of an experiment, which lies in `folder/name` and is gone on with where it was begun."""
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    scheduler = scheduler or FIFOScheduler()
    compute, begun = trials.compute, mend_state(folder / name)
    # These take turns: all trials are halved or bred together, and what runs at once is bounded by what has room.
    together = isinstance(scheduler, PopulationBasedTraining | HyperBandScheduler)
    for unknown in drop_unknown(folder / name):
        told(unknown, {}, "forgotten")
    with kills_are_failures():
        done = tune.run(
            trainable,
            name=name,
            storage_path=str(folder),
            config=values,
            num_samples=number,
            metric=None if searcher or scheduler.__class__ is not FIFOScheduler else "score",
            mode=None if searcher or scheduler.__class__ is not FIFOScheduler else "min",
            search_alg=searcher,
            scheduler=scheduler,
            resources_per_trial=resources_of(compute),
            max_concurrent_trials=None if together else at_once,
            reuse_actors=compute.num_workers < 2,
            checkpoint_config=tune.CheckpointConfig(
                # Of PBT all: somebody may be about to go on from any of them.
                num_to_keep=None if isinstance(scheduler, PopulationBasedTraining) else 2,
                checkpoint_score_attribute="now",
                checkpoint_score_order="min",
            ),
            max_failures=compute.max_failures,
            raise_on_failed_trial=False,
            trial_dirname_creator=_folder_of,
            callbacks=[
                Watch(told, journal_of(folder, name)),
                *([Remembered(scheduler)] if isinstance(scheduler, ASHAScheduler) else []),
            ],
            resume_config=AGAIN if begun else None,
            resume=True if begun else None,
            verbose=0,
        )
    return done.trials


def _folder_of(trial: Trial) -> str:
    return trial.trial_id


def resources_of(compute: Compute) -> PlacementGroupFactory:
    """What Ray Tune reserves for a trial: all that it trains with, or, where workers do, a place for their driver, away
    from the nodes that have their label."""
    if compute.num_workers > 1:
        away = {key: f"!{value}" for key, value in compute.labels.items()}
        where: dict[str, Any] = {"bundle_label_selector": [away]} if away else {}
        return PlacementGroupFactory([{"memory": DRIVER_BYTES}], **where)
    needs = {"CPU": compute.cpus} | ({"GPU": compute.gpus} if compute.gpus else {})
    where = {"bundle_label_selector": [compute.labels]} if compute.labels else {}
    return PlacementGroupFactory([needs], **where)


def num_trials_of(search: SearchRun, axes: Sequence[Axis]) -> int:
    """How many trials there are: of a grid, all its points."""
    return len(grid(axes, search.num_trials)) if search.searcher == "grid" else search.num_trials


def domain_of(axis: Axis) -> Domain:
    """An axis, to Ray Tune."""
    if axis.kind == "choice":
        return tune.choice(axis.told)
    low, high = axis.values
    assert isinstance(low, int | float) and isinstance(high, int | float)
    ways: Any = (tune.lograndint, tune.randint) if axis.whole else (tune.loguniform, tune.uniform)
    return ways[axis.kind == "uniform"](low, high + 1 if axis.whole else high)


def grid(axes: Sequence[Axis], points: int) -> list[dict[str, Scalar]]:
    """Every choice with so many points of each range, ends among them."""

    def of(axis: Axis) -> list[Scalar]:
        if axis.kind == "choice":
            return list(axis.told)
        low, high = axis.values
        assert isinstance(low, int | float) and isinstance(high, int | float)
        steps = [step / max(1, points - 1) for step in range(points)]
        found = [low * (high / low) ** at if axis.kind == "log" else low + (high - low) * at for at in steps]
        return list(dict.fromkeys(round(value) for value in found)) if axis.whole else list(found)

    return [dict(zip((axis.path for axis in axes), one, strict=True)) for one in itertools.product(*map(of, axes))]


def scheduler_of(search: SearchRun, axes: Sequence[Axis], rounds: int) -> TrialScheduler:
    """Who stops trials before their last evaluation, or has them go on from others' weights."""
    if search.scheduler == "asha":
        return ASHAScheduler(
            ROUND,
            "score",
            "min",
            max_t=rounds,
            grace_period=min(search.grace, rounds),
            reduction_factor=search.reduction,
        )
    if search.scheduler == "hyperband":
        return HyperBand(ROUND, "score", "min", max_t=rounds, reduction_factor=search.reduction)
    if search.scheduler == "median":
        return MedianStoppingRule(ROUND, "score", "min", grace_period=search.grace, min_samples_required=3)
    if search.scheduler == "pbt":
        return Population(
            ROUND, "now", "min",  # the best score of a trial may be that of another, whose weights it went on from
            perturbation_interval=search.grace,
            hyperparam_mutations={
                axis.path: axis.told if axis.kind == "choice" else domain_of(axis) for axis in axes
            },
            custom_explore_fn=partial(within, axes=tuple(axes)),
            require_attrs=True,
        )  # fmt: skip
    return FIFOScheduler()


def within(values: dict[str, Any], axes: Sequence[Axis]) -> dict[str, Any]:
    """Values that were perturbed, back in their ranges."""
    ranges = {axis.path: axis.values for axis in axes if axis.kind != "choice"}
    return values | {path: min(max(values[path], low), high) for path, (low, high) in ranges.items()}  # type: ignore


class Population(PopulationBasedTraining):
    """A trial that has come to its end goes on from nobody's weights: its values would be some it never learnt with."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        """What becomes of a trial that reports."""
        if result.get("complete") or "failure" in result:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


class HyperBand(HyperBandScheduler):
    """Trials that had ended before a search was gone on with are in no bracket: theirs would wait for them for ever."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial, new or of before."""
        if not trial.is_finished():
            super().on_trial_add(tune_controller, trial)


@contextmanager
def kills_are_failures() -> Iterator[None]:
    """A trial that Ray kills for its memory has failed, as one whose process died. Ray Tune 2.60 knows no error but an
    actor's death and a task's, and would end the search."""
    plain = RayActorManager._actor_task_failed

    def failed(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        plain(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed  # type: ignore[method-assign]
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = plain  # type: ignore[method-assign]


class Watch(Callback):
    """Tells of what happens to trials, and writes down what they report: Ray Tune's own files begin anew when a search
    is gone on with."""

    def __init__(self, told: Told, journal: Path) -> None:
        self._told, self._journal = told, journal
        self._experiment = journal.with_suffix("")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if trials and (storage := trials[0].storage):
            keep_state(Path(storage.experiment_driver_staging_path), self._experiment)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        (self._experiment / trial.trial_id).mkdir(parents=True, exist_ok=True)  # first, so that nobody forgets it
        self._told(trial.trial_id, trial.config, "began")

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        write_report(self._journal, result)
        self._told(trial.trial_id, result, "reported")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._told(trial.trial_id, {}, "ended")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._told(trial.trial_id, {}, "failed")


class Remembered(Callback):
    """Keeps what ASHA has seen with the experiment, which Ray Tune does not: its rungs survive the driver."""

    def __init__(self, scheduler: ASHAScheduler) -> None:
        self._scheduler = scheduler

    def get_state(self) -> dict:
        """What the scheduler holds."""
        return {"scheduler": pickle.dumps(vars(self._scheduler))}

    def set_state(self, state: dict) -> None:
        """The inverse."""
        vars(self._scheduler).update(pickle.loads(state["scheduler"]))
