"""How much of a text is written after each token, and where two tokenizers have written exactly as much.

Shapes: B texts, T tokens of a label with its end token, P places that two labels share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import decoders, models

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from tdtrain.models.trocr_inputs import TrOCRCodec

METASPACE = "▁"
SPACE = b" "
PADDING = -1


@dataclass(frozen=True)
class Alignment:
    """Two labels of one text. All arrays are int64.

    Attributes:
        starts: P,2, positions (i, j) before which both labels have written the same: what the models hold possible
            next is about the same text. Strictly increasing; the first is (0, 0).
        chunks_a: T_a, the chunk of each token. A chunk is what lies between two neighbouring starts, and chunk k begins
            at `starts[k]`; there are P. The end token is the last one, alone.
        chunks_b: T_b.
    """

    starts: np.ndarray
    chunks_a: np.ndarray
    chunks_b: np.ndarray


def token_ends(codec: TrOCRCodec, text: str) -> tuple[list[int], list[int]]:
    """The ids of a label, and how many characters of the text are complete after each of them.

    A token that ends within a character does not advance. A space that begins the label without one in the text does
    not either; spaces of the text that the tokenizer drops go with the space it writes, at the end with the last token.

    Raises: ValueError where the codec cannot encode the text, or writes something else.
    """
    ids, byte_ends = _written(codec, [text])[0]
    characters = list(accumulate(len(character.encode()) for character in text))
    return ids, np.searchsorted(characters, byte_ends, side="right").tolist()


def align(codec_a: TrOCRCodec, codec_b: TrOCRCodec, text: str) -> Alignment:
    """Where the labels of one text meet. They meet within a character too, where both have written the same bytes.

    Raises: as `token_ends`.
    """
    return _aligned(_written(codec_a, [text])[0][1], _written(codec_b, [text])[0][1])


def align_batch(codec_a: TrOCRCodec, codec_b: TrOCRCodec, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """`align` of many texts, to travel with a batch.

    Returns: int64, padded with -1: `pairs_a` and `pairs_b` B,P, `chunk_a` B,T_a and `chunk_b` B,T_b. T is as in the
        codec's labels of these texts; a text has as many chunks as pairs.
    Raises: as `token_ends`.
    """
    written = zip(_written(codec_a, texts), _written(codec_b, texts), strict=True)
    aligned = [_aligned(ends_a, ends_b) for (_, ends_a), (_, ends_b) in written]
    return {
        "pairs_a": _padded([each.starts[:, 0] for each in aligned]),
        "pairs_b": _padded([each.starts[:, 1] for each in aligned]),
        "chunk_a": _padded([each.chunks_a for each in aligned]),
        "chunk_b": _padded([each.chunks_b for each in aligned]),
    }


@lru_cache(maxsize=8)
def token_bytes(codec: TrOCRCodec) -> tuple[bytes | None, ...]:
    """What each token adds to a text, as UTF-8, maybe not of whole characters. None: special, or without a token.

    Raises: ValueError where the tokenizer is neither byte-level nor of the SentencePiece kind.
    """
    silent = {*codec.tokenizer.all_special_ids, *range(len(codec.tokenizer), len(codec.tokens))}
    if is_byte_level(codec):
        of = _byte_of_character()
        spelled = [bytes(of[c] for c in token) if of.keys() >= set(token) else token.encode() for token in codec.tokens]
    else:
        spelled = [token.replace(METASPACE, " ").encode() for token in codec.tokens]
    return tuple(None if i in silent else token for i, token in enumerate(spelled))


def is_byte_level(codec: TrOCRCodec) -> bool:
    """Whether tokens are strings of bytes; else they are of characters, with a metaspace where words begin.

    Raises: ValueError where they are neither.
    """
    return not is_unigram(codec.tokenizer)


def is_unigram(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is a unigram one (trocr-small) or byte-level BPE (trocr-base and -large).

    Raises: ValueError where it is neither.
    """
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, models.Unigram):
        return True
    if isinstance(backend.model, models.BPE) and isinstance(backend.decoder, decoders.ByteLevel):
        return False
    raise ValueError(
        f"{type(tokenizer).__name__} has a {type(backend.model).__name__} model and a {type(backend.decoder).__name__} "
        "decoder; only the tokenizers of published TrOCRs are known: byte-level BPE, and unigram"
    )


def _written(codec: TrOCRCodec, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Of each text the label's ids, and how many bytes of it are written after each of them."""
    labels = [label[label >= 0].tolist() for label in codec.encode(texts)]
    return [(ids, _byte_ends(codec, ids, text)) for ids, text in zip(labels, texts, strict=True)]


def _byte_ends(codec: TrOCRCodec, ids: Sequence[int], text: str) -> list[int]:
    # Not the tokenizer's offsets: they give a bare metaspace the place of the character behind it, cut spaces off, and
    # know no bytes.
    raw, spelled, one_by_one = text.encode(), token_bytes(codec), is_byte_level(codec)
    ends, done = [], 0
    for token in ids[:-1]:
        for value in spelled[token] or ():
            rest = raw[done:]
            if value == SPACE[0]:
                spaces = len(rest) - len(rest.lstrip(SPACE))
                step, fits = min(spaces, 1) if one_by_one else spaces, spaces > 0 or done == 0
            else:
                step, fits = 1, rest[:1] == bytes([value])
            if not fits:
                raise ValueError(f"text {text!r} is written {codec.decode(ids)!r}; its tokens have no place in it")
            done += step
        ends.append(done)
    if ends and not raw[done:].strip(SPACE):
        ends[-1] = len(raw)
    return [*ends, len(raw)]


def _aligned(ends_a: list[int], ends_b: list[int]) -> Alignment:
    places_a, places_b = _places(ends_a), _places(ends_b)
    index_b = {place: j for j, place in enumerate(places_b)}
    pairs = [(i, index_b[place]) for i, place in enumerate(places_a) if place in index_b]
    starts = np.array(pairs, dtype=np.int64)
    chunks = [
        np.searchsorted(starts[:, side], np.arange(len(places)), side="right").astype(np.int64) - 1
        for side, places in enumerate((places_a, places_b))
    ]
    return Alignment(starts, *chunks)


def _places(ends: list[int]) -> list[tuple[int, int]]:
    """Before each token, the bytes written, and how many tokens before it began at the same byte."""
    seen: Counter[int] = Counter()
    places = []
    for begin in [0, *ends[:-1]]:
        places.append((begin, seen[begin]))
        seen[begin] += 1
    return places


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    padded = np.full((len(rows), max(map(len, rows), default=0)), PADDING, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level tokens: GPT-2's, which gives the bytes without a picture characters from 256 on."""
    pictured = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in pictured]
    return {chr(value): value for value in pictured} | {chr(256 + i): value for i, value in enumerate(others)}
