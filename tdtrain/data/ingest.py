"""The training stream as a Ray Dataset: windows are read, decoded and augmented in Ray Data tasks, next to the workers.

A step is cut into parts. One row is one part of a few steps and one block is one row, so that `streaming_split` deals
them in turn: row i goes to worker i modulo the workers, however many there are, and no line is dropped to make shares
equal. A block costs ten milliseconds of CPU on its way, so a row holds several steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import ray.data
from ray.train import DataConfig

from tdtrain.data.batches import from_bytes, to_bytes
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
    plan: Plan, recipe: Loader, first_step: int, last_step: int, at_once: int | None = None
) -> ray.data.Dataset:
    """Micro batches from `first_step` up to `last_step`, as `dealt` has them: a column `batches`, see `to_bytes`.

    Args:
        at_once: so many tasks side by side, which reserve no CPU: workers may have taken all. None: as many as there is
            room for, half a CPU each.
    """
    windows = plan.windows(first_step, last_step)

    def load(row: dict) -> Iterator[dict]:
        micro = recipe.load(windows[row["id"]], first_step, last_step)
        while chunk := list(itertools.islice(micro, STEPS_PER_ROW * recipe.parts)):
            yield from ({"batches": to_bytes(chunk[part :: recipe.parts])} for part in range(recipe.parts))

    blocks = max(1, len(windows))  # none are left where a run is resumed after its last checkpoint
    numbers = ray.data.from_items([{"id": number} for number in range(len(windows))], override_num_blocks=blocks)
    if at_once is None:
        rows = numbers.flat_map(load, num_cpus=0.5)
    else:
        rows = numbers.flat_map(load, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=at_once))
    rows.context.target_max_block_size = 1  # byte: a block is full with its first row
    callbacks = rows.context.custom_execution_callback_classes
    if Pause not in callbacks:
        rows.context.custom_execution_callback_classes = [*callbacks, Pause]  # type: ignore[list-item]
    return rows


def dealt(rows: Iterator[bytes], parts: int, rank: int, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """The micro batches of one worker, step by step, in the order of their parts.

    All workers get equally many a step. Where parts cannot be shared evenly, some get their last one a second time with
    no `ids`: it counts for nothing.

    Args:
        rows: of `dataset`, those that this worker was dealt.
        parts: of a step.
    """
    for turn in itertools.count():
        own = range((rank - turn * parts) % workers, parts, workers)
        some = [from_bytes(raw) for raw in itertools.islice(rows, len(own))]
        if not some:
            return
        for micro in zip(*some, strict=True):
            yield from micro
            for _ in range(-(-parts // workers) - len(micro)):
                yield micro[-1] | {"ids": micro[-1]["ids"][:0]}


def data_config() -> DataConfig:
    """In order, without regard to where a block lies: which worker gets what is decided by the plan alone."""
    options = DataConfig.default_ingest_options()
    options.preserve_order = True
    return DataConfig(execution_options=options, enable_shard_locality=False)
