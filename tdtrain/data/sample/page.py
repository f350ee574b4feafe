"""One page of the sample corpus: a pure function of the seed and the page's number."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict

from tdtrain.data.sample.damage import Harm, choose_damage, damage_page
from tdtrain.data.sample.fonts import load_fonts
from tdtrain.data.sample.generate import make_schedule
from tdtrain.data.sample.layouts import LAYOUTS, lay_out
from tdtrain.data.sample.render import draw
from tdtrain.data.sample.schedule import KINDS
from tdtrain.data.sample.style import make_style
from tdtrain.data.sample.vocabulary import languages
from tdtrain.data.timetable import Document

Point = tuple[float, float]


class PageLine(BaseModel):
    """A line of a page: its text, what it says, and its corners in pixels, clockwise from the top left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    quad: tuple[Point, Point, Point, Point]
    field: str


class Boxes(BaseModel):
    """What `boxes/NAME.json` holds: the lines in reading order, and damage, layout, language, font and kind as tags."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lines: tuple[PageLine, ...]
    tags: dict[str, str]


class Truth(BaseModel):
    """Everything that is known about a page. `name` is its image's file name: a .png where nothing damaged it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    boxes: Boxes
    document: Document


def make_page(
    seed: int,
    index: int,
    fonts_folder: Path | None = None,
    language: str | None = None,
    layout: str | None = None,
    harms: tuple[Harm, ...] | None = None,
) -> tuple[bytes, Truth]:
    """Page `index` (from 0) of the corpus `seed`: the image file's bytes, and the truth.

    What is named (`language`, `layout`, `harms`) is used, the rest drawn at random. The bytes are the same on every
    machine with the same versions of typst, OpenCV and the font packages.
    """
    # One generator a stage: a change to one stage leaves what the others draw alone.
    words, looks, wear = (Random(f"{seed}/{index}/{stage}") for stage in ("words", "looks", "wear"))
    language = language or words.choice(list(languages()))
    kind = words.choices(KINDS, weights=[80, 12, 8])[0]
    layout = layout or ("list" if kind == "departures" else words.choice(list(LAYOUTS)))
    if kind == "departures" and layout != "list":
        kind = "school"
    family = looks.choice(load_fonts(fonts_folder).for_language(language))
    style = make_style(looks, family.name, family.scale)
    sheet, schedule = lay_out(make_schedule(words, language, kind), layout, style, looks)
    drawn = draw(sheet, looks.randint(1000, 1300), fonts_folder)
    chosen = choose_damage(wear)
    harms = chosen if harms is None else harms
    image, quads = damage_page(drawn.image, drawn.quads, harms, np.random.default_rng(wear.getrandbits(64)))
    name = f"{index + 1:05}" + (".jpg" if harms else ".png")
    options = [cv2.IMWRITE_JPEG_QUALITY, wear.randint(62, 82)] if harms else [cv2.IMWRITE_PNG_COMPRESSION, 6]
    lines = (
        PageLine(text=text.text, field=text.field, quad=_corners(quad))
        for text, quad in zip(drawn.texts, quads, strict=True)
    )
    damage = harms[0].kind if harms else "none"
    tags = {"damage": damage, "layout": layout, "language": language, "font": family.name, "kind": kind}
    truth = Truth(name=name, boxes=Boxes(lines=tuple(lines), tags=tags), document=schedule.document(f"images/{name}"))
    return cv2.imencode(Path(name).suffix, image, options)[1].tobytes(), truth


def _corners(quad: np.ndarray) -> tuple[Point, Point, Point, Point]:
    a, b, c, d = ((round(x, 2), round(y, 2)) for x, y in quad.tolist())
    return a, b, c, d
