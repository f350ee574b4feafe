"""Pictures as large as a service takes them."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

from PIL import Image

from tdtrain.data.decode import BadImageError, decode_rgb
from tdtrain.teachers.services.service import Refused

MOST_PIXELS = 250_000_000
"""Of a picture that is made smaller; an A3 page at 600 dots an inch has 70 million."""
QUALITY = 90
"""Of a JPEG that is made, of 100."""
SMALLER = 0.8
"""Each side's share of the one before, until it fits."""


class Picture(NamedTuple):
    """A picture's file, and its sides over those of the one that it was made from."""

    content: bytes
    scale: float = 1.0


def fitted(image: bytes, most_bytes: float, most_side: float = math.inf) -> Picture:
    """The picture as it is where that is small enough, else one that is, as JPEG.

    Args:
        image: a picture's file.
        most_side: width and height at most, pixels.

    Raises: Refused where it is too large and cannot be decoded.
    """
    if len(image) <= most_bytes and max(_sides(image)) <= most_side:
        return Picture(image)
    try:
        page = Image.fromarray(decode_rgb(image, MOST_PIXELS, min_side=1))
    except BadImageError as error:
        raise Refused(f"{len(image):,} bytes are too large, and the picture cannot be decoded ({error})") from error
    scale = min(1.0, most_side / max(page.size))
    while True:
        sides = [max(1, round(scale * side)) for side in page.size]
        made = io.BytesIO()
        page.resize((sides[0], sides[1]), Image.Resampling.LANCZOS).save(made, "JPEG", quality=QUALITY)
        if made.tell() <= most_bytes:
            return Picture(made.getvalue(), max(sides) / max(page.size))
        scale *= SMALLER


def _sides(image: bytes) -> tuple[int, int]:
    """From its header; (0, 0) where there is none to read."""
    try:
        with Image.open(io.BytesIO(image)) as page:
            return page.size
    except Exception:  # whatever it is, it is for the service to say
        return 0, 0
