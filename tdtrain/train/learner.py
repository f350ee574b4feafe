"""The student under training together with its loss: the module that an engine wraps.

Data parallelism and ZeRO-3 look after weights that are used inside a forward pass. The loss needs the head's weight, so
it belongs there; what comes out are three numbers.
"""

from __future__ import annotations

from torch import Tensor, nn

from tdtrain.losses.objective import Counts, Objective, Targets
from tdtrain.losses.signal import TeacherSignal
from tdtrain.models.reader import Reader
from tdtrain.models.trocr import TrOCRModule

Batch = dict[str, Tensor]
_STUDENT = "student."


class Learner(nn.Module):
    """A student and what it minimises."""

    def __init__(self, reader: Reader, objective: Objective) -> None:
        super().__init__()
        self.student = reader.module
        self._pixels = reader.pixels
        self.objective = objective

    def forward(self, batch: Batch, soft: TeacherSignal | None, counts: Counts) -> tuple[Tensor, Tensor, Tensor]:
        """This micro batch's share of the step's total, soft and hard loss; see `Objective`.

        Args:
            batch: see `tdtrain.data.batches.load_window`.
            soft: what the teacher says; None where there is none.
            counts: positions of the whole step.
        """
        dtype = next(self.student.parameters()).dtype
        pixels = self._pixels.normalize(batch["pixels"], batch["widths"], dtype)
        see = self.student.hidden_states if isinstance(self.student, TrOCRModule) else self.student
        output = see(pixels, labels=batch["labels"], widths=batch["widths"])
        targets = Targets(batch["labels"], soft, batch.get("told"), batch.get("taught"), batch.get("ctc_labels"))
        return self.objective(output, targets, counts)


def of_student(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a learner's weights those of the student, under the names they have in its reader's module."""
    return {name.removeprefix(_STUDENT): value for name, value in weights.items() if name.startswith(_STUDENT)}
