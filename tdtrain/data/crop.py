"""A line's corners on a page -> the line, upright, at the page's own resolution."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

TALL = 1.5
"""Height over width above which a box of several characters holds turned text (PP-OCR's own limit)."""


def side_lengths(quad: NDArray[np.float32]) -> tuple[float, float]:
    """Width and height, pixels, of the upright line that a quad (4,2, clockwise from the top left) becomes."""
    width = max(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3]))
    height = max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1]))
    return float(width), float(height)


def crop_line(page: NDArray[np.uint8], quad: NDArray[np.float32], margin: float = 0.08) -> NDArray[np.uint8]:
    """Rectifies one line.

    Args:
        page: uint8 H,W,3. Contiguous, or OpenCV copies the whole page for every line.
        quad: float32 4,2, the corners x,y clockwise from the top left, pixels.
        margin: paper kept around the quad on every side, as a share of the shorter side, whole pixels.

    Returns: uint8 h,w,3; not turned, see `is_tall`.
    """
    width, height = side_lengths(quad)
    pad = round(margin * min(width, height))  # whole pixels: a box that is upright on them is not resampled
    out_w, out_h = max(1, round(width + 2 * pad)), max(1, round(height + 2 * pad))
    corners = [[pad, pad], [pad + width, pad], [pad + width, pad + height], [pad, pad + height]]
    warp = cv2.getPerspectiveTransform(np.asarray(quad, np.float32), np.asarray(corners, np.float32))
    line = cv2.warpPerspective(page, warp, (out_w, out_h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return line.astype(np.uint8, copy=False)


def is_tall(line: NDArray[np.uint8]) -> bool:
    """Whether a crop is so tall that it is a single character or turned text."""
    return line.shape[0] > TALL * line.shape[1]


def encode_png(line: NDArray[np.uint8]) -> bytes:
    """RGB uint8 H,W,3 -> PNG bytes; the same bytes every time."""
    _, buffer = cv2.imencode(".png", cv2.cvtColor(line, cv2.COLOR_RGB2BGR))
    return buffer.tobytes()
