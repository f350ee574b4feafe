"""What a run is refused for before anything is trained: a folder that holds another one, models that do not match."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from tdtrain.config import DistillRun, TrainingRun
from tdtrain.data.storage import absolute, open_folder
from tdtrain.models.bridges import bridge_of
from tdtrain.models.load import is_trocr, load_reader
from tdtrain.models.students import BUILT
from tdtrain.teachers.live import check_pair, check_pictures

OTHER_DIVERGENCES = {"reverse_kl", "skew_kl", "skew_reverse_kl", "jsd"}
ELSEWHERE = {"output_dir", "tracking_uri", "register_model", "dry_run"}
"""Fields that change nothing of what is learnt, only where it is told."""
WRITTEN = {"output_dir", "storage_path", "teacher_cache"}
READ = {"dataset_path", "teacher_model", "student_model", "model_name", "reader"}
"""Fields that may name a folder; models may have a name alone."""


def check_place(output_dir: Path) -> None:
    """Raises ValueError for a folder that is gone when a submitted job has ended."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not output_dir.is_absolute():
        raise ValueError(
            f"output_dir={output_dir} is relative, and a submitted job runs in a copy of its files that Ray deletes; "
            "give an absolute folder, on a disk that all nodes share"
        )


def places_of(run: TrainingRun) -> tuple[dict[str, str], dict[str, str]]:
    """The folders that workers of a run write to, and those that they read, by field."""
    told = dict(_leaves(run.model_dump(mode="json")))
    writes = {field: absolute(value) for field, value in told.items() if field in WRITTEN}
    folders = {
        field: value for field, value in told.items() if field in READ and ("://" in value or Path(value).is_dir())
    }
    return writes, {field: absolute(value) for field, value in folders.items()}


def _leaves(part: Mapping) -> Iterator[tuple[str, str]]:
    for field, value in part.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif isinstance(value, str):
            yield field, value


def check_free(run: TrainingRun) -> None:
    """Raises ValueError where the output folder holds another run."""
    held = run.output_dir / "run.json"
    if not held.exists():
        return
    try:
        theirs = type(run).model_validate_json(held.read_text()).model_dump(mode="json", exclude=ELSEWHERE)
    except ValidationError:
        raise ValueError(f"output_dir={run.output_dir} holds a run of another job; use another output_dir") from None
    if differing := sorted(_differences(theirs, run.model_dump(mode="json"))):
        raise ValueError(
            f"output_dir={run.output_dir} holds another run, with {', '.join(differing)}; "
            "use another output_dir, or delete it"
        )


def claim(run: TrainingRun, corpus: str) -> None:
    """Takes the output folder for this run and corpus, once both are known to be of use.

    Args:
        corpus: its fingerprint.

    Raises: ValueError where the folder was begun with another run or other pages.
    """
    check_free(run)
    place, seen = open_folder(run.output_dir), run.output_dir / "corpus.txt"
    if seen.exists() and seen.read_text() != corpus:
        raise ValueError(
            f"the corpus has changed since output_dir={run.output_dir} was begun, so what is there was learnt from "
            "other pages; use another output_dir, or delete it"
        )
    place.write("corpus.txt", corpus.encode())  # each whole or not at all: a job that is killed here can go on
    place.write("run.json", run.model_dump_json(indent=2).encode())


def check_models(run: DistillRun) -> None:
    """Raises ValueError where the teacher's distributions cannot teach the student, or its kind has no such option."""
    teaching = run.teaching
    if run.ctc_head and not is_trocr(run.student_model):
        raise ValueError(
            f"ctc_head=True is for a student that writes token by token, and student_model {run.student_model} reads "
            "by CTC alone; leave it out"
        )
    if teaching.trim_vocabulary and not is_trocr(run.student_model):
        raise ValueError(
            f"trim_vocabulary=True is for a student that writes token by token, and student_model {run.student_model} "
            "reads by CTC; leave it out"
        )
    if run.cache.cache_as != "top_k" and not is_trocr(run.teacher_model):
        raise ValueError(
            f"cache_as={run.cache.cache_as} is for teachers that write token by token, and teacher_model "
            f"{run.teacher_model} reads by CTC, whose frames are kept as top_k; leave it out"
        )
    both_write = is_trocr(run.teacher_model) and is_trocr(run.student_model)
    needs_both = {
        "on_policy": teaching.on_policy,
        "hidden_weight": teaching.hidden_weight,
        **{name: weight for name, weight in run.mix.model_dump().items() if name in OTHER_DIVERGENCES},
    }
    for field, value in needs_both.items():
        if value and not both_write:
            raise ValueError(
                f"{field}={value} is for teachers and students that write token by token, and teacher_model "
                f"{run.teacher_model} and student_model {run.student_model} are not both such; leave it out"
            )
    bridge = bridge_of(teaching.vocabulary_bridge, run.teacher_model, run.student_model)
    soft, live = teaching.alpha and teaching.targets != "sequence", teaching.teacher_signal == "live"
    if bridge == "text" or not (soft or teaching.hidden_weight):
        return
    teacher = load_reader(run.teacher_model)
    student = load_reader("ppocrv6-tiny" if run.student_model in BUILT else run.student_model)
    if soft and bridge == "same":
        check_pair(teacher, student, live)
    else:
        check_pictures(teacher, student, live)


def _differences(theirs: Mapping, mine: Mapping, path: str = "") -> Iterator[str]:
    for key, value in theirs.items():
        if isinstance(value, dict):
            yield from _differences(value, mine[key], f"{path}{key}.")
        elif value != mine[key]:
            yield f"{path}{key}={value!r}"
