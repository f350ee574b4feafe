"""Which way of laying a page out as text a language model learns from best: six ways, the same pages and steps.

    python benchmarks/serialisations.py               # some hours on two cores; the same command again resumes
    python benchmarks/serialisations.py --dry_run     # the runs, and nothing else

Each way is a run of rayjobs/lora_document.py on sample pages of another seed than its default, so that the default is
not chosen by the pages that the published figures come from. Pages are packed and read once.

Writes `serialisations.md`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from tdtrain.cli import parse
from tdtrain.compute import Compute
from tdtrain.config import LoraDocumentRun
from tdtrain.data.sequences import load_sequences
from tdtrain.data.serialise import Serialisation
from tdtrain.options import Frozen, Optimisation, Pages, Positive
from tdtrain.report.documents import DocumentResults

READ = "readings.parquet"
MANY = 100_000


class Comparison(Frozen):
    """Ways of laying a page out, at small scale."""

    output_dir: Path = Path("output/serialisations")
    """A folder a way; the same command again resumes."""
    ways: tuple[Serialisation, ...] = get_args(Serialisation)
    sample_pages: Positive = 300
    sample_seed: int = 1
    max_document_tokens: Positive = 1100
    """Longer pages are not learnt from; they are longest as coordinates."""
    max_answer_tokens: Positive = 700
    epochs: float = 1.0
    batch_size: Positive = 2
    learning_rate: float = Field(default=2e-3, gt=0)
    dry_run: bool = False
    """Print the runs and exit."""


def run_of(comparison: Comparison, way: Serialisation, lines: str | None) -> LoraDocumentRun:
    """The job of one way; `lines`: the packed pages, where they are packed already."""
    pages = {"sample_pages": comparison.sample_pages, "annotated_pages": comparison.sample_pages}
    return LoraDocumentRun(
        output_dir=comparison.output_dir / way,
        serialisation=way,
        max_document_tokens=comparison.max_document_tokens,
        max_answer_tokens=comparison.max_answer_tokens,
        corpus=Pages(sample_seed=comparison.sample_seed, **pages) if lines is None else Pages(dataset_path=lines),
        optimisation=Optimisation(
            epochs=comparison.epochs, batch_size=comparison.batch_size, learning_rate=comparison.learning_rate
        ),
        compute=Compute(),
    )


def main() -> None:
    """Runs what is missing and writes the table."""
    comparison = parse(Comparison, __doc__)
    first = comparison.output_dir / comparison.ways[0]
    runs = {
        way: run_of(comparison, way, None if way == first.name else str(first / "lines")) for way in comparison.ways
    }
    if comparison.dry_run:
        print(*(run.model_dump_json(exclude_defaults=True) for run in runs.values()), sep="\n")
        return
    from tdtrain.adapting_documents import adapt_to_documents

    for run in runs.values():
        if not (run.output_dir / READ).exists() and (first / READ).exists():
            run.output_dir.mkdir(parents=True, exist_ok=True)
            shutil.copy(first / READ, run.output_dir / READ)
        if not (run.output_dir / "results.json").exists():
            adapt_to_documents(run)
    (comparison.output_dir / "serialisations.md").write_text(table(comparison))


def table(comparison: Comparison) -> str:
    """A row a way."""
    small = "up to 15 blocks"
    head = ("way", "tokens a page", "learnt", "field F1", "block F1", f"block F1, {small}", "s a page")
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for way in comparison.ways:
        folder = comparison.output_dir / way
        results = DocumentResults.model_validate_json((folder / "results.json").read_text())
        learnt = load_sequences(f"{folder}/sequences/train", MANY)
        tokens = sum(len(one["tokens"]) for one in learnt) / len(learnt)
        student = results.writers["student"]
        of_small = student.by_blocks[small].block_f1 if small in student.by_blocks else float("nan")
        rows.append(
            f"| {way} | {tokens:.0f} | {len(learnt)} pages | {student.field_f1:.3f} | {student.block_f1:.3f} | "
            f"{of_small:.3f} | {student.seconds_per_page:.1f} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
