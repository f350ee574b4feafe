"""Who stops trials before their last evaluation, or has them go on from the weights of others."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search.sample import Domain

from tdtrain.search.runs import SearchRun
from tdtrain.search.space import Axis
from tdtrain.search.state import reports_of

ROUND = "training_iteration"
"""Tune's name of an evaluation's number."""


def scheduler_of(search: SearchRun, axes: Sequence[Axis], rounds: int, journal: Path) -> TrialScheduler:
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
        return Median(journal, ROUND, "score", "min", grace_period=search.grace, min_samples_required=3)
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
    """A trial that has come to its end goes on from nobody's weights: its values would be some it never learnt with.
    Nor does one go on from weights that read no better than its own. Where not all run at once, they take turns: in
    Ray Tune's own way one that goes on from where another was is always behind, and never lets that one run."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turns: dict[str, int] = {}

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The one that is furthest behind, of several the one that reported longest ago."""
        waiting = [one for one in tune_controller.get_trials() if one.status in (Trial.PENDING, Trial.PAUSED)]

        def turn(trial: Trial) -> tuple[int, int]:
            return self._trial_state[trial].last_train_time, self._turns.get(trial.trial_id, 0)

        return min(waiting, key=turn, default=None)

    def _quantiles(self) -> tuple[list[Trial], list[Trial]]:
        lower, upper = super()._quantiles()
        scores = {trial: self._trial_state[trial].last_score or 0.0 for trial in (*lower, *upper)}  # all have one
        least = min((scores[trial] for trial in upper), default=0.0)  # the greater the better
        return [trial for trial in lower if scores[trial] < least], upper

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        """What becomes of a trial that reports."""
        if result.get("complete") or "failure" in result:
            return TrialScheduler.CONTINUE
        self._turns[trial.trial_id] = 1 + max(self._turns.values(), default=0)
        return super().on_trial_result(tune_controller, trial, result)


class HyperBand(HyperBandScheduler):
    """Trials that had ended before a search was gone on with are in no bracket: theirs would wait for them for ever."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial, new or of before."""
        if not trial.is_finished():
            super().on_trial_add(tune_controller, trial)


class Median(MedianStoppingRule):
    """What trials reported before a search was gone on with counts on: Ray Tune keeps none of it.

    Args:
        journal: of what they reported.
    """

    def __init__(self, journal: Path, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._journal = journal

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial, new or of before."""
        for report in reports_of(self._journal).get(trial.trial_id, []):
            if "now" in report:
                self._results[trial].append(report)
        super().on_trial_add(tune_controller, trial)


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


def domain_of(axis: Axis) -> Domain:
    """An axis, to Ray Tune."""
    if axis.kind == "choice":
        return tune.choice(axis.told)
    low, high = axis.values
    assert isinstance(low, int | float) and isinstance(high, int | float)
    ways: Any = (tune.lograndint, tune.randint) if axis.whole else (tune.loguniform, tune.uniform)
    return ways[axis.kind == "uniform"](low, high + 1 if axis.whole else high)
