"""How long a line takes, from the uint8 picture to its text: resizing, batching, network and decoding included."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from tdtrain.models.reader import Reader, read_images

LINES_PER_TURN = 16


class Timing(BaseModel):
    """Milliseconds a line, and under which conditions they were taken.

    Attributes:
        ms_per_line_p50: median over lines, one line at a time.
        ms_per_line_p95: 95th percentile over lines, one line at a time.
        ms_per_line_batched_p50: median over batches of a batch's time / its lines.
        ms_per_line_batched_p95: 95th percentile over batches and repeats.
        batch_size: lines in a batch of the batched figure; smaller than asked for where there were fewer images.
        num_threads: CPU threads PyTorch was allowed within an operation.
        device: where the network ran, such as `cpu` or `cuda:0`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms_per_line_p50: float
    ms_per_line_p95: float
    ms_per_line_batched_p50: float
    ms_per_line_batched_p95: float
    num_lines: int
    batch_size: int
    num_threads: int
    device: str


def time_readers(
    readers: Mapping[str, Reader],
    images: Sequence[np.ndarray],
    repeats: int = 3,
    batch_size: int = 32,
    num_threads: int = 1,
) -> dict[str, Timing]:
    """Times several readers on the same lines, turn by turn, so that what else the machine does hits them alike.

    The readers take turns of LINES_PER_TURN lines, as many as a part of a page (A A .. B B .. C C .. A A ..), and of
    one batch, `repeats` times over the whole set. Turns of one line would find every reader's weights gone from the
    processor's caches, which doesn't happen to somebody who reads pages. A line's time is the median of its repeats,
    which also drops what a first sight of a new width costs. One line and one batch a reader are read before the clock
    starts.

    Args:
        readers: by name; each with its module where it should run, in eval mode.
        images: uint8 RGB HxWx3 lines; a hundred or so are enough for a p95.
        repeats: passes over all images.
        num_threads: PyTorch's intra-operation threads during the measurement; set back afterwards.

    Raises: ValueError without images, or with repeats or batch_size below 1.
    """
    if not images:
        raise ValueError("images is empty; timing needs at least one line")
    if repeats < 1 or batch_size < 1 or num_threads < 1:
        raise ValueError(
            f"repeats={repeats}, batch_size={batch_size} and num_threads={num_threads} must each be 1 or more"
        )
    batch_size = min(batch_size, len(images))
    singles = [images[i : i + 1] for i in range(len(images))]
    # A last batch that is not full would be timed by another rule than the rest.
    batches = [images[i : i + batch_size] for i in range(0, len(images) - batch_size + 1, batch_size)]
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for reader in readers.values():
            read_images(reader, singles[0], batch_size)
            read_images(reader, batches[0], batch_size)
        single_ms = _interleaved_ms(readers, singles, repeats, batch_size, LINES_PER_TURN)
        batched_ms = _interleaved_ms(readers, batches, repeats, batch_size, 1)
    finally:
        torch.set_num_threads(threads_before)
    return {
        name: Timing(
            ms_per_line_p50=float(np.median(np.median(single_ms[name], axis=0))),
            ms_per_line_p95=float(np.quantile(np.median(single_ms[name], axis=0), 0.95)),
            ms_per_line_batched_p50=float(np.median(np.median(batched_ms[name], axis=0))),
            ms_per_line_batched_p95=float(np.quantile(batched_ms[name], 0.95)),
            num_lines=len(images),
            batch_size=batch_size,
            num_threads=num_threads,
            device=str(next(reader.module.parameters()).device),
        )
        for name, reader in readers.items()
    }


def _interleaved_ms(
    readers: Mapping[str, Reader], groups: Sequence[Sequence[np.ndarray]], repeats: int, batch_size: int, turn: int
) -> dict[str, np.ndarray]:
    """Milliseconds a line, repeats x groups, per reader. A reader's turn is `turn` groups."""
    taken = {name: np.empty((repeats, len(groups))) for name in readers}
    for repeat, first in itertools.product(range(repeats), range(0, len(groups), turn)):
        for name, reader in readers.items():
            for place, group in enumerate(groups[first : first + turn], first):
                start_s = time.perf_counter()
                read_images(reader, group, batch_size)
                taken[name][repeat, place] = 1000 * (time.perf_counter() - start_s) / len(group)
    return taken
