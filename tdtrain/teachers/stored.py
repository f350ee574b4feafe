"""A teacher that was asked before training: its answers come with the batches."""

from __future__ import annotations

import torch
from safetensors.torch import load
from torch import Tensor

from tdtrain.data.storage import open_folder
from tdtrain.losses.signal import Candidates, HeadOf, TeacherSignal
from tdtrain.models.reader import Codec
from tdtrain.teachers.cache import HEAD, load_begun, memory_of

Batch = dict[str, Tensor]


class StoredTeacher:
    """Makes a batch's stored arrays what a live teacher says: see `LiveTeacher`."""

    def __init__(self, folder: str, codec: Codec, temperature: float, device: torch.device) -> None:
        """Loads the teacher's head where hidden states were kept.

        Args:
            codec: whose tokens it speaks of: the student's, or its own where a bridge compares different ones.

        Raises: ValueError where the cache cannot serve the temperature, or keeps hidden states of a teacher that lacks
            some of the tokens.
        """
        manifest = load_begun(folder)
        keep = manifest.spec.keep
        self._softened = keep.temperature != 1
        self._head: tuple[Tensor, Tensor | None] | None = None
        if keep.kept == "hidden":
            to_student = torch.from_numpy(memory_of(folder, codec, temperature).to_student)
            rows = torch.full((len(codec.tokens),), -1)
            rows[to_student[to_student >= 0]] = torch.arange(len(to_student))[to_student >= 0]
            if (rows < 0).any():
                raise ValueError(f"the cache {folder} is of a teacher without some of the student's tokens")
            head = load(open_folder(folder).read(HEAD))
            bias = head.get("bias")
            self._head = head["weight"][rows].to(device), None if bias is None else bias[rows].to(device)

    def __call__(self, batch: Batch) -> TeacherSignal:
        """What the teacher said about a batch."""
        if self._head is not None:
            return TeacherSignal(HeadOf(batch["soft_hidden"], *self._head))
        stored = Candidates(batch["soft_ids"], batch["soft_logprobs"], batch.get("soft_tail"), self._softened)
        return TeacherSignal(stored)
