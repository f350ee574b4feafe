"""A study has its folder for itself."""

from __future__ import annotations

import sys
from pathlib import Path

from tdtrain.options import Frozen


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
