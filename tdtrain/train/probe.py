"""What a node of a cluster has to show before anything is trained: it sees the same folders and runs the same versions.

The driver writes a file, or notes one that is there; each node reads it, and writes where it will have to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

from pyarrow import fs

from tdtrain.data.storage import Folder, open_folder

PACKAGES = (
    "ray", "torch", "transformers", "deepspeed", "peft", "numpy", "pyarrow", "pillow", "opencv-python-headless",
)  # fmt: skip
OWN_CODE = "tdtrain"
MARKED = ".tdtrain-probe-"


@dataclass(frozen=True)
class Place:
    """A folder that every node needs.

    Attributes:
        field: of the run, that names it.
        path: the folder, or its URI.
        file: in it, to be read.
        written: files are written there as well, beside that one.
    """

    field: str
    path: str
    file: str
    written: bool


@dataclass(frozen=True)
class Seen:
    """What a node sees.

    Attributes:
        versions: as `versions`.
        amiss: what is wrong with places, by their fields.
    """

    versions: dict[str, str]
    amiss: dict[str, str]


def look(places: tuple[Place, ...], name: str) -> Seen:
    """What this machine sees.

    Args:
        name: of the machine, for the files that it writes.
    """
    amiss = {}
    for place in places:
        folder = open_folder(place.path)
        try:
            with folder.filesystem.open_input_stream(folder.path(place.file)) as stream:
                stream.read(1)
            if place.written:
                folder.write(f"{place.file}-{name}", b"")
        except FileNotFoundError:
            amiss[place.field] = f"lacks {'what the driver wrote there' if place.written else place.file}"
        except (OSError, ValueError) as error:
            amiss[place.field] = f"cannot be used ({_first_line(error)})"
    return Seen(versions(), amiss)


def gpus_here() -> list[float]:
    """Bytes of each of this machine's GPUs; none where nobody says."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    return [float(line) * 2**20 for line in told.stdout.splitlines() if line.strip().isdigit()]


@cache
def versions() -> dict[str, str]:
    """Of Python, of PACKAGES, and of this package's own code, as this machine has them. Nothing is imported for it."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package] = version(package).partition("+")[0]  # a build for CPUs goes with one for GPUs
        except PackageNotFoundError:
            found[package] = "none"
    return found | {OWN_CODE: _own_code()}


def _own_code() -> str:
    package, whole = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        whole.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What a node has in other versions than the driver, in words; empty where nothing is."""
    return ", ".join(
        f"other code of {name}" if name == OWN_CODE else f"{name} {theirs.get(name, 'none')}, not {mine}"
        for name, mine in ours.items()
        if theirs.get(name) != mine
    )


@contextlib.contextmanager
def marked(writes: Mapping[str, str]) -> Iterator[tuple[Place, ...]]:
    """Leaves a file in each of these folders for nodes to find, and nothing afterwards, no folder either.

    Args:
        writes: folders that nodes have to write to, by field.

    Raises: ValueError where not even this process can.
    """
    mark = f"{MARKED}{uuid.uuid4().hex[:12]}"
    missing = [parent for path in writes.values() if "://" not in path for parent in _missing(Path(path))]
    try:
        for field, path in writes.items():
            try:
                open_folder(path).write(f"{mark}/driver", b"")
            except (OSError, ValueError) as error:
                raise ValueError(f"{field}={path} cannot be written ({_first_line(error)}); use another") from None
        yield tuple(Place(field, path, f"{mark}/driver", written=True) for field, path in writes.items())
    finally:
        for path in writes.values():
            with contextlib.suppress(OSError, ValueError):  # it was never made
                folder = open_folder(path)
                folder.filesystem.delete_dir(folder.path(mark))
        for parent in missing:
            with contextlib.suppress(OSError):  # somebody uses it by now
                parent.rmdir()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _missing(path: Path) -> list[Path]:
    """The folders of a path that are not there, from below."""
    return [one for one in (path, *path.parents) if not one.exists()]


def there(reads: Mapping[str, str]) -> tuple[Place, ...]:
    """A file of each of these folders that nodes have to read; none of a folder that has no file.

    Args:
        reads: folders by field.

    Raises: ValueError where this process cannot read one.
    """
    places = []
    for field, path in reads.items():
        try:
            file = _first_file(open_folder(path))
        except OSError as error:
            raise ValueError(f"{field}={path} cannot be read ({_first_line(error)}); use another") from None
        if file is not None:
            places.append(Place(field, path, file, written=False))
    return tuple(places)


def _first_file(folder: Folder) -> str | None:
    """A file of a folder or of those in it, without a look at them all."""
    if folder.is_local:
        walk = ((top, name) for top, _, names in os.walk(folder.root) for name in sorted(names))
        first = next(walk, None)
        return None if first is None else os.path.relpath(os.path.join(*first), folder.root)
    levels = (folder.root, folder.path("images"), folder.path("annotations"))
    selectors = (fs.FileSelector(level, allow_not_found=True) for level in levels)
    infos = chain.from_iterable(map(folder.filesystem.get_file_info, selectors))
    return next((info.path[len(folder.root) + 1 :] for info in infos if info.type == fs.FileType.File), None)
