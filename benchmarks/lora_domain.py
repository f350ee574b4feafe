"""What adapters are worth where readers meet pages of another kind: LoRA against training all weights.

    python benchmarks/lora_domain.py               # an hour or two on two cores; the same command again resumes
    python benchmarks/lora_domain.py --dry_run     # the cells, and nothing else

The new domain is pages in two languages that the old one lacks (Polish, Turkish), as a camera sees them. PP-OCRv6 small
comes as it is, and its old domain is the sample corpus's other languages with their usual damage; a small TrOCR is
trained on drawn lines in the others, half of them invented words, and its new domain is drawn lines in the two, as a
camera sees them. Each way takes as many steps on the same lines, at the best of several learning rates on validation
lines, and adapters are at most 2 % of the weights. Measured on test lines of both domains.

Writes `cells.jsonl`, a line a cell, and `lora_domain.md`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import ray
from claim import add_row, claim, rows_in
from line_corpus import HEIGHT, WIDTH, write_corpus
from pydantic import BaseModel

from tdtrain.cli import parse
from tdtrain.compute import Compute
from tdtrain.data.manifest import load_manifest, read_lines
from tdtrain.data.pack import pack
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.rows import SPLITS
from tdtrain.data.sample.damage import IN_CAMERA, Harm
from tdtrain.data.sample.page import make_page
from tdtrain.evaluate.metrics import edits
from tdtrain.evaluate.score import read_lines_with
from tdtrain.evaluate.significance import paired_permutation_p
from tdtrain.machine import cores
from tdtrain.models.load import load_reader
from tdtrain.models.trocr_build import build_trocr
from tdtrain.options import Frozen, Lora, Optimisation, Positive
from tdtrain.ray_start import connect
from tdtrain.train.launch import fit
from tdtrain.train.loop import Diverged
from tdtrain.train.progress import Display
from tdtrain.train.runs import TrainRun

NEW, OLD = ("pl", "tr"), ("de", "en", "fr", "es", "pt", "cs", "hu", "sv")
WAYS: dict[str, dict[str, Lora | None]] = {
    "ppocrv6-small": {
        "all weights": None,
        "LoRA, all layers, rank 4": Lora(rank=4, alpha=8, target_modules=("all",)),
        "the same and all biases": Lora(rank=4, alpha=8, target_modules=("all",), bias="all"),
    },
    "trocr": {
        "all weights": None,
        "LoRA, query key value, rank 8": Lora(rank=8, alpha=16),
        "LoRA, query key value fc1 fc2, rank 4": Lora(
            rank=4, alpha=8, target_modules=("query", "key", "value", "fc1", "fc2")
        ),
    },
}
RATES = {
    "ppocrv6-small": {"all weights": (2e-5, 5e-5, 1e-4), "LoRA": (1e-3, 2e-3, 4e-3)},
    "trocr": {"all weights": (1e-4, 2e-4), "LoRA": (1e-3, 2.5e-3)},
}
VALIDATION = 1 / 3
"""Of the lines to learn from; the rates are chosen by them."""
GPU_SHARE = 0.25
"""Of a GPU, for a cell."""


class Study(Frozen):
    """Adapters on a shifted domain, at small scale."""

    output_dir: Path = Path("output/lora_domain")
    """Corpora, models and cells; the same command again resumes."""
    readers: tuple[str, ...] = tuple(RATES)
    pages: Positive = 40
    """Pages of the new domain that are learnt from, of PP-OCR."""
    test_pages: Positive = 16
    """Pages of each domain that are measured on, of PP-OCR."""
    lines: Positive = 2_000
    """Lines of the new domain that are learnt from, of TrOCR."""
    trocr: Path | None = None
    """Folder of the trained TrOCR. Left out: it is trained first."""
    trocr_lines: Positive = 40_000
    """Lines of that training."""
    trocr_steps: Positive = 6_000
    """Of that training, of 32 lines each."""
    trocr_width: Positive = 256
    """Of its encoder and decoder. At half of it 2 % of the weights are adapters of rank 2, which are too narrow."""
    steps: Positive = 300
    """Of each way, of PP-OCR."""
    trocr_ways_steps: Positive = 2_400
    """Of each way, of TrOCR."""
    batch_size: Positive = 16
    seed: int = 0
    dry_run: bool = False
    """Print the cells and exit."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    reader: str
    way: str
    learning_rate: float


class Measured(BaseModel):
    """A cell and what came out; `new`, `old`: page, characters and character edits of each test line."""

    reader: str
    way: str
    learning_rate: float
    validation_cer: float | None
    trained_share: float
    new: list[tuple[str, int, int]]
    old: list[tuple[str, int, int]]

    def cer(self, domain: str) -> float:
        """Character errors, a share of the characters."""
        lines = getattr(self, domain)
        return sum(line[2] for line in lines) / sum(line[1] for line in lines)


def cells(study: Study) -> Iterator[Cell]:
    """All cells; the reader as it comes first."""
    for reader in study.readers:
        yield Cell(reader, "as it comes", 0.0)
        for way, lora in WAYS[reader].items():
            for rate in RATES[reader]["LoRA" if lora else way]:
                yield Cell(reader, way, rate)


def main() -> None:
    """Runs the missing cells and writes the table."""
    study = parse(Study, __doc__)
    wanted = list(cells(study))
    if study.dry_run:
        print(*wanted, f"{len(wanted)} cells", sep="\n")
        return
    root = study.output_dir.absolute()
    claim(root, study, "readers")
    connect(num_cpus=cores())
    places = {reader: prepare(study, root, reader) for reader in study.readers}
    there = {(one.reader, one.way, one.learning_rate) for one in read_cells(root)}
    missing = [cell for cell in wanted if (cell.reader, cell.way, cell.learning_rate) not in there]
    run = _run.options(num_gpus=GPU_SHARE if ray.cluster_resources().get("GPU") else 0)
    running = [run.remote(study, cell, root, *places[cell.reader]) for cell in missing]
    while running:
        (done,), running = ray.wait(running)
        measured = ray.get(done)
        if measured is None:
            continue
        add_row(root / "cells.jsonl", measured)
        print(measured.reader, measured.way, measured.learning_rate, f"validation {measured.validation_cer}",
              f"new {measured.cer('new'):.2%}, old {measured.cer('old'):.2%}", flush=True)  # fmt: skip
    (root / "lora_domain.md").write_text(table(read_cells(root)))


def prepare(study: Study, root: Path, reader: str) -> tuple[str, str, str, str]:
    """The model to start from, and the packed corpora: what is learnt, the new and the old domain's test."""
    if reader == "trocr":
        model = study.trocr or _train_trocr(study, root)
        lines = round(study.lines / (0.9 - VALIDATION))
        learnt = write_corpus(root / "trocr_learn", lines, lines, 21, NEW, camera=True, validation_share=VALIDATION)
        new = write_corpus(root / "trocr_new", 1_000, 1_000, seed=22, languages=NEW, camera=True)
        old = write_corpus(root / "trocr_old", 1_000, 1_000, seed=23, languages=OLD)
        return str(model), str(learnt), str(new), str(old)
    learnt = _pages(root / "learn", round(study.pages / (1 - VALIDATION)), 31, NEW, camera=True)
    new = _pages(root / "new", study.test_pages, 32, NEW, camera=True)
    return reader, learnt, new, _pages(root / "old", study.test_pages, 33, OLD, camera=False)


def _train_trocr(study: Study, root: Path) -> Path:
    num = study.trocr_lines
    lines = write_corpus(root / "trocr_lines", num, num, seed=11, languages=OLD, invented=0.5)
    texts = sorted({line.text for line in read_lines(load_manifest(lines), "train") if line.text})
    if not (root / "before").exists():
        shutil.rmtree(root / "before.partial", ignore_errors=True)
        build_trocr(
            root / "before.partial", "large", texts, vocab_size=400, image_size=(HEIGHT, WIDTH), max_target_tokens=40,
            ctc_alphabet=sorted(set("".join(texts))), encoder_width=study.trocr_width,
            decoder_width=study.trocr_width, encoder_layers=3, decoder_layers=2,
        )  # fmt: skip
        (root / "before.partial").rename(root / "before")
    run = TrainRun(
        name="trocr", model=str(root / "before"), lines=str(lines), storage=str(root / "checkpoints"),
        max_steps=study.trocr_steps,
        max_evaluation_lines=400, compute=Compute(num_workers=0, cpus_per_worker=2),
        optimisation=Optimisation(batch_size=32, learning_rate=1e-3, evaluations=8, weight_decay=0.05),
    )  # fmt: skip
    with Display() as display:
        fit(run, root / "trocr", display)
    return root / "trocr"


def _pages(folder: Path, num: int, seed: int, languages: tuple[str, ...], camera: bool) -> str:
    """A packed corpus of drawn pages with their boxes; all of the splits are annotated."""
    source = folder / "corpus"
    if not (folder / "lines" / "manifest.json").exists():
        for part in ("images", "boxes"):
            (source / part).mkdir(parents=True, exist_ok=True)
        for index in range(num):
            rng = Random(f"{seed}/{index}")
            kinds = rng.sample(list(IN_CAMERA), 2)
            harms = (Harm("perspective", rng.uniform(0.5, 1.0)), *(Harm(kind, rng.uniform(0.4, 0.9)) for kind in kinds))
            image, truth = make_page(seed, index, language=rng.choice(languages), harms=harms if camera else None)
            (source / "images" / truth.name).write_bytes(image)
            (source / "boxes" / f"{Path(truth.name).stem}.json").write_text(truth.boxes.model_dump_json())
        pack(source, folder / "lines", PackOptions(validation_share=VALIDATION, test_share=0.0))
    return str(folder / "lines")


@ray.remote(num_cpus=1, max_retries=2)
def _run(study: Study, cell: Cell, root: Path, model: str, learnt: str, new: str, old: str) -> Measured | None:
    """Trains one reader and measures it. None where its loss is no longer a number."""
    cv2.setNumThreads(1)
    lora, share, best = WAYS[cell.reader].get(cell.way), 1.0, None
    work = root / "runs" / f"{cell.reader}-{cell.way}-{cell.learning_rate:g}".replace(", ", "-").replace(" ", "_")
    trained = model
    if cell.way != "as it comes":
        if lora is not None:
            from tdtrain.models.lora import adapt

            adapters = adapt(load_reader(model).module, model, lora)
            share = adapters.num_trained / adapters.num_parameters
        steps, evaluations = study.steps, 4
        if cell.reader == "trocr":  # it reads for longer than it learns
            steps, evaluations = study.trocr_ways_steps, 2
        run = TrainRun(
            name="student", model=model, lines=learnt, storage=str(work / "checkpoints"), lora=lora,
            max_steps=steps, max_evaluation_lines=10_000, compute=Compute(num_workers=0),
            optimisation=Optimisation(
                batch_size=study.batch_size, learning_rate=cell.learning_rate, evaluations=evaluations, seed=study.seed
            ),
        )  # fmt: skip
        try:
            best = fit(run, work / "student", lambda name, record, total: None).best_score
        except Diverged as error:
            print(cell, error, flush=True)
            return None
        trained = str(work / "student")
    reader = load_reader(trained).frozen()
    return Measured(
        reader=cell.reader, way=cell.way, learning_rate=cell.learning_rate, validation_cer=best, trained_share=share,
        new=_measure(reader, new), old=_measure(reader, old),
    )  # fmt: skip


def _measure(reader, corpus: str) -> list[tuple[str, int, int]]:
    manifest = load_manifest(corpus)
    lines = [line for split in SPLITS for line in read_lines(manifest, split) if line.text]
    counted = [edits(line.text or "", r.text) for line, r in zip(lines, read_lines_with(reader, lines), strict=True)]
    return [(line.page_id, e.characters, e.character_edits) for line, e in zip(lines, counted, strict=True)]


def read_cells(root: Path) -> list[Measured]:
    """All measured cells."""
    return rows_in(root / "cells.jsonl", Measured)


def table(measured: list[Measured]) -> str:
    """A row a way, each at its best learning rate on validation lines."""
    head = (
        "reader",
        "way",
        "trained",
        "rate",
        "new domain CER",
        "of the gain",
        "old domain CER",
        "p, old, against all",
    )
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for reader in dict.fromkeys(one.reader for one in measured):
        own = [one for one in measured if one.reader == reader]
        best: dict[str, Measured] = {}
        for one in sorted(own, key=lambda one: one.validation_cer or 0.0):
            best.setdefault(one.way, one)
        before, full = best["as it comes"], best["all weights"]
        gain = before.cer("new") - full.cer("new")
        for way in ("as it comes", *WAYS[reader]):
            one, trained = best[way], 0.0 if way == "as it comes" else best[way].trained_share
            share = (before.cer("new") - one.cer("new")) / gain
            p = paired_permutation_p(
                [line[2] for line in one.old], [line[2] for line in full.old], [line[0] for line in one.old]
            )
            rows.append(
                f"| {reader} | {way} | {trained:.2%} | {one.learning_rate:g} | {one.cer('new'):.2%} | {share:.0%} | "
                f"{one.cer('old'):.2%} | {p:.4f} |"
            )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
