"""A page as a table, from where its lines stand alone.

Columns are where lines stand below each other, cells are lines without a gap between them, rows are cells beside each
other.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from tdtrain.data.layout import Box, Cell, Grid, text_rows
from tdtrain.data.merged_cells import HALFWAY, WIDE, fill_two
from tdtrain.data.times import NUMBER, clocks_of, numbered_times, times_of

PAIRS = 0.5
"""So many of the rows with more than two lines have a start and an end apart, where lists have."""
DASHES = " -\u2013\u2014"
_LETTER = re.compile(r"[^\W\d_]").search
ANCHORS = 0.7
"""A column has a cell in each row where it has this share of the cells of the fullest one."""
TIGHT, LOOSE = 1.0, 1.7
"""From one line of a cell to the next, in heights of a line."""
SHORT = 4
"""Rows of a table that may have columns that are empty but for their headings."""
CROSSING = 0.15
"""A row whose lines are columns may have so much of a line less for each line of the page that crosses two of them."""
FULL = 0.5
"""It has at least so many of the lines of the fullest one."""
CELLS = 0.2
"""So many of the distances in columns, at least, are those between cells."""
APART = 0.6
"""Headings are so far above the first row, in rows."""


def find_grid(boxes: Sequence[Box]) -> Grid:
    """The table of a page, from where its lines stand alone: columns are where lines stand below each other, rows are
    those of the first column that is nearly full. What is above the first row that is half full belongs to none."""
    boxes = _with_both_times(boxes)
    columns = _columns(boxes)
    if len(columns) < 2:
        return Grid(1, (), tuple(boxes))
    rows = text_rows(boxes)
    last = max(number for number, row in enumerate(rows) if len(row) > 1)
    legend = [box for row in rows[last + 1 :] for box in row if numbered_times(box.text)]
    boxes = [box for box in boxes if box not in legend]
    enough = min(max(map(len, rows)), max(3, len(columns) / 2))
    top = min(box.y0 for box in next(row for row in rows if len(row) >= enough))
    placed: dict[int, list[Box]] = {}
    others = [*legend, *(box for box in boxes if box.y < top)]
    for box in (box for box in boxes if box.y >= top):
        if sum(_fills(box, column) for column in columns) > 1:
            others.append(box)
        else:
            placed.setdefault(int(np.argmax([_shared(box, column) for column in columns])), []).append(box)
    in_columns = {column: sorted(own, key=lambda box: box.y) for column, own in placed.items()}
    apart = _apart(in_columns.values())
    cells = [cell for column, own in in_columns.items() for cell in _cells(column, own, apart)]
    table, below = _rows(cells)
    table, empty = _without_empty(table)
    kept = max((column for row in table for column in row), default=0) + 1
    return Grid(kept, tuple(table), (*others, *(box for cell in (*below, *empty) for box in cell.boxes)))


def _with_both_times(boxes: Sequence[Box]) -> list[Box]:
    """The lines, a start and its end as one, with what heads them: two that stand beside each other, in most rows of a
    list."""
    rows = text_rows(boxes)
    pairs: dict[int, tuple[Box, Box]] = {}
    for number, row in enumerate(rows):
        alone = [place for place, box in enumerate(row) if len(clocks_of(box.text)) == 1 and not _LETTER(box.text)]
        if len(alone) == 2 and alone[0] + 1 == alone[1] and not any(times_of(box.text) for box in row):
            pairs[number] = (row[alone[0]], row[alone[1]])
    if len(pairs) < max(2, PAIRS * sum(len(row) > 2 for row in rows)):
        return list(boxes)
    starts, ends = (
        (min(box.x0 for box in side), max(box.x1 for box in side)) for side in zip(*pairs.values(), strict=True)
    )
    kept: list[Box] = []
    for number, row in enumerate(rows):
        heads = (
            pair for pair in itertools.pairwise(row) if _meet(pair[0], starts) and not _meet(pair[0], ends)
            and _meet(pair[1], ends) and not _meet(pair[1], starts)
        )  # fmt: skip
        start, end = pairs.get(number) or next(heads, (None, None))
        kept += [box for box in row if box is not start and box is not end]
        if start and end:
            text = f"{start.text.rstrip(DASHES)} - {end.text.lstrip(DASHES)}"
            kept.append(Box(text, start.x0, min(start.y0, end.y0), end.x1, max(start.y1, end.y1)))
    return kept


def _columns(boxes: Sequence[Box]) -> list[tuple[float, float]]:
    """The extents of columns: of the lines in the fullest row, if not too many others cross two of them, and of lines
    that stand beside these, not below."""
    rows = text_rows(boxes)
    most = max(map(len, rows), default=0)
    if most < 2:
        return []

    def fits(row: Sequence[Box]) -> tuple[float, float]:
        crossing = sum(sum(_fills(box, (one.x0, one.x1)) for one in row) > 1 for box in boxes)
        return len(row) - CROSSING * crossing, sum(box.x1 - box.x0 for box in row)

    columns = [(box.x0, box.x1) for box in max((row for row in rows if len(row) >= FULL * most), key=fits)]
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
        if extent[1] <= min(columns)[0]:  # labels may stand at half the height of two lines
            near = [other for other in boxes if _meet(other, nearest)]
            beside = sum(any(abs(box.y - other.y) < box.height for other in near) for _, box in group)
        if beside > 1:
            columns.append(extent)
    return sorted(columns)


def _shared(box: Box, column: tuple[float, float]) -> float:
    """Pixels; negative: how far away it is."""
    return min(box.x1, column[1]) - max(box.x0, column[0])


def _meet(box: Box, column: tuple[float, float]) -> bool:
    return _shared(box, column) > 0


def _fills(box: Box, column: tuple[float, float]) -> bool:
    return _shared(box, column) > 0.5 * (column[1] - column[0])


def _apart(columns: Collection[Sequence[Box]]) -> float:
    """How far apart the middles of two lines are in one column, pixels, from where on they are of two cells: where the
    distances that a page has leave the widest room, among those that lines of one cell may have. Lines that both name
    when something begins and ends are of two, and so are lines that are numbers."""
    pairs = [pair for own in columns for pair in itertools.pairwise(own)]
    if not pairs:
        return 0.0
    height = float(np.median([box.height for pair in pairs for box in pair]))
    steps = sorted((after.y - before.y) / height for before, after in pairs)
    most = min(map(_between_labels, columns), default=np.inf) / height
    most = min(most, steps[int((1 - CELLS) * len(steps))])
    steps = [TIGHT, *(step for step in steps if TIGHT < step <= most)]  # what is nearer stands on one line
    room = [(b / a, (a + b) / 2) for a, b in itertools.pairwise(steps) if a <= LOOSE]
    return height * max(room, default=(0.0, TIGHT))[1]


def _between_labels(boxes: Sequence[Box]) -> float:
    """How far apart the lines of a column are, most of which are numbers or name when something begins and ends."""
    steps = [after.y - before.y for before, after in itertools.pairwise(boxes) if _label(before) and _label(after)]
    return float(np.median(steps)) if len(steps) > len(boxes) / 2 else np.inf


def _label(box: Box) -> bool:
    number = NUMBER.match(box.text)
    return times_of(box.text) is not None or (number is not None and number.end() == len(box.text.rstrip()))


def _cells(column: int, boxes: Sequence[Box], apart: float) -> list[Cell]:
    """The lines of a column, from the top; those that are `apart` begin a new cell."""
    groups: list[list[Box]] = [[boxes[0]]]
    for before, box in itertools.pairwise(boxes):
        if box.y - before.y >= apart:
            groups.append([])
        groups[-1].append(box)
    return [Cell(column, tuple(cell)) for group in groups for cell in _starts_and_ends(group)]


def _starts_and_ends(boxes: list[Box]) -> list[list[Box]]:
    """One group of lines; or two by two, where more than two below each other name one time each."""
    clocks = [clocks_of(box.text) for box in boxes]
    first = next((i for i, found in enumerate(clocks) if found), 0)
    if len(boxes) - first < 3 or any(len(found) != 1 for found in clocks[first:]):
        return [boxes]
    cells = [boxes[:first]] if first else []
    while first < len(boxes):
        alone = first + 1 < len(boxes) and clocks[first + 1] == clocks[first]  # its start was not found
        cells.append(boxes[first : first + 2 - alone])
        first += len(cells[-1])
    return cells


def _rows(cells: Sequence[Cell]) -> tuple[list[dict[int, Cell]], list[Cell]]:
    """Cells beside each other, and those below the table. The first column that is nearly as full as any says how many
    rows there are; headings need none there, and what stands between two rows is one of its own."""
    by_column: dict[int, list[Cell]] = {}
    for cell in cells:
        by_column.setdefault(cell.column, []).append(cell)
    if not cells:
        return [], []
    most = max(map(len, by_column.values()))
    first = min(column for column, own in by_column.items() if len(own) >= ANCHORS * most)
    middles = [cell.y for cell in by_column[first]]
    step = float(np.median(np.diff(middles))) if len(middles) > 1 else np.inf
    above = [cell.y for cell in cells if cell.y < middles[0] - APART * step]
    if len(above) > len(by_column) / 2:
        middles.insert(0, sorted(above)[len(above) // 2])
    rows: list[dict[int, Cell]] = [{} for _ in middles]
    between: list[dict[int, Cell]] = []
    for cell in cells:
        row = rows[int(np.abs(np.subtract(middles, cell.y)).argmin())]
        if _is_between(cell, middles, step):
            row = next((one for one in between if _beside(cell, one)), {})
            if not row:
                between.append(row)
        boxes = (*row[cell.column].boxes, *cell.boxes) if cell.column in row else cell.boxes
        row[cell.column] = Cell(cell.column, tuple(sorted(boxes, key=lambda box: box.y)))
    fill_two(rows, middles, step, first)
    placed = [*zip(middles, rows, strict=True), *((min(cell.y for cell in row.values()), row) for row in between)]
    table = [row for _, row in sorted(placed, key=lambda one: one[0])]
    below: list[Cell] = []
    while len(table) > 2 and (set(table[-1]) == {0} or min(cell.y for cell in table[-1].values()) > middles[-1] + step):
        below += table.pop().values()  # a remark
    return table, below


def _without_empty(table: list[dict[int, Cell]]) -> tuple[list[dict[int, Cell]], list[Cell]]:
    """The table without columns that have a heading alone, and these headings."""
    filled = sorted({column for row in table[1:] for column in row})
    if len(table) < SHORT:
        return table, []
    place = {column: new for new, column in enumerate(filled)}
    rows = [{place[c]: replace(cell, column=place[c]) for c, cell in row.items() if c in place} for row in table]
    return rows, [cell for column, cell in table[0].items() if column not in place]


def _is_between(cell: Cell, middles: Sequence[float], step: float) -> bool:
    """Whether it stands below the table, or in the room that two rows leave for one between them."""
    after = int(np.searchsorted(middles, cell.y))
    if after in (0, len(middles)):
        return cell.y > middles[-1] + step
    gap = middles[after] - middles[after - 1]
    return gap > WIDE * step and abs((cell.y - middles[after - 1]) / gap - 0.5) < HALFWAY


def _beside(cell: Cell, row: dict[int, Cell]) -> bool:
    return any(cell.y0 < other.y1 and other.y0 < cell.y1 for other in row.values())
