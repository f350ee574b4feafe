"""A timetable by rules alone: the grid of a page, and what looks like a time. What a language model has to beat.

No words of any language are known: days are what heads the columns (or rows) of a table whose rows (or columns) have
times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tdtrain.data.grid import find_grid
from tdtrain.data.layout import Cell, Grid, PlacedLine, upright
from tdtrain.data.merged_cells import with_labels
from tdtrain.data.times import Times, times_of
from tdtrain.data.timetable import TimeBlock, Timetable

_NUMBER = re.compile(r"^\s*(\d{1,2})\s*\.?(?:\s|$)")
_YEAR = re.compile(r"\b20\d\d\s?[/-]\s?(?:20)?\d\d\b")
_CLASS = re.compile(r"(?:^|\s)(\d{1,2}\s?/?\s?[a-dA-D])(?=\s|$)")


def parse_page(lines: Sequence[PlacedLine]) -> Timetable:
    """What the rules make of a page: of lists, and of tables with days across or down; else no blocks."""
    boxes = upright(lines)
    grid = with_labels(find_grid(boxes))
    blocks = tuple(_blocks(grid)) if grid.rows else ()
    text = [box.text for box in boxes]
    return Timetable(
        className=next((found[1] for line in text if (found := _CLASS.search(line))), None),
        year=next((found[0] for line in text if (found := _YEAR.search(line))), None),
        timeblocks=blocks,
    )


def _times(cell: Cell) -> Times | None:
    """Of the first line of a cell that names two, or of its lines together."""
    return next((times for box in cell.boxes if (times := times_of(box.text))), None) or times_of(cell.text)


def _blocks(grid: Grid) -> Iterator[TimeBlock]:
    rows = grid.rows
    timed = [[column for column, cell in row.items() if _times(cell)] for row in rows]
    across = next((r for r, columns in enumerate(timed) if len(columns) > 2 and 0 not in columns), None)
    by_column = [sum(column in columns for columns in timed) for column in range(grid.num_columns)]
    if across is not None and sum(len(columns) > 2 for columns in timed) == 1:
        yield from _days_down(rows[across], rows[across + 1 :])
    elif max(by_column) >= 0.5 * len(rows) and sum(count > 1 for count in by_column) == 1:
        yield from _time_column(grid, by_column.index(max(by_column)))
    elif sum(map(len, timed)) > 2 and sum(count > 0 for count in by_column) > 1:
        yield from _times_inside(grid, timed)
    else:
        yield from _numbered(grid)


def _days_down(head: dict[int, Cell], rows: Sequence[dict[int, Cell]]) -> Iterator[TimeBlock]:
    """Times head the columns, days the rows."""
    for row in rows:
        if 0 not in row or len(row) < 2:
            continue
        for column, cell in sorted(row.items()):
            if column and column in head and (times := _times(head[column])):
                yield from _block(row[0].text, cell, times)


def _time_column(grid: Grid, column: int) -> Iterator[TimeBlock]:
    """One column of times: a list where a day stands in each row or is merged down, else days head the columns."""
    rows = grid.rows
    first = next(r for r, row in enumerate(rows) if column in row and _times(row[column]))
    head = rows[first - 1] if first else {}
    if column > 0 and not any(
        c < column and _NUMBER.match(cell.text) for row in rows[first:] for c, cell in row.items()
    ):
        for row in rows[first:]:
            if {0, column, column + 1} <= row.keys() and (times := _times(row[column])):
                yield from _block(row[0].text, row[column + 1], times)
        return
    for day_column, heading in sorted(head.items()):
        for row, below in zip(rows[first:], [*rows[first + 1 :], {}], strict=True):
            cell = row.get(day_column)
            if day_column > column and cell and column in row and (times := _times(row[column])):
                if day_column in below and below[day_column].again and column in below:
                    later = _times(below[column])
                    times = (times[0], later[1]) if later else times
                yield from _block(heading.text, cell, times)


def _times_inside(grid: Grid, timed: Sequence[Sequence[int]]) -> Iterator[TimeBlock]:
    """Each cell has a time of its own; days head the columns."""
    first = next(r for r, columns in enumerate(timed) if columns)
    for column, heading in sorted((grid.rows[first - 1] if first else {}).items()):
        for row in grid.rows[first:]:
            if column not in row or row[column].again:
                continue
            if times := times_of(row[column].boxes[0].text):
                yield from _block(heading.text, Cell(column, row[column].boxes[1:]), times)


def _numbered(grid: Grid) -> Iterator[TimeBlock]:
    """Numbers at the left, and a legend that says when they are."""
    texts = [box.text for box in grid.others] + [box.text for row in grid.rows for c in row.values() for box in c.boxes]
    legend = {
        found[1]: times for text in texts if (found := _NUMBER.match(text)) and (times := times_of(text[found.end() :]))
    }
    numbers = [(r, found[1]) for r, row in enumerate(grid.rows) if 0 in row and (found := _NUMBER.match(row[0].text))]
    numbers = [(r, number) for r, number in numbers if not times_of(grid.rows[r][0].text)]
    if not numbers or not numbers[0][0]:
        return
    for column, heading in sorted(grid.rows[numbers[0][0] - 1].items()):
        for r, number in numbers:
            if column and column in grid.rows[r] and number in legend:
                yield from _block(heading.text, grid.rows[r][column], legend[number])


def _block(day: str, cell: Cell, times: Times) -> Iterator[TimeBlock]:
    """A block, unless it began in the row above, named by a cell's lines that hold no digit, without what is in
    brackets."""
    said = [re.sub(r"\s*\(.*?\)", "", box.text).strip() for box in cell.boxes]
    kept = [text for text in said if text and not any(char.isdigit() for char in text)]
    if len(kept) > 1 and len(kept) < len(said) and len(kept[-1]) <= 4:
        kept.pop()  # initials above a room
    if kept and day and not cell.again:
        yield TimeBlock(day=day, name=" ".join(kept), startTime=times[0], endTime=times[1])
