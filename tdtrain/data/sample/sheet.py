"""What a page looks like, as plain data that `page.typ` draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Field = Literal[
    "title",
    "class",
    "date",
    "heading",
    "day",
    "period",
    "time",
    "subject",
    "teacher",
    "room",
    "entry",
    "break",
    "note",
]
"""What a line says; `entry` is a line that says several things, such as subject and room."""
Align = Literal["left", "center", "right"]
Rules = Literal["all", "horizontal", "vertical", "outer", "none"]


@dataclass(frozen=True)
class Text:
    """One line of ground truth: it is drawn on one line and never wrapped. Size is relative to the page's."""

    text: str
    field: Field
    size: float = 1.0
    bold: bool = False
    italic: bool = False
    ink: str | None = None


@dataclass(frozen=True)
class Cell:
    """A table cell at (row, column), counted from 0, with its lines top to bottom. Colours are #rrggbb."""

    row: int
    column: int
    texts: tuple[Text, ...]
    rowspan: int = 1
    colspan: int = 1
    fill: str | None = None
    align: Align | None = None


@dataclass(frozen=True)
class Style:
    """How a page is drawn. Lengths are points; `inset` and `leading` are inside cells."""

    font: str
    size: float
    ink: str
    paper: str
    rules: Rules
    rule: float
    rule_ink: str
    header_fill: str | None
    header_ink: str
    header_bold: bool
    stripe: str | None
    tints: tuple[str, ...]
    align: Align
    valign: Literal["top", "horizon"]
    inset_x: float
    inset_y: float
    leading: float
    margin: float
    min_width: float
    head_align: Literal["left", "center", "spread"]
    title_size: float
    emphasis: Literal["none", "bold", "italic"]


@dataclass(frozen=True)
class Sheet:
    """A whole page: lines above, table, lines below. Columns from `label_columns` on are made equally wide."""

    language: str
    layout: str
    style: Style
    head: tuple[tuple[Text, ...], ...]
    cells: tuple[Cell, ...]
    num_columns: int
    label_columns: int
    foot: tuple[Text, ...]

    def texts(self) -> list[Text]:
        """All lines in reading order: head, table row by row and cell by cell, foot."""
        cells = sorted(self.cells, key=lambda cell: (cell.row, cell.column))
        above = [text for row in self.head for text in row]
        return above + [text for cell in cells for text in cell.texts] + list(self.foot)
