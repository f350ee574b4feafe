"""The cells of the bridges' ablation on disk, as a table with its tests of significance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claim import rows_in
from pydantic import BaseModel, ConfigDict

from tdtrain.evaluate.significance import paired_permutation_p

BASELINES = ("labels", "text", "uld")


@dataclass(frozen=True)
class Cell:
    """One training: a way over the vocabularies, and a seed."""

    way: str
    seed: int

    @property
    def name(self) -> str:
        """For a folder."""
        return f"{self.way}-{self.seed}".replace(", ", "-").replace(" ", "_")


class Measured(BaseModel):
    """A cell and what came out; `lines`: characters, character edits, digits and digit edits of each test line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    way: str
    seed: int
    validation_cer: float | None
    num_parameters: int
    train_images_per_s: float
    lines: tuple[tuple[int, int, int, int], ...]

    @property
    def cell(self) -> Cell:
        """What it is of."""
        return Cell(self.way, self.seed)

    @property
    def cer(self) -> float:
        """Character errors, a share of the characters."""
        return sum(line[1] for line in self.lines) / sum(line[0] for line in self.lines)

    @property
    def cer_digits(self) -> float:
        """Digit errors, a share of the digits."""
        return sum(line[3] for line in self.lines) / sum(line[2] for line in self.lines)

    def words(self) -> str:
        """For a log."""
        return f"{self.cell.name}: CER {self.cer:.2%}, digits {self.cer_digits:.2%}, {self.train_images_per_s:.0f}/s"


def read_cells(path: Path) -> dict[Cell, Measured]:
    """All measured cells of a file, none where it is not there."""
    return {one.cell: one for one in rows_in(path, Measured)}


def write_report(root: Path) -> None:
    """Writes `vocabulary_bridges.md`: a row a way, best first."""
    ways: dict[str, list[Measured]] = defaultdict(list)
    for one in read_cells(root / "cells.jsonl").values():
        ways[one.way].append(one)
    rows = sorted(ways.items(), key=lambda item: _mean([one.cer for one in item[1]]))
    head = ["way", "CER, mean (each seed)", "digits CER", "parameters", "images/s in training"]
    lines = [[*head, *(f"p against {way}" for way in BASELINES)]]
    for way, cells in rows:
        each = " / ".join(f"{one.cer:.2%}" for one in sorted(cells, key=lambda one: one.seed))
        lines.append([
            way,
            f"{_mean([one.cer for one in cells]):.2%} ({each})",
            f"{_mean([one.cer_digits for one in cells]):.2%}",
            f"{cells[0].num_parameters:,}",
            f"{_mean([one.train_images_per_s for one in cells]):.0f}",
            *(_p(cells, ways.get(baseline, [])) for baseline in BASELINES),
        ])  # fmt: skip
    table = ["| " + " | ".join(line) + " |" for line in lines]
    table.insert(1, "|" + "---|" * len(lines[0]))
    (root / "vocabulary_bridges.md").write_text("\n".join(table) + "\n")


def _p(mine: Sequence[Measured], theirs: Sequence[Measured]) -> str:
    """The p of the permutation test over lines, each line's edits summed over the seeds both have."""
    seeds = {one.seed for one in mine} & {one.seed for one in theirs}
    if not seeds or mine[0].way == theirs[0].way:
        return ""
    each = [[[line[1] for line in one.lines] for one in cells if one.seed in seeds] for cells in (mine, theirs)]
    summed = [[sum(edits) for edits in zip(*of_seed, strict=True)] for of_seed in each]
    clusters = [str(i) for i in range(len(summed[0]))]
    return f"{paired_permutation_p(summed[0], summed[1], clusters):.4f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
