"""What is written so that a run can stop at any moment: a model folder for everybody, an engine state for resuming.

checkpoint/
  model/        loads with plain transformers, or with plain peft; the resolved run as run.json
  engine/       optimizer state, one part a worker under ZeRO
  progress.json step, curves, best score
  files-*.json  what each worker wrote, see `tdtrain.train.whole`
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs
from torch import Tensor

from tdtrain.compute import evaluation_steps
from tdtrain.data.manifest import load_manifest, read_lines
from tdtrain.data.rows import Split
from tdtrain.data.storage import Folder, open_folder
from tdtrain.train.engine import Engine
from tdtrain.train.learner import of_student
from tdtrain.train.room import check_room, whole_or_gone
from tdtrain.train.runs import LanguageRun, TrainRun
from tdtrain.train.state import State
from tdtrain.train.whole import BEST_KEPT, by_score, first_whole, name_of, names, seal

if TYPE_CHECKING:
    from tdtrain.train.language import LanguageJob
    from tdtrain.train.worker import Context, Job

Save = Callable[[Path, dict[str, Tensor]], None]
FP32 = 4


def start(job: Job | LanguageJob, engine: Engine, context: Context) -> State:
    """How far the run is, with the engine as it was then. Every worker must call.

    Raises: ValueError where the checkpoints to come will not find room.
    """
    with context.resume() as folder:
        state = State()
        if folder is not None:
            engine.load(folder / "engine")
            state = progress(folder)
    if context.rank == 0 and context.storage is not None:
        ahead = [step for step in evaluation_steps(job.run.optimisation, job.total_steps) if step > state.step]
        check_room(context.storage, least_bytes(engine, job.run.lora is not None), len(ahead))
    return state


def write(
    folder: Path, run: TrainRun | LanguageRun, state: State, save: Save, engine: Engine, context: Context
) -> None:
    """Writes this worker's part of a checkpoint; `save` the model, or its adapters. Every worker must call.

    Raises: NotSaved where the disk does not take it; the folder is then gone.
    """
    adapters_alone = run.lora is not None
    weights = of_student(engine.weights(trained_only=adapters_alone))
    with whole_or_gone(open_folder(folder), least_bytes(engine, adapters_alone)):
        (folder / "engine").mkdir(parents=True, exist_ok=True)
        engine.save(folder / "engine")
        if context.rank == 0:
            save(folder / "model", weights)
            (folder / "model" / "run.json").write_text(run.model_dump_json(indent=2))
            (folder / "progress.json").write_text(json.dumps(state.as_dict()))
        seal(folder, context.rank, context.world_size)


def least_bytes(engine: Engine, adapters_alone: bool) -> int:
    """Of a checkpoint, all workers' parts together: what is trained four times in fp32 (for others, to go on with, and
    AdamW's two moments), what is frozen once, or not at all beside adapters."""
    sizes = {True: 0, False: 0}
    for parameter in engine.module.parameters():
        sizes[parameter.requires_grad] += getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 scatters it
    return FP32 * (4 * sizes[True] + (0 if adapters_alone else sizes[False]))


def progress(folder: Path) -> State:
    """How far the run of this checkpoint was."""
    return State.from_dict(json.loads((folder / "progress.json").read_text()))


def learnt_from(model: str) -> str | None:
    """The fingerprint of the corpus that a model's folder was trained on, None where that is not known."""
    held = Path(model) / "run.json"
    return json.loads(held.read_text()).get("corpus") if held.exists() else None


def pages_learnt_from(model: str) -> set[str]:
    """Ids of the pages that a model's folder was trained on or chosen by, as far as that corpus is still there."""
    held = Path(model) / "run.json"
    lines = json.loads(held.read_text()).get("lines") if held.exists() else None
    if not lines:
        return set()
    try:
        manifest = load_manifest(lines)
    except (OSError, ValueError):
        return set()
    splits: tuple[Split, ...] = ("train", "validation")
    return {line.page_id for split in splits for line in read_lines(manifest, split, images=False)}


class LocalStore:
    """Checkpoints of a run in this process: the two best and the last are kept."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.folder = open_folder(root)
        self._root = root
        for left in root.glob("checkpoint_*.partial"):  # by a process that was killed
            shutil.rmtree(left)

    def commit(self, step: int, fill: Callable[[Path], None]) -> None:
        """Writes a checkpoint beside its place, moves it there, and drops what is neither among the best nor last."""
        final = self._root / name_of(step)
        partial = final.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        fill(partial)
        shutil.rmtree(final, ignore_errors=True)  # one that is damaged
        os.replace(partial, final)
        held = names(self.folder)
        for name in set(held) - {final.name, *by_score(self.folder, held)[:BEST_KEPT]}:
            shutil.rmtree(self._root / name)


def publish(record: Folder, candidates: list[str], output: Path) -> None:
    """The best model of a run, with the whole history, appears at `output` at once.

    Args:
        record: the folder of its checkpoints.
        candidates: its checkpoints, oldest first; which are not whole is said, and they are passed over.

    Raises: ValueError where none is whole.
    """
    last, best = first_whole(record, reversed(candidates)), first_whole(record, by_score(record, candidates))
    if last is None or best is None:
        raise ValueError(f"no checkpoint in {record.root} is whole, so there is no model; start the same run again")
    partial = output.with_suffix(".partial").absolute()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model, local = record.path(f"{best}/model"), fs.LocalFileSystem()
    fs.copy_files(model, str(partial), source_filesystem=record.filesystem, destination_filesystem=local)
    (partial / "progress.json").write_bytes(record.read(f"{last}/progress.json"))
    shutil.rmtree(output, ignore_errors=True)
    os.replace(partial, output)
