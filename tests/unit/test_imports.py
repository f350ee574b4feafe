"""What Ray's own processes import, a dozen of them at the start of every run, stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("tdtrain.data.batches", ("torch", "transformers", "ray")),
        ("tdtrain.models.line_pixels", ("torch", "transformers")),
        ("tdtrain.models.ctc_codec", ("torch", "transformers")),
        ("tdtrain.train.board", ("torch", "transformers")),
        ("tdtrain.train.whole", ("torch", "transformers", "ray")),
        ("tdtrain.train.on_ray", ("transformers", "deepspeed", "tdtrain.train.loop")),
    ],
)
def test_no_process_waits_for_what_it_never_uses(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*(name for name in {heavy!r} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_every_study_can_be_imported() -> None:
    """They take hours, so that no test runs them."""
    folder = Path(__file__).parents[2] / "benchmarks"
    names = sorted(path.stem for path in folder.glob("*.py"))
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import {', '.join(names)}"
    assert len(names) > 10
    subprocess.run([sys.executable, "-c", code], check=True)
