"""Image bytes from strangers -> RGB pixels, or a reason why not."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""File endings that a corpus may hold. Only these decoders ever see a file."""


class BadImageError(ValueError):
    """An image that cannot be used; the message is the reason, for the quarantine table."""


def decode_rgb(content: bytes, max_pixels: int, min_side: int) -> NDArray[np.uint8]:
    """Decodes an image fully, upright (EXIF), on white where it is transparent.

    Args:
        content: the file's bytes.
        max_pixels: refused above this many pixels, before any of them is decoded.
        min_side: refused where width or height is below, pixels.

    Returns: uint8 H,W,3, RGB.

    Raises:
        BadImageError: empty, truncated, too large, too small, several pages, or no image of a supported type.
    """
    if not content:
        raise BadImageError("the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # Pillow only warns between its own two limits; ours decides, from the header alone.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=sorted(set(FORMATS.values())))
        with image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImageError(f"{width}x{height} is above {max_pixels / 1e6:.0f} million pixels; scale it down")
            if min(width, height) < min_side:
                raise BadImageError(f"{width}x{height} is too small to hold text (a side below {min_side} pixels)")
            # Cameras put previews and gain maps behind a photograph.
            if image.format != "MPO" and (pages := getattr(image, "n_frames", 1)) > 1:
                raise BadImageError(f"holds {pages} pages; save one image a page")
            return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image)))
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"is above {max_pixels / 1e6:.0f} million pixels; scale it down") from error
    except Exception as error:  # a damaged file raises nearly anything; the reason goes into the quarantine table
        raise BadImageError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips 16-bit scans to white instead of scaling them.
        grey = np.asarray(image, np.float32)
        scale = 255 / 65535 if grey.max() > 255 else 1.0
        return np.repeat(np.clip(grey * scale, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))
