"""The search itself, by Ray Tune: who picks values, who stops trials, what runs at once, and going on after a fall."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory, ResumeConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from tdtrain.compute import Compute
from tdtrain.ray_start import are_others, cores_of_machine
from tdtrain.search.runs import SearchRun
from tdtrain.search.schedulers import Remembered, domain_of, scheduler_of
from tdtrain.search.space import Axis, Scalar
from tdtrain.search.state import drop_unknown, ended_in, journal_of, mend_state, reports_of
from tdtrain.search.study import study_of
from tdtrain.search.trial import run_trial
from tdtrain.search.trials import Trials
from tdtrain.search.watch import Told, Watch, kills_are_failures

DRIVER_BYTES = 500_000_000
"""That the driver of a trial reserves: it trains nothing, and needs no CPU of its own."""
AGAIN = ResumeConfig(errored=ResumeConfig.ResumeType.RESUME)  # type: ignore[arg-type]
"""Who resumes tries again what failed."""


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
    picks: Searcher | SearchAlgorithm
    if search.scheduler == "pbt":  # which draws the first values itself
        random.seed(search.search_seed)  # it changes them by Python's own generator
        picks = BasicVariantGenerator(points_to_evaluate=points or None, random_state=search.search_seed)
    else:
        picks = study_of(search, trials.axes, points)
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
        scheduler=scheduler_of(search, trials.axes, rounds, journal_of(folder, "trials")),
        values={axis.path: domain_of(axis) for axis in trials.axes} if search.scheduler == "pbt" else {},
    )


def run_all(
    trainable: Callable,
    folder: Path,
    name: str,
    number: int,
    at_once: int,
    trials: Trials,
    told: Told,
    searcher: Searcher | SearchAlgorithm | None = None,
    scheduler: TrialScheduler | None = None,
    values: dict[str, Any] | None = None,
) -> list[Trial]:
    """All trials of an experiment, which lies in `folder/name` and is gone on with where it was begun."""
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    scheduler = scheduler or FIFOScheduler()
    compute, begun = trials.compute, mend_state(folder / name)
    # These take turns: all trials are halved or bred together, and there are more of them than run at once.
    together = isinstance(scheduler, PopulationBasedTraining | HyperBandScheduler)
    for unknown in drop_unknown(folder / name):
        told(unknown, {}, "forgotten")
    reports = reports_of(journal_of(folder, name))
    for ended in sorted(ended_in(folder / name)):
        told(ended, dict(reports[ended][-1]) if ended in reports else {}, "known")
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
            resources_per_trial=resources_of(compute, are_others(compute.labels), at_once if together else None),
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
                Watch(told, journal_of(folder, name), frees=compute.num_workers > 1),
                *([Remembered(scheduler)] if isinstance(scheduler, ASHAScheduler) else []),
            ],
            resume_config=AGAIN if begun else None,
            resume=True if begun else None,
            verbose=0,
        )
    return done.trials


def _folder_of(trial: Trial) -> str:
    return trial.trial_id


def resources_of(compute: Compute, apart: bool = True, at_once: int | None = None) -> PlacementGroupFactory:
    """What Ray Tune reserves for a trial: all that it trains with, or, where workers do, a place for their driver.

    Args:
        apart: a driver is kept away from the nodes that have its workers' label.
        at_once: what a single machine has is shared out among so many, beyond what they train with: else as many more
            would start as have room in what is meant for data.
    """
    if compute.num_workers > 1:
        away = {key: f"!{value}" for key, value in compute.labels.items() if apart}
        where: dict[str, Any] = {"bundle_label_selector": [away]} if away else {}
        return PlacementGroupFactory([{"memory": DRIVER_BYTES}], **where)
    cpus = compute.cpus
    if at_once is not None and cores_of_machine() is not None:
        cpus = math.floor(1e3 * ray.cluster_resources()["CPU"] / at_once) / 1e3
    needs = {"CPU": cpus} | ({"GPU": compute.gpus} if compute.gpus else {})
    where = {"bundle_label_selector": [compute.labels]} if compute.labels else {}
    return PlacementGroupFactory([needs], **where)


def num_trials_of(search: SearchRun, axes: Sequence[Axis]) -> int:
    """How many trials there are: of a grid, all its points."""
    return len(grid(axes, search.num_trials)) if search.searcher == "grid" else search.num_trials


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
