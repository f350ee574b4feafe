"""The label-efficiency benchmark: which cells there are, and how they are kept and shown. What it trains is slow."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from claim import add_row
from efficiency_report import Cell, Measured, plot, read_cells, table, write_report
from label_efficiency import Surface, cells


def measured(cell: Cell, cer: float) -> Measured:
    return Measured(
        **vars(cell), cer=cer, cer_low=cer / 2, cer_high=2 * cer, cer_digits=None, accuracy=0.5, cer_before=0.2,
        validation_cer=None, steps=10,
    )  # fmt: skip


def test_every_combination_that_differs_is_there_once() -> None:
    wanted = list(cells(Surface(annotated=(0, 20, 200))))
    assert len(wanted) == len(set(wanted)) == 2 * (3 + 7 + 3)
    assert not any(c.annotated == 0 and c.teacher in ("none", "adapted") for c in wanted)
    assert {c.targets for c in wanted if c.annotated == 200} == {"-", "soft"}
    assert len({c.name for c in wanted if c.annotated == 20}) == 14  # each trains in a folder of its own
    assert {c.student for c in cells(Surface(students=("fresh",)))} == {"fresh"}


def test_what_was_measured_is_kept_and_the_last_of_two_counts(tmp_path: Path) -> None:
    cell = Cell(20, "fresh", "adapted", "both")
    rows = [measured(cell, 0.3), measured(Cell(5, "fresh", "none", "-"), 0.4), measured(cell, 0.1)]
    add_row(tmp_path / "cells.jsonl", rows[0])
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"annotated": 2')  # and then a kill
    for row in rows[1:]:
        add_row(tmp_path / "cells.jsonl", row)
    found = read_cells(tmp_path / "cells.jsonl")
    assert len(found) == 2 and found[cell].cer == 0.1
    assert read_cells(tmp_path / "absent.jsonl") == {}
    write_report(tmp_path, list(found))
    assert "| 20 |" in (tmp_path / "label_efficiency.md").read_text()
    assert (tmp_path / "label_efficiency.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_marks_the_best_of_a_row_and_leaves_gaps() -> None:
    none, soft = Cell(20, "fresh", "none", "-"), Cell(20, "fresh", "as it comes", "soft")
    text = table({none: measured(none, 0.05), soft: measured(soft, 0.04)}, [none, soft])
    row = next(line for line in text.splitlines() if line.startswith("| 20"))
    assert row.startswith("| 20 | 5.00 | **4.00** |") and row.count("|") == 9
    assert "(before training 20.0 %)" in text


def test_the_plot_has_a_panel_a_student_and_a_line_a_way_of_teaching() -> None:
    found = {c: measured(c, 0.01 * (i + 1)) for i, c in enumerate(cells(Surface()))}
    panels = plot(found).axes
    assert [panel.get_title() for panel in panels] == ["pre-trained student", "fresh student"]
    assert all(len(panel.lines) == 7 for panel in panels)
