"""A document as the product knows it: what a page's annotation in JSON says."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")
LONGEST_MINUTES = 16 * 60
"""Of a block that ends on the next day: a shift, a night train. What would take longer ends before it starts."""
Printed = Annotated[str, Field(min_length=1)]


def _minutes(clock: str) -> int:
    """Since midnight; 0 of what is no time."""
    return int(clock[:2]) * 60 + int(clock[3:]) if _CLOCK.fullmatch(clock) else 0


class TimeBlock(BaseModel):
    """One lesson, shift or departure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: Printed
    """The day, as printed."""
    name: Printed
    """Subject, shift or destination, as printed; a name on several lines is joined with spaces."""
    startTime: Printed  # noqa: N815 - the document format's own name
    """HH:MM on the 24-hour clock, whatever the page's own spelling."""
    endTime: Printed  # noqa: N815
    """As startTime."""


class Timetable(BaseModel):
    """What a page says: what a document model writes, and is measured by. What the page does not say is None."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    teacher: str | None = None
    className: str | None = None  # noqa: N815
    term: str | None = None
    year: str | None = None
    timeblocks: tuple[TimeBlock, ...]

    def faults(self) -> list[str]:
        """What a model that writes HH:MM cannot mean: other times, blocks that take no time or end before they start,
        the same block twice. A shift may end on the next day; blocks of one day may overlap, as of divided classes."""
        found = []
        for number, block in enumerate(self.timeblocks):
            for field, time in (("startTime", block.startTime), ("endTime", block.endTime)):
                if not _CLOCK.fullmatch(time):
                    found.append(f"timeblocks.{number}.{field}: {time!r} is no HH:MM")
            if block.startTime == block.endTime:
                found.append(f"timeblocks.{number}: it starts and ends at {block.startTime}")
            elif (_minutes(block.endTime) - _minutes(block.startTime)) % 1440 > LONGEST_MINUTES:
                found.append(f"timeblocks.{number}: it ends at {block.endTime}, before it starts at {block.startTime}")
            if block in self.timeblocks[:number]:
                found.append(f"timeblocks.{number}: the same as timeblocks.{self.timeblocks.index(block)}")
        return found

    def canonical(self) -> str:
        """The one JSON text of these values: keys in the schema's order, no spaces, what is None left out."""
        return self.model_dump_json(exclude_none=True, exclude=ABOUT_FILES)


HEADER = tuple(name for name in Timetable.model_fields if name != "timeblocks")
"""What a page says of all its blocks."""


class _Located(BaseModel):
    image_path: Printed
    """The page's image, relative to the corpus folder."""
    labelled_by: str | None = None
    """The teacher that wrote it, where nobody checked it; take it out of the file once you have."""


ABOUT_FILES = set(_Located.model_fields)
"""Fields that no page says."""


class Document(Timetable, _Located):  # pydantic takes the fields of the last base first
    """The document format's annotation of one page: `annotations/NAME.json`."""
