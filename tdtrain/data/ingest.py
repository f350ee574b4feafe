"""The training stream as a Ray Dataset: windows are read, decoded and augmented in Ray Data tasks, next to the workers.

One row is what one worker sees of a few steps and one block is one row, so that `streaming_split` deals them to the
workers in turn: worker r gets the r-th part of every step, as the plan has it, and no line is dropped to make shares
equal. A block costs ten milliseconds of CPU on its way, so a row holds several steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import ray.data
from ray.train import DataConfig

from tdtrain.data.batches import to_bytes
from tdtrain.data.plan import Loader, Plan

PAUSE_S = 0.02
STEPS_PER_ROW = 8


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


def dataset(
    plan: Plan, recipe: Loader, first_step: int, last_step: int, workers: int, cpus: float = 0.5
) -> ray.data.Dataset:
    """Micro batches from `first_step` up to `last_step`, in order: a column `batches`, see `to_bytes`.

    Args:
        workers: rows are dealt to so many, in turn.
        cpus: that a task reserves.
    """
    windows = plan.windows(first_step, last_step)

    def load(row: dict) -> Iterator[dict]:
        micro = recipe.load(windows[row["id"]], first_step, last_step)
        while chunk := list(itertools.islice(micro, STEPS_PER_ROW * recipe.parts)):
            yield from ({"batches": to_bytes(chunk[worker::workers])} for worker in range(workers))

    rows = ray.data.range(len(windows), override_num_blocks=len(windows)).flat_map(load, num_cpus=cpus)
    rows.context.target_max_block_size = 1  # byte: a block is full with its first row
    callbacks = rows.context.custom_execution_callback_classes
    if Pause not in callbacks:
        rows.context.custom_execution_callback_classes = [*callbacks, Pause]  # type: ignore[list-item]
    return rows


def data_config() -> DataConfig:
    """In order, without regard to where a block lies: which worker gets what is decided by the plan alone."""
    options = DataConfig.default_ingest_options()
    options.preserve_order = True
    return DataConfig(execution_options=options, enable_shard_locality=False)
