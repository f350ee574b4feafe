"""What a run that goes on has saved so far."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tdtrain.train.on_ray import committed_step


def committed(output: Path) -> int:
    """The last step of the student's that Ray Train committed, 0 before there is any."""
    steps = [0]
    for record in output.glob("checkpoints/*/student"):
        with contextlib.suppress(json.JSONDecodeError):  # it is being written
            steps.append(committed_step(str(record)))
    return max(steps)
