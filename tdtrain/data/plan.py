"""Which lines make up which optimizer step: decided once, from the seed alone.

An epoch reads the shards in a new order, a window of a few at a time, each shard sequentially and once. A window's
lines are shuffled, grouped by width and cut into global batches, so neither the number of workers nor Ray's scheduling
decides what a step learns from. Every usable line is in exactly one step of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

WINDOW_LINES = 4096


@dataclass(frozen=True)
class Shard:
    """One Parquet file of lines, the teacher's labels of it, and how many of its lines can be learnt from."""

    lines: str
    labels: str | None
    num_usable: int


@dataclass(frozen=True)
class Window:
    """Shards that are read together, and the steps they feed: `first_step` to `first_step + num_steps`."""

    epoch: int
    shards: tuple[Shard, ...]
    num_lines: int
    first_step: int
    num_steps: int


class Loader(Protocol):
    """From a window to micro batches: picklable, and holds no weights. `parts` of them make a step."""

    @property
    def parts(self) -> int: ...

    def load(self, window: Window, first_step: int, last_step: int) -> Iterator[dict[str, np.ndarray]]:
        """The micro batches of a window, in order, from `first_step` up to `last_step`; each with `ids` and `step`."""
        ...


@dataclass(frozen=True)
class Plan:
    """The data of a whole training run. `parts`: micro batches a step is cut into, none of which may be empty."""

    shards: tuple[Shard, ...]
    batch_size: int
    seed: int
    parts: int = 1

    def __post_init__(self) -> None:
        if self.num_lines < self.batch_size:
            raise ValueError(
                f"optimisation.batch_size={self.batch_size} is more than the {self.num_lines} lines there are to learn "
                "from; use a smaller batch_size, annotate more pages or lower min_confidence"
            )

    @property
    def num_lines(self) -> int:
        """Lines an epoch learns from."""
        return sum(shard.num_usable for shard in self.shards)

    def steps(self, epochs: float) -> int:
        """Optimizer steps in so many passes over the lines; at least one."""
        whole = [sum(window.num_steps for window in self.epoch(e, 0)) for e in range(int(epochs))]
        part = epochs - int(epochs)
        last = sum(window.num_steps for window in self.epoch(int(epochs), 0)) if part else 0
        return max(1, sum(whole) + round(part * last))

    def epoch(self, epoch: int, first_step: int) -> Iterator[Window]:
        """The windows of one epoch, in order."""
        usable = [shard for shard in self.shards if shard.num_usable]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(usable))
        groups: list[list[Shard]] = [[]]
        for index in order:
            if sum(shard.num_usable for shard in groups[-1]) >= WINDOW_LINES:
                groups.append([])
            groups[-1].append(usable[index])
        # A window below one batch would make a step of few lines.
        if len(groups) > 1 and sum(shard.num_usable for shard in groups[-1]) < self.batch_size:
            groups[-2].extend(groups.pop())
        for group in groups:
            num_lines = sum(shard.num_usable for shard in group)
            num_steps = -(-num_lines // self.batch_size)
            if num_lines // num_steps < self.parts:
                num_steps = num_lines // self.parts
            yield Window(epoch, tuple(group), num_lines, first_step, num_steps)
            first_step += num_steps

    def windows(self, first_step: int, last_step: int) -> list[Window]:
        """The windows that feed the steps from `first_step` up to but not including `last_step`."""
        chosen, step, epoch = [], 0, 0
        while step < last_step:
            for window in self.epoch(epoch, step):
                step = window.first_step + window.num_steps
                if step > first_step and window.first_step < last_step:
                    chosen.append(window)
            epoch += 1
        return chosen


def cut(widths: Sequence[int], num_steps: int, parts: int, rng: np.random.Generator) -> list[list[list[int]]]:
    """Cuts lines into `num_steps` global batches of `parts` micro batches each.

    Lines of similar width go together, for padding is wasted work; the widths are blurred a little so that the same
    lines do not always meet, and the batches come in random order.

    Args:
        widths: of each line, pixels.

    Returns: step -> part -> indices into `widths`; each index once; parts differ by at most one line.
    """
    blurred = np.asarray(widths) * rng.uniform(0.85, 1.15, len(widths))
    steps = np.array_split(np.argsort(blurred, kind="stable"), num_steps)
    return [[part.tolist() for part in np.array_split(steps[i], parts)] for i in rng.permutation(num_steps)]
