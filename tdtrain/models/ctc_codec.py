"""From text to CTC labels and back. Like `line_pixels`, it imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from tdtrain.models.reader import IGNORED

BLANK = 0


@dataclass(frozen=True)
class CTCCodec:
    """A character a label, as PP-OCR has them: the blank first, then the charset, the space last.

    Attributes:
        tokens: the string of each id; `tokens[0]` is the blank, an empty string. A token of several characters (there
            are flags in PP-OCRv5's charset) can be read, but texts are encoded character by character.
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tokens or self.tokens[BLANK] != "":
            raise ValueError(f"codec.tokens[0]={self.tokens[:1]} must be the blank, an empty string")
        if "" in self.tokens[1:]:
            raise ValueError(f"codec.tokens[{self.tokens.index('', 1)}] is empty; only the blank at 0 may be")
        if len(set(self.tokens)) != len(self.tokens):
            twice = sorted({token for token in self.tokens if self.tokens.count(token) > 1})
            raise ValueError(f"codec.tokens has {twice[:5]} more than once; every token needs an id of its own")

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token, without the blank."""
        return {token: i for i, token in enumerate(self.tokens) if i != BLANK}

    def unknown(self, text: str) -> set[str]:
        """The characters of a text that no label can express. Nothing is normalised: NFD text stays NFD."""
        return {character for character in text if character not in self.ids}

    def fits(self, text: str, frames: int) -> bool:
        """Whether so many frames can spell the text: one a character, and a blank between equal neighbours."""
        return len(text) + sum(left == right for left, right in pairwise(text)) <= frames

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> labels int64 B,T without blanks, padded with IGNORED.

        Raises: ValueError naming the characters that have no label.
        """
        unknown = {character for text in texts for character in self.unknown(text)}
        if unknown:
            shown = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in sorted(unknown)[:10])
            raise ValueError(
                f"the texts have {len(unknown)} characters without a label: {shown}; "
                "give the reader an alphabet that has them (trim_alphabet), or set these lines aside"
            )
        labels = np.full((len(texts), max(map(len, texts), default=0)), IGNORED, dtype=np.int64)
        for row, text in zip(labels, texts, strict=True):
            row[: len(text)] = [self.ids[character] for character in text]
        return labels

    def decode(self, labels: Sequence[int] | np.ndarray) -> str:
        """One line's labels -> its text; blanks and IGNORED say nothing. Repeats are kept: these are no frames."""
        return "".join(self.tokens[label] for label in labels if label not in (BLANK, IGNORED))
