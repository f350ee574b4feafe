"""The hard loss of autoregressive readers. Shapes: B lines, T positions, V vocabulary."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tdtrain.models.reader import IGNORED


def cross_entropy(logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Cross-entropy of the labels, summed over label positions; padding costs nothing.

    Args:
        logits: position t predicts label t; any float type, computed in fp32.
        labels: token ids, IGNORED (-100) at padding.

    Returns: nats. Divide by the global number of label positions.
    """
    kept = labels != IGNORED
    return F.cross_entropy(logits[kept].float(), labels[kept], reduction="sum")
