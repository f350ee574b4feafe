"""Readers small enough to know what they must answer."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tdtrain.data.rows import Line, content_id
from tdtrain.models.reader import Kind, Reading


class PlainPixels:
    def resize(self, image: np.ndarray) -> np.ndarray:
        return image

    def collate(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        width = max(image.shape[1] for image in images)
        pixels = np.zeros((len(images), images[0].shape[0], width, 3), dtype=np.uint8)
        for place, image in enumerate(images):
            pixels[place, :, : image.shape[1]] = image
        return {"pixels": pixels, "widths": np.array([image.shape[1] for image in images])}

    def normalize(self, pixels: Tensor, widths: Tensor, dtype: torch.dtype) -> Tensor:
        return pixels.to(dtype)


class ShadeReader:
    """Reads a line as its width and its brightest value, so that every picture has its own right answer."""

    name = "shade"
    kind: Kind = "ctc"

    def __init__(self, delay_s: float = 0.0) -> None:
        self.pixels = PlainPixels()
        self.module = nn.Linear(1, 1)
        self.delay_s = delay_s
        self.batch_sizes: list[int] = []

    def read(self, batch: dict[str, Tensor]) -> list[Reading]:
        self.batch_sizes.append(len(batch["widths"]))
        time.sleep(self.delay_s)
        brightest = batch["pixels"].flatten(1).max(dim=1).values
        return [
            Reading(f"{width} {shade}", 0.5)
            for width, shade in zip(batch["widths"].tolist(), brightest.tolist(), strict=True)
        ]

    def frozen(self) -> ShadeReader:
        return self

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        raise NotImplementedError


def shade_line(width: int, shade: int, page: str = "p", text: str | None = None, **tags: str) -> Line:
    """A line whose right reading is `{width} {shade}`."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, 8), (shade, shade, shade)).save(buffer, "PNG")
    return Line(
        id=content_id(str(width), str(shade), page),
        page_id=page,
        image=buffer.getvalue(),
        width=width,
        height=8,
        text=text,
        split="test",
        source=f"images/{page}.png",
        tags=tags,
    )
