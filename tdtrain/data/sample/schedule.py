"""A structured timetable: what is printed on a page, before anybody decides where."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Literal

from tdtrain.data.sample.sheet import Field
from tdtrain.data.timetable import Document, TimeBlock

Kind = Literal["school", "shifts", "departures"]
KINDS: tuple[Kind, ...] = ("school", "shifts", "departures")


@dataclass(frozen=True)
class Entry:
    """A lesson, shift or departure: who, where, and which periods of which day. `teacher` and `room` may be empty."""

    day: int
    period: int
    name: str
    teacher: str
    room: str
    num_periods: int = 1


@dataclass(frozen=True)
class Headings:
    """What the page calls its columns."""

    day: str
    period: str
    time: str
    name: str
    teacher: str
    room: str


@dataclass(frozen=True)
class Schedule:
    """All strings are as printed; times are minutes since midnight (past 1440 on the next day).

    Attributes:
        days: the printed days; `Entry.day` counts in them.
        periods: the printed period labels, one a slot of `times`.
        pauses: (period after which it comes, name).
        head: the lines above the table, title first, with their fields.
        clock, dash: how a time and a range of times are spelled.
    """

    kind: Kind
    language: str
    days: tuple[str, ...]
    periods: tuple[str, ...]
    times: tuple[tuple[int, int], ...]
    pauses: tuple[tuple[int, str], ...]
    entries: tuple[Entry, ...]
    headings: Headings
    head: tuple[tuple[str, Field], ...]
    notes: tuple[str, ...]
    clock: str
    dash: str
    teacher: str | None = None
    class_name: str | None = None
    term: str | None = None
    year: str | None = None

    def time(self, minutes: int) -> str:
        """A time of day as this page spells it."""
        hour, minute = divmod(minutes % 1440, 60)
        half = "am" if hour < 12 else "pm"
        return self.clock.format(H=hour, h=(hour - 1) % 12 + 1, M=minute, ap=half, AP=half.upper())

    def range(self, start: int, end: int) -> str:
        """From and to on one line."""
        return self.time(start) + self.dash + self.time(end)

    def span(self, entry: Entry) -> tuple[int, int]:
        """When an entry starts and ends, double periods included."""
        return self.times[entry.period][0], self.times[entry.period + entry.num_periods - 1][1]

    def split_doubles(self) -> Schedule:
        """The same week with every double period written as two, for layouts that cannot merge cells."""
        single = [
            dataclasses.replace(entry, period=entry.period + k, num_periods=1)
            for entry in self.entries
            for k in range(entry.num_periods)
        ]
        return dataclasses.replace(self, entries=tuple(sorted(single, key=lambda e: (e.day, e.period))))

    def document(self, image_path: str) -> Document:
        """The document format's annotation of the page that shows this schedule."""
        blocks = [
            TimeBlock(day=self.days[e.day], name=e.name, startTime=_iso(start), endTime=_iso(end))
            for e in self.entries
            for start, end in [self.span(e)]
        ]
        return Document(
            image_path=image_path,
            teacher=self.teacher,
            className=self.class_name,
            term=self.term,
            year=self.year,
            timeblocks=tuple(blocks),
        )


def day_times(rng: Random, num_periods: int, kind: Kind) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """The slots of a day, and after which of them a pause comes (gaps of at least ten minutes)."""
    if kind == "shifts":
        start, length, gaps = rng.choice([360, 420, 390]), rng.choice([120, 150, 180, 240]), [0] * num_periods
    else:
        start, length = rng.randrange(440, 520, 5), rng.choice([40, 45, 45, 50, 55, 60])
        gaps = [rng.choice([0, 0, 5])] * num_periods
        gaps[rng.choice([1, 2])] = rng.choice([15, 20, 25])
        if num_periods > 5:
            gaps[rng.choice([3, 4])] = rng.choice([30, 40, 45, 60])
    times = []
    for gap in gaps:
        times.append((start, start + length))
        start += length + gap
    return tuple(times), tuple(i for i, gap in enumerate(gaps[:-1]) if gap >= 10)


def _iso(minutes: int) -> str:
    hour, minute = divmod(minutes % 1440, 60)
    return f"{hour:02}:{minute:02}"
