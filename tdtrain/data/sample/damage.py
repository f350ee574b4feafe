"""What happens to a page on its way through printers, bags, scanners and phones.

Three families, applied in the order of physics: what happens to the paper keeps the geometry, the camera's view is one
homography (so that boxes are carried exactly), and what the lens, the sensor and the file do comes last.
Every effect takes a severity in [0, 1]; at 1 a person can still read the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import cast

import cv2
import numpy as np

Effect = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Harm:
    """One damage and how bad it is, in [0, 1]."""

    kind: str
    severity: float


def choose_damage(rng: Random) -> tuple[Harm, ...]:
    """None for one page in ten, else one to three damages, the worst first: that one is the page's `damage` tag."""
    number = rng.choices([0, 1, 2, 3], weights=[9, 22, 36, 33])[0]
    kinds = rng.sample(KINDS, number)
    if "skew" in kinds and "perspective" in kinds:
        kinds.remove("skew")
    return tuple(
        Harm(kind, rng.uniform(0.55, 1.0) if k == 0 else rng.uniform(0.25, 0.75)) for k, kind in enumerate(kinds)
    )


def damage_page(
    image: np.ndarray, quads: np.ndarray, harms: tuple[Harm, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A damaged page and its boxes.

    Args:
        image: uint8 BGR, H x W x 3.
        quads: float, L x 4 x 2, pixels.

    Returns: the image, which may have another size, and the quads in it.
    """
    for harm in harms:
        if harm.kind not in KINDS:
            raise ValueError(f"damage={harm.kind!r} is unknown; use one of {', '.join(KINDS)}")
        if not 0 <= harm.severity <= 1:
            raise ValueError(f"severity={harm.severity} of {harm.kind} is outside [0, 1]")
    severity = _legible(harms, quads)
    for kind in ON_PAPER:
        if kind in severity:
            image = ON_PAPER[kind](image, severity[kind], rng)
    for kind in GEOMETRY:
        if kind in severity:
            homography, size = GEOMETRY[kind](image.shape[1], image.shape[0], severity[kind], rng)
            image = _view(image, homography, size, desk=kind == "perspective", rng=rng)
            quads = cv2.perspectiveTransform(quads.reshape(-1, 1, 2).astype(np.float64), homography).reshape(
                quads.shape
            )
    for kind in IN_CAMERA:
        if kind in severity:
            image = IN_CAMERA[kind](image, severity[kind], rng)
    return image, quads


def _legible(harms: tuple[Harm, ...], quads: np.ndarray) -> dict[str, float]:
    """Severities by kind, eased where they act on details that small letters need.

    A blur of two pixels is nothing to a line of 25 pixels and the end of one of 8. A further effect of this sort does
    less harm, as the letters have lost their details to the first.
    """
    heights = np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1)
    ease = float(np.clip((np.percentile(heights, 20) - 6.5) / 8, 0.1, 1)) if len(heights) else 1.0
    severity, share = {}, ease
    for harm in harms:
        fine = harm.kind in FINE
        severity[harm.kind] = harm.severity * (share if fine else 1.0)
        share = 0.7 * share if fine else share
    return severity


def smooth_noise(height: int, width: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 1], float32 height x width, with features of about `scale` pixels."""
    grid = rng.random((int(height / scale) + 3, int(width / scale) + 3), dtype=np.float32)
    return np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _blend(image: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The image with every channel multiplied by a float32 H x W factor."""
    return np.clip(image * factor[..., None], 0, 255).astype(np.uint8)


def _faded(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Toner runs out: ink loses contrast, in patches, and specks of it are missing."""
    height, width = image.shape[:2]
    patches = smooth_noise(height, width, 140, rng)
    specks = (smooth_noise(height, width, 2.2, rng) > 1 - 0.25 * severity).astype(np.float32)
    keep = (1 - severity * (0.38 + 0.38 * patches)) * (1 - 0.75 * specks)
    paper = np.median(image.reshape(-1, 3), axis=0).astype(np.float32)
    return np.clip(paper + (image - paper) * keep[..., None], 0, 255).astype(np.uint8)


def _bleed(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Ink spreads into the paper, and the back of the sheet shines through."""
    spread = cv2.erode(image, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    ragged = smooth_noise(image.shape[0], image.shape[1], 3, rng)[..., None] * min(1.0, 0.4 + 0.9 * severity)
    inked = image * (1 - ragged) + spread * ragged
    back = cv2.GaussianBlur(image[:, ::-1], (0, 0), 1.6).astype(np.float32)
    back = np.roll(back, (int(rng.integers(-60, 60)), int(rng.integers(-40, 40))), axis=(0, 1))
    return np.clip(inked - (255 - back) * (0.14 + 0.26 * severity) * (inked / 255), 0, 255).astype(np.uint8)


def _folds(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Creases: panels of different brightness, a bright and a dark edge, and ink worn off along the line."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shade, worn = np.ones((height, width), np.float32), np.zeros((height, width), np.float32)
    for k in range(int(rng.integers(1, 4))):
        across = (k + int(rng.integers(0, 2))) % 2 == 0
        length = height if across else width
        place = length * rng.choice([1 / 3, 0.5, 2 / 3]) + rng.normal(0, 8)
        tilt = rng.normal(0, 0.012)
        distance = (y - place - tilt * x) if across else (x - place - tilt * y)
        side = np.tanh(distance / 3)
        shade += severity * (0.10 * side * np.exp(-np.abs(distance) / (0.35 * length)))
        shade -= severity * 0.40 * np.exp(-((distance - 1.5) ** 2) / 5)
        shade += severity * 0.20 * np.exp(-((distance + 2.5) ** 2) / 8)
        worn = np.maximum(worn, np.exp(-(distance**2) / 60))
    worn *= severity * smooth_noise(height, width, 4, rng)
    paper = np.median(image.reshape(-1, 3), axis=0).astype(np.float32)
    return _blend(image + (paper - image) * worn[..., None], shade)


def _shadow(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Uneven light, and often the soft edge of a hand's or a phone's shadow."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)) * 2
    light = 1 - severity * (0.18 + 0.22 * slope)
    if rng.random() < 0.7:
        bend = rng.uniform(-0.4, 0.4)
        edge = slope + bend * np.sin(2.2 * (x / width) + 3 * (y / height)) - rng.uniform(-0.4, 0.4)
        light *= 1 - severity * 0.5 / (1 + np.exp(-edge / rng.uniform(0.02, 0.12)))
    tone = np.array([1.0, 1.0, 1.0], np.float32) - severity * rng.uniform(0, 0.12) * np.array([1, 0.4, 0], np.float32)
    return _blend((image * tone).astype(np.float32), light.astype(np.float32))


def _low_resolution(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Scanned small and blown up again."""
    height, width = image.shape[:2]
    share = 0.86 - 0.44 * severity
    small = cv2.resize(image, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA)
    blown = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
    return cv2.resize(small, (width, height), interpolation=blown)


def _blur(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Out of focus (a disk) or a moving hand (a line)."""
    radius = 0.6 + 1.55 * severity
    size = 2 * int(np.ceil(radius * 2)) + 1
    kernel = np.zeros((size * 8, size * 8), np.float32)
    middle = (size * 4, size * 4)
    if rng.random() < 0.5:
        cv2.circle(kernel, middle, round(radius * 8), 1.0, -1)
    else:
        angle, reach = rng.uniform(0, np.pi), radius * 8 * 1.25
        step = (round(np.cos(angle) * reach), round(np.sin(angle) * reach))
        ends = (middle[0] - step[0], middle[1] - step[1]), (middle[0] + step[0], middle[1] + step[1])
        cv2.line(kernel, *ends, 1.0, 8)
    weights = cv2.resize(kernel, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.filter2D(image, -1, weights / weights.sum(), borderType=cv2.BORDER_REPLICATE)


def _moire(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A photo of a screen: two gratings that beat against each other, a little different in each colour."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period, twist = rng.uniform(0, np.pi), rng.uniform(2.3, 3.6), rng.uniform(0.02, 0.06)
    out = image.astype(np.float32)
    for channel in range(3):
        turned = angle + twist + rng.uniform(-0.004, 0.004)
        first = np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
        second = np.sin(2 * np.pi / (period * 1.04) * (x * np.cos(turned) + y * np.sin(turned)))
        out[..., channel] *= 1 - severity * (0.15 + 0.26 * first * second + 0.12 * first)
    return np.clip(out, 0, 255).astype(np.uint8)


def _noise(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Grain of a sensor in poor light, and dust."""
    height, width = image.shape[:2]
    grain = rng.standard_normal((height, width, 3), dtype=np.float32) * (10 + 34 * severity)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * 1.5
    dust = smooth_noise(height, width, 1.6, rng)
    noisy = image + grain
    noisy[dust > 1.0 - 0.006 * severity] *= 0.35
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _jpeg(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Compressed too hard, sometimes twice with a shift of the blocks between."""
    quality = round(45 - 36 * severity)
    for shift in (0, 3)[: int(rng.integers(1, 3))]:
        encoded = cv2.imencode(
            ".jpg", np.roll(image, (shift, shift), axis=(0, 1)), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )[1]
        decoded = cast(np.ndarray, cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        image = np.roll(decoded, (-shift, -shift), axis=(0, 1))
    return image


def _skew(width: int, height: int, severity: float, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """Laid crooked on the scanner: a turn of one to six degrees, nothing cut off."""
    angle = np.deg2rad(rng.choice([-1, 1]) * (1.0 + 5.0 * severity))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return _fit(corners, corners @ turn.T, margin=4)


def _perspective(
    width: int, height: int, severity: float, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
    """Photographed by hand, from the side and a little turned, with some desk around the paper."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    pull = rng.uniform(-1, 1, (4, 2)) * np.array([width, height]) * (0.02 + 0.055 * severity)
    angle = np.deg2rad(rng.uniform(-1, 1) * 5 * severity)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return _fit(
        corners, (corners + pull) @ turn.T, margin=round(corners.max() * rng.uniform(0.01, 0.03 + 0.06 * severity))
    )


def _fit(corners: np.ndarray, seen: np.ndarray, margin: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The homography from the page's corners to where they are seen, the view scaled back to the page's long side."""
    seen = seen - seen.min(axis=0) + margin
    scale = corners.max() / (seen.max() + margin)
    seen = seen * scale
    size = np.ceil(seen.max(axis=0) + margin * scale).astype(int)
    homography = cv2.getPerspectiveTransform(corners.astype(np.float32), seen.astype(np.float32))
    return homography, (int(size[0]), int(size[1]))


def _view(
    image: np.ndarray, homography: np.ndarray, size: tuple[int, int], desk: bool, rng: np.random.Generator
) -> np.ndarray:
    """The page through a homography, on a desk or on a scanner's lid."""
    # Coordinates of boxes count from a pixel's corner, those of warpPerspective from its middle.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    by_centre = np.linalg.inv(half) @ homography @ half
    width, height = size
    if desk:
        wood = (rng.uniform(60, 190) * np.cumprod([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.6, 1.0)])[::-1]).astype(
            np.float32
        )
        grain = 0.8 + 0.3 * smooth_noise(height, width, 9, rng) * smooth_noise(height, width, 60, rng)
        ground = np.clip(wood * grain[..., None], 0, 255).astype(np.uint8)
    else:
        ground = np.full((height, width, 3), int(rng.integers(150, 256)), np.uint8)
    warped = cv2.warpPerspective(image, by_centre, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpPerspective(np.full(image.shape[:2], 255, np.uint8), by_centre, size, flags=cv2.INTER_LINEAR)
    alpha = inside[..., None].astype(np.float32) / 255
    return (warped * alpha + ground * (1 - alpha)).astype(np.uint8)


ON_PAPER: dict[str, Effect] = {"faded": _faded, "bleed": _bleed, "folds": _folds}
GEOMETRY: dict[str, Callable[..., tuple[np.ndarray, tuple[int, int]]]] = {"skew": _skew, "perspective": _perspective}
IN_CAMERA: dict[str, Effect] = {
    "shadow": _shadow,
    "moire": _moire,
    "blur": _blur,
    "low_resolution": _low_resolution,
    "noise": _noise,
    "jpeg": _jpeg,
}
FINE = frozenset({"faded", "bleed", "moire", "blur", "low_resolution", "noise", "jpeg"})
"""The kinds that act on details of a pixel or two."""
KINDS: tuple[str, ...] = (*ON_PAPER, *GEOMETRY, *IN_CAMERA)
