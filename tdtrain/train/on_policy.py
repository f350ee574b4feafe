"""On-policy distillation: in some steps the student writes, and the teacher says what it thinks of it.

Source: GKD (Agarwal et al. 2024, arXiv 2306.13649, algorithm 1, with lambda the share of such steps).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from zlib import crc32

import torch
from torch import Tensor

from tdtrain.models.reader import IGNORED, Reader
from tdtrain.models.trocr import TrOCRReader

Batch = dict[str, Tensor]


class OwnReadings:
    """Replaces the labels of a share of the steps with what the student itself writes there."""

    def __init__(self, share: float, seed: int, whole: Callable[[], AbstractContextManager[Reader]]) -> None:
        """All workers choose the same steps, and what is drawn of a micro batch does not depend on who has it.

        Args:
            share: of the steps, in [0, 1].
            whole: gives the student with the weights it has now.
        """
        self._share, self._seed, self._whole = share, seed, whole

    def __call__(self, batch: Batch, step: int, ids: Sequence[str]) -> Batch:
        """The micro batch of a step, or the same pictures with the student's own readings: taught, and not told.

        Args:
            ids: of its lines.
        """
        if random.Random(f"{self._seed} {step}").random() >= self._share:
            return batch
        with self._whole() as student, torch.random.fork_rng(devices=_devices(batch)):
            assert isinstance(student, TrOCRReader)
            torch.manual_seed(crc32(" ".join((f"{self._seed} {step}", *ids)).encode()))
            labels = student.draw(batch)
        told = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        return batch | {"labels": labels, "told": told, "taught": (labels != IGNORED).any(1)}


def _devices(batch: Batch) -> list[int]:
    device = batch["pixels"].device
    return [device.index or 0] if device.type == "cuda" else []
