from __future__ import annotations

import numpy as np
import pytest
import torch

from tdtrain.evaluate import timing
from tdtrain.evaluate.timing import time_readers

from . import readers as small_readers
from .readers import ShadeReader

IMAGES = [np.full((8, 20 + i, 3), i, dtype=np.uint8) for i in range(10)]


class Clock:
    """Time that passes where somebody sleeps, and nowhere else."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_times_follow_the_delay_and_batches_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    for module in (timing, small_readers):
        monkeypatch.setattr(module, "time", clock)
    readers = {"slow": ShadeReader(0.06), "fast": ShadeReader(0.01)}
    timings = time_readers(readers, IMAGES, repeats=2, batch_size=4)
    slow, fast = timings["slow"], timings["fast"]
    assert (slow.ms_per_line_p50, slow.ms_per_line_p95, fast.ms_per_line_p50) == pytest.approx((60, 60, 10))
    assert (slow.ms_per_line_batched_p50, slow.ms_per_line_batched_p95) == pytest.approx((15, 15))
    assert (slow.num_lines, slow.batch_size, slow.num_threads, slow.device) == (10, 4, 1, "cpu")


def test_readers_take_turns_and_only_full_batches_count() -> None:
    log: list[str] = []

    class Logged(ShadeReader):
        def __init__(self, label: str) -> None:
            super().__init__()
            self.label = label

        def read(self, batch):
            log.append(f"{self.label}{len(batch['widths'])}")
            return super().read(batch)

    time_readers({"a": Logged("a"), "b": Logged("b")}, IMAGES[:5], repeats=2, batch_size=2)
    warm_up, measured = log[:4], log[4:]
    assert warm_up == ["a1", "a2", "b1", "b2"]
    assert measured == ([*["a1"] * 5, *["b1"] * 5]) * 2 + ["a2", "b2"] * 4


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    time_readers({"a": ShadeReader()}, IMAGES[:1], repeats=1, num_threads=before + 1)
    assert torch.get_num_threads() == before


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="images is empty"):
        time_readers({"a": ShadeReader()}, [])
