"""The student under training together with its loss: the module that an engine wraps.

Data parallelism and ZeRO-3 look after weights that are used inside a forward pass. The loss needs the head's weight, so
it belongs there; what comes out are four numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tdtrain.losses.across import Alignment
from tdtrain.losses.hidden import hidden_match
from tdtrain.losses.objective import Counts, Objective, Targets
from tdtrain.losses.signal import TeacherSignal
from tdtrain.models.reader import Reader, ReaderOutput
from tdtrain.models.trocr import TrOCRModule

Batch = dict[str, Tensor]
_STUDENT = "student."


class Learner(nn.Module):
    """A student and what it minimises."""

    def __init__(
        self, reader: Reader, objective: Objective, hidden_weight: float = 0.0, teacher_width: int = 0
    ) -> None:
        """Wraps the student, which shares its weights with the reader.

        Args:
            hidden_weight: of the encoders' match; 0: none.
            teacher_width: of the teacher's encoder, where there is such a match.
        """
        super().__init__()
        self.student = reader.module
        self._pixels = reader.pixels
        self._objective = objective
        self._hidden_weight = hidden_weight
        self.projector: nn.Linear | None = None
        if hidden_weight:
            assert isinstance(reader.module, TrOCRModule)
            weight = next(reader.module.parameters())
            self.projector = nn.Linear(reader.module.encoder_width, teacher_width).to(weight.device, weight.dtype)

    def forward(
        self, batch: Batch, teacher: TeacherSignal | None, counts: Counts
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """This micro batch's share of the step's total, soft, hard and hidden loss; see `Objective`, `hidden_match`.

        Args:
            batch: see `tdtrain.data.batches.load_window`.
            teacher: what it says; None where there is none.
            counts: positions and lines of the whole step.
        """
        dtype = next(self.student.parameters()).dtype
        pixels = self._pixels.normalize(batch["pixels"], batch["widths"], dtype)
        see = self.student.hidden_states if isinstance(self.student, TrOCRModule) else self.student
        output = see(pixels, labels=batch["labels"], widths=batch["widths"])
        soft = None if teacher is None else teacher.distribution
        lines = (batch.get("told"), batch.get("taught"), batch.get("ctc_labels"))
        targets = Targets(batch["labels"], soft, *lines, alignment_of(batch))
        total, soft_loss, hard_loss = self._objective(output, targets, counts)
        hidden_loss = self._match(output, teacher, counts)
        return total + self._hidden_weight * hidden_loss, soft_loss, hard_loss, hidden_loss.detach()

    def _match(self, output: ReaderOutput, teacher: TeacherSignal | None, counts: Counts) -> Tensor:
        if self.projector is None or teacher is None or teacher.encoder is None:
            return torch.zeros((), device=next(self.student.parameters()).device)
        assert output.encoder_hidden is not None and isinstance(self.student, TrOCRModule)
        mine = self.projector(output.encoder_hidden)
        return hidden_match(mine, teacher.encoder, self.student.grid, teacher.grid) / max(counts.lines, 1)


def alignment_of(batch: Batch) -> Alignment | None:
    """How the tokens of student and teacher lie beside each other, where they differ."""
    if "teacher_labels" not in batch:
        return None
    names = ("pairs_student", "pairs_teacher", "chunk_student", "chunk_teacher", "teacher_labels")
    tensors = {name: batch[name] for name in names}
    return Alignment(**tensors, teacher_logprobs=batch.get("soft_told"))


def of_student(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a learner's weights those of the student, under the names they have in its reader's module."""
    return {name.removeprefix(_STUDENT): value for name, value in weights.items() if name.startswith(_STUDENT)}
