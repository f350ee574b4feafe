"""Which checkpoints are whole.

The last thing that each worker writes into a checkpoint is a list of its own files with their sizes and checksums. What
was cut, changed or lost since, and what was never finished, does not agree with the lists.

Ray's own processes load this, so it imports no model.
"""

from __future__ import annotations

import errno
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from pyarrow import fs

from tdtrain.data.storage import Folder, open_folder
from tdtrain.train.state import State

BEST_KEPT = 2
"""Checkpoints that stay beside the last: where that one is damaged, there is another to go back to."""
_NAME = re.compile(r"checkpoint_(\d{8})(_\w+)?")
_LIST = re.compile(r"files-\d+-of-(\d+)\.json")
_CHUNK_BYTES = 1 << 24

Say = Callable[[str], object]


def name_of(step: int, suffix: str = "") -> str:
    """The folder of a checkpoint; names are in the order of steps. `suffix`: where a step may be written twice."""
    return f"checkpoint_{step:08d}{suffix and f'_{suffix}'}"


def step_of(name: str) -> int:
    """The step of a checkpoint, by the name of its folder."""
    named = _NAME.fullmatch(name)
    assert named is not None, name
    return int(named[1])


def names(record: Folder) -> list[str]:
    """The checkpoints in the folder of a run, oldest first, whole or not."""
    found = record.filesystem.get_file_info(fs.FileSelector(record.root, allow_not_found=True))
    folders = (info.base_name for info in found if info.type == fs.FileType.Directory)
    return sorted(name for name in folders if _NAME.fullmatch(name))


def seal(folder: Path, rank: int, workers: int) -> None:
    """Lists the files of a folder, all of which this worker wrote, by size in bytes and CRC-32; to be called last.

    CRC-32 because disks and networks are to be caught, not forgers: zlib's runs at 2 GB/s on a core, twice as fast as
    SHA-256, sees any damage within 32 bits, and of other damage misses one case in four billion.
    """
    held = open_folder(folder)
    listed = {name: ((folder / name).stat().st_size, _checksum(held, name)) for name in held.files("")}
    (folder / _list(rank, workers)).write_text(json.dumps(listed))


def damage(checkpoint: Folder) -> str | None:
    """What is wrong with a checkpoint, in words; None where all workers' files are as they were written.

    Raises: OSError where the storage does not answer, which says nothing about the checkpoint.
    """
    workers = {int(found[1]) for name in checkpoint.files("") if (found := _LIST.fullmatch(name))}
    if not workers:
        return "it has no list of its files, so it was not written to its end"
    listed: dict[str, tuple[int, int]] = {}
    for rank in range(max(workers)):
        own = _list(rank, max(workers))
        if not checkpoint.exists(own):
            return f"{own} is missing, so worker {rank} did not write its part to its end"
        try:
            listed |= {name: (int(size), int(crc)) for name, (size, crc) in json.loads(checkpoint.read(own)).items()}
        except (ValueError, TypeError, AttributeError):
            return f"{own} is damaged"
    for name, (size, _) in listed.items():
        info = checkpoint.filesystem.get_file_info(checkpoint.path(name))
        if info.type != fs.FileType.File:
            return f"{name} is missing"
        if info.size != size:
            return f"{name} has {info.size:,} bytes, not {size:,}"
    for name, (_, crc) in listed.items():
        try:
            if _checksum(checkpoint, name) != crc:
                return f"{name} is not as it was written"
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return f"the disk does not give {name} back"
    return None


def first_whole(record: Folder, candidates: Iterable[str], say: Say = warnings.warn) -> str | None:
    """The first of a run's checkpoints that is whole, None where none is; says which are passed over, and why."""
    for name in candidates:
        reason = damage(record.within(name))
        if reason is None:
            return name
        say(f"checkpoint {record.path(name)} is passed over: {reason}")
    return None


def to_resume_from(record: Folder, say: Say = warnings.warn) -> str | None:
    """The newest whole checkpoint of a run, None at the start. Says where others are passed over, or all."""
    held = names(record)
    chosen = first_whole(record, reversed(held), say)
    if held and chosen is None:
        say(f"no checkpoint in {record.root} is whole, so training begins anew")
    return chosen


def by_score(record: Folder, candidates: Iterable[str]) -> list[str]:
    """Checkpoints of a run, the best first, of equals the latest; without any score the last one. Those too damaged to
    tell their score come at the end."""

    def key(name: str) -> tuple[float, int]:
        try:
            state = State.from_dict(json.loads(record.read(f"{name}/progress.json")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return float("inf"), 0
        score = state.history[-1].score if state.history else None
        return (float("inf") if score is None else score, -state.step)

    return sorted(sorted(candidates, reverse=True), key=key)


def _list(rank: int, workers: int) -> str:
    return f"files-{rank}-of-{workers}.json"


def _checksum(folder: Folder, name: str) -> int:
    crc = 0
    with folder.filesystem.open_input_stream(folder.path(name), compression=None) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc
