"""What teachers that only give text are worth: students of their labels, against students of the truth.

    python benchmarks/black_box_teachers.py               # an hour on two cores; the same command again resumes
    python benchmarks/black_box_teachers.py --dry_run     # the teachers, and nothing else

Needs the extra `services`.

The same pages, unlabelled, are read by a reader in the asking process, by one that is served as PaddleX serves, by a
weaker one that answers as Google Cloud Vision does, and by the last two in a vote; what rayjobs/label.py runs asks them
through the real clients. A student learns from each teacher's labels alone, as many steps each, and one from the truth.
Measured on annotated pages of another seed. document_teachers.py is about those that write documents.

Writes `cells.jsonl`, a line a student, and `black_box_teachers.md`.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
from claim import add_row, claim, rows_in
from local_services import LARGE, SMALL, LocalServices
from pydantic import BaseModel

from tdtrain.ask_config import AskRun
from tdtrain.asked_services import service_of
from tdtrain.asking_pages import ask_pages
from tdtrain.cli import parse
from tdtrain.compute import Compute
from tdtrain.data.batches import decode
from tdtrain.data.manifest import load_manifest, read_lines, some_lines
from tdtrain.data.pack import pack
from tdtrain.data.prepare import prepare
from tdtrain.data.rows import SPLITS
from tdtrain.data.sample.corpus import write_sample
from tdtrain.evaluate.metrics import edits
from tdtrain.evaluate.score import read_lines_with
from tdtrain.evaluate.significance import paired_permutation_p
from tdtrain.machine import cores
from tdtrain.models.load import load_reader
from tdtrain.models.students import alphabet, build_student
from tdtrain.options import Frozen, Optimisation, Positive
from tdtrain.pipeline import FITTED_LINES
from tdtrain.ray_start import connect
from tdtrain.train.launch import fit
from tdtrain.train.runs import TrainRun

TRUTH = "truth"
READERS = {
    "local": f"{LARGE}, in the asking process",
    "paddleocr": f"{LARGE}, served as by PaddleX",
    "google-vision": f"{SMALL}, served as Google Cloud Vision",
    "vote": "the last two, voting",
}


class Study(Frozen):
    """Students of black-box teachers."""

    output_dir: Path = Path("output/black_box_teachers")
    """Corpora, labels, students and cells; the same command again resumes."""
    pages: Positive = 300
    """Pages of the sample corpus that teachers label."""
    test_pages: Positive = 30
    """Pages that are read at the end, all of them annotated."""
    steps: Positive = 600
    batch_size: Positive = 16
    learning_rate: float = 3e-4
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the students' training."""
    page_seed: int = 1
    """Of the pages; the test pages have another one."""
    dry_run: bool = False
    """Print the teachers and exit."""


@dataclass(frozen=True)
class Cell:
    """One student."""

    teacher: str
    seed: int


class Measured(BaseModel):
    """A cell and what came out; `lines`: page, characters and character edits of each test line, `digits` likewise."""

    teacher: str
    seed: int
    learnt_lines: int
    lines: list[tuple[str, int, int]]
    digits: list[tuple[str, int, int]]

    def cer(self, kind: str = "lines") -> float:
        """Character errors, a share of the characters."""
        counted = getattr(self, kind)
        return sum(line[2] for line in counted) / sum(line[1] for line in counted)


def main() -> None:
    """Runs what is missing and writes the table."""
    study = parse(Study, __doc__)
    if study.dry_run:
        print(*READERS.items(), sep="\n")
        return
    root = study.output_dir.absolute()
    claim(root, study, "seeds")
    for teacher in READERS:
        service_of(asking(teacher, root, "http://127.0.0.1"))  # says what is not installed
    connect(num_cpus=cores())
    truth = root / "pages"
    write_sample(truth, study.pages, study.pages, seed=study.page_seed)
    if not (root / "scans").exists():
        shutil.rmtree(root / "scans.partial", ignore_errors=True)
        shutil.copytree(truth / "images", root / "scans.partial" / "images")
        (root / "scans.partial").rename(root / "scans")
    prepare(root / "test", None, study.test_pages, study.test_pages, study.page_seed + 1000)
    with LocalServices() as services:
        for teacher in READERS:
            ask_pages(asking(teacher, root, services.url))
    there = {(one.teacher, one.seed) for one in read_cells(root)}
    for teacher in (TRUTH, *READERS):
        pack(truth if teacher == TRUTH else root / "asked" / teacher, root / "lines" / teacher)
    cells = [Cell(teacher, seed) for seed in study.seeds for teacher in (TRUTH, *READERS)]
    running = [_run.remote(study, cell, root) for cell in cells if (cell.teacher, cell.seed) not in there]
    while running:
        (done,), running = ray.wait(running)
        measured = ray.get(done)
        add_row(root / "cells.jsonl", measured)
        print(
            measured.teacher,
            measured.seed,
            f"CER {measured.cer():.2%}, digits {measured.cer('digits'):.2%}",
            flush=True,
        )
    (root / "black_box_teachers.md").write_text(table(root))


def asking(teacher: str, root: Path, url: str) -> AskRun:
    """What is asked of a teacher."""
    told: dict = {"service": teacher}
    if teacher == "vote":
        told |= {"service": "google-vision", "vote_with": (str(root / "asked" / "paddleocr"),)}
    model = {"local": LARGE, "google-vision": "builtin/stable"}.get(told["service"], "local")
    address = None if teacher == "local" else url
    return AskRun(
        task="text", service_model=model, service_url=address, dataset_path=str(root / "scans"), calls_per_second=None,
        output_dir=str(root / "asked" / teacher), **told,
    )  # fmt: skip


@ray.remote(num_cpus=1, max_retries=2)
def _run(study: Study, cell: Cell, root: Path) -> Measured:
    """Trains one student and measures it."""
    lines, work = root / "lines" / cell.teacher, root / "students" / f"{cell.teacher}-{cell.seed}"
    manifest = load_manifest(lines)
    learnt = [line.text for line in read_lines(manifest, "train", images=False) if line.text is not None]
    if not (work / "before").exists():
        images = (decode(line.image) for line in some_lines(manifest, "train", FITTED_LINES))
        build_student("mobile-stitched", alphabet(learnt, ()), cell.seed, work / "before", images)
    run = TrainRun(
        name="student", model=str(work / "before"), lines=str(lines), storage=str(work / "checkpoints"),
        max_steps=study.steps, max_evaluation_lines=300, compute=Compute(num_workers=0),
        optimisation=Optimisation(
            batch_size=study.batch_size, learning_rate=study.learning_rate, evaluations=2, seed=cell.seed
        ),
    )  # fmt: skip
    fit(run, work / "student", lambda name, record, total: None)
    test = [line for split in SPLITS for line in read_lines(load_manifest(root / "test"), split) if line.text]
    readings = read_lines_with(load_reader(str(work / "student")).frozen(), test)
    counted = [edits(line.text or "", reading.text) for line, reading in zip(test, readings, strict=True)]
    pages = [line.page_id for line in test]
    return Measured(
        teacher=cell.teacher, seed=cell.seed, learnt_lines=len(learnt),
        lines=[(page, e.characters, e.character_edits) for page, e in zip(pages, counted, strict=True)],
        digits=[(page, e.digits, e.digit_edits) for page, e in zip(pages, counted, strict=True)],
    )  # fmt: skip


def read_cells(root: Path) -> list[Measured]:
    """All measured cells."""
    return rows_in(root / "cells.jsonl", Measured)


def table(root: Path) -> str:
    """A row a teacher, means over seeds; p: paired permutation over pages, edits summed over seeds."""
    measured, rows = read_cells(root), []
    head = ("teacher", "lines learnt from", "student's CER", "digits CER", "seeds", "p, against truth")
    rows += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    by_teacher = {teacher: [one for one in measured if one.teacher == teacher] for teacher in (TRUTH, *READERS)}
    truth = {one.seed: one for one in by_teacher[TRUTH]}
    for teacher, own in by_teacher.items():
        paired = [one for one in own if one.seed in truth and teacher != TRUTH]
        p = "–"
        if paired:
            pages = [line[0] for line in paired[0].lines]
            theirs = [sum(one.lines[i][2] for one in paired) for i in range(len(pages))]
            true = [sum(truth[one.seed].lines[i][2] for one in paired) for i in range(len(pages))]
            p = f"{paired_permutation_p(theirs, true, pages):.4f}"
        if own:
            cer, digits = (sum(one.cer(kind) for one in own) / len(own) for kind in ("lines", "digits"))
            name = READERS.get(teacher, teacher)
            rows.append(f"| {name} | {own[0].learnt_lines:,} | {cer:.2%} | {digits:.2%} | {len(own)} | {p} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
