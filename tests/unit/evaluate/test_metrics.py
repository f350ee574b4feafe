from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.evaluate.metrics import accuracy, cer, cer_digits, edits, edits_of, wer

TEXT = st.text(alphabet="ab0 1é\u0301\t", max_size=12)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5)


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein by the textbook table, as the independent reference."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        row, above = [i], row
        for j, right in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (left != right)))
    return row[-1]


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


@given(TEXT, TEXT)
def test_edits_match_the_table(reference: str, hypothesis: str) -> None:
    got = edits(reference, hypothesis)
    reference, hypothesis = plain(reference), plain(hypothesis)
    assert got.characters == len(reference)
    assert got.character_edits == distance(reference, hypothesis)
    assert got.words == len(reference.split())
    assert got.word_edits == distance(reference.split(), hypothesis.split())
    digits = [c for c in reference if c in "01"], [c for c in hypothesis if c in "01"]
    assert (got.digits, got.digit_edits) == (len(digits[0]), distance(*digits))
    assert got.correct == (reference == hypothesis)


@given(PAIRS)
def test_corpus_rates_are_sums_over_lines(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [plain(r) for r, _ in pairs], [plain(h) for _, h in pairs]
    characters = sum(map(len, references))
    if not characters:
        with pytest.raises(ValueError, match="undefined"):
            cer(references, hypotheses)
        return
    assert cer(references, hypotheses) == sum(map(distance, references, hypotheses)) / characters
    assert accuracy(references, hypotheses) == sum(r == h for r, h in zip(references, hypotheses, strict=True)) / len(
        pairs
    )
    assert cer(references, hypotheses) == pytest.approx(jiwer.cer(references, hypotheses))
    assert wer(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses))


def test_long_lines_weigh_more() -> None:
    assert cer(["a" * 98, "ab"], ["a" * 98, "xy"]) == 2 / 100


def test_an_empty_reference_counts_insertions_only() -> None:
    line = edits(" \n", "Mo 8")
    assert (line.characters, line.character_edits, line.word_edits, line.digit_edits) == (0, 4, 2, 1)
    assert cer(["", "abcd"], ["x", "abcd"]) == 1 / 4


def test_composed_and_decomposed_letters_are_equal() -> None:
    assert edits("café", "cafe\u0301").correct
    assert edits("a\u00a0b", "a  b").correct


def test_digits_apart() -> None:
    assert cer_digits(["Mathe 08:45 R12", "Pause"], ["Mathe O8:45 R1", "Fause"]) == 2 / 6
    assert cer_digits(["Pause"], ["Pause"]) is None


def test_unpaired_lists_are_refused() -> None:
    with pytest.raises(ValueError, match=r"references \(1\) and hypotheses \(2\)"):
        edits_of(["a"], ["a", "b"])
