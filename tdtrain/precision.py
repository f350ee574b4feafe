"""When arithmetic is in bf16: one rule for training, for a teacher's pass over the corpus and for a live teacher."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def use_bf16(precision: Precision, device_type: str) -> bool:
    """Whether forward passes run in bf16.

    `auto` says yes where the device has instructions for it: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX (there a
    step takes two thirds of the time). Elsewhere bf16 is emulated, and slower than fp32.
    """
    if precision != "auto":
        return precision == "bf16"
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(precision: Precision, device_type: str) -> AbstractContextManager[object]:
    """Around a forward pass: weights stay fp32, and losses cast what they get back to fp32."""
    return torch.autocast(device_type, torch.bfloat16, enabled=use_bf16(precision, device_type))
