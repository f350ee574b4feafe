"""Texts without what readers get wrong first: marks over letters, and case."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_BARE = str.maketrans("ıłøđðß", "ilodds")


@lru_cache(maxsize=100_000)
def plain(text: str) -> str:
    """Small letters without marks."""
    parted = unicodedata.normalize("NFKD", text.lower())
    return "".join(char for char in parted if not unicodedata.combining(char)).translate(_BARE)
