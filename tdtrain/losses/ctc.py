"""The losses of CTC readers. Shapes: B lines, T frames, V vocabulary with the blank at 0, L labels, K candidates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tdtrain.models.reader import IGNORED

BLANK = 0


def ctc(logits: Float[Tensor, "B T V"], frames: Int[Tensor, " B"], labels: Int[Tensor, "B L"]) -> Float[Tensor, ""]:
    """Connectionist temporal classification, summed over the lines that have labels.

    Args:
        logits: before the softmax; any float type, computed in fp32.
        frames: how many of the T frames are real.
        labels: character ids without blanks, IGNORED (-100) at padding; a line of nothing but padding costs nothing.

    Returns: nats. Divide by the global number of characters.
    Raises: ValueError where a text needs more frames than its line has, for its loss would be infinite.
    Source: Graves et al. 2006, "Connectionist Temporal Classification", eq. 8.
    """
    lengths = (labels != IGNORED).sum(1)
    told = lengths > 0
    if not told.any():
        return logits.sum() * 0.0
    if not told.all():  # indexing copies, and its gradient is scattered back
        logits, frames, labels, lengths = logits[told], frames[told], labels[told], lengths[told]
    short = frames_needed(labels) > frames
    if short.any():
        raise ValueError(f"{int(short.sum())} lines have fewer frames than their text needs; leave them out")
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, labels.clamp(min=0), frames, lengths, blank=BLANK, reduction="sum")


def frames_needed(labels: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
    """The fewest frames a text fits into: its characters, and a blank between two that are equal."""
    real = labels != IGNORED
    repeats = (labels[:, 1:] == labels[:, :-1]) & real[:, 1:]
    return real.sum(1) + repeats.sum(1)


def real_frames(frames: Int[Tensor, " B"], num_frames: int) -> Bool[Tensor, "B T"]:
    """True where a frame belongs to its line and not to the batch's padding."""
    return torch.arange(num_frames, device=frames.device) < frames[:, None]
