"""What a search is refused for before anything is made, and what each of its trials gets."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tdtrain.compute import Compute
from tdtrain.config import LoraDocumentRun, LoraOcrRun
from tdtrain.models.load import is_trocr
from tdtrain.ray_start import SPARE_CPUS, check_room_on_a_node, cores_of_machine, or_say, whose
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import Axis, Scalar, put
from tdtrain.search.trials import Searched
from tdtrain.train.fits import check_fits

SIZING = (
    "model_name",
    "lora.rank",
    "lora.target_modules",
    "lora.dora",
    "max_tokens",
    "gradient_checkpointing",
    "four_bit",
)
"""What memory a language model takes depends on."""


def check_temperature(run: Searched, axes: Sequence[Axis]) -> None:
    """Raises ValueError where trials of several temperatures would share labels that are kept at one."""
    if isinstance(run, LoraDocumentRun):
        return
    teaching, model, hidden, targets = "teaching", "teacher_model", True, "teaching.targets"
    if isinstance(run, LoraOcrRun):
        teaching, model, hidden, targets = "teacher", "teacher.teacher_model", False, "teacher.targets"
    elif run.cache.cache_as == "hidden" or run.teaching.teacher_signal == "live":
        return
    elif run.teaching.vocabulary_bridge == "text":  # its text alone teaches
        return
    if value_of(run, targets) == "sequence":
        return
    by_path = {axis.path: axis for axis in axes}
    teachers = by_path[model].values if model in by_path else (value_of(run, model),)
    writes = [str(teacher) for teacher in teachers if teacher is not None and is_trocr(str(teacher))]
    if f"{teaching}.temperature" in by_path and writes:
        way_out = "use --cache_as hidden, which serves all, or " if hidden else ""
        raise ValueError(
            f"space names {teaching}.temperature, and {model}={writes[0]} writes token by token, whose labels are kept "
            f"at one temperature; {way_out}give a --space without it"
        )


def room(search: SearchRun, asked: Compute, resources: Mapping[str, float]) -> tuple[Compute, int]:
    """What a trial gets, and how many run at once. Raises ValueError where not even one has room.

    Args:
        resources: of the nodes on which a trial may train.
    """
    cores, gpus = cores_of_machine(), resources.get("GPU", 0.0)
    one = asked.on(gpus, None)
    workers = max(1, asked.num_workers)
    # The data of several workers are brought by tasks, and on a single machine these have CPUs beside its cores.
    spare = SPARE_CPUS if workers > 1 else 0
    if cores is None and search.trials_at_once and search.scheduler in ("pbt", "hyperband"):
        raise ValueError(
            f"trials_at_once={search.trials_at_once} cannot be kept by scheduler={search.scheduler}, which pauses "
            "trials, on several nodes; give each more with cpus_per_worker, or use another scheduler"
        )
    cpus = cores if cores is not None else resources.get("CPU", 1.0) - spare
    if cores is None:
        check_room_on_a_node(one)
    needs = {"CPU": (workers * one.cpus, max(cpus, 1.0)), "GPU": (workers * one.gpus, gpus)}
    for kind, (needed, there) in needs.items():
        if needed > there:
            beside = f" beside {spare} for data" if spare and cores is None and kind == "CPU" else ""
            field = f"num_workers={workers} with {kind.lower()}s_per_worker={needed / workers:g}"
            raise ValueError(
                f"{field}, and {whose(asked)} {there:g} {kind}s{beside}, so that no trial could ever start{or_say()}"
            )
    most = int(min(there / needed + 1e-9 for needed, there in needs.values() if needed))
    at_once = max(1, min(search.trials_at_once or most, most, search.num_trials))
    return asked.on(gpus, cores, at_once), at_once


def check_memory(run: Searched, axes: Sequence[Axis], compute: Compute, at_once: int) -> str:
    """`check_fits`, of the trials at the ends of the space that change what a language model takes.

    Args:
        compute: of a trial.
        at_once: trials that share the nodes.

    Raises: ValueError where one of them has no room for weights, gradients and optimizer state.
    """
    if not isinstance(run, LoraDocumentRun):
        return ""
    sizing = [axis for axis in axes if axis.path in SIZING]
    tight = ""
    for values in itertools.product(*(axis.values if axis.kind == "choice" else axis.values[-1:] for axis in sizing)):
        one = put(run, dict(zip((axis.path for axis in sizing), values, strict=True)))
        tight = check_fits(one, compute, at_once) or tight
    return tight


def check_resumes(search: SearchRun) -> None:
    """Raises ValueError where there is nothing to go on with, and that is what was asked for."""
    if search.resume and not (search.output_dir / "search.json").exists():
        raise ValueError(
            f"resume=True, and output_dir={search.output_dir} holds no search; leave resume out to begin it"
        )


def hold(search: SearchRun, run: Searched) -> None:
    """Takes the output folder for this search. Raises ValueError where it holds another, or cannot be written."""
    ours = {
        "search": search.model_dump(
            mode="json",
            exclude={
                "output_dir",
                "tracking_uri",
                "register_model",
                "dry_run",
                "resume",
                "fit_best",
                "fit_seeds",
                "trials_at_once",
            },
        ),
        "run": run.model_dump(mode="json", exclude={"output_dir", "tracking_uri", "compute"}),
    }
    held = search.output_dir / "search.json"
    if held.exists() and json.loads(held.read_text()) != ours:
        raise ValueError(f"output_dir={search.output_dir} holds another search; use another output_dir, or delete it")
    try:
        search.output_dir.mkdir(parents=True, exist_ok=True)
        partial = held.with_name("search.json.partial")
        partial.write_text(json.dumps(ours, indent=1))
        partial.replace(held)
    except OSError as error:
        raise ValueError(f"output_dir={search.output_dir} cannot be written ({error.strerror}); use another") from error


def values_in(run: Searched, axes: Sequence[Axis]) -> dict[str, Scalar]:
    """The values that a run has, as in `Axis.told`, by their paths; those that the axes hold."""
    values: dict[str, Scalar] = {}
    for axis in axes:
        found = value_of(run, axis.path)
        if axis.kind == "choice":
            found = list(found) if isinstance(found, tuple) else found
            if found in axis.values:
                values[axis.path] = axis.told[axis.values.index(found)]
        elif found is not None and axis.values[0] <= found <= axis.values[1]:  # type: ignore[operator]
            values[axis.path] = found
    return values


def value_of(run: Searched, path: str) -> Any:
    """The value of a run's field."""
    return functools.reduce(getattr, path.split("."), run)
