from __future__ import annotations

import base64
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tdtrain.evaluate.metrics import edits, normalize
from tdtrain.models.reader import Reading
from tdtrain.report.examples import MAX_HEIGHT, Piece, choose_examples, marked

from .demo import demo_lines

TEXT = st.text(alphabet="ab 1é", max_size=10)


@given(TEXT, TEXT)
def test_marks_give_back_both_texts_and_count_the_edits(truth: str, reading: str) -> None:
    pieces = marked(truth, reading)
    assert "".join(p.text for p in pieces if p.kind != "missing") == normalize(reading)
    assert sum(len(p.text) for p in pieces if p.kind != "equal") == edits(truth, reading).character_edits
    kept = sum(len(p.text) for p in pieces if p.kind in ("equal", "wrong", "missing"))
    assert kept == len(normalize(truth))


def test_marks_by_kind() -> None:
    assert marked("08:45", "O8:4") == [Piece("wrong", "O"), Piece("equal", "8:4"), Piece("missing", "5")]
    assert marked("ab", "axb") == [Piece("equal", "a"), Piece("extra", "x"), Piece("equal", "b")]


def readings(lines: list, wrong: set[int]) -> list[Reading]:
    return [Reading("?" if i in wrong else line.text, 1.0) for i, line in enumerate(lines)]


def test_a_quarter_of_each_kind_and_no_line_twice() -> None:
    lines = demo_lines(pages=10, per_page=8)
    told = {"student": readings(lines, set(range(0, 30))), "student_undistilled": readings(lines, set(range(15, 60)))}
    chosen = choose_examples(lines, told)
    assert [example.why for example in chosen] == [
        w for w in ("fixed", "broken", "still wrong", "random") for _ in "abc"
    ]
    for example in chosen:
        right = {role: text == example.truth for role, text in example.readings.items()}
        expected = {"fixed": (True, False), "broken": (False, True), "still wrong": (False, False)}.get(example.why)
        assert expected in (None, (right["student"], right["student_undistilled"]))
    assert chosen == choose_examples(lines, told)
    assert chosen != choose_examples(lines, told, seed=1)


def test_missing_kinds_are_filled_up_and_few_lines_are_enough() -> None:
    lines = demo_lines(pages=4, per_page=5)
    chosen = choose_examples(lines, {"student": readings(lines, {3})})
    assert [example.why for example in chosen] == ["still wrong"] + ["random"] * 11
    assert len({id(example.picture) for example in chosen}) == 12
    assert len(choose_examples(lines[:2], {"student": readings(lines[:2], set())})) == 2


@pytest.mark.parametrize("size", [(4000, 50), (60, 900)])
def test_pictures_are_small_png(size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG")
    line = demo_lines(pages=1, per_page=1)[0]
    line = type(line)(**{**vars(line), "image": buffer.getvalue()})
    example = choose_examples([line], {"student": [Reading("x", 1)]})[0]
    image = Image.open(io.BytesIO(base64.b64decode(example.data_uri.split(",", 1)[1])))
    assert image.format == "PNG" and image.size == (example.width, example.height)
    assert image.height <= MAX_HEIGHT and image.width <= 1400
