"""From text to CTC labels and back.

Connectionist temporal classification (Graves et al. 2006) gives one distribution a frame over the characters and a
blank. The text is the best path with repeats merged and blanks dropped.

Shapes: B lines, T frames or label positions, V characters with the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tdtrain.models.reader import IGNORED, Codec, Reading

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


def greedy_readings(logits_BTV: Tensor, frames_B: Tensor, tokens: Sequence[str]) -> list[Reading]:
    """The best path of each line.

    Confidence is the mean probability of the frames that gave a character, each run of repeats counted by its first
    frame, as PaddleOCR has it; an empty reading has confidence 0.

    Args:
        logits_BTV: values before the softmax, any float type.
        frames_B: int64, how many frames of each line are real.
        tokens: the string of each id.
    """
    logits_BTV = logits_BTV.float()
    best_BT, ids_BT = logits_BTV.max(dim=-1)
    probability_BT = (best_BT - logits_BTV.logsumexp(dim=-1)).exp()
    real_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < frames_B.to(ids_BT.device)[:, None]
    kept_BT = real_BT & (ids_BT != BLANK)
    kept_BT[:, 1:] &= ids_BT[:, 1:] != ids_BT[:, :-1]
    counts_B = kept_BT.sum(dim=1)
    confidence_B = (probability_BT * kept_BT).sum(dim=1) / counts_B.clamp(min=1)
    characters = iter([tokens[i] for i in ids_BT[kept_BT].tolist()])
    return [
        Reading("".join(next(characters) for _ in range(count)), min(confidence, 1.0))
        for count, confidence in zip(counts_B.tolist(), confidence_B.tolist(), strict=True)
    ]


def character_map(teacher: Codec, student: Codec) -> Tensor:
    """int64 V_student: the teacher's id of each of the student's, -1 where the teacher has no such character."""
    ids = {token: i for i, token in enumerate(teacher.tokens)}
    return torch.tensor([ids.get(token, -1) for token in student.tokens])
