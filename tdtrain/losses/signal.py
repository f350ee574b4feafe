"""What a teacher says about a batch: TeacherSignal, live or stored.

Shapes: any leading dimensions (B lines by T positions, or N positions), E width of the teacher, V vocabulary, K
candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

Index: TypeAlias = Tensor | slice | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class HeadOf:
    """Hidden states ...,E and the head that makes them logits: exact, at any temperature.

    `weight` V,E holds the rows of the student's tokens, in its order.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def logits(self) -> Tensor:
        """...,V in fp32."""
        return F.linear(self.hidden, self.weight.to(self.hidden.dtype), self.bias).float()

    def at(self, chosen: Index) -> HeadOf:
        """The teacher at some positions."""
        return HeadOf(self.hidden[chosen], self.weight, self.bias)


@dataclass(frozen=True)
class Candidates:
    """Of each position K tokens in the student's vocabulary, ids and log-probabilities ...,K (-inf: slot not used).

    Attributes:
        tail: log-probability of all other tokens together, a class of its own; None: they are not taught.
        softened: the log-probabilities are those of the softened distribution already; else they are softened here.
    """

    ids: Tensor
    logprobs: Tensor
    tail: Tensor | None = None
    softened: bool = False

    def at(self, chosen: Index) -> Candidates:
        """The teacher at some positions."""
        tail = None if self.tail is None else self.tail[chosen]
        return Candidates(self.ids[chosen], self.logprobs[chosen], tail, self.softened)


Distribution: TypeAlias = HeadOf | Candidates | Tensor
"""A Tensor is the logits ...,V of a live CTC teacher, over the student's vocabulary."""


@dataclass(frozen=True)
class TeacherSignal:
    """All that a teacher says about a batch.

    Attributes:
        distribution: at each of the positions that teacher and student share.
        encoder: B,S,E, its encoder's patches, in rows and columns of `grid`; None where nobody asked.
    """

    distribution: Distribution | None = None
    encoder: Tensor | None = None
    grid: tuple[int, int] = (1, 1)
