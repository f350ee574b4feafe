"""Two labels of one text beside each other: read off their decoded prefixes, and off times cut by hand."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tdtrain.models.spans import align, align_batch, token_bytes, token_ends
from tdtrain.models.trocr_inputs import TrOCRCodec
from tests.codecs_small import TIMES, codec, codec_of, handmade, texts

codecs = st.sampled_from([("byte", 400), ("byte", 300), ("unigram", 400), ("unigram", 200)]).map(lambda of: codec(*of))
quick = settings(max_examples=300)


def pieces(of: TrOCRCodec, text: str) -> list[str]:
    return [of.tokens[i] for i in token_ends(of, text)[0]]


def begins(of: TrOCRCodec, text: str) -> list[int]:
    """The characters complete before each token."""
    return [0, *token_ends(of, text)[1][:-1]]


@quick
@given(of=codecs, text=texts())
def test_a_prefix_of_the_label_reads_as_the_text_up_to_its_end(of: TrOCRCodec, text: str) -> None:
    ids, ends = token_ends(of, text)
    assert ids == of.encode([text])[0].tolist() and len(ids) == len(ends)
    assert ends[-1] == len(text) and all(left <= right for left, right in pairwise(ends))
    for i, end in enumerate(begins(of, text)):
        read = of.decode(ids[:i]).replace("\ufffd", "")
        assert read.replace(" ", "") == text[:end].replace(" ", "")
        if "▁" not in of.tokens:
            assert read == text[:end]


@quick
@given(a=codecs, b=codecs, text=texts())
def test_starts_are_all_places_that_both_labels_have_and_chunks_lie_between_them(
    a: TrOCRCodec, b: TrOCRCodec, text: str
) -> None:
    aligned = align(a, b, text)
    starts = [tuple(pair) for pair in aligned.starts.tolist()]
    assert starts[0] == (0, 0)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(starts))
    ids_a, ids_b = token_ends(a, text)[0], token_ends(b, text)[0]
    begins_a, begins_b = begins(a, text), begins(b, text)
    assert all(begins_a[i] == begins_b[j] for i, j in starts)
    whole = [{i for i in range(len(ids)) if "\ufffd" not in of.decode(ids[:i])} for of, ids in ((a, ids_a), (b, ids_b))]
    both = {begins_a[i] for i in whole[0]} & {begins_b[j] for j in whole[1]}
    assert {begins_a[i] for i, _ in starts if i in whole[0]} == both
    assert all((i in whole[0]) == (j in whole[1]) for i, j in starts)
    if text.strip():
        assert starts[-1] == (len(ids_a) - 1, len(ids_b) - 1)
        assert aligned.chunks_a[-2] < aligned.chunks_a[-1] == len(starts) - 1 == aligned.chunks_b[-1]
    for k, (i, j) in enumerate(starts):
        assert (aligned.chunks_a == k).argmax() == i and (aligned.chunks_b == k).argmax() == j
        said = [
            b"".join(token_bytes(of)[each] or b"" for each, chunk in zip(ids, chunks, strict=True) if chunk == k)
            for of, ids, chunks in ((a, ids_a, aligned.chunks_a), (b, ids_b, aligned.chunks_b))
        ]
        assert said[0].replace(b" ", b"") == said[1].replace(b" ", b"")


@quick
@given(of=codecs, text=texts())
def test_a_label_meets_itself_everywhere(of: TrOCRCodec, text: str) -> None:
    aligned = align(of, of, text)
    everywhere = np.arange(len(of.encode([text])[0]))
    assert np.array_equal(aligned.starts, np.stack([everywhere, everywhere], 1))
    assert np.array_equal(aligned.chunks_a, everywhere) and np.array_equal(aligned.chunks_b, everywhere)


def test_times_that_the_two_kinds_cut_differently() -> None:
    byte, unigram = handmade("byte"), handmade("unigram")
    text = "12:30–13:15"
    assert pieces(byte, text) == ["12", ":", "30", "â", "Ģ", "ĵ", "13", ":", "15", "</s>"]
    assert token_ends(byte, text)[1] == [2, 3, 5, 5, 5, 6, 8, 9, 11, 11]
    assert pieces(unigram, text) == ["▁12:3", "0", "–", "13:15", "</s>"]
    assert token_ends(unigram, text)[1] == [4, 5, 6, 11, 11]
    aligned = align(byte, unigram, text)
    assert aligned.starts.tolist() == [[0, 0], [3, 2], [6, 3], [9, 4]]
    assert aligned.chunks_a.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert aligned.chunks_b.tolist() == [0, 0, 1, 2, 3]
    assert pieces(byte, "8:05") == ["8", ":", "05", "</s>"] and pieces(unigram, "8:05") == ["▁8", ":0", "5", "</s>"]
    assert align(byte, unigram, "8:05").starts.tolist() == [[0, 0], [1, 1], [3, 3]]


def test_a_space_that_stands_for_none_and_spaces_that_are_dropped() -> None:
    byte, unigram = handmade("byte"), handmade("unigram")
    assert pieces(unigram, "5  8 ") == ["▁", "5", "▁8", "</s>"]
    assert token_ends(unigram, "5  8 ") == (unigram.encode(["5  8 "])[0].tolist(), [0, 1, 5, 5])
    assert token_ends(byte, "5  8 ")[1] == [1, 2, 4, 5, 5]
    aligned = align(byte, unigram, "5  8 ")
    assert aligned.starts.tolist() == [[0, 0], [1, 2], [4, 3]]
    assert aligned.chunks_b.tolist() == [0, 0, 1, 2]
    for text in ("", "  "):
        assert align(byte, unigram, text).starts.tolist() == [[0, 0]]


def test_two_byte_level_labels_meet_within_a_character() -> None:
    assert align(codec("byte", 262), handmade("byte"), "€").starts.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_a_batch_is_its_texts_padded() -> None:
    a, b = codec("byte"), codec("unigram")
    lines = [*TIMES, ""]
    batch = align_batch(a, b, lines)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    assert batch["chunk_a"].shape == a.encode(lines).shape and batch["chunk_b"].shape == b.encode(lines).shape
    for i, text in enumerate(lines):
        alone = align(a, b, text)
        for name, expected in (
            ("pairs_a", alone.starts[:, 0]),
            ("pairs_b", alone.starts[:, 1]),
            ("chunk_a", alone.chunks_a),
            ("chunk_b", alone.chunks_b),
        ):
            assert batch[name][i, : len(expected)].tolist() == expected.tolist()
            assert (batch[name][i, len(expected) :] == -1).all()
    assert all(array.shape[0] == 0 for array in align_batch(a, b, []).values())


def test_bytes_of_tokens_are_those_that_the_tokenizers_decode() -> None:
    of = codec("byte")
    decoder = decoders.ByteLevel()
    for token, spelled in zip(of.tokens[: len(of.tokenizer)], token_bytes(of), strict=False):
        if spelled is None:
            assert token in of.tokenizer.all_special_tokens
        else:
            assert spelled.decode(errors="replace") == decoder.decode([token])
    assert token_bytes(of)[len(of.tokenizer) :] == (None, None)


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot express"):
        align(codec("byte"), codec("unigram"), "8:05 ₤")
    each_space = Tokenizer(models.Unigram([("</s>", 0.0), ("▁", -1.0), ("5", -1.0)]))
    each_space.pre_tokenizer, each_space.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    keeping = PreTrainedTokenizerFast(tokenizer_object=each_space, eos_token="</s>", pad_token="</s>")
    assert token_ends(codec_of(keeping), "5 5")[1] == [0, 1, 2, 3, 3]
    with pytest.raises(ValueError, match="have no place in it"):
        token_ends(codec_of(keeping), "5  5")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "</s>": 2, "a": 3}, unk_token="<unk>"))
    other = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    with pytest.raises(ValueError, match="only the tokenizers of published TrOCRs"):
        token_bytes(codec_of(other))


def test_data_tasks_that_align_load_no_torch() -> None:
    code = "import sys, tdtrain.models.spans; print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
