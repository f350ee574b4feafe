"""From text to CTC labels and back, against a plain walk along the path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.models.ctc_codec import CTCCodec
from tdtrain.models.ctc_decode import greedy_readings

CODEC = CTCCodec(("", *"abc", " "))


@given(st.lists(st.text("abc "), max_size=4))
def test_texts_survive_the_codec(texts: list[str]) -> None:
    labels = CODEC.encode(texts)
    assert labels.dtype == np.int64 and not (labels == 0).any()
    assert [CODEC.decode(row) for row in labels] == texts


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=3), st.data())
def test_greedy_readings_are_the_collapsed_best_path(paths: list[list[int]], data: st.DataObject) -> None:
    frames = data.draw(st.lists(st.integers(0, 6), min_size=len(paths), max_size=len(paths)))
    peaks = torch.rand(len(paths), 6) + 1
    logits_BTV = torch.nn.functional.one_hot(torch.tensor(paths), 5) * peaks[..., None]
    probabilities = logits_BTV.softmax(-1)
    for i, reading in enumerate(greedy_readings(logits_BTV, torch.tensor(frames), CODEC.tokens)):
        text, kept, previous = "", [], 0
        for t, token in enumerate(paths[i][: frames[i]]):
            if token not in (0, previous):
                text += CODEC.tokens[token]
                kept.append(float(probabilities[i, t, token]))
            previous = token
        assert reading.text == text
        assert reading.confidence == pytest.approx(sum(kept) / len(kept) if kept else 0.0, rel=1e-5)
        assert CODEC.fits(text, frames[i])


def test_characters_without_a_label_are_named() -> None:
    assert CODEC.unknown("abe\u0301") == {"e", "\u0301"}
    with pytest.raises(ValueError, match=r"'e' \(U\+0065\), '\u0301' \(U\+0301\)"):
        CODEC.encode(["a", "be\u0301"])
    assert not CODEC.fits("aab", 3) and CODEC.fits("aab", 4)
    for tokens in ((), ("a",), ("", "a", ""), ("", "a", "a")):
        with pytest.raises(ValueError, match=r"codec\.tokens"):
            CTCCodec(tokens)
