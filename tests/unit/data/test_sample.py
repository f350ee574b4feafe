"""The sample corpus: its truth must be what the pixels show, and its bytes a function of the seed."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.data.rows import content_id, split_of
from tdtrain.data.sample import corpus
from tdtrain.data.sample.corpus import choose_annotated, write_sample
from tdtrain.data.sample.damage import GEOMETRY, KINDS, Harm, damage_page
from tdtrain.data.sample.fonts import load_fonts
from tdtrain.data.sample.generate import make_schedule
from tdtrain.data.sample.layouts import LAYOUTS, lay_out
from tdtrain.data.sample.page import Boxes, make_page
from tdtrain.data.sample.render import draw
from tdtrain.data.sample.schedule import KINDS as SCHEDULE_KINDS
from tdtrain.data.sample.schedule import Schedule
from tdtrain.data.sample.sheet import Sheet
from tdtrain.data.sample.style import make_style
from tdtrain.data.sample.vocabulary import alphabet, languages, upper
from tdtrain.data.timetable import Document

NUM_PAGES, NUM_ANNOTATED = 6, 2


def make_sheet(number: int, language: str, layout: str) -> tuple[Sheet, Schedule]:
    rng = Random(number)
    kind = "departures" if layout == "list" and number % 2 else "shifts" if number % 5 == 0 else "school"
    family = rng.choice(load_fonts().for_language(language))
    return lay_out(make_schedule(rng, language, kind), layout, make_style(rng, family.name, family.scale), rng)


def in_ink(sheet: Sheet, ink: str) -> Sheet:
    """The same page with every letter in one colour."""

    def paint(texts):
        return tuple(dataclasses.replace(text, ink=ink) for text in texts)

    return dataclasses.replace(
        sheet,
        head=tuple(map(paint, sheet.head)),
        cells=tuple(dataclasses.replace(cell, texts=paint(cell.texts)) for cell in sheet.cells),
        foot=paint(sheet.foot),
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, NUM_PAGES, NUM_ANNOTATED, seed=5, workers=0)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("number", "layout"), enumerate(LAYOUTS))
def test_quads_hold_each_lines_ink_and_no_more(number: int, layout: str) -> None:
    language = list(languages())[number]
    sheet, _ = make_sheet(number, language, layout)
    black, red = (draw(in_ink(sheet, ink), 1200) for ink in ("#000000", "#ff0000"))
    ink = (black.image.astype(int) != red.image).any(axis=2)
    left_over, num_checked = ink.copy(), 0
    for text, quad in zip(black.texts, black.quads, strict=True):
        (x0, y0), (x1, y1) = np.floor(quad[0]).astype(int), np.ceil(quad[2]).astype(int)
        rows, columns = np.nonzero(ink[y0:y1, x0:x1])
        assert len(rows), f"no ink for {text.text!r}"
        margin = 0.45 * (y1 - y0)
        assert columns.min() <= margin and columns.max() >= x1 - x0 - 1 - margin, text.text
        near = (black.quads[:, 0] < quad[2] + 6).all(axis=1) & (black.quads[:, 2] > quad[0] - 6).all(axis=1)
        if near.sum() == 1 and re.match(r"[A-Z]", text.text):
            # As much room above a capital as below the lowest letter: the baseline is where the quad says.
            above, below = y0 + rows.min() - quad[0, 1], quad[2, 1] - (y0 + rows.max() + 1)
            assert abs(above - below) < 1.6 and above > 0, text.text
            num_checked += 1
        left_over[y0:y1, x0:x1] = False
    assert not left_over.any(), "letters outside every quad"
    assert num_checked >= 2


@pytest.mark.parametrize(("number", "language"), enumerate(languages()))
def test_lines_stand_in_reading_order_apart_from_each_other(number: int, language: str) -> None:
    sheet, _ = make_sheet(number + 100, language, list(LAYOUTS)[number % len(LAYOUTS)])
    drawn = draw(sheet, 1100)
    assert [text.text for text in drawn.texts] == [text.text for text in sheet.texts()]
    height, width = drawn.image.shape[:2]
    assert 1099 <= max(height, width) <= 1401
    assert drawn.quads.min() >= 0 and (drawn.quads.max(axis=(0, 1)) <= [width, height]).all()
    x0, y0, x1, y1 = *drawn.quads[:, 0].T, *drawn.quads[:, 2].T
    across = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    down = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    overlap = np.where((across > 0) & (down > 0), down / np.minimum((y1 - y0)[:, None], y1 - y0), 0)
    np.fill_diagonal(overlap, 0)
    assert overlap.max() < 0.45  # descenders and the padding of two lines may meet, lines may not
    rows = [[text.text for text in cell.texts] for cell in sorted(sheet.cells, key=lambda c: (c.row, c.column))]
    assert [text for row in rows for text in row] == [t.text for t in drawn.texts][len(sum(sheet.head, ())) :][
        : sum(map(len, rows))
    ]


@pytest.mark.parametrize("kind", GEOMETRY)
@pytest.mark.parametrize("severity", [0.2, 1.0])
def test_the_view_moves_pixels_and_quads_alike(kind: str, severity: float) -> None:
    quads = np.array([[[x, y], [x + 150, y], [x + 150, y + 30], [x, y + 30]] for x in (40, 500) for y in (60, 560)])
    page = np.zeros((640, 900, 3), np.uint8)
    for x0, y0, x1, y1 in np.concatenate([quads[:, 0], quads[:, 2]], axis=1).tolist():
        page[y0:y1, x0:x1] = 255
    view, moved = damage_page(page, quads.astype(float), (Harm(kind, severity),), np.random.default_rng(3))
    assert np.abs(moved - quads).max() > 5
    for quad in moved:
        x0, y0 = np.floor(quad.min(axis=0)).astype(int) - 3
        x1, y1 = np.ceil(quad.max(axis=0)).astype(int) + 3
        weight = view[y0:y1, x0:x1].astype(float).mean(axis=2) / 255
        ys, xs = np.mgrid[y0:y1, x0:x1] + 0.5
        centroid = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
        moments = cv2.moments(quad.astype(np.float32))
        expected = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
        assert np.abs(centroid - expected).max() < 0.25, kind
        assert weight.sum() == pytest.approx(moments["m00"], rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_seeded_grows_and_keeps_boxes_on_the_page(kind: str) -> None:
    sheet, _ = make_sheet(7, "de", "by_day")
    drawn = draw(sheet, 700)

    def harmed(severity: float) -> tuple[np.ndarray, np.ndarray]:
        return damage_page(drawn.image, drawn.quads, (Harm(kind, severity),), np.random.default_rng(1))

    (image, quads), (again, _), (mild, mild_quads) = harmed(0.8), harmed(0.8), harmed(0.1)
    assert image.dtype == np.uint8 and np.array_equal(image, again)
    assert quads.min() >= 0 and (quads.max(axis=(0, 1)) <= image.shape[1::-1]).all()
    if kind in GEOMETRY:
        assert np.abs(quads - drawn.quads).mean() > np.abs(mild_quads - drawn.quads).mean()
    else:
        assert np.array_equal(quads, drawn.quads)
        change, mild_change = (np.abs(other.astype(int) - drawn.image).mean() for other in (image, mild))
        assert change > mild_change > 0


def test_small_print_is_spared_what_would_make_it_unreadable() -> None:
    rng = np.random.default_rng(0)
    page = cv2.resize(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8), (480, 480))

    def change(line_height: int, *harms: Harm) -> float:
        quads = np.array([[[0, 0], [90, 0], [90, line_height], [0, line_height]]], float)
        return float(np.abs(damage_page(page, quads, harms, np.random.default_rng(2))[0].astype(int) - page).mean())

    for kind in ("low_resolution", "noise", "jpeg", "moire"):
        assert change(8, Harm(kind, 0.9)) < 0.8 * change(25, Harm(kind, 0.9)), kind
    assert change(8, Harm("shadow", 0.9)) == change(25, Harm("shadow", 0.9))


def test_damage_refuses_what_it_does_not_know() -> None:
    page, quads = np.zeros((9, 9, 3), np.uint8), np.zeros((1, 4, 2))
    with pytest.raises(ValueError, match="damage='rain' is unknown"):
        damage_page(page, quads, (Harm("rain", 0.5),), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"severity=1.5 of blur"):
        damage_page(page, quads, (Harm("blur", 1.5),), np.random.default_rng(0))


def printed_times(clock: str) -> Iterator[str]:
    """How a page may print HH:MM: a pattern for each spelling."""
    hour, minute = int(clock[:2]), clock[3:]
    yield rf"(?<!\d)0?{hour}(:|\.|h| h ){minute}"
    yield rf"(?<!\d){(hour - 1) % 12 + 1}(:|\.){minute} ?{'am' if hour < 12 else 'pm'}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_document_is_what_the_page_says(layout: str) -> None:
    for number, language in enumerate(languages()):
        sheet, schedule = make_sheet(number, language, layout)
        text = " ".join(line.text for line in sheet.texts())
        document = schedule.document("images/x.jpg")
        assert Document.model_validate_json(document.model_dump_json()) == document
        assert document.timeblocks
        for fact in (document.teacher, document.className, document.term, document.year):
            assert fact is None or fact in text
        for block in document.timeblocks:
            assert block.name in text and block.day in text
            for clock in (block.startTime, block.endTime):
                assert any(re.search(form, text, re.IGNORECASE) for form in printed_times(clock)), (clock, text)


def test_doubles_are_one_block_where_cells_merge_and_two_where_not() -> None:
    schedule = make_schedule(Random(1), "de", "school")
    assert any(entry.num_periods == 2 for entry in schedule.entries)
    split = schedule.split_doubles()
    assert len(split.entries) == sum(entry.num_periods for entry in schedule.entries)
    for shown in (schedule, split):
        for entry, block in zip(shown.entries, shown.document("x").timeblocks, strict=True):
            minutes = [60 * int(clock[:2]) + int(clock[3:]) for clock in (block.startTime, block.endTime)]
            slots = [i for i, (start, end) in enumerate(schedule.times) if minutes[0] <= start and end <= minutes[1]]
            assert slots == list(range(entry.period, entry.period + entry.num_periods))
    style = make_style(Random(0), "Roboto", 1.0)
    merged, _ = lay_out(schedule, "merged", style, Random(0))
    assert any(cell.rowspan == 2 for cell in merged.cells) and any(cell.colspan > 1 for cell in merged.cells)
    taken = [
        (cell.row + r, cell.column + c)
        for cell in merged.cells
        for r in range(cell.rowspan)
        for c in range(cell.colspan)
    ]
    assert len(taken) == len(set(taken)), "cells on top of each other"


@pytest.mark.parametrize("language", languages())
def test_no_character_is_missing_from_any_font_in_use(language: str) -> None:
    characters: set[str] = set()
    for number in range(40):
        schedule = make_schedule(Random(number), language, SCHEDULE_KINDS[number % 3])
        sheet, _ = lay_out(
            schedule,
            "list" if schedule.kind == "departures" else list(LAYOUTS)[number % 6],
            make_style(Random(number), "Roboto", 1.0),
            Random(number),
        )
        characters |= {char for text in sheet.texts() for char in text.text}
        assert all(text.text.strip() == text.text and text.text for text in sheet.texts())
    assert characters <= alphabet(language)
    library = load_fonts()
    families = {family.name for family in library.for_language(language)}
    assert len(families) >= 8
    for face in library.typeset.fonts():
        if face.family in families:
            covered = set(TTFont(face.path, lazy=True).getBestCmap())
            assert {char for char in characters if ord(char) not in covered} == set(), face.path


def test_turkish_capitals_keep_their_dots() -> None:
    assert upper("İngilizce ışık", "tr") == "İNGİLİZCE IŞIK"
    assert upper("Mittwoch", "de") == "MITTWOCH"


@given(st.lists(st.sampled_from(["train", "validation", "test"]), max_size=60), st.none() | st.integers(0, 60))
def test_annotated_pages_are_those_the_rule_names(splits: list, wanted: int | None) -> None:
    chosen = choose_annotated(splits, wanted)
    tests = {i for i, split in enumerate(splits) if split == "test"}
    others = [i for i, split in enumerate(splits) if split != "test"]
    assert tests <= chosen
    picked = chosen - tests
    assert len(picked) == (len(others) if wanted is None else min(wanted, len(others)))
    for split in ("train", "validation"):
        own = [i for i in others if splits[i] == split]
        mine = [i for i in own if i in picked]
        assert mine == own[: len(mine)], "the first of each split"
    if wanted is not None and wanted >= 2 and "validation" in splits:
        num_validation = sum(splits[i] == "validation" for i in picked)
        enough = len(others) - splits.count("validation") >= wanted and splits.count("validation") >= 0.2 * wanted + 1
        assert num_validation >= 1
        assert not enough or num_validation == max(1, round(0.2 * wanted))


def test_the_corpus_on_disk_is_the_format(sample: Path) -> None:
    card = json.loads((sample / "sample.json").read_text())
    images = sorted((sample / "images").iterdir())
    assert [path.stem for path in images] == [f"{i:05}" for i in range(1, NUM_PAGES + 1)]
    splits = {path.stem: split_of(content_id(path.read_bytes())) for path in images}
    annotated = {path.stem for path in (sample / "annotations").glob("*.txt")}
    assert {stem for stem, split in splits.items() if split == "test"} <= annotated
    assert sum(splits[stem] != "test" for stem in annotated) == NUM_ANNOTATED
    assert {Path(name).stem for name in card["annotated"]} == annotated
    assert annotated == {path.stem for path in (sample / "boxes").iterdir()}
    assert not (sample / ".sample").exists() and not list(sample.rglob("*.part"))
    for path in images:
        image = cv2.imread(str(path))
        assert 950 <= max(image.shape[:2]) <= 1420
        assert card["ids"][path.name] == content_id(path.read_bytes())
        if path.stem in annotated:
            boxes = Boxes.model_validate_json((sample / "boxes" / f"{path.stem}.json").read_bytes())
            assert (path.suffix == ".png") == (boxes.tags["damage"] == "none")
            text = (sample / "annotations" / f"{path.stem}.txt").read_text(encoding="utf-8")
            assert text == "".join(f"{line.text}\n" for line in boxes.lines)
            corners = np.array([line.quad for line in boxes.lines])
            assert corners.min() >= 0 and (corners.max(axis=(0, 1)) <= image.shape[1::-1]).all()
            document = Document.model_validate_json((sample / "annotations" / f"{path.stem}.json").read_bytes())
            assert (sample / document.image_path).samefile(path)


def test_a_page_depends_on_seed_and_number_alone(sample: Path) -> None:
    for index in (3, 0):
        image, truth = make_page(5, index)
        assert (sample / "images" / truth.name).read_bytes() == image
    assert make_page(6, 0)[0] != make_page(5, 0)[0]


def test_an_interrupted_corpus_is_finished_and_a_finished_one_left_alone(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = corpus._make, []

    def breaks_at_three(index: int, request: corpus.Request) -> tuple[int, bytes, str]:
        made.append(index)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(index, request)

    monkeypatch.setattr(corpus, "_make", breaks_at_three)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path, NUM_PAGES, NUM_ANNOTATED, seed=5, workers=0)
    assert not (tmp_path / "sample.json").exists()
    with pytest.raises(ValueError, match="seed is 5, not 6"):
        write_sample(tmp_path, NUM_PAGES, NUM_ANNOTATED, seed=6, workers=0)
    write_sample(tmp_path, NUM_PAGES, NUM_ANNOTATED, seed=5, workers=0)
    assert made == [0, 1, 2, 2, 3, 4, 5]
    assert files_of(tmp_path) == files_of(sample)
    write_sample(tmp_path, NUM_PAGES, NUM_ANNOTATED, seed=5, workers=0)
    assert len(made) == 7


def test_other_arguments_or_other_files_are_refused(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="annotated_pages is 2, not 3"):
        write_sample(sample, NUM_PAGES, 3, seed=5, workers=0)
    with pytest.raises(ValueError, match="annotated_pages=9"):
        write_sample(tmp_path, 8, 9, workers=0)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="no sample corpus"):
        write_sample(tmp_path, 8, 2, workers=0)
    with pytest.raises(ValueError, match=r"holds no .ttf"):
        load_fonts(tmp_path)
