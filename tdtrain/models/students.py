"""The student a run starts from: stitched, pre-trained and cut to the corpus's alphabet, or fresh."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import cast, get_args

import numpy as np

from tdtrain.models.load import load_reader
from tdtrain.models.ppocr import load_ppocr
from tdtrain.models.ppocr_stitch import stitch
from tdtrain.models.ppocr_student import Size, fresh_ppocr, trim_alphabet
from tdtrain.models.reader import Reader
from tdtrain.models.rehead import rehead
from tdtrain.models.trim import trim
from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_inputs import codec_of

FRESH = get_args(Size)
PRETRAINED = "mobile-pretrained"
STITCHED = "mobile-stitched"
BUILT = (*FRESH, PRETRAINED, STITCHED)
"""Students that are made for a corpus; all of them are PP-OCR recognisers."""
RARE = 3
"""A character must be read this often by the teacher to belong to the alphabet; rarer ones are its mistakes."""


def alphabet(annotated: Iterable[str], read: Iterable[str]) -> str:
    """The characters a student needs, sorted.

    Args:
        annotated: texts that people wrote: every character counts.
        read: texts that the teacher read with confidence: characters that come up at least RARE times count.
    """
    certain = set().union(*map(set, annotated))
    counts = Counter(character for text in read for character in text)
    letters = certain | {character for character, count in counts.items() if count >= RARE} | {" "}
    return "".join(sorted(letters))


def build_student(
    name: str,
    letters: str,
    seed: int,
    folder: Path,
    images: Iterable[np.ndarray] = (),
    ctc_head: bool = False,
    tokens_of: str | None = None,
    texts: Iterable[str] | None = None,
) -> None:
    """Writes the student's folder, whole or not at all.

    Args:
        name: mobile-stitched (see `stitch`), mobile-pretrained (PP-OCRv6 tiny cut to the alphabet), mobile, nano
            (fresh), or any model by name.
        letters: the corpus's alphabet.
        images: a few hundred lines of the corpus, uint8 RGB; used by mobile-stitched only.
        ctc_head: put a fresh CTC head over the alphabet on the encoder; TrOCR only.
        tokens_of: the teacher whose tokenizer it gets, see `rehead`; TrOCR only.
        texts: of the corpus, to whose tokens its vocabulary is cut, see `trim`; TrOCR only.
    """
    reader: Reader
    if name in FRESH:
        reader = fresh_ppocr(cast(Size, name), letters, seed=seed)
    elif name == STITCHED:
        reader = stitch(letters, list(images))
    elif name == PRETRAINED:
        reader = trim_alphabet(load_ppocr("ppocrv6-tiny"), letters)
    else:
        reader = load_reader(name)
    if tokens_of is not None:
        assert isinstance(reader, TrOCRReader), f"{name} is no TrOCR"
        reader = rehead(reader, codec_of(tokens_of))
    if texts is not None:
        assert isinstance(reader, TrOCRReader), f"{name} is no TrOCR"
        reader = trim(reader, texts)
    if ctc_head:
        assert isinstance(reader, TrOCRReader), f"{name} is no TrOCR"
        reader.add_ctc_head(letters, seed)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    reader.save(partial)
    os.replace(partial, folder)
