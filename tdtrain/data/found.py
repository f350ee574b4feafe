"""What happens when, by a table's form alone: cells, the days that head them, and their times.

No words of any language are known: days are what heads the columns (or rows) of a table whose rows (or columns) have
times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tdtrain.data.layout import Box, Cell, Grid
from tdtrain.data.times import NUMBER, Times, clocks_of, numbered_times, times_of

_WORD = re.compile(r"[^\W\d_]{3}")
_DAYS = re.compile(r"[^\W\d_]{2,3}\.?\s?[-\u2013]\s?[^\W\d_]{2,3}\.?")
"""From one day to another, both short."""

NUMBERS = 0.8
"""A column has numbers where so many of its cells have a digit, and names where no more have one than are left."""


@dataclass(frozen=True)
class Found:
    """A cell with what may be its day and its times.

    Attributes:
        row: of the grid.
        day: empty where a row of a list has none.
        beside: where a row is one entry of a list, its other cells.
    """

    row: int
    day: str
    cell: Cell
    times: Times
    beside: tuple[Cell, ...] = ()


def timed(cell: Cell) -> Times | None:
    """Of the first line of a cell that names two, or of its lines together."""
    return next((times for box in cell.boxes if (times := times_of(box.text))), None) or times_of(cell.text)


def _starts(cell: Cell) -> int:
    """How many of its lines name two times."""
    return 0 if cell.again else sum(times_of(box.text) is not None for box in cell.boxes)


def only_times(cell: Cell) -> bool:
    """Whether it names two times and no word."""
    return timed(cell) is not None and not _WORD.search(cell.text)


def find_blocks(grid: Grid) -> Iterator[Found]:
    """All that have day and times, in no order; a cell that fills two rows comes once, with the times of both."""
    rows = grid.rows
    if not rows:
        return
    with_times = [[column for column, cell in row.items() if timed(cell)] for row in rows]
    across = next((r for r, columns in enumerate(with_times) if len(columns) > 2 and 0 not in columns), None)
    by_column = [sum(column in columns for columns in with_times) for column in range(grid.num_columns)]
    if across is not None and sum(len(columns) > 2 for columns in with_times) == 1:
        yield from _days_down(grid, across)
    elif max(by_column) >= 0.5 * len(rows) and sum(count > 1 for count in by_column) == 1:
        yield from _time_column(grid, by_column.index(max(by_column)))
    elif sum(_starts(cell) for row in rows for cell in row.values()) > 2 and sum(count > 0 for count in by_column) > 1:
        yield from _times_inside(grid)
    else:
        yield from _numbered(grid)


def _days_down(grid: Grid, across: int) -> Iterator[Found]:
    """Times head the columns, days the rows."""
    head = grid.rows[across]
    for r, row in enumerate(grid.rows[across + 1 :], across + 1):
        for column, cell in row.items():
            if column and 0 in row and column in head and not cell.again and (times := timed(head[column])):
                yield Found(r, row[0].text, cell, times)


def _time_column(grid: Grid, column: int) -> Iterator[Found]:
    """One column of times: a list, where days stand in each row, are merged down or stand elsewhere; else days head
    columns."""
    rows = grid.rows
    first = next(r for r, row in enumerate(rows) if column in row and timed(row[column]))
    while first and column in rows[first - 1] and clocks_of(rows[first - 1][column].text):
        first -= 1  # its times are not all read
    head = rows[first - 1] if first else {}
    left = Counter(c for row in rows[first:] for c in row if c < column)
    left_cells = [cell for row in rows[first:] for c, cell in row.items() if c < column]
    numbered = sum(NUMBER.match(cell.text) is not None for cell in left_cells) > 1  # of periods; one may be a speck
    day = max(left, key=left.__getitem__) if left and not numbered else None
    named = _named(rows[first:], column) if day is None else _next_to(rows[first:], column)
    if named is not None:
        above = _heading(grid, first) if day is None else ""
        for r, row in enumerate(rows[first:], first):
            if {column, named} <= row.keys() and (times := timed(row[column])):
                beside = tuple(cell for c, cell in sorted(row.items()) if c not in (day, column, named))
                yield Found(r, row[day].text if day in row else above, row[named], times, beside)
        return
    for day_column, heading in head.items():
        for r, (row, below) in enumerate(zip(rows[first:], [*rows[first + 1 :], {}], strict=True), first):
            cell = row.get(day_column)
            if cell and not cell.again and day_column > column and column in row and (times := timed(row[column])):
                if day_column in below and below[day_column].again and column in below:
                    later = timed(below[column])
                    times = (times[0], later[1]) if later else times
                yield Found(r, heading.text, cell, times)


def _heading(grid: Grid, first: int) -> str:
    """The last line above a list that has words and no digit: departures say there on which days they go. Of these one
    that is two short words with a dash, if there is one."""
    top = min((cell.y for row in grid.rows[: first + 1] for cell in row.values()), default=0.0)
    lines = [box for box in grid.others if box.y < top]
    days = [box for box in lines if _DAYS.fullmatch(box.text.strip())]
    above = days or [box for box in lines if _WORD.search(box.text) and not re.search(r"\d", box.text)]
    return max(above, key=lambda box: box.y).text if above else ""


def _next_to(rows: Sequence[dict[int, Cell]], column: int) -> int | None:
    """The first column right of the times that has a cell in half of the rows."""
    right = Counter(c for row in rows for c in row if c > column)
    return min((c for c, count in right.items() if count >= len(rows) / 2), default=None)


def _named(rows: Sequence[dict[int, Cell]], column: int) -> int | None:
    """Which column right of the times has names, where another has numbers, both in nearly every row: such a table is a
    list."""
    numbers: dict[int, list[bool]] = {}
    for row in rows:
        for c, cell in row.items():
            if c > column:
                numbers.setdefault(c, []).append(any(char.isdigit() for char in cell.text))
    shares = {c: sum(own) / len(own) for c, own in numbers.items() if len(own) >= NUMBERS * len(rows)}
    names = [c for c, share in sorted(shares.items()) if share <= 1 - NUMBERS]
    return names[0] if names and max(shares.values()) >= NUMBERS else None


def _times_inside(grid: Grid) -> Iterator[Found]:
    """Each cell begins with its times, whatever rows the cells of other columns have; days head the columns."""
    for column in range(grid.num_columns):
        cells = [(r, row[column]) for r, row in enumerate(grid.rows) if column in row and not row[column].again]
        lines = [(r, box) for r, cell in cells for box in cell.boxes]
        starts = [(place, times) for place, (_, box) in enumerate(lines) if (times := times_of(box.text))]
        if not starts:
            continue
        heads = [box for _, box in lines[: starts[0][0]]] or _above(lines[0][1], grid.others)
        for (start, times), (end, _) in zip(starts, [*starts[1:], (len(lines), None)], strict=True):
            row = lines[start][0]
            said = tuple(box for r, box in lines[start + 1 : end] if r == row)
            if said and heads:
                yield Found(row, heads[-1].text, Cell(column, said), times)


def _above(box: Box, others: Sequence[Box]) -> list[Box]:
    """The nearest line above that shares some of its width."""
    found = [other for other in others if other.y < box.y and min(other.x1, box.x1) > max(other.x0, box.x0)]
    return sorted(found, key=lambda other: other.y)[-1:]


def _numbered(grid: Grid) -> Iterator[Found]:
    """Numbers at the left, and a legend that says when they are."""
    texts = [box.text for box in grid.others] + [box.text for row in grid.rows for c in row.values() for box in c.boxes]
    legend = dict(said for text in texts if (said := numbered_times(text)))
    columns = [
        {
            r: int(found[1])
            for r, row in enumerate(grid.rows)
            if c in row and not times_of(row[c].text) and (found := NUMBER.match(row[c].text))
        }
        for c in range(min(2, grid.num_columns))
    ]
    left = max(range(len(columns)), key=lambda c: len(columns[c]))
    printed = columns[left]
    first = min(printed, default=0)
    head = max(0, first - max(1, printed.get(first, 0)))
    if not legend or not grid.rows[head] or (printed and not first):
        return
    for r, number in _by_place(grid.rows, head, printed).items():
        for column, heading in grid.rows[head].items():
            cell = grid.rows[r].get(column)
            if (column > left or not printed) and cell and not cell.again and number in legend:
                yield Found(r, heading.text, cell, legend[number])


def _by_place(rows: Sequence[dict[int, Cell]], head: int, printed: Mapping[int, int]) -> dict[int, int]:
    """The numbers of rows: as printed, and of the others by how far they are from these, or from the headings."""
    middles = [float(np.median([cell.y for cell in row.values()])) if row else np.nan for row in rows]
    known = printed or {head: 0}
    first, last = min(known), max(known)
    step = float(np.nanmedian(np.diff(middles[head:])))
    if known[last] > known[first]:
        step = (middles[last] - middles[first]) / (known[last] - known[first])
    found = dict(printed)
    for r in range(head + 1, len(rows)):
        near = min(known, key=lambda other: abs(other - r))
        number = known[near] + round((middles[r] - middles[near]) / step) if rows[r] and step > 0 else 0
        if r not in found and number not in found.values():
            found[r] = number
    return found
