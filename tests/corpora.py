"""Small corpora on disk for everybody's tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tdtrain.data.pack import PackOptions, pack
from tests.models_small import draw_line, timetable_texts


def line_corpus(folder: Path, texts: Sequence[str] | None = None, annotated: int | None = None, num: int = 160) -> Path:
    """A corpus of drawn line images in the layout of the guide; the first `annotated` have their text beside them."""
    texts = list(texts or timetable_texts(num))
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for i, text in enumerate(texts):
        noise = rng.normal(0, 6, (32, 1, 1))
        picture = np.clip(draw_line(text) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{i:04}.png")
        if annotated is None or i < annotated:
            (folder / "annotations" / f"{i:04}.txt").write_text(text, encoding="utf-8")
    return folder


def packed_lines(folder: Path, annotated: int | None = None, num: int = 160) -> str:
    """`line_corpus`, packed in this process."""
    corpus = line_corpus(folder / "corpus", annotated=annotated, num=num)
    pack(corpus, folder / "lines", PackOptions(corpus_kind="lines"), use_ray=False)
    return str(folder / "lines")
