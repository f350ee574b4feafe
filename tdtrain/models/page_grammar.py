"""What may be written about one page: blocks that are drafted of it, in their order; without drafts, what lines name.

A small writer invents rows where a page ends, and combines one row's name with another's times. So each block is a
draft, which is taken once at most; of a page without drafts, it has times that a line names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from tdtrain.data.serialise import UNKNOWN
from tdtrain.data.times import Times, times_of
from tdtrain.data.timetable import HEADER, TimeBlock

DAYS = 7
"""So many blocks at most have the times of one line that is no draft."""
TEXT = r'TEXT: /"([^"\\\x00-\x1f]|\\["\\bfnrt])+"/'
BLOCKS = '"timeblocks":['
_COMMA = '","'
_DRAFT = '{"day":'
_CELLS = re.compile(r"[|=]")


class Slot(NamedTuple):
    """Where a block may be written; `day`, `name`: empty where they may be any."""

    day: str
    name: str
    times: Times

    @property
    def grammar(self) -> str:
        """Its blocks."""
        day, name = (_quoted(_quoted(text)) if text else "TEXT" for text in (self.day, self.name))
        start, end = map(_quoted, self.times)
        after = _quoted(f',"startTime":{start},"endTime":{end}}}')
        return " ".join((_quoted(_DRAFT), day, _quoted(',"name":'), name, after))


def slots_of(page: str) -> Iterator[Slot]:
    """The slots of a page, line by line; of a page as `serialise` writes it with `blocks`."""
    lines = page.split("\n")
    drafts = dict.fromkeys(draft for line in lines if (draft := _draft(line)))
    if not drafts:
        named = (times_of(part) for line in lines for part in _CELLS.split(line))
        yield from (Slot("", "", times) for times in named if times)
    for draft in drafts:
        day = "" if draft.day == UNKNOWN else draft.day
        yield Slot(day, draft.name, (draft.startTime, draft.endTime))


def grammar_of(page: str) -> str:
    """The Lark grammar of all that may be written about a page, `Timetable.canonical` all of it."""
    slots = list(slots_of(page))
    header = " ".join(f"({_quoted(json.dumps(key) + ':')} TEXT {_COMMA})?" for key in HEADER)
    rules = [f"start: {_quoted('{')} {header} {_quoted(BLOCKS)} first_0 {_quoted(']}')}"]
    for number, slot in enumerate(slots):
        again = "" if slot.name else f" ({_COMMA} block_{number}){{0,{DAYS - 1}}}"
        rules += [
            f"block_{number}: {slot.grammar}",
            f"first_{number}: block_{number}{again} next_{number + 1} | first_{number + 1}",
            f"next_{number}: {_COMMA} block_{number}{again} next_{number + 1} | next_{number + 1}",
        ]
    return "\n".join([*rules, f'first_{len(slots)}: ""', f'next_{len(slots)}: ""', TEXT, ""])


def _draft(line: str) -> TimeBlock | None:
    """The block that a line begins with, if it is a draft."""
    if not line.startswith(_DRAFT):
        return None
    try:
        return TimeBlock.model_validate(json.JSONDecoder().raw_decode(line)[0])
    except ValueError:  # the page itself says something of the kind
        return None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
