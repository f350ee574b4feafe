"""Who hears of a search while it goes on: the terminal, Grafana, and MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tdtrain.gauges import gauge
from tdtrain.report.tracking import Tracker
from tdtrain.train.progress import Display


class Told:
    """Shows how the search goes, and tracks each trial as a child of its MLflow run."""

    def __init__(self, display: Display, tracker: Tracker, num_trials: int, run: str, what: str = "trials") -> None:
        self._show = display.counting(what, self._words)
        self._run = run
        self._num_trials = num_trials
        self._best, self._ended = math.inf, 0
        self._failed: set[str] = set()
        self._children = tracker.children()

    def __call__(self, trial: str, figures: Mapping[str, Any], what: str) -> None:
        if what == "forgotten":
            self._children.forget(trial)
        elif what == "known":  # of a driver before this one
            self._ended += 1
            self._best = min(self._best, figures.get("score", math.inf))
        elif what == "began":
            self._children.begin(trial, figures)
        elif what == "reported":
            self._best = min(self._best, figures.get("score", math.inf))
            if "failure" in figures:  # which it reports, and ends
                self._failed.add(trial)
            if math.isfinite(self._best):
                gauge("score", self._best, self._run, "best trial")
            for figure in ("loss", "images_per_s"):
                if math.isfinite(value := figures.get(figure, math.nan)):
                    gauge(figure, value, self._run, f"trial {trial}")
            self._children.report(trial, figures, figures["training_iteration"])
        else:
            self._ended += 1
            self._children.end(trial, failed=what == "failed" or trial in self._failed)
        self._show(self._ended, self._num_trials)

    def _words(self) -> str:
        return f"best score {self._best:.4f}" if math.isfinite(self._best) else ""
