"""Room on the disk for checkpoints: looked for before anything is trained, and what is done where it ends."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError

from tdtrain.data.storage import Folder
from tdtrain.train.whole import BEST_KEPT, names

_TORCH_SAVE = ("PytorchStreamWriter", "inline_container")
"""What torch.save says, in a RuntimeError, where a file cannot be written."""


_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""What another attempt would meet as well."""


class NotSaved(RuntimeError):
    """A checkpoint could not be written. Nothing is left of it, and those before it are as they were."""


@contextlib.contextmanager
def whole_or_gone(place: Folder, size: int) -> Iterator[None]:
    """What is written to a place inside the block is all there afterwards, or the whole place is gone.

    Args:
        size: bytes to be written, at least.

    Raises: NotSaved where it could not be written and never will be, with what is needed, what is free and the way
        out; what was raised where the storage did not answer, for another attempt may find it well again.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in _TORCH_SAVE)
        if isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, RuntimeError) and not of_torch):
            raise  # another worker may be gone, and a restart helps
        first = error.__context__ if of_torch and isinstance(error.__context__, OSError) else error
        free = f", and {_megabytes(free_bytes(place) + _held_bytes(place))} are free there" if place.is_local else ""
        with contextlib.suppress(OSError):  # it was never made
            place.filesystem.delete_dir(place.root)
        if not _lasts(first):
            raise
        raise NotSaved(
            f"the checkpoint {place.root} could not be written ({str(first).partition(chr(10))[0]}): it takes at least "
            f"{_megabytes(size)}{free}; make room, and start the same run again: it goes on from the one before"
        ) from error


@contextlib.contextmanager
def scratch(key: str) -> Iterator[Path]:
    """An empty folder on this host's disk, gone after the block. What a process that was killed left under the same key
    goes before: no two have a key at once."""
    prefix = f"tdtrain-{sha256(key.encode()).hexdigest()[:16]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        yield Path(folder)


def check_room(record: Folder, size: int, ahead: int) -> None:
    """Looks whether the checkpoints of a run will find room.

    Args:
        record: the folder of the run; of another storage than a local one nothing is known.
        size: bytes of a checkpoint, at least.
        ahead: how many are still to be written.

    Raises: ValueError where they will not.
    """
    # The best, the last and the one that is being written lie there at once.
    number = min(ahead, max(1, BEST_KEPT + 2 - len(names(record))))
    if record.is_local and (free := free_bytes(record)) < number * size:
        raise ValueError(
            f"storage={record.root} has {_megabytes(free)} free, but needs {_megabytes(number * size)} for {number} "
            f"checkpoints of at least {_megabytes(size)}; make room, or give an output_dir or storage_path on a larger "
            "disk"
        )


def _lasts(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _LASTING
    told = re.search(r"os error (\d+)", str(error))  # safetensors; torch does not say
    return told is None or int(told[1]) in _LASTING


def free_bytes(place: Folder) -> int:
    """Of the local disk that a place lies on, or will lie on."""
    path = Path(place.root)
    return shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists())).free


def _held_bytes(place: Folder) -> int:
    """What the disk gets back of a place that is removed, be it that a writer that failed still has a file open."""
    return sum(path.stat().st_blocks for path in Path(place.root).rglob("*")) * 512


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
