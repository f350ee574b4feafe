"""The distillation objective: what one optimizer step minimises.

    alpha * T^2 * KL(teacher || student) / soft positions  +  (1 - alpha) * hard loss / hard positions

Positions are label positions (autoregressive) or real frames and characters (CTC), counted over all workers and micro
batches of the step, so that neither accumulation nor the number of workers changes the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tdtrain.losses.cross_entropy import cross_entropy
from tdtrain.losses.ctc import ctc, real_frames
from tdtrain.losses.kl import forward_kl, forward_kl_candidates
from tdtrain.models.reader import IGNORED, Kind, ReaderOutput

CTC_HEAD_WEIGHT = 0.5
"""Share of the CTC head in the hard loss of an autoregressive student that has one (Hori et al. 2017)."""


@dataclass(frozen=True)
class Candidates:
    """A stored teacher: per frame its K likeliest tokens, in the student's vocabulary (-inf: slot not used)."""

    ids: Tensor
    logprobs: Tensor


@dataclass(frozen=True)
class Targets:
    """What one micro batch is compared with. `soft` is None, a live teacher's logits B,T,V, or `Candidates` B,T,K.

    `told` B: the lines whose labels are a target of their own; None: all of them.
    `taught` B: the lines on which the teacher has a say; None: all of them.
    """

    labels: Tensor
    soft: Tensor | Candidates | None = None
    told: Tensor | None = None
    taught: Tensor | None = None
    ctc_labels: Tensor | None = None


@dataclass(frozen=True)
class Counts:
    """Positions the losses are divided by: of one micro batch, or of a whole step when added up over all."""

    soft: float
    hard: float

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.soft + other.soft, self.hard + other.hard)


@dataclass(frozen=True)
class Objective:
    """The loss of one student kind, with its two dials."""

    kind: Kind
    temperature: float
    alpha: float

    def __call__(self, output: ReaderOutput, targets: Targets, counts: Counts) -> tuple[Tensor, Tensor, Tensor]:
        """This micro batch's share of the step's loss.

        Args:
            counts: positions of the whole step; see `Counts`.

        Returns: total, soft and hard loss (fp32 scalars, nats a position; soft and hard before weighting).
        """
        hard = self._hard(output, targets) / max(counts.hard, 1)
        if self.alpha == 0 or targets.soft is None:
            return hard, torch.zeros_like(hard), hard
        soft = self._soft(output, targets) / max(counts.soft, 1)
        return self.alpha * soft + (1 - self.alpha) * hard, soft, hard

    def _hard(self, output: ReaderOutput, targets: Targets) -> Tensor:
        labels = hard_labels(targets.labels, targets.told)
        if self.kind == "ctc":
            assert output.frames is not None
            return ctc(output.logits, output.frames, labels)
        loss = cross_entropy(output.logits, labels)
        if output.encoder_logits is None or targets.ctc_labels is None:
            return loss
        columns = output.encoder_logits.shape[1]
        frames = torch.full((len(output.encoder_logits),), columns, device=loss.device)
        head = ctc(output.encoder_logits, frames, hard_labels(targets.ctc_labels, targets.told))
        return (1 - CTC_HEAD_WEIGHT) * loss + CTC_HEAD_WEIGHT * head

    def _soft(self, output: ReaderOutput, targets: Targets) -> Tensor:
        kept = soft_positions(self.kind, targets, output.frames, output.logits.shape[1])
        if isinstance(targets.soft, Candidates):
            width = targets.soft.ids.shape[1]  # padding of the batch beyond the longest line is not stored
            assert not kept[:, width:].any(), "the stored teacher has fewer frames than the student"
            kept = kept[:, :width]
            ids, logprobs = targets.soft.ids[kept], targets.soft.logprobs[kept]
            return forward_kl_candidates(output.logits[:, :width][kept], ids, logprobs, self.temperature)
        assert targets.soft is not None
        return forward_kl(output.logits[kept], targets.soft[kept], self.temperature)


def hard_labels(labels: Tensor, told: Tensor | None) -> Tensor:
    """Labels B,L with the lines that are not told all padding."""
    return labels if told is None else labels.masked_fill(~told[:, None], IGNORED)


def soft_positions(kind: Kind, targets: Targets, frames: Tensor | None, num_positions: int) -> Tensor:
    """bool B,T: where the two distributions are compared."""
    if kind == "ctc":
        assert frames is not None
        kept = real_frames(frames, num_positions)
    else:
        kept = targets.labels != IGNORED
    return kept if targets.taught is None else kept & targets.taught[:, None]
