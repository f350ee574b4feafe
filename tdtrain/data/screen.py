"""Which of a corpus's files are used, decided from what the inspection found."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from tdtrain.data.corpus import BROKEN, Listing, PageRef, Quarantined
from tdtrain.data.tasks import Inspected


def with_documents(found: dict[str, Inspected]) -> tuple[dict[str, Inspected], dict[str, str], list[Quarantined]]:
    """What was found, pages knowing that they have a document; the documents' paths by image; and second ones."""
    paths: dict[str, str] = {}
    second = []
    for path in sorted(path for path, item in found.items() if item.describes):
        image = found[path].describes or ""
        if (first := paths.setdefault(image, path)) != path:
            reason = f"{image} is described by {first} already"
            second.append(Quarantined(path=path, kind="document", reason=reason))
    told = {
        image: {"documented": True, "documented_by_machine": found[path].by_machine} for image, path in paths.items()
    }
    return {path: item.model_copy(update=told.get(path, {})) for path, item in found.items()}, paths, second


def without_duplicates(pages: list[PageRef], found: dict[str, Inspected]) -> tuple[list[PageRef], list[Quarantined]]:
    """Of images with the same bytes the first annotated one stays."""
    kept: dict[str | None, PageRef] = {}
    for ref in sorted(pages, key=lambda ref: (-found[ref.image].annotated - found[ref.image].documented, ref.image)):
        kept.setdefault(found[ref.image].page_id, ref)
    duplicates = []
    for ref in pages:
        first = kept[found[ref.image].page_id]
        if first != ref:
            other = found[ref.image].annotated and found[ref.image].digest != found[first.image].digest
            reason = f"same image as {first.image}" + (", whose annotation differs and is kept" if other else "")
            duplicates.append(Quarantined(path=ref.image, kind="duplicate", reason=reason))
    return [ref for ref in pages if kept[found[ref.image].page_id] == ref], duplicates


def corpus_kind(
    pages: Sequence[PageRef], found: dict[str, Inspected], asked: Literal["auto", "pages", "lines"]
) -> Literal["pages", "lines"]:
    items = [found[ref.image] for ref in pages]
    boxed = sum(item.has_boxes for item in items)
    if asked == "lines" and boxed:
        raise ValueError(f"corpus_kind=lines, but {boxed} images have boxes/NAME.json; use corpus_kind=pages")
    if asked != "auto":
        return asked
    if boxed or not items or any(item.documented for item in items):
        return "pages"
    told = [item for item in items if item.annotated]
    one_line = sum(item.num_lines == 1 for item in told) >= 0.9 * len(told)
    shown = told or items
    wide = median(item.width / item.height for item in shown) >= 2
    return "lines" if one_line and wide and median(item.height for item in shown) <= 200 else "pages"


def without_several_lines(pages: list[PageRef], found: dict[str, Inspected]) -> tuple[list[PageRef], list[Quarantined]]:
    """Line images keep an annotation of one line only."""
    bad = [ref for ref in pages if (found[ref.image].num_lines or 1) > 1]
    reasons = [
        Quarantined(
            path=ref.annotation or ref.image,
            kind="annotation",
            reason=f"{found[ref.image].num_lines} lines for an image of one line; "
            "rayjobs/prepare.py --corpus_kind pages packs pages",
        )
        for ref in bad
    ]
    return [ref.model_copy(update={"annotation": None}) if ref in bad else ref for ref in pages], reasons


def check_share(listing: Listing, quarantined: Sequence[Quarantined], allowed: float) -> None:
    broken = {entry.path: entry for entry in quarantined if entry.kind in BROKEN}
    unlisted = sum(entry.kind in BROKEN for entry in listing.quarantined)
    total = len(listing.pages) + len(listing.documents) + unlisted
    if len(broken) > allowed * total:
        raise ValueError(
            f"{len(broken)} of {total} files are unusable, more than max_quarantine_share={allowed}: "
            f"{first_reasons(list(broken.values()))}; mend them, or pack with a higher max_quarantine_share "
            "(rayjobs/prepare.py) to go on without them"
        )


def first_reasons(quarantined: Sequence[Quarantined], count: int = 5) -> str:
    shown = "; ".join(f"{entry.path}: {entry.reason}" for entry in quarantined[:count])
    return shown + (f"; and {len(quarantined) - count} more" if len(quarantined) > count else "")
