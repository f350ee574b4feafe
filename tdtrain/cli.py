"""The command line of every job: flags from the run's schema."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
from pydantic import BaseModel

from tdtrain.config import LoraDocumentRun

Run = TypeVar("Run", bound=BaseModel)
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # what is wrong is said, and no page of pydantic's helps


def parse(schema: type[Run], description: str | None, args: Sequence[str] | None = None) -> Run:
    """The run that the command line asks for. Flags may be spelled with dashes or underscores.

    Exits with status 2, naming field, value and rule, where it asks for something impossible.
    """
    return tyro.cli(schema, description=description, args=args, config=(tyro.conf.OmitArgPrefixes,))


def task_of(flags: Sequence[str]) -> str | None:
    """What --task says, where a job has more than one, each with flags of its own."""
    told = [flag.removeprefix("--task=") for flag in flags if flag.startswith("--task=")]
    told += [value for flag, value in itertools.pairwise(flags) if flag == "--task"]
    return told[-1] if told else None


def run_job(job: Callable[[Run], object], run: Run) -> None:
    """Runs a job. What it refuses, it says in one line, and exits with status 1.

    An error that the package did not raise itself is a bug, of its own or another's, and comes with its traceback.
    """
    try:
        job(run)
    except (ValueError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if Path(__file__).parent not in raised_in.parents:
            raise
        sys.exit(f"error: {error}")


def run_documents(run: LoraDocumentRun) -> None:
    """Shows a job on documents with --dry_run, plans its memory with --plan, or runs it."""
    if run.dry_run:
        show(run)
    elif run.plan:
        from tdtrain.train.memory import print_plan

        run_job(print_plan, run)
    else:
        from tdtrain.adapting_documents import adapt_to_documents  # after --dry_run: torch and Ray take seconds

        run_job(adapt_to_documents, run)


def show(run: BaseModel) -> None:
    """Prints the resolved run as JSON."""
    print(run.model_dump_json(indent=2))
