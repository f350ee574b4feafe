"""A study has its folder for itself, and its rows on the disk as they come."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from tdtrain.options import Frozen

Row = TypeVar("Row", bound=BaseModel)


def claim(root: Path, study: Frozen, *free: str) -> None:
    """Ends, in words, where the folder holds another study; else it is this one's from now on.

    Args:
        free: fields in which the same study may differ from one time to the next.
    """
    asked, held = study.model_dump_json(exclude={"output_dir", "dry_run", *free}), root / "study.json"
    if held.exists() and held.read_text() != asked:
        sys.exit(f"error: output_dir={root} holds another study, {held.read_text()}; give another folder")
    root.mkdir(parents=True, exist_ok=True)
    held.write_text(asked)


def add_row(path: Path, row: BaseModel) -> None:
    """Adds a line of JSON, on a line of its own whatever a study that was killed left."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{row.model_dump_json()}\n")


def rows_in(path: Path, kind: type[Row]) -> list[Row]:
    """The rows that were written to their end."""
    found = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [kind.model_validate(row) for row in found]
