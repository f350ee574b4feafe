"""Draws a sheet and says where each of its lines stands, exactly."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import typst

from tdtrain.data.sample.fonts import load_fonts
from tdtrain.data.sample.sheet import Sheet, Text

PAD = 0.18
"""Space around the ink of a line inside its quad, in cap heights."""
MIN_HEIGHT, MAX_SIDE = 9, 1400
"""Pages of small print are drawn larger, up to MAX_SIDE pixels, until four lines in five have ink this high."""


@dataclass(frozen=True)
class Drawn:
    """A clean page.

    Attributes:
        image: uint8 BGR, H x W x 3.
        texts: L lines in reading order.
        quads: float64, L x 4 x 2: x and y in pixels, clockwise from the top left.
    """

    image: np.ndarray
    texts: list[Text]
    quads: np.ndarray


def draw(sheet: Sheet, long_side: int, fonts_folder: Path | None = None) -> Drawn:
    """Typesets a sheet on paper of its own shape, `long_side` pixels on the longer side, or more for small print."""
    compiler = _compiler(fonts_folder)
    texts = sheet.texts()
    data = json.dumps(_indexed(sheet), ensure_ascii=False)
    compiler.compile(format="png", ppi=1, sys_inputs={"sheet": data})  # typesets; the real bitmap needs the page's size
    places = {place["index"]: place for place in json.loads(compiler.query("metadata", field="value"))}
    if set(places) != set(range(-1, len(texts))):
        raise RuntimeError(
            f"the typesetter placed {len(places) - 1} of {len(texts)} lines; page.typ and sheet.py disagree"
        )
    width, height = places[-1]["right"], places[-1]["bottom"]
    paper_height = _paper(width, height)
    heights = sorted(place["bottom"] - place["top"] for index, place in places.items() if index >= 0)
    wanted = MIN_HEIGHT / heights[len(heights) // 5] * max(width, paper_height)
    scale = max(long_side, min(wanted, MAX_SIDE)) / max(width, paper_height)
    png = cast(bytes, compiler.compile(format="png", ppi=72 * scale))
    image = cast(np.ndarray, cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))
    blank = round(paper_height * scale) - image.shape[0]
    if blank > 0:
        paper = tuple(int(sheet.style.paper[k : k + 2], 16) for k in (5, 3, 1))
        image = cv2.copyMakeBorder(image, 0, blank, 0, 0, cv2.BORDER_CONSTANT, value=paper)
    quads = np.empty((len(texts), 4, 2))
    for index in range(len(texts)):
        place = places[index]
        pad = PAD * place["caps"]
        x0, y0, x1, y1 = place["left"] - pad, place["top"] - pad, place["right"] + pad, place["bottom"] + pad
        quads[index] = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) * scale
    return Drawn(image, texts, quads)


def _paper(width: float, height: float) -> float:
    """How high the paper is: A4 across or upright where the content comes near to it, else cut to the content."""
    landscape, portrait = width / math.sqrt(2), width * math.sqrt(2)
    if height <= landscape:
        return landscape
    return portrait if 0.75 * portrait < height < portrait else height


@lru_cache(maxsize=2)
def _compiler(fonts_folder: Path | None) -> typst.Compiler:
    template = Path(str(files(__package__).joinpath("page.typ")))
    return typst.Compiler(template, font_paths=load_fonts(fonts_folder).typeset, ignore_system_fonts=True)


def _indexed(sheet: Sheet) -> dict[str, object]:
    """The sheet as plain data, each line with its place in the reading order."""
    numbers = {id(text): number for number, text in enumerate(sheet.texts())}

    def lines(texts: tuple[Text, ...]) -> list[dict[str, object]]:
        return [{**asdict(text), "index": numbers[id(text)]} for text in texts]

    return {
        **asdict(sheet),
        "head": [lines(row) for row in sheet.head],
        "cells": [{**asdict(cell), "texts": lines(cell.texts)} for cell in sheet.cells],
        "foot": lines(sheet.foot),
    }
