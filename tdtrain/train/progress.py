"""What a person sees while models train: one live line a run on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tdtrain.gauges import gauge
from tdtrain.train.state import Record

LOG_EVERY_S = 20.0


class Display:
    """A context manager; call it as a `Watch`. Safe to call from several threads."""

    def __init__(self, run: str = "") -> None:
        """Args:
        run: its name, for those who watch from elsewhere.
        """
        self.run = run
        self._console = Console(file=sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:>5}/{task.total:<5} {task.fields[words]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._spoke: dict[str, float] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._validation: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, name: str, record: Record, total: int) -> None:
        """Shows a training step."""
        if record.validation_cer is not None:
            self._validation[name] = f"  CER {record.validation_cer:.2%}"
        elif record.validation_loss is not None:
            self._validation[name] = f"  validation loss {record.validation_loss:.3f}"
        for figure in ("images_per_s", "loss", "score"):
            if (value := getattr(record, figure)) is not None:
                gauge(figure, value, self.run, name)
        soft = f" (soft {record.loss_soft:.3f}, hard {record.loss_hard:.3f})" if record.loss_soft else ""
        rate = f"{record.images_per_s:.{0 if record.images_per_s >= 10 else 1}f} images/s"
        words = f"loss {record.loss:.3f}{soft}  {rate}{self._validation.get(name, '')}"
        self._show(name, record.step, total, words, now=record.score is not None)

    def counting(self, name: str, unit: str | Callable[[], str]) -> Callable[[int, int], None]:
        """A function (done, total) that shows how far something else is."""
        return lambda done, total: self._show(name, done, total, unit if isinstance(unit, str) else unit())

    def say(self, words: str) -> None:
        """A line that stays."""
        self._console.print(words, highlight=False)

    def _show(self, name: str, done: int, total: int, words: str, now: bool = False) -> None:
        gauge("done", done, self.run, name)
        gauge("total", total, self.run, name)
        with self._lock:
            if self._console.is_terminal:
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=total, words="")
                self._bars.update(self._tasks[name], completed=done, total=total, words=words)
                return
            moment = time.monotonic()
            if now or done >= total or moment - self._spoke.get(name, -LOG_EVERY_S) >= LOG_EVERY_S:
                self._spoke[name] = moment
                began, first = self._began.setdefault(name, (moment, done))
                left_s = (moment - began) / (done - first) * (total - done) if done > first else 0.0
                eta = f"  {left_s / 60:.0f} min left" if left_s >= 90 else f"  {left_s:.0f} s left" if left_s else ""
                print(f"{name:>10}  {done}/{total}  {words}{eta}", file=sys.stderr, flush=True)
