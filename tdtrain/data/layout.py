"""Where a page's lines stand: upright, in rows, in the cells of a table.

Lines come as they were read, with their corners. A page that was photographed askew is turned upright first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ANCHORS = 0.7
"""A column has a cell in each row where it has this share of the cells of the fullest one."""


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

    @property
    def text(self) -> str:
        return " / ".join(box.text for box in self.boxes)

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


def find_grid(boxes: Sequence[Box]) -> Grid:
    """The table of a page, from where its lines stand alone: columns are where lines stand below each other, rows are
    those of the first column that is nearly full. What is above the first row that is half full belongs to none."""
    columns = _columns(boxes)
    if len(columns) < 2:
        return Grid(1, (), tuple(boxes))
    rows = text_rows(boxes)
    enough = min(max(map(len, rows)), max(3, len(columns) / 2))
    top = min(box.y0 for box in next(row for row in rows if len(row) >= enough))
    placed: dict[int, list[Box]] = {}
    others = [box for box in boxes if box.y < top]
    for box in (box for box in boxes if box.y >= top):
        shared = [min(box.x1, high) - max(box.x0, low) for low, high in columns]  # negative: how far away
        crossed = sum(part > 0.5 * (high - low) for part, (low, high) in zip(shared, columns, strict=True))
        if crossed > 1:
            others.append(box)
        else:
            placed.setdefault(int(np.argmax(shared)), []).append(box)
    cells = [cell for column, own in placed.items() for cell in _cells(column, own)]
    return Grid(len(columns), _rows(cells), tuple(others))


def _columns(boxes: Sequence[Box]) -> list[tuple[float, float]]:
    """The extents of columns: of the lines in the fullest row, and of others that stand beside these, not below."""
    rows = [row for row in text_rows(boxes) if len(row) > 1]
    if not rows:
        return []
    columns = [(box.x0, box.x1) for box in max(rows, key=len)]
    strays: list[list[tuple[list[Box], Box]]] = []
    outside = [(row, box) for row in rows for box in row if not any(_meet(box, column) for column in columns)]
    for row, box in sorted(outside, key=lambda stray: stray[1].x0):
        if not strays or box.x0 > max(other.x1 for _, other in strays[-1]):
            strays.append([])
        strays[-1].append((row, box))
    for group in strays:
        extent = min(box.x0 for _, box in group), max(box.x1 for _, box in group)
        nearest = min(columns, key=lambda column: max(column[0] - extent[1], extent[0] - column[1]))
        beside = sum(any(_meet(other, nearest) for other in row if other is not box) for row, box in group)
        if beside > 1:
            columns.append(extent)
    return sorted(columns)


def _meet(box: Box, column: tuple[float, float]) -> bool:
    return box.x0 < column[1] and column[0] < box.x1


def _cells(column: int, boxes: Sequence[Box]) -> list[Cell]:
    """The lines of a column by the gaps between them: a gap that is wider than most begins a new cell."""
    boxes = sorted(boxes, key=lambda box: box.y)
    groups: list[list[Box]] = [[boxes[0]]]
    for before, box in itertools.pairwise(boxes):
        if box.y0 - before.y1 > 0.55 * min(box.height, before.height):
            groups.append([])
        groups[-1].append(box)
    return [Cell(column, tuple(group)) for group in groups]


def _rows(cells: Sequence[Cell]) -> tuple[dict[int, Cell], ...]:
    """Cells beside each other. The first column that is nearly as full as any says how many rows there are."""
    by_column: dict[int, list[Cell]] = {}
    for cell in cells:
        by_column.setdefault(cell.column, []).append(cell)
    if not cells:
        return ()
    most = max(map(len, by_column.values()))
    anchors = by_column[min(column for column, own in by_column.items() if len(own) >= ANCHORS * most)]
    rows: list[dict[int, Cell]] = [{} for _ in anchors]
    middles = np.array([anchor.y for anchor in anchors])
    for cell in cells:
        row = rows[int(np.abs(middles - cell.y).argmin())]
        there = row.get(cell.column)
        boxes = cell.boxes if there is None else (*there.boxes, *cell.boxes)
        row[cell.column] = Cell(cell.column, tuple(sorted(boxes, key=lambda box: box.y)))
    return tuple(rows)


def _rotate(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])
