"""Augmentation of training lines: what a worse camera would have made of them.

Only the light and the sharpness change, never the geometry: a stored teacher saw the line as it was, and its frames
must stay where they are.
"""

from __future__ import annotations

import cv2
import numpy as np

from tdtrain.data.rows import content_id


def augment(image: np.ndarray, row_id: str, epoch: int, seed: int) -> np.ndarray:
    """One line, uint8 RGB HxWx3, damaged a little: the same for the same row, epoch and seed, on any machine.

    In a third of the pictures each: less resolution or blur, noise, JPEG; in half other light; in a tenth inversion.
    """
    rng = np.random.default_rng(int(content_id(row_id, str(epoch), str(seed))[:16], 16))
    chances = rng.random(5)
    height, width = image.shape[:2]
    if chances[0] < 0.25:
        share = rng.uniform(0.45, 0.9)
        small = (max(4, round(width * share)), max(4, round(height * share)))
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height))
    elif chances[0] < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.04 * height + 0.4))
    if chances[1] < 0.5:
        contrast, light = rng.uniform(0.55, 1.15), rng.uniform(-30, 30)
        slope = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * rng.uniform(-25, 25)
        toned = (image.astype(np.float32) - 128) * contrast + 128 + light + slope
        image = np.clip(toned, 0, 255).astype(np.uint8)
    if chances[2] < 0.3:
        noise = rng.normal(0, rng.uniform(3, 14), image.shape[:2])[..., None]
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if chances[3] < 0.3:
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 70))])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    if chances[4] < 0.1:
        image = 255 - image
    return image
