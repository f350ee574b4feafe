"""What is done while Ray Tune runs trials: who hears of them, and what it is kept from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial

from tdtrain.ray_orphans import drop_orphaned_groups
from tdtrain.search.state import Clock, keep_state, write_report

Told = Callable[[str, Mapping[str, Any], str], None]
"""Told of a trial, by name, that it began ("began", with its values), reported ("reported", with its figures), ended,
failed, had ended under a driver before this one ("known", with its last figures), or never was ("forgotten": it fell
with the driver that had begun it)."""
LOOK_S = 2.0
"""How often time is written down, and what trials had reserved that were stopped is given back."""


class Watch(Callback):
    """Tells of what happens to trials, and writes down what they report: Ray Tune's own files begin anew when a search
    is gone on with.

    Args:
        frees: trials have workers of Ray Train, which keep what they reserved when their driver is stopped.
    """

    def __init__(self, told: Told, journal: Path, frees: bool) -> None:
        self._told, self._journal, self._frees = told, journal, frees
        self._experiment = journal.with_suffix("")
        self._clock, self._looked = Clock(self._experiment), 0.0

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if trials and (storage := trials[0].storage):
            keep_state(Path(storage.experiment_driver_staging_path), self._experiment)
        if time.monotonic() >= self._looked + LOOK_S:
            self._clock.write()
            if self._frees:
                drop_orphaned_groups()
            self._looked = time.monotonic()

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._clock.write()

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
