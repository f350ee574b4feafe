"""Where a page's lines stand: upright, in rows, in the cells of a table (`tdtrain.data.grid` finds them).

Lines come as they were read, with their corners. A page that was photographed askew is turned upright first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PlacedLine:
    """A line of a page. `quad`: corners clockwise from the top left (x, y, x, y, ...), pixels."""

    text: str
    quad: tuple[float, ...]


@dataclass(frozen=True)
class Box:
    """A line on the upright page: its extent, pixels."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def x(self) -> float:
        return (self.x0 + self.x1) / 2

    @property
    def y(self) -> float:
        return (self.y0 + self.y1) / 2

    @property
    def height(self) -> float:
        return self.y1 - self.y0


@dataclass(frozen=True)
class Cell:
    """Lines that stand together in one column, top to bottom."""

    column: int
    boxes: tuple[Box, ...]
    again: bool = False
    """It is in the row above as well."""

    @property
    def text(self) -> str:
        return "^" if self.again else " / ".join(box.text for box in self.boxes)

    @property
    def y0(self) -> float:
        return self.boxes[0].y0

    @property
    def y1(self) -> float:
        return self.boxes[-1].y1

    @property
    def y(self) -> float:
        return (self.y0 + self.y1) / 2


@dataclass(frozen=True)
class Grid:
    """A page as a table: rows of cells by column, and the lines that belong to no cell."""

    num_columns: int
    rows: tuple[dict[int, Cell], ...]
    others: tuple[Box, ...]


def upright(lines: Sequence[PlacedLine]) -> list[Box]:
    """The lines' extents after the page was turned by the angle that most of its text stands at."""
    if not lines:
        return []
    quads = np.asarray([line.quad for line in lines], np.float64).reshape(-1, 4, 2)
    across = quads[:, 1] - quads[:, 0]
    length = np.hypot(*across.T)
    angles = np.arctan2(across[:, 1], across[:, 0])
    order = np.argsort(angles)
    half = np.searchsorted(np.cumsum(length[order]), length.sum() / 2)
    turned = _rotate(quads, -float(angles[order][min(half, len(order) - 1)]))
    low, high = turned.min(axis=1), turned.max(axis=1)
    # Of a line that still stands askew, the extent is taken at its middle.
    heights = np.hypot(*(turned[:, 3] - turned[:, 0]).T)
    middle = turned[..., 1].mean(axis=1)
    return [
        Box(line.text, float(low[i, 0]), float(middle[i] - heights[i] / 2), float(high[i, 0]),
            float(middle[i] + heights[i] / 2))
        for i, line in enumerate(lines)
    ]  # fmt: skip


def text_rows(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes that stand on one line of sight, from the top; each row from the left."""
    rows: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: box.y):
        if rows and box.y - np.mean([other.y for other in rows[-1]]) < 0.5 * box.height:
            rows[-1].append(box)
        else:
            rows.append([box])
    return [sorted(row, key=lambda box: box.x0) for row in rows]


def _rotate(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])
