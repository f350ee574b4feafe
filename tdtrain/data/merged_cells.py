"""Cells of a table that are merged over rows: they stand in the middle of these, or at their top."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tdtrain.data.layout import Cell, Grid
from tdtrain.data.times import times_of

MIDDLE = 0.35
"""A label stands in the middle of its rows where it is off by at most so much of a row."""
UNLABELLED, SKIPPED, WORST = 1.0, 1.0, 0.6
"""In rows: what a group of rows costs that has no label, a label that has no rows, and a label at most, on average."""
MOST = 2_000
"""Rows times labels that are matched: larger tables are none that anybody prints."""
HALFWAY, WIDE = 0.2, 1.4
"""In rows: a cell that is off the middle between two by less fills both, where these are not so far from each other."""


def with_labels(grid: Grid) -> Grid:
    """The same with the label of each row: what is merged over rows in the first column, in each of them."""
    labels = _labels(grid.rows[1:])
    rows = [{0: label, **row} if label else row for label, row in zip(labels, grid.rows[1:], strict=True)]
    return replace(grid, rows=(*grid.rows[:1], *rows))


def fill_two(rows: Sequence[dict[int, Cell]], middles: Sequence[float], step: float, first: int) -> None:
    """What stands between two rows that are as near as others, and empty there, fills both."""
    for r in range(1, len(rows) - 1):
        gap = middles[r + 1] - middles[r]
        for column in {*rows[r], *rows[r + 1]} - set(range(first + 1)):
            here, there = rows[r].get(column), rows[r + 1].get(column)
            cell = here or there
            if (here and there) or cell is None or cell.again or gap > WIDE * step:
                continue
            if abs((cell.y - middles[r]) / gap - 0.5) < HALFWAY:
                rows[r][column], rows[r + 1][column] = cell, replace(cell, again=True)


def _labels(rows: Sequence[dict[int, Cell]]) -> list[Cell | None]:
    """Of each row below the headings: what its first column says, or what is merged over it there."""
    own = [row.get(0) for row in rows]
    labels = [label for label in own if label]
    if len(labels) in (0, len(rows)) or any(char.isdigit() for label in labels for char in label.text):
        return own
    beside = [[cell for column, cell in row.items() if column] or [row[0]] for row in rows]
    tops = np.array([min(cell.y0 for cell in cells) for cells in beside])
    bottoms = np.array([max(cell.y1 for cell in cells) for cells in beside])
    off = MIDDLE * float(np.median(np.diff(tops + bottoms) / 2))
    starts = [row for row, label in enumerate(own) if label]
    at_rows = (abs((tops[row] + bottoms[row]) / 2 - label.y) <= off for row, label in zip(starts, labels, strict=True))
    groups = _in_the_middle(labels, tops, bottoms, off)
    if groups is None and not starts[0] and all(at_rows):  # at the top
        groups = np.diff([*starts, len(rows)]).tolist()
    if groups is None:
        return _nearest(labels, tops, bottoms, off / MIDDLE, _falls(rows)) or own
    return [label for label, size in zip(labels, groups, strict=True) for _ in range(size)]


def _falls(rows: Sequence[dict[int, Cell]]) -> set[int]:
    """The rows that begin no later than the one before them: where times go back, another label begins."""
    starts = [next((times[0] for cell in row.values() if (times := times_of(cell.text))), None) for row in rows]
    return {r for r, (a, b) in enumerate(itertools.pairwise(starts), 1) if a and b and b <= a}


def _nearest(
    labels: Sequence[Cell], tops: NDArray[np.float64], bottoms: NDArray[np.float64], step: float, begins: set[int]
) -> list[Cell | None] | None:
    """The label of each row where the strict ways fail: groups of rows, none of which goes on where another begins, so
    that labels are as near to the middles of theirs as can be; some groups have none, and some labels no rows."""
    num, worst = len(tops), WORST * len(labels)
    if num * len(labels) > MOST or step <= 0:
        return None
    # By how many rows are grouped and labels used: the cost, and each row's label.
    best: list[dict[int, tuple[float, list[Cell | None]]]] = [{0: (0.0, [])}, *({} for _ in range(num))]
    for start in range(num):
        stop = min((row for row in begins if row > start), default=num)
        for (used, (cost, said)), end in itertools.product(best[start].items(), range(start + 1, stop + 1)):
            middle = (tops[start] + bottoms[end - 1]) / 2
            ways: list[tuple[int, float, Cell | None]] = [(used, UNLABELLED, None)]
            for number, label in enumerate(labels[used:], used):
                if tops[start] < label.y < bottoms[end - 1]:
                    ways.append((number + 1, SKIPPED * (number - used) + abs(middle - label.y) / step, label))
            for now, more, label_or_none in ways:
                if cost + more < min(best[end].get(now, (np.inf,))[0], worst):
                    best[end][now] = cost + more, [*said, *[label_or_none] * (end - start)]
    whole = [(cost + SKIPPED * (len(labels) - used), said) for used, (cost, said) in best[num].items()]
    cost, said = min(whole, key=lambda one: one[0], default=(np.inf, []))
    return said if cost <= worst else None


def _in_the_middle(
    labels: Sequence[Cell], tops: NDArray[np.float64], bottoms: NDArray[np.float64], off: float
) -> list[int] | None:
    """How many rows each label is merged over, if each stands in the middle of its own, and they are all rows."""
    start, groups = 0, []
    for label in labels:
        errors = np.abs((tops[start : start + 1] + bottoms[start:]) / 2 - label.y)
        if not len(errors) or errors.min() > off:
            return None
        groups.append(int(errors.argmin()) + 1)
        start += groups[-1]
    return groups if start == len(tops) else None
