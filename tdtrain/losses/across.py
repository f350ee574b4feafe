"""The soft loss between different vocabularies: what is compared where teacher and student stand at the same character.

Shapes: B lines, T the student's label positions, U the teacher's, P pairs of positions, V and W the two vocabularies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tdtrain.losses.bridge import ALM_TEMPERATURE, approximate_likelihood, class_kl, class_kl_candidates, uld
from tdtrain.losses.signal import Candidates, HeadOf
from tdtrain.models.reader import IGNORED, ReaderOutput
from tdtrain.models.vocabulary_map import ClassMap, next_character_classes, projection_classes

CHUNK = 256
"""Pairs whose logits are held at once."""


@dataclass(frozen=True)
class Alignment:
    """How the two tokenizations of a batch's texts lie beside each other, see `tdtrain.models.spans`. -1: padding."""

    pairs_student: Tensor
    pairs_teacher: Tensor
    chunk_student: Tensor
    chunk_teacher: Tensor
    teacher_labels: Tensor
    teacher_logprobs: Tensor | None = None
    """B,U of the teacher's own labels, where they were stored."""


@dataclass(frozen=True)
class Across:
    """A bridge with its maps of tokens to classes, which align and uld do without."""

    bridge: str
    classes: ClassMap | None = None

    def count(self, alignment: Alignment, taught: Tensor) -> float:
        """What the soft loss is averaged over: chunks, or pairs of positions, of the lines that are taught."""
        if self.bridge == "align":
            return float((alignment.chunk_student.amax(1) + 1)[taught].sum())
        return float((alignment.pairs_student >= 0)[taught].sum())

    def __call__(
        self,
        output: ReaderOutput,
        labels: Tensor,
        teacher: HeadOf | Candidates,
        alignment: Alignment,
        taught: Tensor,
        temperature: float,
    ) -> Tensor:
        """The soft loss, nats, summed over chunks or pairs."""
        assert output.hidden is not None and output.head is not None
        if self.bridge == "align":
            return self._of_chunks(output, labels, teacher, alignment, taught, temperature)
        chosen = (alignment.pairs_student >= 0) & taught[:, None]
        lines, places = chosen.nonzero(as_tuple=True)
        mine, theirs = alignment.pairs_student[lines, places], alignment.pairs_teacher[lines, places]
        hidden, said = output.hidden[lines, mine], teacher.at((lines, theirs))
        first = (mine == 0) & (theirs == 0)
        total = hidden.sum() * 0.0
        for of_first in (True, False):
            where = (first == of_first).nonzero()[:, 0]
            for part in where.split(CHUNK):
                total = total + checkpoint(
                    self._of_pairs, output.head, hidden[part], said.at(part), of_first, temperature, use_reentrant=False
                )
        return total

    def _of_pairs(
        self, head: torch.nn.Linear, hidden: Tensor, teacher: HeadOf | Candidates, first: bool, temperature: float
    ) -> Tensor:
        logits = head(hidden)
        if self.bridge == "uld":
            return uld(logits, teacher if isinstance(teacher, Candidates) else teacher.logits(), temperature)
        assert self.classes is not None
        maps = (self.classes.student_first, self.classes.teacher_first)
        if not first:
            maps = (self.classes.student, self.classes.teacher)
        mine, theirs = (torch.from_numpy(one).to(logits.device) for one in maps)
        how = (theirs, self.classes.num_classes, temperature)
        if isinstance(teacher, HeadOf):
            return class_kl(logits, mine, teacher.logits(), *how)
        return class_kl_candidates(logits, mine, teacher, *how)

    def _of_chunks(
        self,
        output: ReaderOutput,
        labels: Tensor,
        teacher: HeadOf | Candidates,
        alignment: Alignment,
        taught: Tensor,
        temperature: float,
    ) -> Tensor:
        assert output.hidden is not None and output.head is not None
        kept = (labels != IGNORED) & taught[:, None]
        log_q = torch.zeros(labels.shape, device=labels.device)
        told = checkpoint(_told, output.head, output.hidden[kept], labels[kept], use_reentrant=False)
        log_q = log_q.masked_scatter(kept, told)
        log_p = alignment.teacher_logprobs
        if log_p is None:
            assert isinstance(teacher, HeadOf)
            real = alignment.teacher_labels != IGNORED
            log_p = torch.zeros(real.shape, device=labels.device)
            said = teacher.at(real).logits().log_softmax(-1)
            log_p[real] = said.gather(1, alignment.teacher_labels[real][:, None])[:, 0]
        chunks = (alignment.chunk_student, alignment.chunk_teacher)
        mine, theirs = (chunk.masked_fill(~taught[:, None], -1) for chunk in chunks)
        # Times tau, that it weighs as much as the other losses do.
        return ALM_TEMPERATURE * approximate_likelihood(log_q, mine, log_p, theirs)


def across(bridge: str, teacher: Any, student: Any) -> Across:
    """The bridge between two codecs, with the maps that it needs."""
    maps = {"next_character": next_character_classes, "project": projection_classes}
    return Across(bridge, maps[bridge](teacher, student) if bridge in maps else None)


def _told(head: torch.nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
    return head(hidden).float().log_softmax(-1).gather(1, labels[:, None])[:, 0]
