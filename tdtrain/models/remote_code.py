"""Code that comes with a model is not run, unless whoever starts the job says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "TDTRAIN_TRUST_REMOTE_CODE"
"""1 in the environment of driver and workers: code from models' folders and from the hub is run."""


def trusted() -> bool:
    """What transformers is told as trust_remote_code; left out, it would ask at the terminal."""
    return os.environ.get(SWITCH) == "1"


@contextmanager
def loading(name: str) -> Iterator[None]:
    """While a model's files are read. Raises ValueError where they need code of their own, and it is not trusted."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"model {name} brings code of its own, which is not run; use a model that transformers knows, or set "
            f"{SWITCH}=1 in the job's environment if you trust whoever wrote it"
        ) from None
