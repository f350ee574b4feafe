"""A page as one text that keeps where its lines stand: six ways, for a model that does not see the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from tdtrain.data.found import Found, find_blocks, only_times
from tdtrain.data.grid import find_grid
from tdtrain.data.known import NOTHING, Known
from tdtrain.data.layout import Box, Grid, PlacedLine, text_rows, upright
from tdtrain.data.merged_cells import with_labels
from tdtrain.data.timetable import TimeBlock

UNKNOWN = "?"
"""The day of a draft that has none."""
Serialisation = Literal["reading_order", "markdown", "coordinates", "headings", "cells", "blocks"]


def serialise(lines: Sequence[PlacedLine], way: Serialisation, known: Known = NOTHING) -> str:
    """The page as text.

    reading_order: a line each, row by row from the left. markdown: rows of cells between bars, what is no cell on a
    line of its own; a cell that fills two rows is ^ in the second. coordinates: a line each, after the place of its
    middle in hundredths of the page, across and down. headings: as markdown, but each cell after what heads its column,
    none that are empty, and labels that are merged over rows in each of these. cells: a line a cell that has a day and
    times: the day, the cell (a name that is known first), the times as HH:MM; other rows as headings has them. blocks:
    as cells, but day, name and times as the JSON that a writer is to write.

    Args:
        known: days and names that may stand on it, for cells.
    """
    ways: dict[Serialisation, Callable[[Sequence[Box]], str]] = {
        "reading_order": _reading_order,
        "markdown": lambda boxes: _table(boxes, _between_bars),
        "coordinates": _coordinates,
        "headings": lambda boxes: _table(boxes, lambda grid: _after_headings(with_labels(grid))),
        "cells": lambda boxes: _table(boxes, lambda grid: _one_by_one(with_labels(grid), known, _parts)),
        "blocks": lambda boxes: _table(boxes, lambda grid: _one_by_one(with_labels(grid), known, _block)),
    }
    return ways[way](upright(lines)) if lines else ""


def _reading_order(boxes: Sequence[Box]) -> str:
    return "\n".join(box.text for row in text_rows(boxes) for box in row)


def _coordinates(boxes: Sequence[Box]) -> str:
    left, top = min(box.x0 for box in boxes), min(box.y0 for box in boxes)
    width, height = max(box.x1 for box in boxes) - left, max(box.y1 for box in boxes) - top
    return "\n".join(
        f"{round(99 * (box.x - left) / width)},{round(99 * (box.y - top) / height)} {box.text}"
        for row in text_rows(boxes)
        for box in row
    )


def _table(boxes: Sequence[Box], rows: Callable[[Grid], Iterator[str]]) -> str:
    grid = find_grid(boxes)
    said = [(box.y, box.text) for box in grid.others]
    tops = [min((cell.y for cell in row.values()), default=0.0) for row in grid.rows]
    said += [(top, text) for top, text in zip(tops, rows(grid), strict=True) if text]
    return "\n".join(text for _, text in sorted(said, key=lambda part: part[0]))


def _between_bars(grid: Grid) -> Iterator[str]:
    for row in grid.rows:
        yield "|".join(row[column].text if column in row else "" for column in range(grid.num_columns))


def _one_by_one(grid: Grid, known: Known, say: Callable[[Found, Known], Iterator[str]]) -> Iterator[str]:
    found: dict[int, list[Found]] = {}
    for one in known.with_days(find_blocks(grid)):
        found.setdefault(one.row, []).append(one)
    for r, (row, said) in enumerate(zip(grid.rows, _after_headings(grid), strict=True)):
        here = sorted(found.get(r, ()), key=lambda one: one.cell.column)
        told = {cell.column for one in here for cell in (one.cell, *one.beside)}
        lines = ["|".join(say(one, known)) for one in here]
        left = [cell for column, cell in row.items() if column not in told and not (cell.again or only_times(cell))]
        if any(cell.column for cell in left) or (left and not here):
            lines.append(said)
        yield "\n".join(lines)


def _parts(one: Found, known: Known) -> Iterator[str]:
    yield one.day
    yield from filter(None, known.name(one.cell.text))
    yield from (cell.text for cell in one.beside)
    yield from one.times


def _block(one: Found, known: Known) -> Iterator[str]:
    name, rest = known.named(one)
    start, end = one.times
    yield TimeBlock(day=one.day or UNKNOWN, name=name or one.cell.text, startTime=start, endTime=end).model_dump_json()
    yield from rest


def _after_headings(grid: Grid) -> Iterator[str]:
    heads = {column: cell.text for column, cell in (grid.rows[0] if grid.rows else {}).items()}
    for number, row in enumerate(grid.rows):
        cells = sorted(row.items())
        # The headings themselves are said once more where nothing stands below them.
        alone = [c for c, _ in cells if not any(c in other for other in grid.rows[1:])]
        if number:
            yield "|".join(f"{heads[c]}={cell.text}" if c in heads else cell.text for c, cell in cells)
        else:
            yield "|".join(heads[c] for c in alone)
