"""The training stream as a Ray Dataset: windows are read, decoded and augmented in Ray Data tasks, next to the workers.

One row is one micro batch and one block is one row, so that `streaming_split` deals micro batches to the workers in
turn: worker r gets the r-th part of every step, as the plan has it, and no line is dropped to make shares equal.
"""

from __future__ import annotations

import time

import ray.data
from ray.train import DataConfig

from tdtrain.data.batches import Recipe, load_window, to_bytes
from tdtrain.data.plan import Plan

PAUSE_S = 0.02


class Pause:
    """An execution callback that lets the scheduling loop of Ray Data sleep a moment at each turn.

    While everything is loaded and training consumes it, Ray 2.60's loop has no task to wait for and spins: half a core
    for every model that is trained, on a machine of two.
    """

    def before_execution_starts(self, executor: object) -> None:
        """Nothing."""

    def on_execution_step(self, executor: object) -> None:
        """Sleeps."""
        time.sleep(PAUSE_S)

    def after_execution_succeeds(self, executor: object) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Nothing."""


def dataset(plan: Plan, recipe: Recipe, first_step: int, last_step: int, cpus: float = 0.5) -> ray.data.Dataset:
    """Micro batches from `first_step` up to `last_step`, in order: columns `step` and `batch` (see `to_bytes`)."""
    windows = plan.windows(first_step, last_step)

    def load(row: dict) -> list[dict]:
        micro = load_window(windows[row["id"]], recipe, first_step, last_step)
        return [{"step": int(batch["step"]), "batch": to_bytes(batch)} for batch in micro]

    batches = (
        ray.data.range(len(windows), override_num_blocks=len(windows))
        .flat_map(load, num_cpus=cpus)
        .repartition(target_num_rows_per_block=1)
    )
    callbacks = batches.context.custom_execution_callback_classes
    if Pause not in callbacks:
        batches.context.custom_execution_callback_classes = [*callbacks, Pause]  # type: ignore[list-item]
    return batches


def data_config() -> DataConfig:
    """In order, without regard to where a block lies: which worker gets what is decided by the plan alone."""
    options = DataConfig.default_ingest_options()
    options.preserve_order = True
    return DataConfig(execution_options=options, enable_shard_locality=False)
