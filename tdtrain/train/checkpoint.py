"""What is written so that a run can stop at any moment: a model folder for everybody, an engine state for resuming.

checkpoint/
  model/        loads with plain transformers, or with plain peft; the resolved run as run.json
  engine/       optimizer state, one part a worker under ZeRO
  progress.json step, curves, best score
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from tdtrain.train.engine import Engine
from tdtrain.train.learner import of_student
from tdtrain.train.runs import LanguageRun, TrainRun
from tdtrain.train.state import State

Save = Callable[[Path, dict[str, Tensor]], None]


def write(folder: Path, run: TrainRun | LanguageRun, state: State, save: Save, engine: Engine, rank: int) -> None:
    """Writes this worker's part of a checkpoint; `save` the model, or its adapters. Every worker must call."""
    weights = of_student(engine.weights(trained_only=run.lora is not None))
    (folder / "engine").mkdir(parents=True, exist_ok=True)
    engine.save(folder / "engine")
    if rank == 0:
        save(folder / "model", weights)
        (folder / "model" / "run.json").write_text(run.model_dump_json(indent=2))
        (folder / "progress.json").write_text(json.dumps(state.as_dict()))


def read(folder: Path, engine: Engine) -> State:
    """Restores the engine and says how far the run was. Every worker must call."""
    engine.load(folder / "engine")
    return progress(folder)


def progress(folder: Path) -> State:
    """How far the run of this checkpoint was."""
    return State.from_dict(json.loads((folder / "progress.json").read_text()))


def learnt_from(model: str) -> str | None:
    """The fingerprint of the corpus that a model's folder was trained on, None where that is not known."""
    held = Path(model) / "run.json"
    return json.loads(held.read_text()).get("corpus") if held.exists() else None


class LocalStore:
    """Checkpoints of a run in this process: the best and the last are kept, each complete or absent."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path for path in self._root.glob("checkpoint_*") if path.suffix != ".partial")

    def commit(self, step: int, fill: Callable[[Path], None]) -> None:
        """Writes a checkpoint beside its place, moves it there, and drops what is neither best nor last."""
        final = self._root / f"checkpoint_{step:08d}"
        partial = final.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        fill(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for path in set(self.all()) - {final, best(self.all())}:
            gone = path.with_suffix(".partial")  # renamed first: a folder half deleted must not look like a checkpoint
            os.replace(path, gone)
            shutil.rmtree(gone)


def best(folders: list[Path]) -> Path:
    """The checkpoint with the best score, the latest of equals; without any score the last one."""

    def key(folder: Path) -> tuple[float, int]:
        state = progress(folder)
        score = state.history[-1].score if state.history else None
        return (float("inf") if score is None else score, -state.step)

    return min(folders, key=key)


def publish(chosen: Path, last: Path, output: Path) -> None:
    """The best model's folder, with the whole history, appears at `output` at once."""
    partial = output.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(chosen / "model", partial)
    shutil.copy(last / "progress.json", partial / "progress.json")
    shutil.rmtree(output, ignore_errors=True)
    os.replace(partial, output)
