"""A corpus on disk: what is in it, what belongs together, and what must be set aside.

    images/NAME.png|jpg|...   a page, or one line
    annotations/NAME.txt      optional: its text, UTF-8, lines in reading order
    annotations/NAME.json     optional: a document, the timetable as structured data
    boxes/NAME.json           optional: exact boxes, {"lines": [{"text", "quad", "field"}], "tags": {}}

The user's files are never changed. Nothing bad is dropped in silence: it becomes a `Quarantined` with its reason.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from tdtrain.data.annotation import LABELLED_BY, BadAnnotationError, Boxes, parse_boxes, parse_document, parse_text
from tdtrain.data.decode import FORMATS, BadImageError, decode_rgb
from tdtrain.data.rows import content_id
from tdtrain.data.storage import Folder
from tdtrain.data.timetable import Document

LAYOUT = """expected layout:
  images/NAME.png          one page or one line (png, jpg, bmp, tif, webp)
  annotations/NAME.txt     optional: its text, UTF-8, lines in reading order
  annotations/NAME.json    optional: the timetable, {"className": "5a", "timeblocks": [{"day": "Monday", "name": "Art",
                           "startTime": "08:00", "endTime": "08:45"}]}
  boxes/NAME.json          optional: {"lines": [{"text": "08:00", "quad": [[x,y],[x,y],[x,y],[x,y]]}]}"""

Kind = Literal["image", "annotation", "boxes", "document", "duplicate", "ignored", "line"]
BROKEN: tuple[Kind, ...] = ("image", "annotation", "boxes")
"""The kinds that count against `max_quarantine_share`; the others lose nothing or are counted by themselves."""


class Quarantined(BaseModel):
    """One thing that was set aside, and why."""

    model_config = ConfigDict(frozen=True)
    path: str
    kind: Kind
    reason: str


class PageRef(BaseModel):
    """The files of one page, relative to the corpus."""

    model_config = ConfigDict(frozen=True)
    image: str
    annotation: str | None = None
    boxes: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a corpus holds by its file names, in an order that depends on nothing else."""

    pages: tuple[PageRef, ...]
    documents: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True)
class Page:
    """One page, read and checked.

    Attributes:
        digest: hash of all its files.
        page_id: hash of the image's bytes.
        pixels: uint8 H,W,3 RGB, or None where the image cannot be used.
        lines: the annotation's lines, or None where there is none.
        boxes: exact boxes, or None.
        problems: what is wrong with its files.
    """

    digest: str
    page_id: str
    pixels: NDArray[np.uint8] | None
    lines: tuple[str, ...] | None
    boxes: Boxes | None
    problems: tuple[Quarantined, ...]

    @property
    def annotated(self) -> bool:
        return self.lines is not None or (self.boxes is not None and any(line.text for line in self.boxes.lines))

    @property
    def by_machine(self) -> bool:
        """Whether what is annotated was written by a teacher, and by nobody else."""
        return self.lines is None and self.boxes is not None and LABELLED_BY in self.boxes.tags


def scan(folder: Folder) -> Listing:
    """Lists a corpus and pairs its files by name; opens none of them.

    Raises:
        ValueError: there is no images/ folder with a usable file in it.
    """
    if not folder.files("images"):
        raise ValueError(f"dataset_path={folder.root} holds no images/ folder with images in it; {LAYOUT}")
    images, bad = scan_images(folder, "images")
    texts, documents, boxes, bad_annotations = scan_annotations(folder)
    bad += bad_annotations
    paired: tuple[tuple[Kind, dict[str, str]], ...] = (("annotation", texts), ("boxes", boxes))
    for kind, paths in paired:
        reason = "no image of this name in images/"
        bad += [Quarantined(path=path, kind=kind, reason=reason) for key, path in paths.items() if key not in images]
    if not images:
        raise ValueError(f"dataset_path={folder.root} has no usable file in images/ ({bad[0].reason}); {LAYOUT}")
    pages = [PageRef(image=path, annotation=texts.get(k), boxes=boxes.get(k)) for k, path in images.items()]
    return Listing(tuple(pages), tuple(documents.values()), tuple(bad))


FAILED = "failed.jsonl"


def images_of(folder: Folder) -> tuple[dict[str, str], dict[str, str]]:
    """The images of a folder, or of its images/: path by name without the ending; and why others cannot be used.

    Raises: ValueError where there is none.
    """
    images, bad = scan_images(folder, "images" if folder.files("images") else "")
    if not images:
        why = f" ({bad[0].path}: {bad[0].reason})" if bad else ""
        raise ValueError(f"dataset_path={folder.root} holds no image that can be used{why}")
    return images, {entry.path: entry.reason for entry in bad if entry.kind != "ignored"}


def write_failed(out: Folder, failed: Mapping[str, str]) -> None:
    """Writes failed.jsonl: which images have nothing, and why; none where there are none."""
    out.delete(FAILED)
    if failed:
        rows = (json.dumps({"image": image, "reason": why}, ensure_ascii=False) for image, why in failed.items())
        out.write(FAILED, "".join(f"{row}\n" for row in rows).encode())


def scan_annotations(folder: Folder) -> tuple[dict[str, str], dict[str, str], dict[str, str], list[Quarantined]]:
    """Texts, documents and boxes of a corpus, their paths by name without the ending; and what is set aside."""
    annotations, bad = _scan_part(folder, "annotations", "annotation", {".txt", ".json"})
    boxes, bad_boxes = _scan_part(folder, "boxes", "boxes", {".json"})
    documents = {key.removesuffix(".json"): path for key, path in annotations.items() if path.lower().endswith(".json")}
    texts = {key: path for key, path in annotations.items() if path not in documents.values()}
    return texts, documents, boxes, bad + bad_boxes


def scan_images(folder: Folder, part: str) -> tuple[dict[str, str], list[Quarantined]]:
    """The images below a subfolder ("" is the folder itself): path by its name without the ending, and what is set
    aside."""
    return _scan_part(folder, part, "image", set(FORMATS))


def _scan_part(folder: Folder, part: str, kind: Kind, endings: set[str]) -> tuple[dict[str, str], list[Quarantined]]:
    kept: dict[str, str] = {}
    bad: list[Quarantined] = []
    for name in folder.files(part):
        path, ending = f"{part}/{name}".lstrip("/"), PurePosixPath(name).suffix.lower()
        key = _stem(name) + (".json" if kind == "annotation" and ending == ".json" else "")
        if not _is_text(path):
            spelt = path.encode(errors="backslashreplace").decode()
            bad.append(Quarantined(path=spelt, kind=kind, reason="its name is no UTF-8; rename it"))
        elif posixpath.normpath(name) != name:  # in a bucket, which knows no folders
            bad.append(Quarantined(path=path, kind=kind, reason="its name leads elsewhere; rename it"))
        elif PurePosixPath(name).name.startswith(".") or PurePosixPath(name).name.lower() == "thumbs.db":
            bad.append(Quarantined(path=path, kind="ignored", reason="a hidden file"))
        elif folder.is_local and not Path(folder.path(path)).is_file():
            bad.append(Quarantined(path=path, kind=kind, reason="a link to nothing, or to a folder"))
        elif ending not in endings:
            reason = f"unsupported type {ending or 'without an ending'}; use {', '.join(sorted(endings))}"
            bad.append(Quarantined(path=path, kind=kind, reason=reason))
        elif target := leaves(folder, path):
            bad.append(Quarantined(path=path, kind=kind, reason=f"leads outside the corpus, to {target}"))
        elif key in kept:
            bad.append(Quarantined(path=path, kind=kind, reason=f"has the same name as {kept[key]}; rename one"))
        else:
            kept[key] = path
    return kept, bad


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def leaves(folder: Folder, path: str) -> str | None:
    """Where a path inside the corpus leads, if that is outside of it (.., absolute, or through a link); else None."""
    plain = posixpath.normpath(path)
    if plain.startswith(("/", "../")) or plain == "..":
        return plain
    if not folder.is_local:
        return None
    target = Path(folder.path(path)).resolve()
    return None if target.is_relative_to(Path(folder.root).resolve()) else str(target)


def digest_page(folder: Folder, ref: PageRef) -> str:
    """Hash of a page's files, without decoding any."""
    return content_id(*(folder.read(path) if path else None for path in (ref.image, ref.annotation, ref.boxes)))


def load_page(folder: Folder, ref: PageRef, max_pixels: int, min_side: int) -> Page:
    """Reads, checks and decodes one page. A bad annotation or box file leaves the page as an unannotated one."""
    image, text, boxes_json = (folder.read(path) if path else None for path in (ref.image, ref.annotation, ref.boxes))
    problems: list[Quarantined] = []
    lines: tuple[str, ...] | None = None
    boxes: Boxes | None = None
    pixels: NDArray[np.uint8] | None = None
    try:
        pixels = decode_rgb(image or b"", max_pixels, min_side)
    except BadImageError as error:
        problems.append(Quarantined(path=ref.image, kind="image", reason=str(error)))
    if ref.annotation and text is not None:
        try:
            lines = parse_text(text)
        except BadAnnotationError as error:
            problems.append(Quarantined(path=ref.annotation, kind="annotation", reason=str(error)))
    if ref.boxes and boxes_json is not None and pixels is not None:
        try:
            boxes, bad = parse_boxes(boxes_json, width=pixels.shape[1], height=pixels.shape[0])
            problems += [Quarantined(path=ref.boxes, kind="line", reason=reason) for reason in bad]
        except (BadAnnotationError, ValidationError) as error:
            problems.append(Quarantined(path=ref.boxes, kind="boxes", reason=first_line(error)))
    return Page(content_id(image, text, boxes_json), content_id(image), pixels, lines, boxes, tuple(problems))


def check_document(folder: Folder, path: str) -> Document | Quarantined:
    """Reads one annotations/NAME.json and checks it; its image must exist inside the corpus, where `image_path` then
    has it. One that does not say is of the image that has its name."""
    try:
        raw = folder.read(path)
        document = parse_document(raw, "" if b'"image_path"' in raw else _image_named(folder, path))
    except (BadAnnotationError, ValidationError) as error:
        return Quarantined(path=path, kind="document", reason=first_line(error))
    reason = f"image_path={document.image_path[:200]} is no file of the corpus"
    try:
        if target := leaves(folder, document.image_path):
            return Quarantined(path=path, kind="document", reason=f"image_path leads outside the corpus, to {target}")
        for place in (document.image_path, f"images/{document.image_path}"):
            if folder.exists(place):
                return document.model_copy(update={"image_path": posixpath.normpath(place)})
    except (OSError, ValueError) as error:  # too long for a name, or none at all
        reason = f"{reason} ({first_line(error)[:200]})"
    return Quarantined(path=path, kind="document", reason=reason)


def _image_named(folder: Folder, path: str) -> str:
    """The image that has the name of a document; one that is not there where none has."""
    stem = _stem(f"images/{path.removeprefix('annotations/')}")
    places = (f"{stem}{same}" for ending in FORMATS for same in (ending, ending.upper()))
    return next((place for place in places if folder.exists(place)), f"{stem}.png")


def first_line(error: Exception) -> str:
    """An error as one line for the quarantine table."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'file'}: {first['msg']}"
    return str(error)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
