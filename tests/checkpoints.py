"""What a run that goes on has saved so far."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tdtrain.train.on_ray import SNAPSHOT


def committed(output: Path) -> int:
    """The last step of the student's that Ray Train committed, 0 before there is any."""
    steps = [0]
    for snapshot in output.glob(f"checkpoints/*/student/{SNAPSHOT}"):
        with contextlib.suppress(json.JSONDecodeError):  # it is being written
            if latest := json.loads(snapshot.read_text())["latest_checkpoint_result"]:
                steps.append(int(latest["metrics"]["step"]))
    return max(steps)
