"""A PP-OCR network recorded for reading: no Python between its operators, batch norms folded into convolutions.

One line at a time, half of a small reader's time is Python that calls modules. On one core, 48 pixels' height: PP-OCRv6
tiny's backbone with a neck 6.1 -> 3.7 ms, PP-OCRv6 small 22 -> 17 ms.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Logits(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.module(pixel_values).logits


def record(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The forward pass of a PP-OCR module with the weights it has now: B,3,48,W of any B and W -> logits B,T,V."""
    logits: Any = _Logits(copy.deepcopy(module)).eval()  # a recorded graph keeps tensors, not values
    logits.to(memory_format=torch.channels_last)  # else convolutions of one line go without oneDNN: 5.2 -> 7.8 ms
    weight = next(module.parameters())
    example = torch.zeros(2, 3, 48, 320, device=weight.device, dtype=weight.dtype)
    with torch.inference_mode(), warnings.catch_warnings():
        # torch calls its recorder deprecated in favour of torch.compile, which needs a C++ compiler where it runs;
        # torch.export's graphs check their input at every call, and gain a third as much.
        warnings.simplefilter("ignore")
        example = example.contiguous(memory_format=torch.channels_last)
        jit: Any = torch.jit
        return jit.freeze(jit.trace(logits, example, check_trace=False))
