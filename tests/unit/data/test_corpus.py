"""Every bad file is set aside with its reason, and takes nothing good with it."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs

from tdtrain.data.corpus import Page, PageRef, Quarantined, check_document, leaves, load_page, scan
from tdtrain.data.decode import decode_rgb
from tdtrain.data.storage import Folder, open_folder
from tdtrain.data.timetable import Document

GOOD_QUAD = [[2, 2], [40, 2], [40, 20], [2, 20]]


def png(width: int = 60, height: int = 40, mode: str = "RGB", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def load(root: Path, **files: bytes | str) -> Page:
    """One page from image=, text=, boxes=."""
    names = {"image": "images/a.png", "text": "annotations/a.txt", "boxes": "boxes/a.json"}
    write(root, {names[key]: content for key, content in files.items()})
    given = {key: names[key] if key in files else None for key in ("text", "boxes")}
    ref = PageRef(image=names["image"], annotation=given["text"], boxes=given["boxes"])
    return load_page(open_folder(root), ref, max_pixels=64_000_000, min_side=8)


def only(problems: tuple[Quarantined, ...]) -> Quarantined:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "0 bytes"),
        (png()[:900], "cannot be decoded"),
        (png(kind="JPEG")[:500], "cannot be decoded"),
        (b"no image at all", "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be decoded"),
        (png(1, 1), "1x1 is too small"),
        (png(300, 7), "300x7 is too small"),
        # Neither holds any pixels: a reason other than the size would mean that decoding was tried.
        (png_header_only(20_000, 20_000), "above 64 million pixels"),
        (png_header_only(9_000, 9_000), "9000x9000 is above 64 million pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_image(tmp_path: Path, image: bytes, reason: str) -> None:
    page = load(tmp_path, image=image, text="08:00")
    assert page.pixels is None
    problem = only(page.problems)
    assert (problem.path, problem.kind) == ("images/a.png", "image")
    assert reason in problem.reason


def test_limit_is_on_pixels_not_on_sides(tmp_path: Path) -> None:
    assert load(tmp_path, image=png(20_000, 8)).pixels is not None


def test_several_pages_in_one_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (20, 20)).save(buffer, "TIFF", save_all=True, append_images=[Image.new("L", (20, 20), 9)])
    assert "2 pages" in only(load(tmp_path, image=buffer.getvalue()).problems).reason


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("P", "TIFF"), ("CMYK", "TIFF")])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, kind: str) -> None:
    page = load(tmp_path, image=png(mode=mode, kind=kind))
    assert page.pixels is not None and page.pixels.shape == (40, 60, 3) and page.pixels.dtype == np.uint8


def test_deep_transparent_and_turned_images(tmp_path: Path) -> None:
    def saved(image: Image.Image, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        return buffer.getvalue()

    ramp = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)
    deep = load(tmp_path, image=saved(Image.fromarray(ramp))).pixels
    assert deep is not None and np.abs(deep[..., 0] - ramp / 257.0).max() <= 1
    clear = load(tmp_path, image=saved(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))).pixels
    assert clear is not None and (clear == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = load(tmp_path, image=saved(Image.new("RGB", (30, 20)), exif=exif)).pixels
    assert turned is not None and turned.shape == (30, 20, 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Müller".encode("latin-1"), "not UTF-8"),
        ("08:00".encode("utf-16"), "not UTF-8"),
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
        (b"08:\x0000", "U+0000"),
        (b"08:00\n\x1b[31mArt", "U+001B"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_annotation_keeps_the_image(tmp_path: Path, text: bytes, reason: str) -> None:
    page = load(tmp_path, image=png(), text=text)
    assert page.pixels is not None and page.lines is None and not page.annotated
    problem = only(page.problems)
    assert (problem.path, problem.kind) == ("annotations/a.txt", "annotation")
    assert reason in problem.reason


def test_text_is_cleaned(tmp_path: Path) -> None:
    page = load(tmp_path, image=png(), text="\ufeff 08:00 \t Mathe \r\n\r\nFranc\u0327ais\rArt\n")
    assert page.lines == ("08:00 Mathe", "Fran\u00e7ais", "Art")
    assert not page.problems


def test_boxes(tmp_path: Path) -> None:
    lines = [
        {"text": " 08:00", "quad": GOOD_QUAD, "field": "time"},
        {"quad": GOOD_QUAD},
        {"text": "out", "quad": [[2, 2], [400, 2], [400, 20], [2, 20]]},
        {"text": "mirrored", "quad": GOOD_QUAD[::-1]},
        {"text": "flat", "quad": [[2, 2], [40, 2], [40, 3], [2, 3]]},
        {"text": "\x07", "quad": GOOD_QUAD},
        {"text": " ", "quad": GOOD_QUAD},
    ]
    page = load(tmp_path, image=png(), boxes=json.dumps({"lines": lines, "tags": {"damage": "blur"}}))
    assert page.boxes is not None and page.annotated
    assert [(box.text, box.field) for box in page.boxes.lines] == [("08:00", "time"), (None, None)]
    assert page.boxes.tags == {"damage": "blur"}
    assert [problem.reason.split(":")[0] for problem in page.problems] == [f"lines.{i}" for i in range(2, 7)]
    assert {problem.kind for problem in page.problems} == {"line"}


@pytest.mark.parametrize(
    "boxes",
    ["{", "[]", '{"lines": [{"text": "a", "quad": [[1, 2]]}]}', '{"lines": [{"quad": [[0,0],[9,0],[9,9],[0,1e999]]}]}'],
)
def test_bad_box_file_keeps_the_image(tmp_path: Path, boxes: str) -> None:
    page = load(tmp_path, image=png(), boxes=boxes)
    assert page.pixels is not None and page.boxes is None
    assert only(page.problems).kind == "boxes"


def test_scan_pairs_by_name_in_sorted_order(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "images/b.PNG": png(),
            "images/sub/a.jpg": png(kind="JPEG"),
            "images/a.png": png(),
            "annotations/sub/a.txt": "x",
            "annotations/a.txt": "y",
            "annotations/a.json": "{}",
            "boxes/b.json": "{}",
        },
    )
    listing = scan(open_folder(root))
    assert listing.pages == (
        PageRef(image="images/a.png", annotation="annotations/a.txt"),
        PageRef(image="images/b.PNG", boxes="boxes/b.json"),
        PageRef(image="images/sub/a.jpg", annotation="annotations/sub/a.txt"),
    )
    assert listing.documents == ("annotations/a.json",)
    assert listing.quarantined == ()


def test_scan_sets_aside(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.png": png(), "secret.txt": "secret"})
    root = write(
        tmp_path / "corpus",
        {
            "images/a.png": png(),
            "images/a.jpg": png(kind="JPEG"),
            "images/scan.pdf": b"%PDF",
            "images/.DS_Store": b"x",
            "annotations/lonely.txt": "x",
            "annotations/a.docx": b"x",
            "boxes/lonely.json": "{}",
        },
    )
    (root / "images/link.png").symlink_to(outside / "secret.png")
    (root / "images/folder").symlink_to(outside)
    (root / "images/gone.png").symlink_to(tmp_path / "corpus/nowhere.png")
    (root / "annotations/a.txt").symlink_to(outside / "secret.txt")
    listing = scan(open_folder(root))
    assert listing.pages == (PageRef(image="images/a.jpg"),)
    reasons = {entry.path: entry.reason for entry in listing.quarantined}
    assert "same name as images/a.jpg" in reasons["images/a.png"]
    assert "unsupported type .pdf" in reasons["images/scan.pdf"]
    assert "hidden" in reasons["images/.DS_Store"]
    assert "no image of this name" in reasons["annotations/lonely.txt"]
    assert "no image of this name" in reasons["boxes/lonely.json"]
    assert "unsupported type .docx" in reasons["annotations/a.docx"]
    assert f"outside the corpus, to {outside}/secret.png" in reasons["images/link.png"]
    assert f"outside the corpus, to {outside}/secret.txt" in reasons["annotations/a.txt"]
    assert "images/folder" in reasons and "link to nothing" in reasons["images/gone.png"]
    assert len(reasons) == 10


def test_links_inside_the_corpus_and_a_linked_corpus_are_fine(tmp_path: Path) -> None:
    root = write(tmp_path / "real", {"store/a.png": png()})
    (root / "images").mkdir()
    (root / "images/a.png").symlink_to("../store/a.png")
    (tmp_path / "linked").symlink_to(root)
    assert scan(open_folder(tmp_path / "linked")).pages == (PageRef(image="images/a.png"),)


def test_a_remote_filesystem_is_listed_alike(tmp_path: Path) -> None:
    write(tmp_path / "corpus", {"images/sub/b.png": png(), "images/a.png": png(), "annotations/a.txt": "x"})
    remote = Folder(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "corpus")
    assert not remote.is_local
    assert scan(remote) == scan(open_folder(tmp_path / "corpus"))
    assert load_page(remote, scan(remote).pages[0], 10_000, 8).lines == ("x",)
    assert leaves(remote, "../outside.png") == "../outside.png"


@pytest.mark.parametrize("files", [{}, {"images/.keep": b""}, {"a.png": png()}, {"images/a.pdf": b"%PDF"}])
def test_no_usable_image_shows_the_layout(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"(?s)images/.*expected layout.*annotations/NAME\.txt"):
        scan(open_folder(write(tmp_path / "corpus", {"readme.md": "", **files})))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"image_path": "a.png"}, None),
        ({"image_path": "./images//a.png"}, None),
        ({"image_path": "/etc/passwd"}, "outside the corpus, to /etc/passwd"),
        ({"image_path": "images/../../outside.png"}, "outside the corpus"),
        ({"image_path": "images/link.png"}, "outside the corpus"),
        ({"image_path": "images/b.png"}, "no file of the corpus"),
        ({"image_path": None}, "image_path"),
        ({"timeblocks": []}, "timeblocks is empty"),
        ({"timeblocks": [{"day": "Mo"}]}, "timeblocks.0.name"),
    ],
)
def test_documents(tmp_path: Path, change: dict[str, object], reason: str | None) -> None:
    block = {"day": "Mo", "name": "Art", "startTime": "08:00", "endTime": "08:45"}
    document = {"image_path": "images/a.png", "className": "5a", "timeblocks": [block]} | change
    write(tmp_path, {"outside.png": png()})
    root = write(tmp_path / "corpus", {"images/a.png": png(), "annotations/a.json": json.dumps(document)})
    (root / "images/link.png").symlink_to(tmp_path / "outside.png")
    found = check_document(open_folder(root), "annotations/a.json")
    if reason is None:
        assert isinstance(found, Document) and found.image_path == "images/a.png"
    else:
        assert isinstance(found, Quarantined) and found.kind == "document" and reason in found.reason


def test_a_document_that_names_no_image_is_of_the_one_with_its_name(tmp_path: Path) -> None:
    block = {"day": "Mo", "name": "Art", "startTime": "08:00", "endTime": "08:45"}
    files = {f"annotations/{name}.json": json.dumps({"timeblocks": [block]}) for name in ("term/a", "b")}
    folder = open_folder(write(tmp_path, {"images/term/a.JPG": png(), "images/c.png": png()} | files))
    found = check_document(folder, "annotations/term/a.json")
    assert isinstance(found, Document) and found.image_path == "images/term/a.JPG"
    lost = check_document(folder, "annotations/b.json")
    assert isinstance(lost, Quarantined) and lost.reason == "image_path=images/b.png is no file of the corpus"


def test_a_name_that_is_no_text_is_set_aside_and_said(tmp_path: Path) -> None:
    root = write(tmp_path, {"images/a.png": png()})
    Path(os.fsdecode(os.fsencode(str(root)) + b"/images/caf\xe9.png")).write_bytes(png())
    listing = scan(open_folder(root))
    assert [page.image for page in listing.pages] == ["images/a.png"]
    (aside,) = listing.quarantined
    assert aside.reason == "its name is no UTF-8; rename it" and aside.path.endswith("caf\\udce9.png")
    json.dumps(aside.path).encode()


@pytest.mark.parametrize(
    "place", ["images/" + "a" * 300 + ".png", "images/\0.png", "data:image/png;base64," + "/" * 5000]
)
def test_an_image_path_that_is_none_is_set_aside(place: str, tmp_path: Path) -> None:
    block = {"day": "Mo", "name": "Art", "startTime": "08:00", "endTime": "08:45"}
    document = {"image_path": place, "timeblocks": [block]}
    root = write(tmp_path, {"images/a.png": png(), "annotations/a.json": json.dumps(document)})
    found = check_document(open_folder(root), "annotations/a.json")
    assert isinstance(found, Quarantined) and found.kind == "document" and len(found.reason) < 600


def test_a_folder_that_cannot_be_listed_is_not_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, {"images/a.png": png(), "images/2023/b.png": png()})
    listed = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("2023"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="2023"):
        scan(open_folder(root))


def test_a_photograph_with_a_preview_behind_it_is_one_page() -> None:
    file = io.BytesIO()
    photo, preview = Image.new("RGB", (64, 48), "white"), Image.new("RGB", (32, 24))
    photo.save(file, "MPO", save_all=True, append_images=[preview])
    assert decode_rgb(file.getvalue(), 10**6, 8).shape == (48, 64, 3)
