"""How wrong a reading is: character, word, line and digit errors, all of them sums over lines.

Every figure for a corpus is (sum of edits) / (sum of reference lengths), never a mean of per-line rates, so that short
lines weigh no more than long ones and any set of lines can be re-weighted, as the bootstrap does.

Both sides are first brought to one form: Unicode NFC, runs of whitespace collapsed to one space, ends stripped. Case,
punctuation and accents count. An empty reference has length 0, so whatever a reader writes there counts as
insertions: it adds to the numerator alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer


@dataclass(frozen=True)
class LineEdits:
    """What one reading costs. Edits are substitutions + deletions + insertions (Levenshtein).

    Attributes:
        characters: length of the reference, spaces included.
        words: whitespace-separated words of the reference.
        digits: decimal digits of the reference.
        correct: the whole line equals the reference.
    """

    characters: int
    character_edits: int
    words: int
    word_edits: int
    digits: int
    digit_edits: int
    correct: bool


def normalize(text: str) -> str:
    """NFC, whitespace runs (tabs, newlines, no-break spaces too) to one space, ends stripped."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def edits(reference: str, hypothesis: str) -> LineEdits:
    """The counts of one line that every metric here is a sum of."""
    reference, hypothesis = normalize(reference), normalize(hypothesis)
    reference_digits, hypothesis_digits = _digits(reference), _digits(hypothesis)
    return LineEdits(
        characters=len(reference),
        character_edits=_character_edits(reference, hypothesis),
        words=len(reference.split()),
        word_edits=_word_edits(reference, hypothesis),
        digits=len(reference_digits),
        digit_edits=_character_edits(reference_digits, hypothesis_digits),
        correct=reference == hypothesis,
    )


def edits_of(references: Sequence[str], hypotheses: Sequence[str]) -> list[LineEdits]:
    """`edits` for line pairs. Raises ValueError where the two differ in number."""
    if len(references) != len(hypotheses):
        raise ValueError(
            f"references ({len(references)}) and hypotheses ({len(hypotheses)}) must pair up: one hypothesis a line"
        )
    return [edits(reference, hypothesis) for reference, hypothesis in zip(references, hypotheses, strict=True)]


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate: sum of character edits / sum of reference characters. 0.01 is 1 %; it can pass 1.

    Raises ValueError where no reference holds a character.
    """
    lines = edits_of(references, hypotheses)
    return _ratio("cer", sum(line.character_edits for line in lines), sum(line.characters for line in lines))


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate: sum of word edits / sum of reference words. Raises ValueError where there are no words."""
    lines = edits_of(references, hypotheses)
    return _ratio("wer", sum(line.word_edits for line in lines), sum(line.words for line in lines))


def accuracy(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Share of lines read without any error: lines whose normalised texts are equal / lines."""
    lines = edits_of(references, hypotheses)
    return _ratio("accuracy", sum(line.correct for line in lines), len(lines))


def cer_digits(references: Sequence[str], hypotheses: Sequence[str]) -> float | None:
    """Digit error rate: all but decimal digits removed from both sides, then edits / reference digits.

    A line without digits on either side adds nothing; digits read where there are none count as insertions. None where
    no reference holds a digit, since nothing was measured then.
    """
    lines = edits_of(references, hypotheses)
    digits = sum(line.digits for line in lines)
    return sum(line.digit_edits for line in lines) / digits if digits else None


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdecimal())


def _character_edits(reference: str, hypothesis: str) -> int:
    output = jiwer.process_characters(reference, hypothesis)
    return output.substitutions + output.deletions + output.insertions


def _word_edits(reference: str, hypothesis: str) -> int:
    output = jiwer.process_words(reference, hypothesis)
    return output.substitutions + output.deletions + output.insertions


def _ratio(name: str, numerator: int, denominator: int) -> float:
    if denominator == 0:
        raise ValueError(f"{name} is undefined: the references hold nothing to count; give at least one annotated line")
    return numerator / denominator
