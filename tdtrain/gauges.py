"""Figures for Prometheus, through Ray's own metrics: `ray_tdtrain_NAME` on every node's metrics port, for Grafana (see
cluster/grafana)."""

from __future__ import annotations

import sys
from typing import Any

WORDS = {
    "images_per_s": "Lines that a training takes in a second.",
    "loss": "Training loss, nats a position.",
    "score": "CER on the validation split, or the loss of documents.",
    "done": "Steps, lines, pages or trials that are done.",
    "total": "Steps, lines, pages or trials in all.",
    "label_hits": "Lines that a teacher's cache held already.",
    "spend_usd": "US dollars that a service took or that are set aside.",
}
_made: dict[str, Any] = {}


def gauge(name: str, value: float, run: str, what: str) -> None:
    """Sets a gauge of `WORDS`, where this process is connected to Ray.

    Args:
        run: the job's output folder, by its name.
        what: of the job: student, control, label, trials.
    """
    ray = sys.modules.get("ray")  # who is not on Ray does not wait for its import
    if ray is None or not ray.is_initialized():
        return
    if name not in _made:
        from ray.util.metrics import Gauge

        _made[name] = Gauge(f"tdtrain_{name}", WORDS[name], ("run", "what"))
    _made[name].set(value, {"run": run, "what": what})
