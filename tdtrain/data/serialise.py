"""A page as one text that keeps where its lines stand: five ways, for a model that does not see the picture."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from rapidfuzz.fuzz import partial_ratio

from tdtrain.data.found import Found, find_blocks, only_times
from tdtrain.data.grid import find_grid
from tdtrain.data.layout import Box, Grid, PlacedLine, text_rows, upright
from tdtrain.data.merged_cells import with_labels
from tdtrain.data.timetable import TimeBlock, Timetable

Serialisation = Literal["reading_order", "markdown", "coordinates", "headings", "cells"]
ALIKE, MISREAD = 80, 10
"""Texts are held for the same from here on, and as well as the best one up to so much less: partial_ratio, of 100."""


def serialise(lines: Sequence[PlacedLine], way: Serialisation) -> str:
    """The page as text.

    reading_order: a line each, row by row from the left. markdown: rows of cells between bars, what is no cell on a
    line of its own; a cell that fills two rows is ^ in the second. coordinates: a line each, after the place of its
    middle in hundredths of the page, across and down. headings: as markdown, but each cell after what heads its column,
    none that are empty, and labels that are merged over rows in each of these. cells: a line a cell that has a day and
    times: the day, the cell, the times as HH:MM; other rows as headings has them.
    """
    ways: dict[Serialisation, Callable[[Sequence[Box]], str]] = {
        "reading_order": _reading_order,
        "markdown": lambda boxes: _table(boxes, _between_bars),
        "coordinates": _coordinates,
        "headings": lambda boxes: _table(boxes, lambda grid: _after_headings(with_labels(grid))),
        "cells": lambda boxes: _table(boxes, lambda grid: _one_by_one(with_labels(grid))),
    }
    return ways[way](upright(lines)) if lines else ""


def in_order_of_page(truth: Timetable, lines: Sequence[PlacedLine]) -> Timetable:
    """The same timetable, its blocks in the order in which the page's rows show them, as far as they are found there:
    who reads the page as text need not jump from row to row to write them."""
    places = _places(with_labels(find_grid(upright(lines))))
    order: dict[int, tuple[int, int]] = {}
    alike: dict[tuple[str, str], list[int]] = {}
    for number, block in enumerate(truth.timeblocks):
        alike.setdefault((block.day, block.name), []).append(number)
    for (day, name), numbers in alike.items():
        of_day = _best([_alike(day, around) for _, _, around in places])
        among = [place for place, on_it in zip(places, of_day, strict=True) if on_it]  # Tuesday is much like Thursday
        named = _best([_alike(name, text) for _, text, _ in among])
        found = (place for (place, _, _), it_is in zip(among, named, strict=True) if it_is)
        by_time = sorted(numbers, key=lambda number: _clock(truth.timeblocks[number].startTime))
        order |= dict(zip(by_time, found, strict=False))
    last = (-1, -1)
    keys = []
    for number in range(len(truth.timeblocks)):
        last = order.get(number, last)  # what is not found stays behind the block before it
        keys.append((last, number))
    blocks: tuple[TimeBlock, ...] = tuple(truth.timeblocks[number] for _, number in sorted(keys))
    return truth.model_copy(update={"timeblocks": blocks})


def _places(grid: Grid) -> list[tuple[tuple[int, int], str, str]]:
    """(row, column) of each cell, its text, and what heads it: its column's first cell, and its row's, or where that
    is empty the one above."""
    found, label = [], ""
    for r, row in enumerate(grid.rows):
        label = row[0].text if 0 in row else label
        for column, cell in sorted(row.items()):
            if cell.again:
                continue
            heads = grid.rows[0][column].text if column in grid.rows[0] else ""
            found.append(((r, column), cell.text, f"{heads} {label}"))
    return found


def _clock(time: str) -> tuple[list[int], str]:
    """What times are sorted by, as printed: 8:00 before 10:00."""
    return [int(number) for number in re.findall(r"\d+", time)], time


def _best(scores: Sequence[float]) -> list[bool]:
    """Which are as good as the best, if that is good enough."""
    least = max(ALIKE, max(scores, default=0.0) - MISREAD)
    return [score >= least for score in scores]


def _alike(part: str, whole: str) -> float:
    """How well a text is found within another, of 100; readers often miss what stands above or below a letter."""
    return partial_ratio(_plain(part), _plain(whole)) if len(part) <= len(whole) + 1 else 0.0


@lru_cache(maxsize=10_000)
def _plain(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(char))


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


def _one_by_one(grid: Grid) -> Iterator[str]:
    found: dict[int, list[Found]] = {}
    for one in find_blocks(grid):
        found.setdefault(one.row, []).append(one)
    for r, (row, said) in enumerate(zip(grid.rows, _after_headings(grid), strict=True)):
        here = sorted(found.get(r, ()), key=lambda one: one.cell.column)
        told = {cell.column for one in here for cell in (one.cell, *one.beside)}
        lines = ["|".join([one.day, one.cell.text, *(cell.text for cell in one.beside), *one.times]) for one in here]
        left = [cell for column, cell in row.items() if column not in told and not (cell.again or only_times(cell))]
        if any(cell.column for cell in left) or (left and not here):
            lines.append(said)
        yield "\n".join(lines)


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
