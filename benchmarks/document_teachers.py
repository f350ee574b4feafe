"""What teachers that write documents are worth: language models that learn theirs, against one that learns the truth.

    python benchmarks/document_teachers.py               # an hour on two cores; the same command again resumes
    python benchmarks/document_teachers.py --dry_run     # the runs, and nothing else

Needs the extra `services`.

Pages of the sample corpus, of which the test split alone is annotated, are written as JSON by rules on what readers
read: on a good one's lines behind Anthropic's wire format, on a weaker one's behind OpenAI's. rayjobs/label.py's way
asks both through the real clients. A language model learns each teacher's documents with LoRA, as rayjobs/distill.py
--task document does, and one learns the true ones. All are measured on the test split.

Writes `students.jsonl`, a line a student, and `document_teachers.md`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from claim import add_row, claim, rows_in
from local_services import LARGE, SMALL, LocalServices
from pydantic import BaseModel, Field

from tdtrain.adapting_documents import adapt_to_documents
from tdtrain.ask_config import AskRun
from tdtrain.asked_services import service_of
from tdtrain.asking_pages import ask_pages
from tdtrain.cli import parse
from tdtrain.compute import Compute
from tdtrain.config import DistillDocumentRun, LoraDocumentRun
from tdtrain.data.annotation import parse_document
from tdtrain.data.sample.corpus import write_sample
from tdtrain.evaluate.fields import blocks_of
from tdtrain.evaluate.score_documents import DocumentScores
from tdtrain.options import Frozen, Optimisation, Pages, Positive
from tdtrain.ray_start import connect

TRUTH = "truth"
TEACHERS = {
    "claude": f"rules on what {LARGE} reads, served as Claude",
    "openai": f"rules on what {SMALL} reads, served as OpenAI's completions",
}


class Study(Frozen):
    """Students of teachers that write documents, at small scale."""

    output_dir: Path = Path("output/document_teachers")
    """Pages, labels and students; the same command again resumes."""
    pages: Positive = 300
    """Pages of the sample corpus."""
    page_seed: int = 1
    model_name: str = "smollm2-135m"
    max_document_tokens: Positive = 1100
    """Longer pages are not learnt from."""
    max_answer_tokens: Positive = 700
    epochs: float = Field(default=1.0, gt=0)
    batch_size: Positive = 2
    learning_rate: float = Field(default=2e-3, gt=0)
    num_workers: int = Field(default=2, ge=0)
    dry_run: bool = False
    """Print the runs and exit."""


class Measured(BaseModel):
    """A student. `label_f1`: block F1 of the documents that it learnt, on the pages that nobody had annotated."""

    teacher: str
    documents: int
    label_f1: float
    student: DocumentScores
    rules: DocumentScores


def main() -> None:
    """Runs what is missing and writes the table."""
    study = parse(Study, __doc__)
    root = study.output_dir.absolute()
    runs = {teacher: run_of(study, root, teacher) for teacher in (TRUTH, *TEACHERS)}
    if study.dry_run:
        print(*(run.model_dump_json(exclude_defaults=True) for run in runs.values()), sep="\n")
        return
    claim(root, study)
    os.environ.setdefault("ANTHROPIC_API_KEY", "none")  # before Ray starts, whose workers ask
    for teacher in TEACHERS:
        service_of(asking(teacher, root, "http://127.0.0.1"))  # says what is not installed
    connect()
    write_sample(root / "pages", study.pages, seed=study.page_seed)
    write_sample(root / "scans", study.pages, annotated_pages=0, seed=study.page_seed)
    with LocalServices() as services:
        for teacher in TEACHERS:
            ask_pages(asking(teacher, root, services.url))
    rows = root / "students.jsonl"
    there = {one.teacher for one in rows_in(rows, Measured)}
    for teacher, run in runs.items():
        if teacher in there:
            continue
        results = adapt_to_documents(run)
        assert results is not None, "the test split is annotated"
        documents, label_f1 = labels(root, folder_of(root, teacher))
        student, rules = results.writers["student"], results.writers["rules"]
        add_row(rows, Measured(teacher=teacher, documents=documents, label_f1=label_f1, student=student, rules=rules))
    (root / "document_teachers.md").write_text(table(rows_in(rows, Measured)))


def folder_of(root: Path, teacher: str) -> Path:
    """Where what a teacher wrote lies."""
    return root / "pages" if teacher == TRUTH else root / "asked" / teacher


def run_of(study: Study, root: Path, teacher: str) -> LoraDocumentRun:
    """The job of one student."""
    told = {
        "corpus": Pages(dataset_path=str(folder_of(root, teacher))),
        "output_dir": root / "students" / teacher,
        "optimisation": Optimisation(
            epochs=study.epochs, batch_size=study.batch_size, learning_rate=study.learning_rate, evaluations=1
        ),
        "compute": Compute(num_workers=study.num_workers),
    } | study.model_dump(include={"model_name", "max_document_tokens", "max_answer_tokens"})
    return LoraDocumentRun(**told) if teacher == TRUTH else DistillDocumentRun(**told, control=False)


def asking(teacher: str, root: Path, url: str) -> AskRun:
    """What is asked of a teacher."""
    address = f"{url}/v1" if teacher == "openai" else url
    return AskRun(
        task="document", service=teacher, service_model="local", service_url=address, calls_per_second=None,
        dataset_path=str(root / "scans"), output_dir=str(folder_of(root, teacher)),
    )  # fmt: skip


def labels(root: Path, told: Path) -> tuple[int, float]:
    """How many documents a teacher wrote of pages that nobody had annotated, and their block F1."""
    num = right = said = true = 0
    for path in sorted((root / "pages" / "annotations").glob("*.json")):
        if (root / "scans" / "annotations" / path.name).exists():
            continue
        written = told / "annotations" / path.name
        theirs = blocks_of(parse_document(written.read_bytes())) if written.exists() else Counter()
        wanted = blocks_of(parse_document(path.read_bytes()))
        num += written.exists()
        right, said, true = right + (theirs & wanted).total(), said + theirs.total(), true + wanted.total()
    return num, 2 * right / max(1, said + true)


def table(measured: list[Measured]) -> str:
    """A row a student."""
    head = ("teacher", "documents", "block F1 of them", "student's block F1", "up to 15 blocks", "larger", "field F1")
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in measured:
        rows.append(
            _row(TEACHERS.get(one.teacher, one.teacher), f"{one.documents:,} | {one.label_f1:.3f}", one.student)
        )
    if measured:
        rows.append(_row("rules on what the student is told, in its place", "– | –", measured[0].rules))
    return "\n".join(rows) + "\n"


def _row(name: str, learnt: str, scores: DocumentScores) -> str:
    sizes = {size: f"{group.block_f1:.3f}" for size, group in scores.by_blocks.items()}
    cells = [f"{scores.block_f1:.3f}", *(sizes.get(size, "–") for size in ("up to 15 blocks", "over 15 blocks"))]
    return f"| {name} | {learnt} | {' | '.join(cells)} | {scores.field_f1:.3f} |"


if __name__ == "__main__":
    main()
