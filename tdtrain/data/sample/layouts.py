"""Puts a schedule on a page: six layouts, each a function from a schedule to table cells."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from random import Random

from tdtrain.data.sample.schedule import Entry, Schedule
from tdtrain.data.sample.sheet import Cell, Sheet, Style, Text

MAX_LINES = 58
"""About as many lines as a page gets; cells say less where there are many of them."""


@dataclass(frozen=True)
class Table:
    """Cells and columns of a table, and the lines that explain it below (a legend)."""

    cells: list[Cell]
    num_columns: int
    label_columns: int
    legend: tuple[Text, ...] = ()


class Writer:
    """How one page writes its entries and headers, the same in every cell.

    Args:
        num_free: how many lines the entries may take together.
    """

    def __init__(self, schedule: Schedule, style: Style, rng: Random, num_free: int) -> None:
        self.style, self.schedule = style, schedule
        self.width = rng.choice([11, 14, 17])
        per_entry = num_free // max(1, len(schedule.entries))
        self.form = rng.choice(
            [["name", "joined"], ["name/room", "name/both"], ["name/teacher/room", "name/both"]][
                min(2, max(0, per_entry - 1))
            ]
        )
        names = sorted({entry.name for entry in schedule.entries})
        self.tint = {name: style.tints[i % len(style.tints)] for i, name in enumerate(names)} if style.tints else {}

    def name(self, entry: Entry) -> list[Text]:
        bold, italic = self.style.emphasis == "bold", self.style.emphasis == "italic"
        lines = textwrap.wrap(entry.name, self.width, break_long_words=False, break_on_hyphens=False)
        return [Text(line, "subject", bold=bold, italic=italic) for line in lines]

    def entry(self, entry: Entry) -> tuple[Text, ...]:
        name, small = self.name(entry), 0.88
        teacher, room = Text(entry.teacher, "teacher", small), Text(entry.room, "room", small)
        if self.form == "joined":
            return (*name[:-1], dataclasses.replace(name[-1], text=f"{name[-1].text} ({entry.room})", field="entry"))
        if self.form == "name/room":
            return (*name, room)
        if self.form == "name/both":
            return (*name, Text(f"{entry.teacher}  {entry.room}".replace("  ", " "), "entry", small))
        return (*name, teacher, room) if self.form == "name/teacher/room" else tuple(name)

    def header(self, row: int, column: int, texts: tuple[Text, ...], rowspan: int = 1) -> Cell:
        ink = self.style.header_ink if self.style.header_fill else None
        shown = tuple(dataclasses.replace(text, bold=self.style.header_bold, ink=ink) for text in texts if text.text)
        return Cell(row, column, shown, rowspan, fill=self.style.header_fill, align="center")

    def body(self, row: int, column: int, entry: Entry | None, rowspan: int = 1, texts: tuple[Text, ...] = ()) -> Cell:
        stripe = self.style.stripe if row % 2 == 0 else None
        if entry is None:
            return Cell(row, column, texts, rowspan, fill=stripe)
        return Cell(row, column, texts or self.entry(entry), rowspan, fill=self.tint.get(entry.name, stripe))

    def times(self, period: int, stacked: bool) -> tuple[Text, ...]:
        start, end = self.schedule.times[period]
        if stacked:
            return Text(self.schedule.time(start), "time"), Text(self.schedule.time(end), "time")
        return (Text(self.schedule.range(start, end), "time"),)


def by_day(schedule: Schedule, style: Style, rng: Random) -> Table:
    """Days across, a row a slot, its time at the left."""
    return _grid(schedule, style, rng, merge=False, numbered=rng.random() < 0.4)


def merged(schedule: Schedule, style: Style, rng: Random) -> Table:
    """As by_day, with double periods in one tall cell and pauses in one wide one."""
    return _grid(schedule, style, rng, merge=True, numbered=rng.random() < 0.4)


def by_period(schedule: Schedule, style: Style, rng: Random) -> Table:
    """Days across, period numbers at the left, and a legend below that says when they are."""
    num = len(schedule.periods)
    writer = Writer(schedule, style, rng, MAX_LINES - 2 * num - len(schedule.days))
    cells = [writer.header(0, 0, (Text(schedule.headings.period, "heading"),))]
    cells += [writer.header(0, 1 + d, (Text(day, "day"),)) for d, day in enumerate(schedule.days)]
    cells += [writer.header(1 + p, 0, (Text(label, "period"),)) for p, label in enumerate(schedule.periods)]
    cells += _bodies(schedule, lambda day, period, entry: writer.body(1 + period, 1 + day, entry))
    legend = tuple(
        Text(f"{label} {schedule.range(*times)}", "time", 0.85)
        for label, times in zip(schedule.periods, schedule.times, strict=True)
    )
    return Table(cells, 1 + len(schedule.days), 1, legend)


def transposed(schedule: Schedule, style: Style, rng: Random) -> Table:
    """Days down, periods across with their times."""
    num, stacked = len(schedule.periods), rng.random() < 0.6
    writer = Writer(schedule, style, rng, MAX_LINES - num * (3 if stacked else 2) - len(schedule.days))
    cells = [writer.header(0, 0, (Text(schedule.headings.day, "heading"),) if rng.random() < 0.5 else ())]
    cells += [
        writer.header(0, 1 + p, (Text(label, "period"), *writer.times(p, stacked)))
        for p, label in enumerate(schedule.periods)
    ]
    cells += [writer.header(1 + d, 0, (Text(day, "day"),)) for d, day in enumerate(schedule.days)]
    cells += _bodies(schedule, lambda day, period, entry: writer.body(1 + day, 1 + period, entry))
    return Table(cells, 1 + num, 1)


def listing(schedule: Schedule, style: Style, rng: Random) -> Table:
    """A row an entry: day, time, name, and up to two more columns."""
    writer = Writer(schedule, dataclasses.replace(style, tints=()), rng, 0)
    writer.width, heads = 40, schedule.headings
    departures, show_teacher = schedule.kind == "departures", schedule.kind == "departures" or rng.random() < 0.5
    titles = [heads.time, heads.teacher, heads.name, heads.room] if departures else [heads.day, heads.time, heads.name]
    titles += [] if departures else [heads.teacher, heads.room] if show_teacher else [heads.room]
    cells = [writer.header(0, c, (Text(title, "heading"),)) for c, title in enumerate(titles)]
    merge_days, row = rng.random() < 0.5, 1
    for day, group in groupby(schedule.entries, key=lambda entry: entry.day):
        entries = list(group)
        for k, entry in enumerate(entries):
            start, end = schedule.span(entry)
            time = (Text(schedule.range(start, end), "time"),)
            teacher, room = (Text(entry.teacher, "teacher"),), (Text(entry.room, "room"),)
            name = tuple(writer.name(entry))
            columns = (
                [time, teacher, name, room] if departures else [time, name, *([teacher] if show_teacher else []), room]
            )
            offset = 0 if departures else 1
            if not departures and (k == 0 or not merge_days):
                rowspan = len(entries) if merge_days else 1
                cells.append(writer.body(row, 0, None, rowspan, (Text(schedule.days[day], "day"),)))
            cells += [writer.body(row, offset + c, None, texts=texts) for c, texts in enumerate(columns)]
            row += 1
    return Table(cells, len(titles), len(titles))


def blocks(schedule: Schedule, style: Style, rng: Random) -> Table:
    """A column a day, its entries one below the other, each with its own time."""
    writer = Writer(schedule, style, rng, MAX_LINES - len(schedule.days) - len(schedule.entries))
    cells = [writer.header(0, d, (Text(day, "day"),)) for d, day in enumerate(schedule.days)]
    columns = [[e for e in schedule.entries if e.day == d] for d in range(len(schedule.days))]
    for day, entries in enumerate(columns):
        for k in range(max(map(len, columns))):
            if k >= len(entries):
                cells.append(writer.body(1 + k, day, None))
                continue
            time = Text(schedule.range(*schedule.span(entries[k])), "time", 0.9)
            cells.append(writer.body(1 + k, day, entries[k], texts=(time, *writer.entry(entries[k]))))
    return Table(cells, len(schedule.days), 0)


LAYOUTS: dict[str, Callable[[Schedule, Style, Random], Table]] = {
    "by_day": by_day,
    "by_period": by_period,
    "transposed": transposed,
    "list": listing,
    "merged": merged,
    "blocks": blocks,
}
MERGING = ("merged", "list", "blocks")
"""Layouts that show a double period as one entry."""


def lay_out(schedule: Schedule, layout: str, style: Style, rng: Random) -> tuple[Sheet, Schedule]:
    """A schedule on a page in one of LAYOUTS, and the schedule as that page shows it (lists show fewer days)."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    shown = schedule if layout in MERGING else schedule.split_doubles()
    if layout == "list" and schedule.kind != "departures":
        shown = _first_days(shown, 14)
    table = LAYOUTS[layout](shown, style, rng)
    num_rows = 1 + max(cell.row for cell in table.cells)
    style = dataclasses.replace(style, inset_y=style.inset_y * min(2.5, max(1.0, 13 / num_rows)))
    foot = (*table.legend, *(Text(note, "note", 0.85, italic=style.emphasis == "italic") for note in shown.notes))
    sheet = Sheet(
        language=shown.language,
        layout=layout,
        style=style,
        head=_head(shown, style),
        cells=tuple(table.cells),
        num_columns=table.num_columns,
        label_columns=table.label_columns,
        foot=foot,
    )
    return sheet, shown


def _grid(schedule: Schedule, style: Style, rng: Random, merge: bool, numbered: bool) -> Table:
    """Days across. With `numbered` the period's number has a column of its own before the time."""
    labels, stacked, heads = 2 if numbered else 1, rng.random() < 0.4, schedule.headings
    num_label_lines = len(schedule.periods) * (labels + stacked) + len(schedule.days) + len(schedule.pauses)
    writer = Writer(schedule, style, rng, MAX_LINES - num_label_lines)
    pauses = dict(schedule.pauses) if merge or rng.random() < 0.3 else {}
    row_of = [1 + p + sum(after < p for after in pauses) for p in range(len(schedule.periods))]
    cells = [writer.header(0, labels - 1, (Text(heads.time, "heading"),))]
    cells += [writer.header(0, 0, (Text(heads.period, "heading"),))] if numbered else []
    cells += [writer.header(0, labels + d, (Text(day, "day"),)) for d, day in enumerate(schedule.days)]
    for period, label in enumerate(schedule.periods):
        cells.append(writer.header(row_of[period], labels - 1, writer.times(period, stacked)))
        cells += [writer.header(row_of[period], 0, (Text(label, "period"),))] if numbered else []
    for after, name in pauses.items():
        span = labels + len(schedule.days)
        fill = style.stripe or (style.header_fill and "#eeeeee")
        cells.append(Cell(row_of[after] + 1, 0, (Text(name, "break", 0.9),), colspan=span, fill=fill, align="center"))
    cells += _bodies(schedule, lambda day, p, entry: writer.body(row_of[p], labels + day, entry, _height(entry)))
    return Table(cells, labels + len(schedule.days), labels)


def _height(entry: Entry | None) -> int:
    return entry.num_periods if entry else 1


def _bodies(schedule: Schedule, cell: Callable[[int, int, Entry | None], Cell]) -> list[Cell]:
    """A cell for every slot of every day, one for the slots that a double period covers."""
    starts = {(e.day, e.period): e for e in schedule.entries}
    covered = {(e.day, e.period + k) for e in schedule.entries for k in range(1, e.num_periods)}
    slots = [(day, period) for period in range(len(schedule.periods)) for day in range(len(schedule.days))]
    return [cell(day, period, starts.get((day, period))) for day, period in slots if (day, period) not in covered]


def _first_days(schedule: Schedule, most: int) -> Schedule:
    """As many whole days from the first as keep to `most` entries, and at least one."""
    kept: list[Entry] = []
    for _, group in groupby(schedule.entries, key=lambda entry: entry.day):
        entries = list(group)
        if kept and len(kept) + len(entries) > most:
            break
        kept += entries
    return dataclasses.replace(schedule, entries=tuple(kept))


def _head(schedule: Schedule, style: Style) -> tuple[tuple[Text, ...], ...]:
    """The title on a line of its own (or beside the first fact), then the facts, two to a line."""
    texts = [Text(text, field) for text, field in schedule.head]
    title = dataclasses.replace(texts[0], size=style.title_size, bold=style.header_bold)
    if style.head_align != "spread":
        return ((title,), *((text,) for text in texts[1:]))
    rows = [(title, *texts[1:2])]
    rows += [tuple(texts[k : k + 2]) for k in range(2, len(texts), 2)]
    return tuple(rows)
