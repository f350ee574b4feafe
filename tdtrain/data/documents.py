"""The structured annotations of a packed corpus: what each page says as a timetable, beside its lines.

documents.parquet   source (the page's image inside the corpus), document (canonical JSON), labelled_by (the teacher
                    that wrote it; null where somebody did)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tdtrain.data.annotation import parse_document
from tdtrain.data.known import NOTHING
from tdtrain.data.layout import PlacedLine
from tdtrain.data.manifest import Manifest, read_lines
from tdtrain.data.rows import SPLITS, Split
from tdtrain.data.storage import Folder, open_folder
from tdtrain.data.timetable import Timetable

DOCUMENTS = "documents.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("labelled_by", pa.string()),
        pa.field("page_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


def write_documents(
    corpus: Folder, paths: Mapping[str, str], pages: Mapping[str, tuple[str, Split]], out: Folder
) -> None:
    """Puts checked annotations/NAME.json files of a corpus into one file.

    Args:
        paths: of the files, by the image that each describes.
        pages: id and split of each image that was packed; others have no document.
    """
    rows = []
    for image in (image for image in paths if image in pages):
        document, (page_id, split) = parse_document(corpus.read(paths[image]), image), pages[image]
        rows.append({
            "source": image, "page_id": page_id, "split": split,
            "document": document.canonical(), "labelled_by": document.labelled_by,
        })  # fmt: skip
    out.filesystem.create_dir(out.root, recursive=True)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out.path(DOCUMENTS), filesystem=out.filesystem)


@dataclass(frozen=True)
class Told:
    """What a page says, as somebody wrote down, or a teacher."""

    document: Timetable
    page_id: str
    split: Split
    labelled_by: str | None = None


def read_documents(manifest: Manifest) -> dict[str, Told]:
    """What the annotated pages of a packed corpus say, by the page's image."""
    folder = open_folder(manifest.root)
    table = pq.read_table(folder.path(DOCUMENTS), filesystem=folder.filesystem)
    return {
        row["source"]: Told(
            Timetable.model_validate_json(row["document"]), row["page_id"], row["split"], row["labelled_by"]
        )
        for row in table.to_pylist()
    }


class PageText:
    """One page as text that was found on it, and what somebody says it says, or a teacher: `labelled_by`."""

    def __init__(self, source: str, page_id: str, split: Split, truth: Timetable | None) -> None:
        self.source, self.page_id, self.split, self.truth = source, page_id, split, truth
        self.labelled_by: str | None = None
        self.lines: list[PlacedLine] = []
        self.layout: str | None = None
        self.known = NOTHING
        """What is known of its days and names; see `Lexicon.known`."""


def read_pages(manifest: Manifest, texts: dict[str, str] | None = None) -> list[PageText]:
    """The pages of a packed corpus, by split and in packed order.

    Pages on which no line was found are there, without lines, where they have a document: nobody writes those.
    Where somebody wrote documents, those that a teacher wrote are learnt from, and not measured by.

    Args:
        texts: what the lines say, by their id; None: what their annotation says. Lines without a text are left out.
    """
    documents = read_documents(manifest)
    by_hand = any(told.labelled_by is None for told in documents.values())
    pages: dict[str, PageText] = {}

    def page_of(source: str, page_id: str, split: Split) -> PageText:
        if page_id not in pages:
            pages[page_id] = PageText(source, page_id, split, None)
            told = documents.get(source)
            if told is not None and not (by_hand and told.labelled_by and split != "train"):
                pages[page_id].truth, pages[page_id].labelled_by = told.document, told.labelled_by
        return pages[page_id]

    for split in SPLITS:
        for line in read_lines(manifest, split, images=False):
            page = page_of(line.source, line.page_id, split)
            text = line.text if texts is None else texts.get(line.id)
            page.layout = line.tags.get("layout")
            if text and line.quad:
                page.lines.append(PlacedLine(text, line.quad))
    for source, told in documents.items():  # pages on which no line was found
        page_of(source, told.page_id, told.split)
    return list(pages.values())
