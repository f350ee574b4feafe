"""Tokenizers of the two published kinds, trained on a moment's worth of timetable: no weights."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import RobertaTokenizerFast, XLMRobertaTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tdtrain.models.trocr_build import _byte_level, _unigram
from tdtrain.models.trocr_inputs import TrOCRCodec
from tests.models_small import timetable_texts

CHARACTERS = "0123456789:–-., ()äöüßÄÖÜéčČФизкабв€MoDiathesport"
TIMES = ("8:05", "12:30–13:15", "Mo 8:05–9:35", "Di 12:30 Öffnung", "13:15", "Fr 7:00–7:45 Физика")
"""The two kinds split all of them differently."""
TEXTS = (*timetable_texts(200), *TIMES * 5, " ".join(CHARACTERS))


@cache
def codec(kind: str, vocab_size: int = 400) -> TrOCRCodec:
    """`byte` (byte-level BPE) or `unigram`; the same object for the same arguments. Knows all of CHARACTERS."""
    return codec_of((_byte_level if kind == "byte" else _unigram)(TEXTS, vocab_size))


def codec_of(tokenizer: PreTrainedTokenizerBase, num_unused: int = 2) -> TrOCRCodec:
    """A codec whose logits have some places without a token."""
    tokens = tuple(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    return TrOCRCodec(tokenizer, (*tokens, *(f"<unused {i}>" for i in range(num_unused))), 300)


def texts() -> st.SearchStrategy[str]:
    """Any text of the known characters, runs of spaces and spaces at its ends included."""
    return st.one_of(st.text(st.sampled_from(CHARACTERS), max_size=24), st.sampled_from(TEXTS))


def handmade(kind: str) -> TrOCRCodec:
    """Two vocabularies that cut times at other places: 12|:|30|–(3 bytes)|13|:|15 and 12:3|0|–|13:15."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "byte":
        pairs = ["0 5", "1 2", "1 3", "1 5", "3 0", "9 5", "Ġ 8", "Ã ¼"]
        merges = [(left, right) for left, right in (pair.split() for pair in pairs)]
        tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
        return codec_of(RobertaTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    pieces = ["▁", *"0123458:–ü", "▁8", "▁ü", ":0", "▁12:3", "13:15"]
    scores = [(token, 0.0) for token in special] + [(piece, -9.0 + len(piece)) for piece in pieces]
    return codec_of(XLMRobertaTokenizer(vocab=scores))
