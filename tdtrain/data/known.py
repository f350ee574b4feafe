"""What other pages' documents say that may stand on a page: its days and names, found in what its table has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rapidfuzz import process
from rapidfuzz.distance import OSA

from tdtrain.data.day_runs import days_by_runs
from tdtrain.data.found import Found
from tdtrain.data.layout import Cell
from tdtrain.data.plain import plain

Spellings = Mapping[str, Sequence[str]]
"""How documents spell texts, the most frequent way first, by their plain letters without what stands between them."""
LETTERS_AN_EDIT = 8
"""A text may differ in a letter from how documents spell it, for so many that it has."""
MOST_WORDS = 6
NEARLY = (0, 0, 0, 1, 1, 2, 2, 2, 3)
"""Letters in which a heading may differ from a day, by how many it has; of more as of the last."""
AROUND = " .,:;/()[]|-\u2013\u2014\u00b7"
_WORD = re.compile(r"\w+")
_BRACKETS = re.compile(r"\s*\(.*?\)")
_FROM_TO = re.compile(r"\w+\.?\s?[-\u2013]\s?\w+\.?").fullmatch
_ENDS = re.compile(r"[\s.]*($|/|\()")
"""A line ends, or a bracket begins."""


@dataclass(frozen=True)
class Known:
    """Days and names; `only_day`: the one that the page says somewhere, if it is one. Lists that are of one day have no
    column of days: it stands in a heading. `dotted`: see `capitals`."""

    days: Spellings = field(default_factory=dict)
    names: Spellings = field(default_factory=dict)
    only_day: str = ""
    dotted: bool = False

    def with_days(self, blocks: Iterable[Found]) -> list[Found]:
        """A page's blocks with the day in what heads their column or row: the longest that is known; the page's only
        one where nothing heads them, or nothing that is known any; else the text."""
        there = list(blocks)
        found = {text: days_in(text, self.days) for text in {one.day for one in there}}
        if any(found.values()):
            found = {text: days or self._nearly(text) for text, days in found.items()}
        said = {text: _day(text, days) for text, days in found.items() if days}
        other = "" if said else self.only_day
        known = [replace(one, day=said.get(one.day) or other or one.day or self.only_day) for one in there]
        return days_by_runs(known, set(said.values()))

    def _nearly(self, text: str) -> dict[str, str]:
        """The known day that a heading is a letter or two away from, if it is one alone."""
        said = letters(text)
        most = NEARLY[min(len(said), len(NEARLY) - 1)]
        near = process.extract(said, self.days.keys(), scorer=OSA.distance, score_cutoff=most, limit=2) if most else []
        alone = len(near) == 1 or (len(near) > 1 and near[0][1] < near[1][1])
        return {near[0][0]: _spelled(self.days[near[0][0]], text, self.dotted)} if alone else {}

    def name(self, text: str) -> tuple[str, str]:
        """The longest known name that a cell's text begins with, up to the end of a line, and what is left; without a
        name where none is known."""
        told = list(_WORD.finditer(text))
        for n in range(min(MOST_WORDS, len(told)), 0, -1):
            end = told[n - 1].end()
            ways = _ways("".join(map(_plain, told[:n])), self.names) if _ENDS.match(text[end:]) else ()
            if ways:
                said = " ".join(text[told[0].start() : end].replace("/", " ").split())
                return _spelled(ways, said, self.dotted), text[end:].strip(AROUND)
        return "", text

    def named(self, one: Found) -> tuple[str, list[str]]:
        """What a block is called, by the first of its cells that has a title, and what else its cells say; where
        none has one, no name, and what stands beside it."""
        texts = [cell.text for cell in (one.cell, *one.beside)]
        for place, cell in enumerate((one.cell, *one.beside)):
            name, left = self.title(cell)
            if name:
                return name, [text for text in (*texts[:place], left, *texts[place + 1 :]) if text]
        return "", texts[1:]

    def title(self, cell: Cell) -> tuple[str, str]:
        """What a cell is called, and what is left of it: what is known, else its lines that hold no digit, without what
        is in brackets."""
        said = [_BRACKETS.sub("", box.text).strip() for box in cell.boxes]
        kept = [text for text in said if text and not any(char.isdigit() for char in text)]
        if len(kept) > 1 and len(kept) < len(said) and len(kept[-1]) <= 4:
            kept.pop()  # initials above a room
        told = zip(cell.boxes, said, strict=True)
        left = [" ".join(_BRACKETS.findall(box.text)) if text in kept else box.text for box, text in told]
        return self.name(" / ".join(kept))[0] or " ".join(kept), " ".join(map(str.strip, filter(None, left)))


NOTHING = Known()


def letters(text: str) -> str:
    """What a text is known by."""
    return "".join(map(_plain, _WORD.finditer(text)))


def days_in(text: str, days: Spellings) -> dict[str, str]:
    """The days in a text, by their letters, as it or documents spell them. Of days within each other the longest
    counts."""
    told = list(_WORD.finditer(text))
    bare = list(map(_plain, told))
    found: dict[str, str] = {}
    at = 0
    while at < len(bare):
        for n in range(min(MOST_WORDS, len(bare) - at), 0, -1):
            if ways := _ways("".join(bare[at : at + n]), days):
                said = text[told[at].start() : told[at + n - 1].end()]
                found.setdefault(letters(ways[0]), _spelled(ways, said))
                at += n
                break
        else:
            at += 1
    return found


def _day(text: str, days: Mapping[str, str]) -> str:
    """The longest of the days in a text, or all of it where it says from which one to which."""
    if len(days) > 1 and _FROM_TO(text):
        return _WORD.sub(lambda word: days.get(_plain(word), word[0]), text)
    return days[max(days, key=len)]


def _plain(word: re.Match[str]) -> str:
    return plain(word[0])


def _ways(said: str, spellings: Spellings) -> Sequence[str]:
    """How documents spell some letters, or letters that are nearly these."""
    most = len(said) // LETTERS_AN_EDIT
    if said in spellings or not most:
        return spellings.get(said, ())
    near = process.extractOne(said, spellings.keys(), scorer=OSA.distance, score_cutoff=most)
    return spellings[near[0]] if near else ()


def _spelled(ways: Sequence[str], said: str, dotted: bool = False) -> str:
    """One of the spellings: the one that is said, else one of its case."""
    if said in ways:
        return said
    alike = [way for way in ways if way.isupper() == said.isupper()]
    return alike[0] if alike else capitals(ways[0], dotted) if said.isupper() else said


def capitals(text: str, dotted: bool) -> str:
    """A text in capitals; `dotted`: where i keeps its dot, as in Turkish."""
    return (text.replace("i", "İ") if dotted else text).upper()
