"""Pictures of lines, as PP-OCR recognisers take them. Imports neither torch nor transformers by itself: data tasks and
Ray's own processes load it, and would wait seconds for what they never use.

Shapes: B lines, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PIXELS_PER_FRAME = 8


@dataclass(frozen=True)
class LinePixels:
    """A line at a fixed height, its width following; resized with OpenCV bilinearly, as PaddleOCR and rapidocr do.

    Attributes:
        height: of the network's input, pixels.
        min_width: shorter lines are padded to this width, pixels.
        max_width: longer lines are squeezed to this width, pixels.
        width_step: batches are padded to a multiple of this width, pixels; fewer different shapes run faster.
    """

    height: int = 48
    min_width: int = 16
    max_width: int = 1600
    width_step: int = PIXELS_PER_FRAME

    def resize(self, image: np.ndarray) -> np.ndarray:
        """One line, uint8 RGB H,W,3 of any size -> uint8 RGB `height`,width,3.

        Raises: ValueError when the array is no such image.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"image is {image.dtype} of shape {image.shape}; a line has to be uint8 RGB of shape (height, width, 3)"
            )
        size = (self.resized_width(image.shape[1], image.shape[0]), self.height)
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)

    def resized_width(self, width: int, height: int) -> int:
        """The width that `resize` gives an image of this width and height, pixels."""
        return min(max(-(-self.height * width // height), 1), self.max_width)

    def frames(self, widths: np.ndarray) -> np.ndarray:
        """How many frames lines of these resized widths have."""
        return -(-widths // PIXELS_PER_FRAME)

    def collate(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Resized lines -> `pixels` uint8 B,H,W,3, padded right, and `widths` int64 B without the padding."""
        widths = np.array([image.shape[1] for image in images], dtype=np.int64)
        padded = -(-max(widths.max(), self.min_width) // self.width_step) * self.width_step
        pixels = np.zeros((len(images), self.height, padded, 3), dtype=np.uint8)
        for row, image in zip(pixels, images, strict=True):
            row[:, : image.shape[1]] = image
        return {"pixels": pixels, "widths": widths}

    def normalize(self, pixels: Tensor, widths: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 RGB B,H,W,3 -> B,3,H,W, blue, green, red, in -1 to 1; the padding is 0, as PaddleOCR has it."""
        import torch

        values = pixels.flip(-1).float().div_(127.5).sub_(1)
        real = torch.arange(pixels.shape[2], device=pixels.device) < widths[:, None]
        # Channels last in memory, as it is: convolutions train a quarter faster on CPUs.
        return values.mul_(real[:, None, :, None]).permute(0, 3, 1, 2).to(dtype)


def own_frames(widths: Tensor, num_frames: int) -> Tensor:
    """How many of a batch's frames are each line's own: int64 B from widths in pixels."""
    return (-(-widths // PIXELS_PER_FRAME)).clamp(max=num_frames)
