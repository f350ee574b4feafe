"""What other pages' documents say that may stand on a page: its days and names, found in what its table has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rapidfuzz import process
from rapidfuzz.distance import OSA

from tdtrain.data.found import Found
from tdtrain.data.plain import plain

Spellings = Mapping[str, Sequence[str]]
"""How documents spell texts, the most frequent way first, by their plain letters without what stands between them."""
LETTERS_AN_EDIT = 8
"""A text may differ in a letter from how documents spell it, for so many that it has."""
MOST_WORDS = 6
AROUND = " .,:;/()[]|-\u2013\u2014\u00b7"
_WORD = re.compile(r"\w+")
_ENDS = re.compile(r"[\s.]*($|/|\()")
"""A line ends, or a bracket begins."""


@dataclass(frozen=True)
class Known:
    """Days and names; `only_day`: the one that the page says somewhere, if it is one. Lists that are of one day have no
    column of days: it stands in a heading."""

    days: Spellings = field(default_factory=dict)
    names: Spellings = field(default_factory=dict)
    only_day: str = ""

    def with_days(self, blocks: Iterable[Found]) -> list[Found]:
        """A page's blocks with the day in what heads their column or row: the longest that is known; the page's only
        one where nothing heads them, or the same unknown text all of them; else the text."""
        there = list(blocks)
        alone = len({one.day for one in there}) == 1
        return [replace(one, day=self._day(one.day, alone)) for one in there]

    def _day(self, text: str, alone: bool) -> str:
        found = days_in(text, self.days)
        if found:
            return found[max(found, key=len)]
        return self.only_day or text if alone or not text else text

    def name(self, text: str) -> tuple[str, str]:
        """The longest known name that a cell's text begins with, up to the end of a line, and what is left; without a
        name where none is known."""
        told = list(_WORD.finditer(text))
        for n in range(min(MOST_WORDS, len(told)), 0, -1):
            end = told[n - 1].end()
            ways = _ways("".join(map(_plain, told[:n])), self.names) if _ENDS.match(text[end:]) else ()
            if ways:
                said = " ".join(text[told[0].start() : end].replace("/", " ").split())
                return _spelled(ways, said), text[end:].strip(AROUND)
        return "", text


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


def _plain(word: re.Match[str]) -> str:
    return plain(word[0])


def _ways(said: str, spellings: Spellings) -> Sequence[str]:
    """How documents spell some letters, or letters that are nearly these."""
    most = len(said) // LETTERS_AN_EDIT
    if said in spellings or not most:
        return spellings.get(said, ())
    near = process.extractOne(said, spellings.keys(), scorer=OSA.distance, score_cutoff=most)
    return spellings[near[0]] if near else ()


def _spelled(ways: Sequence[str], said: str) -> str:
    """One of the spellings: the one that is said, else one of its case."""
    if said in ways:
        return said
    alike = [way for way in ways if way.isupper() == said.isupper()]
    return alike[0] if alike else ways[0].upper() if said.isupper() else said
