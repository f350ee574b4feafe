"""A stored teacher's bytes and a live one's tokens as arrays of a micro batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tdtrain.data.soft import beside
from tdtrain.models.reader import IGNORED
from tests.models_small import small_trocr, timetable_texts


def test_a_line_that_the_teacher_cannot_spell_is_not_taught_and_keeps_its_width(tmp_path: Path) -> None:
    """Here it is the student's longest line."""
    byte_level = small_trocr(tmp_path / "large", "large").codec
    unigram = small_trocr(tmp_path / "small", "small", texts=timetable_texts(200)).codec
    texts = ["Mo 8:05", "Mo 8:05 Ünterricht 204 – 12:30 Ä"]
    assert unigram.unknown(texts[1])
    arrays = beside(byte_level, unigram, texts)
    assert arrays["taught"].tolist() == [True, False]
    labels = byte_level.encode(texts)
    assert arrays["chunk_student"].shape == labels.shape
    first = arrays["chunk_student"][0]
    assert ((first >= 0) == (labels[0] != IGNORED)).all() and (np.diff(first[first >= 0]) >= 0).all()
    assert first.max() == arrays["chunk_teacher"][0].max()
