"""The real detector and recogniser on drawn pages, without a network."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tdtrain.data.corpus import Page, PageRef
from tdtrain.data.detect import Detector, LineFinder, line_finder, turn_upright
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.page_lines import page_lines
from tests.unit.data.pages import draw_page

TEXTS = ["Timetable", "Monday", "Tuesday", "08:00-08:45", "Geography", "Room 12", "09:50-10:35", "Physics", "Library"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("detector", ["tiny", "small"])
def test_finds_and_reads_every_line_in_reading_order(detector: Detector) -> None:
    image, placed = draw_page(TEXTS)
    quads = LineFinder(detector).find(np.asarray(image))
    assert quads.shape == (len(placed), 4, 2) and quads.dtype == np.float32
    for quad, (text, (x0, y0, x1, y1)) in zip(quads, placed, strict=True):
        middle = quad.mean(axis=0)
        assert x0 < middle[0] < x1 and y0 < middle[1] < y1, text
        assert quad[0][0] < quad[1][0] and quad[0][1] < quad[3][1], "clockwise from the top left"


def test_empty_page_has_no_lines() -> None:
    assert line_finder("tiny", 1280).find(np.full((300, 400, 3), 255, np.uint8)).shape == (0, 4, 2)


@pytest.mark.parametrize("shape", [(16, 4000), (4000, 16), (9, 2500)])
def test_a_strip_has_no_lines_and_ends_nothing(shape: tuple[int, int]) -> None:
    strip, finder = np.full((*shape, 3), 255, np.uint8), line_finder("tiny", 1280)
    assert finder.find(strip).shape == (0, 4, 2) and finder.read(strip) == ("", 0.0)
    turn_upright(strip, None, "tiny", 1280)


def test_bare_text_finds_its_lines() -> None:
    image, _ = draw_page([*TEXTS, "Assembly"])
    page = Page("d", "p", np.asarray(image), (*reversed(TEXTS), "Nowhere to be seen"), None, ())
    ref = PageRef(image="images/a.png", annotation="annotations/a.txt")
    lines, problems = page_lines(page, ref, "train", PackOptions())
    assert [line.text for line in lines] == [*TEXTS, None]
    assert len({line.id for line in lines}) == len(lines)
    assert [(problem.path, problem.kind) for problem in problems] == [("annotations/a.txt", "line")]
    assert "Nowhere to be seen" in problems[0].reason


@pytest.mark.parametrize("turns", [1, -1])
@pytest.mark.parametrize("text", [None, "Wednesday"])
def test_turned_text_becomes_upright(turns: int, text: str | None) -> None:
    line = Image.new("RGB", (170, 40), "white")
    ImageDraw.Draw(line).text((10, 4), "Wednesday", "black", ImageFont.load_default(28))
    upright = np.asarray(line)
    turned = np.ascontiguousarray(np.rot90(upright, turns))
    assert np.array_equal(turn_upright(turned, text, "tiny", 1280), upright)


@pytest.mark.parametrize("text", [None, "7"])
def test_a_single_tall_character_stays(text: str | None) -> None:
    line = Image.new("RGB", (24, 40), "white")
    ImageDraw.Draw(line).text((4, 4), "7", "black", ImageFont.load_default(30))
    assert np.array_equal(turn_upright(np.asarray(line), text, "tiny", 1280), np.asarray(line))


def test_light_text_in_dark_cells_of_a_grainy_page_is_found() -> None:
    days = ["MO", "DI", "MI", "DO", "FR", "SA"]
    page = Image.new("RGB", (900, 300), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    draw.rectangle((20, 40, 880, 64), (30, 60, 110))
    places = [(90 + 140 * i, 52) for i in range(len(days))]
    for day, place in zip(days, places, strict=True):
        draw.text(place, day, "white", font, anchor="mm")
        draw.text((place[0], 120), "Geography", "black", font, anchor="mm")
    pixels, rng = np.asarray(page).copy(), np.random.default_rng(0)
    pixels[rng.random(pixels.shape[:2]) < 0.03] = 255
    pixels[rng.random(pixels.shape[:2]) < 0.03] = 0

    def found(quads: np.ndarray) -> int:
        return sum(
            any((quad.min(0) < place).all() and (quad.max(0) > place).all() for quad in quads) for place in places
        )

    finder = line_finder("tiny", 1280)
    assert found(finder._detect(pixels)) < len(days), "too easy: the page as it is would do"
    assert found(finder.find(pixels)) == len(days)
