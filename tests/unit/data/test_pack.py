"""The same corpus gives the same bytes, and what cannot be used is counted with its reason."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from tdtrain.data.card import load_card, print_card
from tdtrain.data.manifest import annotated_lines
from tdtrain.data.pack import PackOptions, check_learnable, load_manifest, pack, read_lines
from tdtrain.data.rows import LINE_SCHEMA, SPLITS, Line, content_id, split_of, splits_of
from tests.corpora import line_corpus
from tests.unit.data.pages import boxed_corpus, contents, draw_page


def lines_of(folder: Path) -> list[Line]:
    manifest = load_manifest(folder)
    return [line for split in SPLITS for line in read_lines(manifest, split)]


def reasons(folder: Path) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in pq.read_table(folder / "quarantine.parquet").to_pylist()}


def test_rows_say_what_the_corpus_says(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 40, annotated=30)
    manifest = pack(corpus, tmp_path / "out", use_ray=False)
    lines = lines_of(tmp_path / "out")
    assert len(lines) == manifest.num_rows() == 80 and manifest.num_annotated() == 60
    told = {f"{i:02}:00" for i in range(30)} | {f"Übung {i}" for i in range(30)}
    assert {line.text for line in lines} == told | {None}
    assert len({line.id for line in lines}) == 80
    for line in lines:
        page = (corpus / line.source).read_bytes()
        assert line.page_id == content_id(page) and line.split == split_of(line.page_id)
        assert line.tags == {"damage": "none", "field": "time"}
        top = 2 if line.quad and line.quad[1] == 2 else 15
        assert line.quad == (2, top, 30, top, 30, top + 10, 2, top + 10)
        pixels = np.asarray(Image.open(io.BytesIO(line.image)))
        assert pixels.shape == (line.height, line.width, 3)
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(page)))[top - 1 : top + 11, 1:31])
    for shard in manifest.shards:
        table = pq.read_table(tmp_path / "out" / shard.path)
        assert table.schema.equals(LINE_SCHEMA) and table.num_rows == shard.num_rows
        assert set(table["split"].to_pylist()) == {shard.split}
        bare = list(read_lines(manifest, shard.split, images=False))
        assert bare == [replace(line, image=b"") for line in lines if line.split == shard.split]


def test_charset_counts(tmp_path: Path) -> None:
    manifest = pack(boxed_corpus(tmp_path / "corpus", 12, annotated=10), tmp_path / "out", use_ray=False)
    text = "".join(f"{i:02}:00Übung {i}" for i in range(10))
    assert manifest.charset == {char: text.count(char) for char in sorted(set(text))}
    assert load_card(tmp_path / "out").characters == len(text)


def test_same_bytes_every_time_and_through_a_uri(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 40)
    page, _ = draw_page(["Monday", "08:00", "Art"])
    page.save(corpus / "images/detected.png")
    (corpus / "annotations").mkdir()
    (corpus / "annotations/detected.txt").write_text("Monday\n08:00\nArt\nnot there at all\n")
    shutil.copytree(corpus, tmp_path / "copy")
    pack(corpus, tmp_path / "a", use_ray=False)
    pack(f"file://{tmp_path}/copy", f"file://{tmp_path}/b", use_ray=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [line.text for line in lines_of(tmp_path / "a") if "detected" in line.source] == ["Monday", "08:00", "Art"]
    assert "not there at all" in reasons(tmp_path / "a")["annotations/detected.txt"]


def test_packing_again_does_nothing_until_something_changes(tmp_path: Path) -> None:
    corpus, out = boxed_corpus(tmp_path / "corpus", 6), tmp_path / "out"
    first = pack(corpus, out, use_ray=False)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert pack(corpus, out, use_ray=False) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    whole = contents(out)
    # An unfinished folder, a lost shard, and an old one with more in it are all packed anew.
    (out / "manifest.json").unlink()
    (out / first.shards[0].path).write_bytes(b"half")
    pack(corpus, out, use_ray=False)
    assert contents(out) == whole
    (out / first.shards[0].path).unlink()
    pack(corpus, out, use_ray=False)
    assert contents(out) == whole
    assert pack(corpus, out, PackOptions(margin=0.2), use_ray=False).fingerprint != first.fingerprint
    boxed_corpus(corpus, 60, first=6)
    pack(corpus, out, use_ray=False)
    for i in range(6, 60):
        (corpus / f"images/{i:03}.png").unlink()
        (corpus / f"boxes/{i:03}.json").unlink()
    pack(corpus, out, use_ray=False)
    assert contents(out) == whole
    text = (corpus / "boxes/000.json").read_text()
    (corpus / "boxes/000.json").write_text(text.replace("00:00", "00:01"))
    assert pack(corpus, out, use_ray=False).fingerprint != first.fingerprint


def test_splits_stay_put_when_the_corpus_grows(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 30)
    pack(corpus, tmp_path / "small", use_ray=False)
    boxed_corpus(corpus, 90, first=30)
    pack(corpus, tmp_path / "large", use_ray=False)
    large = {line.id: line.split for line in lines_of(tmp_path / "large")}
    small = {line.id: line.split for line in lines_of(tmp_path / "small")}
    assert len(small) == 60 and small.items() <= large.items()
    assert set(small.values()) == set(SPLITS)
    by_page: dict[str, set[str]] = {}
    for line in lines_of(tmp_path / "large"):
        by_page.setdefault(line.page_id, set()).add(line.split)
    assert all(len(splits) == 1 for splits in by_page.values())


def test_bad_files_are_counted_and_cost_nothing_else(tmp_path: Path) -> None:
    corpus, out = boxed_corpus(tmp_path / "corpus", 30), tmp_path / "out"
    (corpus / "images/broken.png").write_bytes(b"")
    (corpus / "boxes/030.json").write_text("{")
    shutil.copy(corpus / "images/000.png", corpus / "images/copy.png")
    assert pack(corpus, out, use_ray=False).num_rows() == 60
    assert "0 bytes" in reasons(out)["images/broken.png"]
    assert reasons(out)["images/copy.png"] == "same image as images/000.png"
    assert load_card(out).quarantined == {"boxes": 1, "duplicate": 1, "image": 1}


def test_too_many_bad_files_stop_the_job_and_write_nothing(tmp_path: Path) -> None:
    corpus, out = boxed_corpus(tmp_path / "corpus", 17), tmp_path / "out"
    for i in range(3):
        (corpus / f"images/bad{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 20 files .* max_quarantine_share=0.1: images/bad0.png: .*0 bytes"):
        pack(corpus, out, use_ray=False)
    assert not out.exists()
    assert pack(corpus, out, PackOptions(max_quarantine_share=0.15), use_ray=False).num_rows() == 34


def test_of_two_equal_images_the_annotated_one_stays(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 3)
    shutil.copy(corpus / "images/002.png", corpus / "images/000-first.png")
    (corpus / "boxes/003.json").write_text((corpus / "boxes/001.json").read_text())
    shutil.copy(corpus / "images/002.png", corpus / "images/003.png")
    manifest = pack(corpus, tmp_path / "out", use_ray=False)
    assert manifest.num_rows() == manifest.num_annotated() == 6
    assert reasons(tmp_path / "out") == {
        "images/000-first.png": "same image as images/002.png",
        "images/003.png": "same image as images/002.png, whose annotation differs and is kept",
    }


def test_line_images_pass_straight_through(tmp_path: Path) -> None:
    corpus = line_corpus(tmp_path / "corpus", annotated=20, num=24)
    (corpus / "annotations/0003.txt").write_text("two\nlines\n")
    manifest = pack(corpus, tmp_path / "out", use_ray=False)
    assert manifest.corpus_kind == "lines" and manifest.num_rows() == 24 and manifest.num_annotated() == 19
    for line in lines_of(tmp_path / "out"):
        original = np.asarray(Image.open(corpus / line.source).convert("RGB"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(line.image))), original)
        assert line.quad is None
        text = corpus / "annotations" / (Path(line.source).stem + ".txt")
        assert line.text == (text.read_text() if text.exists() and "0003" not in line.source else None)
    assert "2 lines for an image of one line" in reasons(tmp_path / "out")["annotations/0003.txt"]


@pytest.mark.parametrize(
    ("size", "text", "kind"),
    [
        ((200, 100), "one", "lines"),
        ((199, 100), "one", "pages"),
        ((400, 200), "one", "lines"),
        ((420, 201), "one", "pages"),
        ((400, 100), "one\ntwo", "pages"),
        ((400, 100), None, "lines"),
    ],
)
def test_kind_of_corpus(tmp_path: Path, size: tuple[int, int], text: str | None, kind: str) -> None:
    (tmp_path / "corpus/images").mkdir(parents=True)
    Image.new("RGB", size).save(tmp_path / "corpus/images/a.png")
    if text:
        (tmp_path / "corpus/annotations").mkdir()
        (tmp_path / "corpus/annotations/a.txt").write_text(text)
    assert pack(tmp_path / "corpus", tmp_path / "out", use_ray=False).corpus_kind == kind


def test_boxes_and_line_images_contradict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="corpus_kind=lines, but 2 images have boxes"):
        pack(boxed_corpus(tmp_path / "c", 2), tmp_path / "out", PackOptions(corpus_kind="lines"), use_ray=False)


def test_a_foreign_output_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out/lines").mkdir(parents=True)
    (tmp_path / "out/lines/mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"mine\.txt"):
        pack(boxed_corpus(tmp_path / "corpus", 2), tmp_path / "out", use_ray=False)
    assert (tmp_path / "out/lines/mine.txt").read_text() == "precious"


def test_no_manifest_no_packed_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prepare\.py"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    "bad", [{"detector": "huge"}, {"validation_share": 0.5, "test_share": 0.5}, {"max_quarantine_share": 1.1}, {"x": 1}]
)
def test_bad_options(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PackOptions.model_validate(bad)


@pytest.mark.parametrize("pages", range(1, 8))
def test_few_annotated_pages_are_spread_over_the_splits(pages: int) -> None:
    for trial in range(50):
        annotated = {f"{trial}-{i}": i < pages for i in range(30)}
        splits = splits_of(annotated)
        held = {split: sum(splits[page] == split for page in annotated if annotated[page]) for split in SPLITS}
        moved = [page for page in annotated if splits[page] != split_of(page)]
        assert all(annotated[page] and split_of(page) == "train" for page in moved) and len(moved) <= 2
        by_hash = {split: sum(split_of(page) == split for page in annotated if annotated[page]) for split in SPLITS}
        assert held["train"] >= min(by_hash["train"], 1)
        if by_hash["train"] >= 3:
            assert min(held.values()) >= 1
        if all(by_hash.values()):
            assert not moved


def test_learnable(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 40)
    check_learnable(pack(corpus, tmp_path / "good", use_ray=False), need_labels=True)
    bare = pack(boxed_corpus(tmp_path / "b", 40, annotated=0), tmp_path / "bare", use_ray=False)
    check_learnable(bare, need_labels=False)
    with pytest.raises(ValueError, match="no annotated line to train on"):
        check_learnable(bare, need_labels=True)
    options = PackOptions(validation_share=0, test_share=0)
    with pytest.raises(ValueError, match="nothing is left for validation and test"):
        check_learnable(pack(corpus, tmp_path / "one", options, use_ray=False), need_labels=True)
    with pytest.raises(ValueError, match="nothing is left for test"):
        check_learnable(pack(corpus, tmp_path / "two", PackOptions(test_share=0), use_ray=False), need_labels=True)


def test_one_class_only(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 40)
    for i in range(40):
        path = corpus / f"boxes/{i:03}.json"
        path.write_text(path.read_text().replace(f"{i:02}:00", "x").replace(f"\\u00dcbung {i}", "x"))
    manifest = pack(corpus, tmp_path / "out", use_ray=False)
    for need_labels in (True, False):
        with pytest.raises(ValueError, match="one class only: all 80 annotated lines say 'x'"):
            check_learnable(manifest, need_labels=need_labels)


def test_card(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 40, annotated=30)
    pack(corpus, tmp_path / "out", use_ray=False)
    card = load_card(tmp_path / "out")
    assert [card.total(name) for name in ("pages", "annotated_pages", "lines", "annotated_lines")] == [40, 30, 80, 60]
    assert (card.page_widths.smallest, card.page_heights.largest, card.line_heights.p50) == (40, 30, 12)
    assert any("40 images are below the 1000" in warning for warning in card.warnings)
    console = Console(record=True, width=100, file=io.StringIO())
    print_card(tmp_path / "out", console)
    shown = console.export_text()
    assert "annotated lines" in shown and ":bgnuÜ" in shown and "below the 1000" in shown


def test_what_a_file_manager_leaves_changes_nothing(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 4)
    first = pack(corpus, tmp_path / "packed", use_ray=False)
    (corpus / "images/.DS_Store").write_bytes(b"x")
    assert pack(corpus, tmp_path / "packed", use_ray=False).fingerprint == first.fingerprint


def test_what_somebody_wrote_takes_the_place_of_what_a_teacher_read(tmp_path: Path) -> None:
    corpus = boxed_corpus(tmp_path / "corpus", 2)
    for path in corpus.glob("boxes/*.json"):
        boxes = json.loads(path.read_text())
        path.write_text(json.dumps(boxes | {"tags": {"labelled_by": "claude/m"}}))
    boxes = json.loads((corpus / "boxes/000.json").read_text())
    right = [line["text"] for line in boxes["lines"]]
    boxes["lines"] = [line | {"text": f"{line['text']}x"} for line in boxes["lines"]]
    (corpus / "boxes/000.json").write_text(json.dumps(boxes | {"tags": {"labelled_by": "claude/m"}}))
    (corpus / "annotations").mkdir(exist_ok=True)
    (corpus / "annotations/000.txt").write_text("\n".join(right))
    manifest = pack(corpus, tmp_path / "packed", PackOptions(max_distance=1.0), use_ray=False)
    found = [line for split in SPLITS for line in read_lines(manifest, split) if line.source == "images/000.png"]
    assert {line.text for line in found} == set(right) and all("labelled_by" not in line.tags for line in found)
    others = [line for split in SPLITS for line in annotated_lines(manifest, split, 100)]
    assert {line.source for line in others} <= {"images/000.png"}, "a teacher's text is no truth beside somebody's"
