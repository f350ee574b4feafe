"""What an experiment of Ray Tune leaves on the disk, so that a driver may be killed at any moment.

Ray Tune writes its state in several files, one after the other and a moment after trials reported, and copies them to
their place beside what goes on. Hence a journal of reports, written at once, and a copy of the files of one moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

STATE = (
    "experiment_state-*.json", "searcher-state-*.pkl", "search_gen_state-*.json", "basic-variant-state-*.json",
    "callback-states-*.pkl",
)  # fmt: skip
KEPT = "kept"
TRIAL = re.compile(r"[0-9a-f]{8}|[0-9a-f]{5}_\d{5}")
"""Ray Tune's names of trials, which are those of their folders."""


def journal_of(folder: Path, name: str) -> Path:
    """What the trials of an experiment reported, a line of JSON each."""
    return folder / f"{name}.jsonl"


def write_report(journal: Path, result: Mapping) -> None:
    """Adds a report, of which the disk has all when this returns."""
    plain = {key: value for key, value in result.items() if isinstance(value, str | int | float)}
    plain["values"] = result.get("config", {})  # of a population they change on the way
    with journal.open("a", encoding="utf-8") as file:
        file.write(f"\n{json.dumps(plain)}\n")  # on a line of its own, whatever a driver that was killed left
        file.flush()
        os.fsync(file.fileno())


def reports_of(journal: Path) -> dict[str, list[Mapping]]:
    """What each trial reported, one of each evaluation: a trial that was gone on with has reported some twice."""
    found: dict[str, dict[int, Mapping]] = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        with contextlib.suppress(ValueError):  # the last line of a driver that was killed
            one = json.loads(line)
            found.setdefault(one["trial_id"], {})[one["training_iteration"]] = one
    return {trial: [by_round[number] for number in sorted(by_round)] for trial, by_round in found.items()}


class Clock:
    """Seconds that an experiment took, all times together that it was gone on with."""

    def __init__(self, experiment: Path) -> None:
        self._path, self._began = experiment / "seconds.txt", time.monotonic()
        self._before = seconds_of(experiment)

    def write(self) -> None:
        """Writes down what there are by now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(f"{self._before + time.monotonic() - self._began:.1f}")
        partial.replace(self._path)


def seconds_of(experiment: Path) -> float:
    """What was written down last; 0 where nothing was."""
    path = experiment / "seconds.txt"
    return float(path.read_text()) if path.exists() else 0.0


def ended_in(experiment: Path) -> set[str]:
    """The trials of a state that will not be run again."""
    return {trial["trial_id"] for trial in _trials(experiment) if trial["status"] == "TERMINATED"}


def keep_state(written: Path, experiment: Path) -> None:
    """Keeps the state that Ray Tune has written, unless it has since the last call written none.

    Args:
        written: where it writes, between two calls and never during one.
        experiment: whose state it is.
    """
    files = _files(written)
    kept = experiment / KEPT
    if not files or [_age(path) for path in files] == [_age(kept / path.name) for path in files]:
        return
    made = experiment / f"{KEPT}.partial"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for path in files:
        shutil.copy2(path, made / path.name)
    shutil.rmtree(kept, ignore_errors=True)
    os.replace(made, kept)


def mend_state(experiment: Path) -> bool:
    """Puts the last state kept in the place of what lies there.

    Returns: whether there is one to go on from.
    """
    whole = [kept for kept in (experiment / KEPT, experiment / f"{KEPT}.partial") if is_whole(kept)]
    for path in _files(experiment):  # with none to take its place, of a search that fell before its first trial began
        path.unlink()
    for path in _files(whole[0]) if whole else []:
        shutil.copy2(path, experiment / path.name)
    return bool(whole)


def drop_unknown(experiment: Path) -> list[str]:
    """Deletes the folders of trials that the state does not know. They began in the moment before a driver was killed,
    and come back under other names.

    Returns: their names.
    """
    known = {trial["trial_id"] for trial in _trials(experiment)}
    folders = [path for path in experiment.glob("*/") if TRIAL.fullmatch(path.name) and path.name not in known]
    for folder in folders:
        shutil.rmtree(folder)
    return sorted(folder.name for folder in folders)


def _trials(experiment: Path) -> list[Mapping]:
    states = [json.loads(path.read_text(encoding="utf-8")) for path in experiment.glob(STATE[0])]
    return [json.loads(trial) for state in states for trial, _ in state["trial_data"]]


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def is_whole(folder: Path) -> bool:
    """Whether there is a state, and every file of it was written to its end."""
    files = _files(folder)
    return any(path.name.startswith("experiment_state") for path in files) and all(map(_ended, files))


def _ended(path: Path) -> bool:
    content = path.read_bytes()
    if content.startswith(b"\x80"):  # a pickle, of which this is the last instruction; one of them is called .json
        return content.endswith(b".")
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    return sorted(path for pattern in STATE for path in folder.glob(pattern))
