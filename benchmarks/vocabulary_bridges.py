"""Which bridge leads best from one vocabulary to another: TrOCR-large's byte-level BPE into TrOCR-small's unigram.

    python benchmarks/vocabulary_bridges.py               # some hours on two cores; the same command again resumes
    python benchmarks/vocabulary_bridges.py --dry_run     # the cells, and nothing else

Small models of the published classes with tokenizers of their two kinds. The teacher is trained on its own annotated
lines until it reads well, the student for fewer steps, as the published ones are pre-trained; then students learn from
other lines, of which few are annotated, all for as many steps, several seeds a way. Measured on a third set of lines
that nobody learnt from or was chosen by.

Writes `cells.jsonl`, a line a cell, and `vocabulary_bridges.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
from bridges_report import Cell, Measured, read_cells, write_report
from claim import add_row
from line_corpus import HEIGHT, WIDTH, write_corpus
from pydantic import Field

from tdtrain.cli import parse
from tdtrain.compute import Compute
from tdtrain.data.manifest import load_manifest, read_lines
from tdtrain.data.rows import SPLITS
from tdtrain.evaluate.metrics import edits
from tdtrain.evaluate.score import read_lines_with
from tdtrain.models.load import load_reader
from tdtrain.models.students import build_student
from tdtrain.models.trocr_build import build_trocr
from tdtrain.options import Frozen, Optimisation, Positive
from tdtrain.ray_start import connect
from tdtrain.teachers.cache import Keep, confident
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.train.launch import fit
from tdtrain.train.runs import TrainRun

EVERYTHING = 10**6


class Way(Frozen):
    """How a student is taught."""

    bridge: Literal["same", "align", "project", "next_character", "uld"] | None = None
    """None: no soft loss."""
    rehead: bool = False
    trim: bool = False
    labelled: bool = True
    """Whether it learns from the teacher's readings."""
    keep: Keep = Keep(k=32)
    live: bool = False
    hidden_weight: float = 0.0
    on_policy: float = 0.0


REHEAD = Way(bridge="same", rehead=True)
WAYS = {
    "labels": Way(labelled=False),
    "text": Way(),
    "uld": Way(bridge="uld", keep=Keep(k=EVERYTHING)),
    "align": Way(bridge="align"),
    "project": Way(bridge="project"),
    "next_character": Way(bridge="next_character"),
    "rehead": REHEAD,
    "rehead, all tokens": REHEAD.model_copy(update={"keep": Keep(k=EVERYTHING)}),
    "rehead, 4 views": REHEAD.model_copy(update={"keep": Keep(k=32, views=4)}),
    "rehead, text only": Way(rehead=True),
    "rehead+trim": REHEAD.model_copy(update={"trim": True}),
    "rehead, live": REHEAD.model_copy(update={"live": True}),
    "rehead, samples": REHEAD.model_copy(update={"keep": Keep(kept="samples", k=64)}),
    "rehead, on policy": REHEAD.model_copy(update={"live": True, "on_policy": 0.25}),
    "rehead+hidden": REHEAD.model_copy(update={"live": True, "hidden_weight": 1.0}),
    "hidden": Way(live=True, hidden_weight=1.0),
}


class Ablation(Frozen):
    """Bridges between vocabularies, at small scale."""

    output_dir: Path = Path("output/vocabulary_bridges")
    """Corpora, models, labels and cells; the same command again resumes."""
    ways: tuple[str, ...] = tuple(WAYS)
    """See WAYS: labels is no teacher, text the teacher's readings alone; the others add a soft loss to these."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the student's weights, data order and augmentation."""
    teacher_lines: Positive = 20_000
    """Annotated lines of the teacher."""
    lines: Positive = 12_000
    """Lines of the students."""
    annotated: Positive = 600
    """How many of them are annotated."""
    test_lines: Positive = 2_000
    """Lines that are read at the end."""
    teacher_steps: Positive = 4_000
    start_steps: Positive = 3_000
    """Of the student before, as the published ones were pre-trained."""
    steps: Positive = 1_000
    batch_size: Positive = 32
    learning_rate: float = Field(default=1e-3, gt=0)
    alpha: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    min_confidence: float = Field(default=0.9, ge=0, le=1)
    dry_run: bool = False
    """Print the cells and exit."""


def cells(ablation: Ablation) -> Iterator[Cell]:
    """All cells, seed by seed."""
    for seed in ablation.seeds:
        yield from (Cell(way, seed) for way in ablation.ways)


def main() -> None:
    """Runs the missing cells and writes the table."""
    ablation = parse(Ablation, __doc__)
    wanted = list(cells(ablation))
    if ablation.dry_run:
        print(*wanted, f"{len(wanted)} cells", sep="\n")
        return
    root = ablation.output_dir.absolute()
    connect(num_cpus=None)
    teacher = train_pair(ablation, root)
    lines = write_corpus(root / "students", ablation.lines, ablation.annotated, seed=1)
    write_corpus(root / "test", ablation.test_lines, ablation.test_lines, seed=2)
    labels: dict[Keep, str] = {}
    for keep in dict.fromkeys(WAYS[way].keep for way in ablation.ways):
        keep = keep.model_copy(update={"temperature": ablation.temperature})
        job = plan_labels(str(teacher), str(lines), str(root / "labels"), "fp32", keep)
        label(job, 2, lambda done, total: None)
        labels[keep] = job.folder
    missing = [cell for cell in wanted if cell not in read_cells(root / "cells.jsonl")]
    running = [_run.remote(ablation, cell, root, teacher, lines, labels[_keep(ablation, cell)]) for cell in missing]
    while running:
        (done,), running = ray.wait(running)
        measured: Measured = ray.get(done)
        add_row(root / "cells.jsonl", measured)
        print(measured.words(), flush=True)
        write_report(root)
    write_report(root)


def train_pair(ablation: Ablation, root: Path) -> Path:
    """The teacher's folder. It is trained where it is not yet; so is the student that all ways start from, for less."""
    lines = write_corpus(root / "teacher_lines", ablation.teacher_lines, ablation.teacher_lines, seed=11)
    texts = sorted({line.text for line in read_lines(load_manifest(lines), "train") if line.text})
    common = {"image_size": (HEIGHT, WIDTH), "max_target_tokens": 40, "ctc_alphabet": sorted(set("".join(texts)))}
    if not (root / "small").exists():
        large = {"encoder_width": 128, "decoder_width": 128, "encoder_layers": 3, "decoder_layers": 2}
        build_trocr(root / "large", "large", texts, vocab_size=600, **large, **common)  # type: ignore[arg-type]
        build_trocr(root / "small", "small", texts, vocab_size=1000, dropout=0.0, **common)  # type: ignore[arg-type]
    fits = []
    for name, like, steps, rate in (
        ("teacher", "large", ablation.teacher_steps, 1e-3),
        ("start", "small", ablation.start_steps, 2e-3),
    ):
        run = TrainRun(
            name=name,
            model=str(root / like),
            lines=str(lines),
            storage=str(root / "checkpoints"),
            max_steps=steps,
            max_evaluation_lines=400,
            optimisation=Optimisation(batch_size=32, learning_rate=rate, evaluations=8, weight_decay=0.05),
            compute=Compute(num_workers=0, cpus_per_worker=1),
        )
        fits.append(_fit.remote(run, root / name))
    ray.get(fits)
    return root / "teacher"


@ray.remote(num_cpus=2, max_retries=3)
def _fit(run: TrainRun, output: Path) -> None:
    fit(run, output, lambda name, record, total: record.validation_cer and print(name, record, flush=True))


def _keep(ablation: Ablation, cell: Cell) -> Keep:
    return WAYS[cell.way].keep.model_copy(update={"temperature": ablation.temperature})


@ray.remote(num_cpus=2, max_retries=3)
def _run(ablation: Ablation, cell: Cell, root: Path, teacher: Path, lines: Path, labels: str) -> Measured:
    """Trains one student and measures it."""
    work, manifest, way = root / "runs" / cell.name, load_manifest(lines), WAYS[cell.way]
    if not (work / "before").exists():
        annotated = [line.text for line in read_lines(manifest, "train") if line.text]
        read = list(confident(manifest, labels, ablation.min_confidence))
        build_student(
            str(root / "start"),
            "",
            cell.seed,
            work / "before",
            tokens_of=str(teacher) if way.rehead else None,
            texts=[*annotated, *read] if way.trim else None,
        )
    run = TrainRun(
        name="student",
        model=str(work / "before"),
        lines=str(lines),
        labels=labels if way.labelled else None,
        teacher=str(teacher) if way.live else None,
        storage=str(work / "checkpoints"),
        temperature=ablation.temperature,
        alpha=ablation.alpha if way.bridge else 0.0,
        bridge=way.bridge or "same",
        hidden_weight=way.hidden_weight,
        on_policy=way.on_policy,
        min_confidence=ablation.min_confidence,
        max_steps=ablation.steps,
        max_evaluation_lines=400,
        optimisation=Optimisation(
            batch_size=ablation.batch_size, learning_rate=ablation.learning_rate, evaluations=4, seed=cell.seed
        ),
        compute=Compute(num_workers=0),
    )
    state = fit(run, work / "student", lambda name, record, total: None)
    test = load_manifest(root / "test" / "lines")
    truth = [line for split in SPLITS for line in read_lines(test, split) if line.text]
    student = load_reader(str(work / "student"))
    counted = [edits(line.text or "", r.text) for line, r in zip(truth, read_lines_with(student, truth), strict=True)]
    return Measured(
        way=cell.way,
        seed=cell.seed,
        validation_cer=state.best_score,
        num_parameters=sum(p.numel() for p in student.module.model.parameters()),  # type: ignore[union-attr, operator]
        train_images_per_s=sum(record.images_per_s for record in state.history) / len(state.history),
        lines=tuple((e.characters, e.character_edits, e.digits, e.digit_edits) for e in counted),
    )


if __name__ == "__main__":
    main()
