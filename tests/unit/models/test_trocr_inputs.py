"""Pixels and labels of the TrOCR family: the published processor's, and texts that come back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import normalizers

from tdtrain.models.reader import IGNORED
from tdtrain.models.trocr import TrOCRReader
from tests.models_small import small_trocr, timetable_texts
from tests.trocr_cases import END, TEXTS, inputs_of

# Pixels


@settings(max_examples=20)
@given(height=st.integers(1, 70), width=st.integers(1, 300), seed=st.integers(0, 9))
def test_pixels_are_those_of_the_trocr_processor(reader: TrOCRReader, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    batch = reader.pixels.collate([reader.pixels.resize(image)])
    ours = reader.pixels.normalize(*map(torch.from_numpy, batch.values()), torch.float32)
    theirs = reader.processor(Image.fromarray(image), return_tensors="pt").pixel_values
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_pixels_travel_and_refuse_what_is_no_rgb_line(reader: TrOCRReader) -> None:
    assert pickle.loads(pickle.dumps(reader.pixels)) == reader.pixels
    assert hash(reader.pixels) is not None
    for bad in (np.zeros((32, 32), np.uint8), np.zeros((32, 0, 3), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match="uint8 RGB"):
            reader.pixels.resize(bad)


# Codec


def test_labels_end_and_do_not_start(reader: TrOCRReader) -> None:
    labels = reader.codec.encode(TEXTS)
    assert labels.dtype == np.int64
    for label, text in zip(labels, TEXTS, strict=True):
        real = label[label != IGNORED]
        assert real[-1] == END
        assert not set(real[:-1]) & {0, 1, 2, 3}
        assert (label[len(real) :] == IGNORED).all()
        assert reader.codec.decode(label) == text
    assert reader.codec.encode([""]).tolist() == [[END]]
    assert reader.codec.encode([]).shape == (0, 0)


@settings(max_examples=60)
@given(st.lists(st.text(alphabet=sorted(set("".join(timetable_texts(200))) - {" "}), min_size=1, max_size=8)))
def test_texts_of_the_alphabet_come_back(reader: TrOCRReader, words: list[str]) -> None:
    text = " ".join(words[:3])
    assert reader.codec.unknown(text) == set()
    assert reader.codec.decode(reader.codec.encode([text])[0]) == text


@settings(max_examples=60)
@given(st.text(max_size=8))
def test_what_is_not_unknown_survives(reader: TrOCRReader, text: str) -> None:
    if not reader.codec.unknown(text):
        assert reader.codec.decode(reader.codec.encode([text])[0]).split() == text.split()


def test_unknown_characters_are_named(reader: TrOCRReader) -> None:
    byte_level = len(reader.codec.tokens) > 256
    assert reader.codec.unknown("8€\t▁") == (set() if byte_level else {"€", "\t", "▁"})
    if not byte_level:
        with pytest.raises(ValueError, match="€"):
            reader.codec.encode(["Mo", "8€"])


def test_characters_that_melt_into_others_are_unknown_together(tmp_path: Path) -> None:
    codec = small_trocr(tmp_path).codec
    codec.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert codec.unknown("e") == codec.unknown("\u0301") == codec.unknown("é") == set()
    assert codec.unknown("Me\u0301") == {"e", "\u0301"}


def test_a_special_token_in_a_text_is_spelled_out(tmp_path: Path) -> None:
    codec = small_trocr(tmp_path).codec
    label = codec.encode(["a</s>b<pad>"])[0]
    assert (label[:-1] > 3).all()
    assert codec.decode(label) == "a</s>b<pad>"


def test_a_text_the_model_cannot_finish_is_refused(reader: TrOCRReader) -> None:
    with pytest.raises(ValueError, match=r"at most 64.*max_new_tokens"):
        reader.codec.encode(["8:05 " * 60])


def test_tokens_are_as_many_as_logits_and_the_codec_travels(reader: TrOCRReader) -> None:
    assert len(reader.codec.tokens) == reader.module(*inputs_of(reader)).logits.shape[-1]
    assert reader.codec.tokens[:4] == ("<s>", "<pad>", "</s>", "<unk>")
    again = pickle.loads(pickle.dumps(reader.codec))
    assert again.tokens == reader.codec.tokens
    assert np.array_equal(again.encode(TEXTS), reader.codec.encode(TEXTS))
