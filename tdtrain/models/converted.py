"""Where weights that come in packages are kept once they are converted to folders that plain transformers loads."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Where converted weights are kept: `$TDTRAIN_CACHE`, or `~/.cache/tdtrain`."""
    return Path(os.environ.get("TDTRAIN_CACHE") or Path.home() / ".cache" / "tdtrain")


def converted(folder: Path, convert: Callable[[Path], None]) -> Path:
    """The folder, made by `convert` if it is not there. It appears whole or not at all: two processes may race."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        convert(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's folders are private; a shared cache is not
        os.rename(unfinished, folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first, and its folder is the same
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
