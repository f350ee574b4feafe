"""What Ray's own processes import, a dozen of them at the start of every run, stays light."""

from __future__ import annotations

import subprocess
import sys

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
