"""Small lines for models of the TrOCR family, and what transformers makes of their folders."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from tdtrain.models.trocr import TrOCRReader
from tests.models_small import draw_line

TEXTS = ["Mo 8:05 Mathe 204", "Di 17:30 Čeština 7", "Fr 9:00 Kunst 31"]
START, END, PAD = 2, 2, 1


def original(folder: Path) -> VisionEncoderDecoderModel:
    """The folder's model as transformers makes it, with true sinusoids: not left on the meta device."""
    loaded = VisionEncoderDecoderModel.from_pretrained(folder)
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_pretrained(folder))
    model.load_state_dict(loaded.state_dict())
    return model.eval()


def batch_of(reader: TrOCRReader, texts: list[str] = TEXTS) -> dict[str, Tensor]:
    batch = reader.pixels.collate([reader.pixels.resize(draw_line(text)) for text in texts])
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def inputs_of(reader: TrOCRReader, texts: list[str] = TEXTS) -> tuple[Tensor, Tensor]:
    batch = batch_of(reader, texts)
    dtype = next(reader.module.parameters()).dtype
    labels = torch.from_numpy(reader.codec.encode(texts))
    return reader.pixels.normalize(batch["pixels"], batch["widths"], dtype), labels
