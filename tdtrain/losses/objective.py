"""The distillation objective: what one optimizer step minimises.

    alpha * T^2 * KL(teacher || student) / soft positions  +  (1 - alpha) * hard loss / hard positions

Positions are label positions (autoregressive) or real frames and characters (CTC), counted over all workers and micro
batches of the step, so that neither accumulation nor the number of workers changes the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tdtrain.losses.across import Across, Alignment
from tdtrain.losses.chunked import distillation_loss
from tdtrain.losses.ctc import ctc, real_frames
from tdtrain.losses.divergence import Divergence
from tdtrain.losses.kl import forward_kl, forward_kl_candidates
from tdtrain.losses.signal import Candidates, Distribution, HeadOf
from tdtrain.models.reader import IGNORED, Kind, ReaderOutput

CTC_HEAD_WEIGHT = 0.5
"""Share of the CTC head in the hard loss of an autoregressive student that has one (Hori et al. 2017)."""


@dataclass(frozen=True)
class Targets:
    """What one micro batch is compared with.

    `told` B: the lines whose labels are a target of their own; None: all of them.
    `taught` B: the lines on which the teacher has a say; None: all of them.
    """

    labels: Tensor
    soft: Distribution | None = None
    told: Tensor | None = None
    taught: Tensor | None = None
    ctc_labels: Tensor | None = None
    alignment: Alignment | None = None


@dataclass(frozen=True)
class Counts:
    """Positions the losses are divided by: of one micro batch, or of a whole step when added up over all."""

    soft: float
    hard: float
    lines: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.soft + other.soft, self.hard + other.hard, self.lines + other.lines)


@dataclass(frozen=True)
class Objective:
    """The loss of one student kind, with its dials. `mix` is for autoregressive students; CTC has the forward KL."""

    kind: Kind
    temperature: float
    alpha: float
    mix: Divergence = Divergence()  # noqa: RUF009  (frozen)
    across: Across | None = None
    """The way to a teacher that writes other tokens; None: the student's are among the teacher's."""

    def __call__(self, output: ReaderOutput, targets: Targets, counts: Counts) -> tuple[Tensor, Tensor, Tensor]:
        """This micro batch's share of the step's loss.

        Args:
            counts: positions of the whole step; see `Counts`.

        Returns: total, soft and hard loss (fp32 scalars, nats a position; soft and hard before weighting).
        """
        of_kind = self._of_frames if self.kind == "ctc" else self._of_tokens
        return of_kind(output, targets, counts)

    def _of_tokens(self, output: ReaderOutput, targets: Targets, counts: Counts) -> tuple[Tensor, Tensor, Tensor]:
        assert output.hidden is not None and output.head is not None
        has_head = output.encoder_logits is not None and targets.ctc_labels is not None
        kept = targets.labels != IGNORED
        teacher = None if self.across is not None else targets.soft
        total, soft, hard = distillation_loss(
            output.hidden[kept],
            output.head.weight,
            output.head.bias,
            targets.labels[kept],
            None if teacher is None else teacher.at(kept),  # type: ignore[union-attr]
            _shares(kept, targets.taught, counts.soft),
            _shares(kept, targets.told, counts.hard) * (1 - CTC_HEAD_WEIGHT if has_head else 1.0),
            self.alpha,
            self.temperature,
            self.mix,
        )
        alpha = 0.0 if targets.soft is None else self.alpha
        if self.across is not None and alpha:
            assert isinstance(targets.soft, HeadOf | Candidates) and targets.alignment is not None
            taught = torch.ones_like(kept[:, 0]) if targets.taught is None else targets.taught
            said = self.across(output, targets.labels, targets.soft, targets.alignment, taught, self.temperature)
            soft = said.detach() / max(counts.soft, 1)
            total = (1 - alpha) * total + alpha * said / max(counts.soft, 1)
        if not has_head:
            return total, soft, hard
        assert output.encoder_logits is not None and targets.ctc_labels is not None
        lines, columns, _ = output.encoder_logits.shape
        frames = torch.full((lines,), columns, device=kept.device)
        labels = hard_labels(targets.ctc_labels, targets.told)
        head = CTC_HEAD_WEIGHT * ctc(output.encoder_logits, frames, labels) / max(counts.hard, 1)
        return total + (1 - alpha) * head, soft, hard + head.detach()

    def _of_frames(self, output: ReaderOutput, targets: Targets, counts: Counts) -> tuple[Tensor, Tensor, Tensor]:
        assert output.logits is not None and output.frames is not None
        hard = ctc(output.logits, output.frames, hard_labels(targets.labels, targets.told)) / max(counts.hard, 1)
        if self.alpha == 0 or targets.soft is None:
            return hard, torch.zeros_like(hard), hard
        soft = self._frame_kl(output.logits, output.frames, targets) / max(counts.soft, 1)
        return self.alpha * soft + (1 - self.alpha) * hard, soft, hard

    def _frame_kl(self, logits: Tensor, frames: Tensor, targets: Targets) -> Tensor:
        kept = real_frames(frames, logits.shape[1])
        if targets.taught is not None:
            kept = kept & targets.taught[:, None]
        if isinstance(targets.soft, Candidates):
            width = targets.soft.ids.shape[1]  # padding of the batch beyond the longest line is not stored
            assert not kept[:, width:].any(), "the stored teacher has fewer frames than the student"
            chosen = targets.soft.at(kept[:, :width])
            return forward_kl_candidates(
                logits[:, :width][kept[:, :width]], chosen.ids, chosen.logprobs, self.temperature
            )
        assert isinstance(targets.soft, Tensor)
        return forward_kl(logits[kept], targets.soft[kept], self.temperature)


def hard_labels(labels: Tensor, told: Tensor | None) -> Tensor:
    """Labels B,L with the lines that are not told all padding."""
    return labels if told is None else labels.masked_fill(~told[:, None], IGNORED)


def _shares(kept: Tensor, chosen: Tensor | None, count: float) -> Tensor:
    """fp32 N: 1 / count at the kept positions B,T of chosen lines, else 0."""
    share = torch.full(kept.shape, 1 / max(count, 1), device=kept.device)
    return (share if chosen is None else share * chosen[:, None])[kept]
