"""The command line of every job: flags from the run's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import tyro
from pydantic import BaseModel

Run = TypeVar("Run", bound=BaseModel)


def parse(schema: type[Run], description: str | None, args: Sequence[str] | None = None) -> Run:
    """The run that the command line asks for. Flags may be spelled with dashes or underscores.

    Exits with status 2, naming field, value and rule, where it asks for something impossible.
    """
    return tyro.cli(schema, description=description, args=args, config=(tyro.conf.OmitArgPrefixes,))


def show(run: BaseModel) -> None:
    """Prints the resolved run as JSON."""
    print(run.model_dump_json(indent=2))
