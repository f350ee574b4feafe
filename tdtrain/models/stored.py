"""What a model's folder holds, told without loading it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from safetensors import safe_open


def digest(folder: Path) -> str:
    """SHA-256 of a folder's safetensors."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def num_stored(folder: Path) -> int:
    """Numbers in a folder's safetensors: the parameters of a model, or of its adapters alone."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    return total
