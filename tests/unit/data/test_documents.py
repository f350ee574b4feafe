"""Structured annotations through packing: every page keeps its own, with or without boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tdtrain.data.card import load_card
from tdtrain.data.documents import read_documents, read_pages
from tdtrain.data.manifest import read_lines
from tdtrain.data.pack import pack
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.rows import SPLITS
from tdtrain.data.sample.corpus import write_sample
from tdtrain.data.serialise import serialise
from tdtrain.data.timetable import Document
from tests.unit.data.pages import boxed_corpus


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents") / "sample"
    write_sample(root, 10, None, seed=3, workers=0)
    (root / "annotations" / "00002.json").unlink()
    return root


@pytest.mark.parametrize("use_boxes", [True, False])
def test_pages_keep_their_documents(sample: Path, use_boxes: bool, tmp_path: Path) -> None:
    shares = {"validation_share": 0.3, "test_share": 0.3}
    manifest = pack(sample, tmp_path / "packed", PackOptions(use_boxes=use_boxes, **shares), use_ray=False)
    documents = read_documents(manifest)
    assert len(documents) == 9
    for source, told in documents.items():
        stem = Path(source).stem
        said = Document.model_validate_json((sample / "annotations" / f"{stem}.json").read_bytes())
        assert said.canonical() == told.document.canonical() and said.image_path == source
    pages = read_pages(manifest)
    assert len(pages) == 10 and sum(page.truth is None for page in pages) == 1
    boxes = {
        page.source: json.loads((sample / "boxes" / f"{Path(page.source).stem}.json").read_text()) for page in pages
    }
    for page in pages:
        true = {line["text"] for line in boxes[page.source]["lines"]}
        found = set(serialise(page.lines, "reading_order").split("\n"))
        assert len(true & found) >= (len(true) if use_boxes else 0.5 * len(true))


def documents_alone(root: Path, described: dict[int, str], num: int = 40) -> Path:
    """Pages of two boxes without text, some with annotations/NAME.json."""
    corpus = boxed_corpus(root, num, annotated=0)
    (corpus / "annotations").mkdir()
    block = {"day": "Mo", "startTime": "08:00", "endTime": "08:45"}
    for number, spelling in described.items():
        document = {"image_path": spelling, "timeblocks": [{**block, "name": f"Art {number}"}]}
        (corpus / f"annotations/{number:03}.json").write_text(json.dumps(document))
    return corpus


def test_pages_of_which_only_the_document_is_annotated_are_spread_over_the_splits(tmp_path: Path) -> None:
    corpus = documents_alone(tmp_path / "corpus", {number: f"./images//{number:03}.png" for number in range(3)})
    manifest = pack(corpus, tmp_path / "packed", use_ray=False)
    told = [page for page in read_pages(manifest, {}) if page.truth]
    assert {page.split for page in told} == set(SPLITS) and manifest.corpus_kind == "pages"
    assert {page.truth.timeblocks[0].name for page in told if page.truth} == {"Art 0", "Art 1", "Art 2"}


def test_what_a_teacher_wrote_is_learnt_from_and_measured_by_only_where_nobody_wrote(tmp_path: Path) -> None:
    corpus = documents_alone(tmp_path / "corpus", {number: f"images/{number:03}.png" for number in range(40)})
    for number in range(40):
        path = corpus / f"annotations/{number:03}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"labelled_by": "claude/m"}))
    pages = read_pages(pack(corpus, tmp_path / "machine", use_ray=False), {})
    assert {page.split for page in pages} == set(SPLITS) and {page.labelled_by for page in pages} == {"claude/m"}
    assert any("a teacher wrote all documents" in warning for warning in load_card(tmp_path / "machine").warnings)
    for number in range(4):
        path = corpus / f"annotations/{number:03}.json"
        path.write_text(
            path.read_text().replace('"labelled_by": "claude/m", ', "").replace(', "labelled_by": "claude/m"', "")
        )
    pages = read_pages(pack(corpus, tmp_path / "mixed", use_ray=False), {})
    assert {(page.split, page.labelled_by) for page in pages if page.truth} == {
        ("train", "claude/m"), ("train", None), ("validation", None), ("test", None)
    }  # fmt: skip
    assert not any("a teacher wrote" in warning for warning in load_card(tmp_path / "mixed").warnings)


def test_the_image_with_a_document_is_the_one_that_stays_and_second_documents_are_set_aside(tmp_path: Path) -> None:
    corpus = documents_alone(tmp_path / "corpus", {1: "images/001.png", 2: "images/001.png"})
    (corpus / "images/000.png").write_bytes((corpus / "images/001.png").read_bytes())
    manifest = pack(corpus, tmp_path / "packed", use_ray=False)
    (told,) = (page for page in read_pages(manifest, {}) if page.truth)
    assert told.source == "images/001.png" and told.truth and told.truth.timeblocks[0].name == "Art 1"
    aside = {row["path"]: row["reason"] for row in pq.read_table(tmp_path / "packed/quarantine.parquet").to_pylist()}
    assert aside["images/000.png"].startswith("same image as images/001.png")
    assert aside["annotations/002.json"] == "images/001.png is described by annotations/001.json already"


def test_readings_take_the_place_of_annotations(sample: Path, tmp_path: Path) -> None:
    manifest = pack(sample, tmp_path / "packed", use_ray=False)
    texts = {line.id: f"read {line.id}" for split in SPLITS for line in read_lines(manifest, split)}
    assert {line.text for page in read_pages(manifest, texts) for line in page.lines} == set(texts.values())


def test_a_page_on_which_no_line_was_found_is_there_without_lines(tmp_path: Path) -> None:
    corpus = documents_alone(tmp_path / "corpus", {number: f"images/{number:03}.png" for number in range(6)}, num=6)
    for number in range(6):
        (corpus / f"boxes/{number:03}.json").write_text('{"lines": []}')
    blank = Image.new("RGB", (200, 100), "white")
    for number in range(6):
        blank.putpixel((number, 0), (0, 0, 0))
        blank.save(corpus / f"images/{number:03}.png")
    (corpus / "annotations/000.json").write_text(
        json.dumps({"timeblocks": [{"day": "Mo", "name": "Art", "startTime": "8.00", "endTime": "8:45 am"}]})
    )
    boxed_corpus(tmp_path / "more", 1, annotated=0)
    (corpus / "images/more.png").write_bytes((tmp_path / "more/images/000.png").read_bytes())
    (corpus / "boxes/more.json").write_bytes((tmp_path / "more/boxes/000.json").read_bytes())
    pages = read_pages(pack(corpus, tmp_path / "packed", use_ray=False), {})
    told = {page.source: page for page in pages if page.truth}
    assert len(told) == 6 and all(page.lines == [] for page in told.values())
    assert {page.split for page in told.values()} == set(SPLITS)
    first = told["images/000.png"].truth
    assert first and first.timeblocks[0].startTime == "08:00" and first.timeblocks[0].endTime == "08:45"
