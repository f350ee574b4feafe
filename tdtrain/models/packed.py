"""Attention over documents that are laid one after the other without padding, as one of transformers' own kinds.

Shapes: T tokens of several documents, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED = "tdtrain_packed"


def _attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_lengths: Sequence[int] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document: the blocks of a block-diagonal mask, without the zeros around them."""
    assert attention_mask is None and packed_lengths is not None, "packed documents have no mask"
    if others.get("softcap") is not None or others.get("s_aux") is not None:
        raise ValueError(f"{type(module).__name__} caps its attention or lets it sink, which packed documents do not")
    parts = zip(*(states.split(packed_lengths, dim=2) for states in (query, key, value)), strict=True)
    how: dict[str, Any] = {
        "dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]
    }  # fmt: skip
    seen = []
    for q, k, v in parts:
        mask = _window(q.shape[2], others.get("sliding_window"), q.device)
        seen.append(scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, **how))
    return torch.cat(seen, dim=2).transpose(1, 2), None


def _window(length: int, width: int | None, device: torch.device) -> Tensor | None:
    """bool T,T: each position sees itself and `width` - 1 before it; None where that is all of them."""
    if width is None or width >= length:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - width)


AttentionInterface.register(PACKED, _attend_packed)
