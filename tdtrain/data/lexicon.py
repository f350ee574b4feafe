"""The words of a corpus's documents, to mend what a reader misread, marks over letters above all; and their days.

A word becomes one that is the same but for marks and case, or else one that is a letter or two away. It has to come
from a document that has several other words of the page as well: words of one language do not become those of another.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from rapidfuzz import process
from rapidfuzz.distance import OSA

from tdtrain.data.known import Known, Spellings, capitals, days_in, letters
from tdtrain.data.layout import PlacedLine, text_rows, upright
from tdtrain.data.plain import plain
from tdtrain.data.timetable import Timetable

FILE = "lexicon.json"
SHARED, SHARED_IF_MISREAD = 3, 4
"""So many other words a page has to share with a document, if the word differs in marks alone, or in letters."""
SHORT, LONG = 5, 9
"""Words of fewer letters are not mended but in marks; words of so many may differ in two."""
ALONE = 4
"""Words of fewer letters are mended where a line has no other."""
GLUED = 8
"""Days of so many letters are found within words."""
_WORD = re.compile(r"[^\W\d_]{2,}")


class Lexicon:
    """Words by the documents that have them."""

    def __init__(self, texts: Mapping[str, Sequence[str]], days: Mapping[str, Sequence[str]] | None = None) -> None:
        """What each document says, by the page's name; `days`: those of its texts that are days."""
        self._texts, self._days = ({page: list(said) for page, said in own.items()} for own in (texts, days or {}))
        self._words = {page: {plain(word) for word in _words(said)} for page, said in texts.items()}
        self._forms: dict[str, dict[str, set[str]]] = {}
        for page, said in texts.items():
            for word in _words(said):
                self._forms.setdefault(plain(word), {}).setdefault(word, set()).add(page)
        self._with_dots = [
            page for page, said in texts.items() if any(set(text) & {"\u0130", "\u0131"} for text in said)
        ]
        self._long = [word for word in self._forms if len(word) >= SHORT]

    @classmethod
    def of(cls, documents: Iterable[tuple[str, Timetable]]) -> Lexicon:
        """Of the days and names of documents, by their pages' names."""
        texts, days = {}, {}
        for page, said in documents:
            days[page] = sorted({block.day for block in said.timeblocks})
            texts[page] = sorted({*days[page], *(block.name for block in said.timeblocks)})
        return cls(texts, days)

    @classmethod
    def read(cls, content: bytes) -> Lexicon:
        """What `json` wrote."""
        return cls(**json.loads(content))

    def json(self) -> str:
        """All of it."""
        return json.dumps({"texts": self._texts, "days": self._days}, ensure_ascii=False)

    def mended(self, lines: Sequence[PlacedLine], page: str = "") -> list[PlacedLine]:
        """The lines of one page, their words as documents spell them. What the page's own document says is not used,
        if the page is one of those: what is learnt from is read as what is met later."""
        shared = self._shared(lines, page)
        known: dict[tuple[str, bool], str] = {}
        dotted = self._dotted(shared)

        def spelled(text: str) -> str:
            alone = len(_WORD.findall(text)) == 1

            def word(found: re.Match[str]) -> str:
                key = (found[0], alone)
                if key not in known:
                    known[key] = self._spelled(*key, shared, dotted)
                return known[key]

            return _WORD.sub(word, text)

        return [replace(line, text=spelled(line.text)) for line in lines]

    def known(self, lines: Sequence[PlacedLine], page: str = "") -> Known:
        """What documents say that may stand on a page: long days and names of all of them, and short ones of those that
        share words with it, whose spellings come first; not what the page's own document says."""
        shared = self._shared(lines, page)
        near = {other for other, number in shared.items() if number >= SHARED - 1}
        days, names = Counter[str](), Counter[str]()
        for other in shared:
            own, weight = set(self._days.get(other, ())), len(shared) if other in near else 1
            for counts, texts, long in ((days, own, ALONE), (names, set(self._texts[other]) - own, LONG)):
                counts.update({text: weight for text in texts if other in near or len(letters(text)) >= long})
        clear = Counter({day: number for day, number in days.items() if len(letters(day)) >= ALONE})
        ways = _spellings(clear)
        said = days_in(" ".join(box.text for row in text_rows(upright(lines)) for box in row), ways)
        said = said or {day: ways[day][0] for line in lines if (day := _within(letters(line.text), ways))}
        only = next(iter(said.values())) if len(said) == 1 else ""
        return Known(_spellings(days), _spellings(names), only, self._dotted(shared))

    def _dotted(self, shared: Mapping[str, int]) -> bool:
        """Whether documents that share words with a page write i with a dot in capitals, and ı without."""
        return any(shared.get(page, 0) >= SHARED for page in self._with_dots)

    def _shared(self, lines: Sequence[PlacedLine], page: str) -> dict[str, int]:
        """How many words besides the one that is looked at a page shares with each other's document."""
        here = {plain(word) for word in _words(line.text for line in lines)}
        return {other: len(words & here) - 1 for other, words in self._words.items() if other != page}

    def _spelled(self, word: str, alone: bool, shared: Mapping[str, int], dotted: bool) -> str:
        """One word as documents have it that share most words with the page."""
        bare, needed = plain(word), SHARED
        if bare not in self._forms:
            needed, most = SHARED_IF_MISREAD, 1 + (len(bare) >= LONG)
            near = (
                process.extract(bare, self._long, scorer=OSA.distance, score_cutoff=most) if len(bare) >= SHORT else []
            )
            likely = [(self._support(other, shared), -away, other) for other, away, _ in near]
            if not likely:
                return word
            bare = max(likely)[2]
        elif len(bare) < ALONE and not alone:
            return word
        forms = {form: max((shared.get(page, -1) for page in on), default=-1) for form, on in self._forms[bare].items()}
        enough = [form for form, support in forms.items() if support >= needed]
        if not enough:
            return word
        alike = [form for form in enough if _case(form) == _case(word)]
        best = max(alike or enough, key=lambda form: (forms[form], form == word, len(self._forms[bare][form])))
        return best if alike else _cased(best, word, dotted)

    def _support(self, bare: str, shared: Mapping[str, int]) -> int:
        return max(shared.get(page, -1) for on in self._forms[bare].values() for page in on)


def _within(said: str, ways: Spellings) -> str:
    """The longest of the texts that letters hold somewhere: readers join a line's words."""
    return max((way for way in ways if len(way) >= GLUED and way in said), key=len, default="")


def _spellings(texts: Counter[str]) -> Spellings:
    found: dict[str, list[str]] = {}
    for text, _ in sorted(texts.items(), key=lambda told: (-told[1], told[0])):
        if known := letters(text):
            found.setdefault(known, []).append(text)
    return found


def _words(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _WORD.findall(text)


def _case(word: str) -> tuple[bool, bool]:
    return word.isupper(), word[0].isupper()


def _cased(form: str, like: str, dotted: bool) -> str:
    """The form in the case of another word."""
    if like.isupper():
        return capitals(form, dotted)
    rest = form[1:].lower() if form.isupper() else form[1:]
    return (form[0].upper() if like[0].isupper() else form[0].lower()) + rest
