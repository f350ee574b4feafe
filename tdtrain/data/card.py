"""The data card: what a packed corpus holds, for people and for reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from tdtrain.data.rows import SPLITS, Split
from tdtrain.data.storage import open_folder

MIN_FINE_TUNE, MIN_DISTIL, MIN_DOCUMENTS = 1000, 5000, 500
"""The guide's minimums: images to fine-tune, images to distil, documents."""
CARD = "card.json"


class Spread(BaseModel):
    """How a number is spread: smallest, percentiles, largest."""

    model_config = ConfigDict(frozen=True)
    smallest: int
    p5: int
    p50: int
    p95: int
    largest: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread:
        chosen = np.asarray(list(values) or [0])
        marks = np.percentile(chosen, [0, 5, 50, 95, 100], method="nearest")
        return cls(**dict(zip(cls.model_fields, (int(mark) for mark in marks), strict=True)))


class SplitCount(BaseModel):
    """What one split holds."""

    model_config = ConfigDict(frozen=True)
    pages: int
    annotated_pages: int
    lines: int
    annotated_lines: int


class Card(BaseModel):
    """A packed corpus in numbers. Sizes are pixels."""

    model_config = ConfigDict(frozen=True)
    corpus_kind: str
    splits: dict[Split, SplitCount]
    documents: int
    characters: int
    charset: dict[str, int]
    page_widths: Spread
    page_heights: Spread
    line_heights: Spread
    quarantined: dict[str, int]
    """How many things were set aside, by kind; quarantine.parquet has each with its reason."""
    reasons: tuple[str, ...]
    """The first of them, to show."""
    warnings: tuple[str, ...]

    def total(self, field: str) -> int:
        """A field of SplitCount, summed over the splits."""
        return sum(getattr(count, field) for count in self.splits.values())


def warnings_of(
    splits: dict[Split, SplitCount], documents: int, quarantined: Counter[str], kind: str, only_machines: Sequence[str]
) -> list[str]:
    """What the user of a corpus should know before training on it."""
    pages = sum(count.pages for count in splits.values())
    annotated = sum(count.annotated_lines for count in splits.values())
    found = []
    if pages < MIN_FINE_TUNE:
        found.append(f"{pages} images are below the {MIN_FINE_TUNE} recommended to fine-tune ({MIN_DISTIL} to distil)")
    elif pages < MIN_DISTIL:
        found.append(f"{pages} images are below the {MIN_DISTIL} recommended to distil")
    if 0 < documents < MIN_DOCUMENTS:
        found.append(f"{documents} documents are below the {MIN_DOCUMENTS} recommended")
    found += [
        f"a teacher wrote all {what}: what is measured is how close a student comes to it; annotate some pages of the "
        "dataset by hand, and they alone are measured by"
        for what in only_machines
    ]
    if not annotated:
        found.append("no line is annotated: a teacher can still teach here, but nothing can be measured")
    else:
        for split in SPLITS:
            if not splits[split].annotated_lines:
                found.append(f"no line of the {split} split is annotated")
    if kind == "pages" and quarantined["line"] > 0.1 * (quarantined["line"] + annotated):
        found.append(
            f"{quarantined['line']} annotated lines were not found on their pages; write one annotation line for each "
            "piece of text that stands by itself (a table cell, not a table row)"
        )
    return found


def load_card(path: str | Path) -> Card:
    """The data card of a packed corpus."""
    return Card.model_validate_json(open_folder(path).read(CARD))


def print_card(path: str | Path, console: Console | None = None) -> None:
    """Prints the card of a packed corpus as tables."""
    console, card = console or Console(), load_card(path)
    table = Table(title=f"Data card ({card.corpus_kind})", title_justify="left")
    table.add_column("split")
    for name in SplitCount.model_fields:
        table.add_column(name.replace("_", " "), justify="right")
    for split in SPLITS:
        table.add_row(split, *(f"{value:,}" for value in card.splits[split].model_dump().values()))
    table.add_row("all", *(f"{card.total(name):,}" for name in SplitCount.model_fields), style="bold")
    console.print(table)
    sizes = Table(title="Sizes, pixels", title_justify="left")
    sizes.add_column("")
    for name in Spread.model_fields:
        sizes.add_column(name, justify="right")
    for name in ("page_widths", "page_heights", "line_heights"):
        sizes.add_row(name.replace("_", " "), *(str(value) for value in getattr(card, name).model_dump().values()))
    console.print(sizes)
    console.print(f"{card.documents:,} documents, {card.characters:,} characters, {len(card.charset)} different ones:")
    console.print("".join(sorted(card.charset)), markup=False, highlight=False)
    if card.quarantined:
        counts = ", ".join(f"{number} {kind}" for kind, number in card.quarantined.items())
        console.print(f"set aside ({counts}), all of them in quarantine.parquet:", style="yellow")
        for reason in card.reasons:
            console.print(f"  {reason}", markup=False, highlight=False, soft_wrap=True)
    for warning in card.warnings:
        console.print(f"note: {warning}", style="yellow", markup=False, highlight=False)
