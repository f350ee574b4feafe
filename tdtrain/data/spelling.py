"""What is the same text to teachers that spell differently."""

from __future__ import annotations

import re
import unicodedata

from rapidfuzz.distance import Levenshtein

_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-")
_QUOTES = {ord(quote): "'" for quote in "\u2018\u2019\u201a\u00b4`"} | {
    ord(quote): '"' for quote in "\u201c\u201d\u201e"
}
_TIME = re.compile(r"(?<!\d)(\d{1,2})\s?[.:h]\s?(\d{2})(?!\d)")


def alike(text: str) -> str:
    """A text as teachers are compared by it: what they spell in several ways becomes the same. What is learnt from
    keeps its spelling.

    Unicode's compatible forms are one (NFKC), dashes are `-` without spaces around them, quotes are straight, times of
    day are H:MM (`8.05`, `8h05`), and spaces are single.
    """
    text = unicodedata.normalize("NFKC", text).translate(_DASHES | _QUOTES)
    text = re.sub(r"\s*-\s*", "-", text)
    return " ".join(_TIME.sub(r"\1:\2", text).split())


def word_error_rate(text: str, other: str) -> float:
    """Words to change of `text` over its words, both in one spelling."""
    words = alike(text).split()
    return Levenshtein.distance(words, alike(other).split()) / max(len(words), 1)
