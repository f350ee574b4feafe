"""A teacher that reads along: frozen, outside optimizer and ZeRO state, in bf16 where the device has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdtrain.losses.signal import HeadOf, TeacherSignal
from tdtrain.models.ctc_decode import character_map
from tdtrain.models.load import load_reader
from tdtrain.models.reader import IGNORED, Reader
from tdtrain.models.trocr import TrOCRModule
from tdtrain.models.trocr_inputs import TrOCRPixels
from tdtrain.precision import Precision, use_bf16

Batch = dict[str, Tensor]
Shard = Callable[[nn.Module], nn.Module]
Asked = Literal["tokens", "own tokens", "encoder"]
"""What a teacher is asked about: the student's tokens, which it must know; its own tokens of the same text; or nothing
but what its encoder sees."""
TOLERANCE = 0.05
"""How far the teacher's loss on a batch may be from its stand-alone fp32 loss, relative; bf16 stays below 0.02."""


class LiveTeacher:
    """Says what the teacher makes of every batch."""

    def __init__(
        self,
        reader: Reader,
        student: Reader,
        device: torch.device,
        precision: Precision = "auto",
        shard: Shard | None = None,
        asked: Asked = "tokens",
    ) -> None:
        """Freezes and casts the teacher.

        Args:
            precision: of the training; its weights become bf16 on a GPU unless that is fp32.
            shard: spreads its weights over the workers; None: each has them all.
            asked: see `Asked`.

        Raises: ValueError where the pair cannot be compared position by position, and should be.
        """
        self._asked = asked
        self._same = reader.codec.tokens == student.codec.tokens
        self._ids = torch.arange(len(reader.codec.tokens), device=device)
        if asked == "tokens":
            check_pair(reader, student)
            self._ids = character_map(reader.codec, student.codec).to(device)
        else:
            check_pictures(reader, student)
        self._reader = reader
        self._dtype = torch.bfloat16 if device.type == "cuda" and use_bf16(precision, "cuda") else torch.float32
        self._module = reader.module.to(device=device, dtype=self._dtype).eval().requires_grad_(False)
        self._head: tuple[Tensor, Tensor | None] | None = None
        if isinstance(self._module, TrOCRModule):  # before it is sharded: every worker needs all of it
            head = self._module.head
            self._head = head.weight[self._ids].clone(), None if head.bias is None else head.bias[self._ids].clone()
        self._sharded = shard is not None
        self._answer: nn.Module = _Answering(self._module)
        if shard is not None:
            self._answer = shard(self._answer)
        self._checked = False

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherSignal:
        """Hidden states with their head, or a CTC teacher's logits B,T,V over the student's vocabulary, -inf for
        characters that it does not know."""
        if self._asked == "encoder":
            seen = self._answer("encode", self._pixels(batch))
            return TeacherSignal(None, seen, cast(TrOCRModule, self._module).grid)
        if not self._checked:
            self._check(batch)
        if self._head is not None:
            output = self._answer("hidden_states", self._pixels(batch), labels=self._labels(batch))
            grid = cast(TrOCRModule, self._module).grid
            return TeacherSignal(HeadOf(output.hidden, *self._head), output.encoder_hidden, grid)
        logits = self._logits(batch)
        if self._same:
            return TeacherSignal(logits)
        known = self._ids >= 0
        return TeacherSignal(torch.where(known, logits[..., self._ids.clamp(min=0)], -torch.inf))

    def _pixels(self, batch: Batch) -> Tensor:
        return self._reader.pixels.normalize(batch["pixels"], batch["widths"], self._dtype)

    def _logits(self, batch: Batch) -> Tensor:
        pixels, labels = self._pixels(batch), self._labels(batch)
        return self._answer("__call__", pixels, labels=labels, widths=batch["widths"]).logits

    def _labels(self, batch: Batch) -> Tensor:
        """The line's text in the teacher's tokens."""
        if self._asked == "own tokens":
            return batch["teacher_labels"]
        labels = batch["labels"]
        if self._same or self._reader.kind == "ctc":
            return labels
        return torch.where(labels == IGNORED, IGNORED, self._ids[labels.clamp(min=0)])

    def _check(self, batch: Batch) -> None:
        """Compares the loss of the teacher as it is run here with its own, loaded anew, in fp32 and alone.

        Raises: ValueError where they differ: the teacher would teach something else than it knows.
        """
        logits = self._logits(batch)
        batch = batch | {"labels": self._labels(batch)}
        mine = _loss(self._reader, batch, logits)
        alone = load_reader(self._reader.name)
        if self._sharded:  # because it does not fit on the device, where this would be all of it
            batch = {key: value.cpu() for key, value in batch.items()}
        alone.module.to(batch["pixels"].device).eval()
        pixels = alone.pixels.normalize(batch["pixels"], batch["widths"], torch.float32)
        with torch.autocast(pixels.device.type, enabled=False):
            theirs = _loss(alone, batch, alone.module(pixels, labels=batch["labels"], widths=batch["widths"]).logits)
        if not abs(mine - theirs) <= TOLERANCE * max(abs(theirs), 0.1):
            raise ValueError(
                f"the teacher {self._reader.name} has a loss of {mine:.4f} on the first batch where it trains the "
                f"student, but {theirs:.4f} on its own; its weights or its input are not what it was trained with"
            )
        self._checked = True


class _Answering(nn.Module):
    """A teacher's methods as forward passes of one module: DeepSpeed lets go of what it recorded where one begins."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, *inputs: Tensor, **named: Tensor) -> Any:
        """What that method of the teacher's returns."""
        return getattr(self.module, method)(*inputs, **named)


def _loss(reader: Reader, batch: Batch, logits: Tensor) -> float:
    """Nats a label, of labels in the student's ids where vocabularies agree; else of the teacher's own best path."""
    if reader.kind == "autoregressive":
        return float(F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten()))
    frames = batch["frames"]
    best = logits.float().log_softmax(-1).amax(-1)
    real = torch.arange(best.shape[1], device=best.device) < frames[:, None]
    return float(-best[real].mean())


def check_pair(teacher: Reader, student: Reader, live: bool = True) -> None:
    """Raises ValueError where a teacher's distributions cannot be compared with the student's, position by position.

    Args:
        live: whether the teacher sees the student's batches, and not the lines themselves.
    """
    if teacher.kind != student.kind:
        raise ValueError(
            f"teacher_model {teacher.name} is {teacher.kind} and student_model {student.name} is {student.kind}; "
            "their distributions have nothing in common, but the teacher's text can teach: use --targets sequence"
        )
    check_pictures(teacher, student, live)
    if teacher.kind == "autoregressive" and not set(student.codec.tokens) <= set(teacher.codec.tokens):
        raise ValueError(
            f"teacher_model {teacher.name} has {len(teacher.codec.tokens)} tokens and student_model {student.name} "
            f"has {len(student.codec.tokens)}, not the same ones; use --vocabulary_bridge rehead, or another bridge"
        )


def check_pictures(teacher: Reader, student: Reader, live: bool = True) -> None:
    """Raises ValueError where a teacher cannot see what the student sees, and has to. `live`: as in `check_pair`."""
    # TrOCRs of one size may differ in the filter they were resized with, and normalise for themselves.
    written = isinstance(teacher.pixels, TrOCRPixels) and isinstance(student.pixels, TrOCRPixels)
    alike = teacher.pixels.size == student.pixels.size if written else teacher.pixels == student.pixels  # type: ignore[attr-defined]
    if (live or not written) and not alike:
        raise ValueError(
            f"teacher_model {teacher.name} and student_model {student.name} take different pictures "
            f"({teacher.pixels} and {student.pixels}); use "
            f"{'--teacher_signal stored' if written else '--targets sequence'}"
        )
