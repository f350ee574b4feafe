"""What a teacher is worth: the student's CER against the number of annotated pages.

    python benchmarks/label_efficiency.py                 # two hours on two cores; the same command again resumes
    python benchmarks/label_efficiency.py --dry_run       # the cells, and nothing else

Every combination of annotated pages x student (pre-trained, fresh) x teacher (none, as it comes, adapted to the
annotated pages first) x targets (soft, sequence, both), side by side on the cluster's CPUs, all of a kind of student
for the same number of steps. Measured on pages of another seed than those learnt from and those of the results table.

Writes `cells.jsonl`, a line a cell, `label_efficiency.md` and `label_efficiency.png`. Where every page is annotated a
teacher's reading is never needed: there `sequence` would be no teacher, and `both` is `soft`, so they are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
from claim import add_row
from efficiency_report import Cell, Measured, read_cells, write_report
from pydantic import Field

from tdtrain.cli import parse
from tdtrain.compute import Compute
from tdtrain.data.batches import decode
from tdtrain.data.manifest import load_manifest, read_lines, some_lines
from tdtrain.data.prepare import prepare
from tdtrain.data.rows import SPLITS
from tdtrain.evaluate.score import read_lines_with, score_lines
from tdtrain.models.load import load_reader
from tdtrain.models.students import alphabet, build_student
from tdtrain.options import Frozen, Optimisation, Positive
from tdtrain.pipeline import FITTED_LINES
from tdtrain.ray_start import connect
from tdtrain.teachers.cache import confident
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.train.launch import fit, plan_job
from tdtrain.train.runs import TrainRun

TEACHER = "ppocrv6-small"
STUDENTS = {"pre-trained": "mobile-stitched", "fresh": "mobile"}


class Surface(Frozen):
    """The label-efficiency surface of the default pair."""

    output_dir: Path = Path("output/label_efficiency")
    """Corpora, teachers, labels and cells; the same command again resumes."""
    pages: Positive = 200
    """Pages of the sample corpus that is learnt from."""
    annotated: tuple[int, ...] = (0, 5, 20, 100, 200)
    """How many of them are annotated; a fifth of those are for validation."""
    test_pages: Positive = 30
    """Pages that are read at the end, all of them annotated."""
    students: tuple[Literal["pre-trained", "fresh"], ...] = ("pre-trained", "fresh")
    """Which of the two to train."""
    targets: tuple[Literal["soft", "sequence", "both"], ...] = ("soft", "sequence", "both")
    """Which ways of teaching to try."""
    batch_size: Positive = 16
    """Lines a step."""
    steps: Positive = 600
    """Optimizer steps of a pre-trained student."""
    fresh_steps: Positive = 800
    """Optimizer steps of a fresh one, which has everything to learn."""
    adapt_steps: Positive = 240
    """Optimizer steps of an adapted teacher, at most; three passes over the annotated lines where those are fewer."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Of pre-trained students."""
    fresh_learning_rate: float = Field(default=1.5e-3, gt=0)
    """Of fresh students."""
    temperature: float = Field(default=1.0, gt=0)
    alpha: float = Field(default=0.5, ge=0, le=1)
    seed: int = 1
    """Of the pages; the test pages have another one."""
    dry_run: bool = False
    """Print the cells and exit."""


def cells(surface: Surface) -> Iterator[Cell]:
    """All cells, those of few annotated pages first."""
    for annotated in surface.annotated:
        complete = annotated >= surface.pages
        for student in surface.students:
            if annotated:
                yield Cell(annotated, student, "none", "-")
            for teacher in ("as it comes", "adapted") if annotated else ("as it comes",):
                for targets in ("soft",) if complete else surface.targets:
                    yield Cell(annotated, student, teacher, targets)


def main() -> None:
    """Runs the missing cells and writes the table and the plot."""
    surface = parse(Surface, __doc__)
    wanted = list(cells(surface))
    if surface.dry_run:
        print(*wanted, f"{len(wanted)} cells", sep="\n")
        return
    root = surface.output_dir.absolute()
    connect()
    test = root / "test"
    prepare(test, None, surface.test_pages, surface.test_pages, surface.seed + 1000)
    for annotated in surface.annotated:
        missing = [c for c in wanted if c.annotated == annotated and c not in read_cells(root / "cells.jsonl")]
        if not missing:
            continue
        lines = root / f"pages-{annotated}"
        prepare(lines, None, surface.pages, annotated, surface.seed)
        labels = {teacher: _labels(surface, lines, teacher) for teacher in dict.fromkeys(c.teacher for c in missing)}
        running = [_run.remote(surface, cell, lines, labels[cell.teacher], test) for cell in missing]
        while running:
            (done,), running = ray.wait(running)
            measured: Measured = ray.get(done)
            add_row(root / "cells.jsonl", measured)
            print(measured.words(), flush=True)
        write_report(root, wanted)
    write_report(root, wanted)


def _labels(surface: Surface, lines: Path, teacher: str) -> str | None:
    """The folder of a teacher's labels of a corpus, the teacher adapted to it first where it shall be."""
    if teacher == "none":
        return None
    model = TEACHER
    if teacher == "adapted":
        model = str(lines / "teacher")
        run = TrainRun(
            name="teacher",
            model=TEACHER,
            lines=str(lines),
            storage=str(lines / "checkpoints"),
            max_evaluation_lines=300,
            optimisation=Optimisation(epochs=3, batch_size=surface.batch_size, learning_rate=5e-5, evaluations=2),
            compute=Compute(num_workers=0, cpus_per_worker=2),
        )
        steps = min(surface.adapt_steps, plan_job(run).total_steps)
        fit(run.model_copy(update={"max_steps": steps}), Path(model), lambda name, record, total: None)
    labelling = plan_labels(model, str(lines), str(lines / "labels"))
    label(labelling, 2, lambda done, total: None)
    return labelling.folder


@ray.remote(num_cpus=2, max_retries=3)
def _run(surface: Surface, cell: Cell, lines: Path, labels: str | None, test: Path) -> Measured:
    """Trains one student and measures it."""
    work, fresh = lines / "cells" / cell.name, cell.student == "fresh"
    manifest = load_manifest(lines)
    annotated = (line.text or "" for line in read_lines(manifest, "train"))
    if not (work / "before").exists():
        known = confident(manifest, labels, 0.9) if labels else ()
        images = (decode(line.image) for line in some_lines(manifest, "train", FITTED_LINES))
        build_student(STUDENTS[cell.student], alphabet(annotated, known), surface.seed, work / "before", images)
    run = TrainRun(
        name="student",
        model=str(work / "before"),
        lines=str(lines),
        labels=labels,
        storage=str(work / "checkpoints"),
        temperature=surface.temperature,
        alpha=surface.alpha if cell.targets in ("soft", "both") else 0.0,
        targets=cell.targets if labels else "both",  # type: ignore[arg-type]
        max_steps=surface.fresh_steps if fresh else surface.steps,
        max_evaluation_lines=300,
        optimisation=Optimisation(
            batch_size=surface.batch_size,
            learning_rate=surface.fresh_learning_rate if fresh else surface.learning_rate,
            evaluations=2,
        ),
        compute=Compute(num_workers=0),
    )
    state = fit(run, work / "student", lambda name, record, total: None)
    truth = [line for split in SPLITS for line in read_lines(load_manifest(test), split) if line.text]
    before, student = (
        score_lines(truth, read_lines_with(load_reader(str(work / role)), truth), num_parameters=0, size_mb=0)
        for role in ("before", "student")
    )
    assert student.cer_ci is not None
    return Measured(
        **vars(cell),
        cer=student.cer,
        cer_low=student.cer_ci.low,
        cer_high=student.cer_ci.high,
        cer_digits=student.cer_digits,
        accuracy=student.accuracy,
        cer_before=before.cer,
        validation_cer=state.best_score,
        steps=state.step,
    )


if __name__ == "__main__":
    main()
