"""results.json: what a run measured, under keys that other tools rely on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue

from tdtrain.evaluate.score import Comparison, Scores

_NAMES = {
    "teacher": "Teacher",
    "teacher_before": "Teacher, before adapting",
    "student_before": "Student, before training",
    "student_undistilled": "Student, no teacher",
    "student": "Student, distilled",
    "baseline": "Baseline",
}


def _known_role(role: str) -> str:
    if role not in _NAMES:
        raise ValueError(f"{role!r} is no reader's role; it must be one of {', '.join(_NAMES)}")
    return role


Role = Annotated[str, AfterValidator(_known_role)]
"""`teacher_before` is the teacher before it was adapted; `student_undistilled` is the control: same student, start and
budget, alpha 0; `baseline` is what an evaluated reader is compared with."""
VERSIONED = ("torch", "ray", "transformers", "deepspeed", "peft", "jiwer", "mlflow", "numpy")


def role_names(readers: Iterable[str]) -> dict[str, str]:
    """What people call the readers that took part; a student that nobody taught here is just a reader."""
    roles = list(readers)
    alone = not {"teacher", "student_before", "student_undistilled"} & set(roles)
    return {role: "Reader" if alone and role == "student" else _NAMES[role] for role in roles}


class CurvePoint(BaseModel):
    """One line of curves.jsonl. What was not measured at a step is null."""

    model_config = ConfigDict(frozen=True)

    run: Literal["student", "control", "teacher"]
    step: int
    epoch: float
    loss: float | None = None
    loss_soft: float | None = None
    loss_hard: float | None = None
    learning_rate: float | None = None
    validation_cer: float | None = None
    validation_loss: float | None = None
    train_cer: float | None = None
    images_per_s: float | None = None


class Results(BaseModel):
    """Everything that results.json holds.

    Attributes:
        readers: figures by role; roles that took no part are absent.
        comparisons: paired tests between readers on the same test lines.
        gap_closed: (cer_undistilled - cer_student) / (cer_undistilled - cer_teacher): 1 is the teacher's level, above 1
            is better than the teacher, below 0 is worse than no teacher.
        gap_closed_reason: why `gap_closed` is null, where it is.
        p_value_student_vs_undistilled: of the paired permutation test; null without a control.
        run: the resolved config.
        timings_s: seconds by stage.
        left_out: training lines that were not learnt from, by model (student, control) and reason.
        curves: path of curves.jsonl, relative to results.json.
        command: what to type to run it again.
        notes: sentences about this run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    readers: dict[Role, Scores]
    comparisons: list[Comparison] = []
    gap_closed: float | None = None
    gap_closed_reason: str | None = None
    p_value_student_vs_undistilled: float | None = None
    run: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    created: datetime
    timings_s: dict[str, float] = {}
    left_out: dict[str, dict[str, int]] = {}
    curves: str | None = None
    command: str | None = None
    notes: list[str] = []

    def comparison(self, a: str, b: str) -> Comparison | None:
        """The paired test of a against b, where it was made that way round."""
        return next((found for found in self.comparisons if (found.a, found.b) == (a, b)), None)

    def write(self, path: Path) -> None:
        """Writes JSON in one step, so that no reader of the file ever sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads what `write` wrote. Raises pydantic.ValidationError (a ValueError) naming what does not fit."""
        return cls.model_validate_json(path.read_bytes())


def build_results(
    readers: Mapping[str, Scores],
    comparisons: Sequence[Comparison] = (),
    *,
    run: Mapping[str, JsonValue],
    timings_s: Mapping[str, float] | None = None,
    left_out: Mapping[str, Mapping[str, int]] | None = None,
    curves: str | None = None,
    command: str | None = None,
    notes: Sequence[str] = (),
) -> Results:
    """Puts the figures together and derives `gap_closed`, the p-value, versions and time.

    Args:
        comparisons: from `tdtrain.evaluate.score.compare`; give ("student", "student_undistilled") where both exist.
    """
    if not readers:
        raise ValueError("readers is empty; results need at least one scored reader")
    gap, reason = _gap_closed(readers)
    results = Results(
        readers=dict(readers),
        comparisons=list(comparisons),
        gap_closed=gap,
        gap_closed_reason=reason,
        run=dict(run),
        versions=versions(),
        created=datetime.now(UTC).replace(microsecond=0),
        timings_s=dict(timings_s or {}),
        left_out={name: dict(reasons) for name, reasons in (left_out or {}).items()},
        curves=curves,
        command=command,
        notes=list(notes),
    )
    against_control = results.comparison("student", "student_undistilled")
    return results.model_copy(
        update={"p_value_student_vs_undistilled": against_control.p_value if against_control else None}
    )


def versions() -> dict[str, str]:
    """Versions of tdtrain, Python and the main packages, the platform and the processor."""
    found = {"tdtrain": _version("tdtrain"), "python": platform.python_version()}
    found |= {name: _version(name) for name in VERSIONED}
    return found | {"platform": platform.platform(), "cpu": f"{_cpu_name()}, {os.cpu_count()} logical cores"}


def append_curve(path: Path, point: CurvePoint) -> None:
    """Adds one line to curves.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(point.model_dump_json() + "\n")


def read_curves(path: Path) -> list[CurvePoint]:
    """All points of curves.jsonl by run and step; [] where there is no file.

    A run that was resumed repeats steps: the later line counts. Raises ValueError naming a line that does not parse.
    """
    if not path.exists():
        return []
    points: dict[tuple[str, int], CurvePoint] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            point = CurvePoint.model_validate_json(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not a curve point: {error}; delete the line to go on") from error
        points[point.run, point.step] = point
    return [points[key] for key in sorted(points)]


def _gap_closed(readers: Mapping[str, Scores]) -> tuple[float | None, str | None]:
    missing = [role for role in ("student_undistilled", "student", "teacher") if role not in readers]
    if missing:
        return None, f"not measured: {', '.join(missing)}"
    control, student, teacher = (readers[role].cer for role in ("student_undistilled", "student", "teacher"))
    if control <= teacher:
        return None, f"the student without a teacher ({control:.4f} CER) is no worse than the teacher ({teacher:.4f})"
    return (control - student) / (control - teacher), None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "tdtrain":
            import tdtrain

            return tdtrain.__version__
        return "not installed"


def _cpu_name() -> str:
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
