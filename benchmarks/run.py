"""Measure tdtrain: every experiment of experiments/, or one, into RESULTS.md and a JSON file.

    python benchmarks/run.py --only loss --json loss.json
    ray job submit --working-dir . -- python benchmarks/run.py --only distill

The same commands serve one CPU, one GPU and a cluster. What was not measured on a kind of machine is an empty cell.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from harness import Measured, Settings, machine
from results_table import write_tables

EXPERIMENTS = tuple(sorted(path.stem for path in (HERE / "experiments").glob("*.py")))


def main(
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"{{{','.join(EXPERIMENTS)}}} ...")] = EXPERIMENTS,
    json_out: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes] = Settings(),  # noqa: B008 - frozen
) -> None:
    """Measures, and writes the tables anew.

    Args:
        only: which experiments; all of them where left out.
        json_out: also write rows, figures, hardware and versions there.
        settings: how often, how large.
    """
    if unknown := [name for name in only if name not in EXPERIMENTS]:
        sys.exit(f"error: only={' '.join(unknown)} is no experiment; there are {', '.join(EXPERIMENTS)}")
    where, figures, rows = machine(), {}, {}
    for name in only:
        measured: Measured = importlib.import_module(f"experiments.{name}").measure(settings)
        rows[name], figures = measured.rows, figures | measured.figures
        if not settings.quick:
            results = {"rows": measured.rows, "figures": measured.figures, "words": measured.words, "machine": where}
            kind = "gpu" if where["gpu"] else "cpu"
            path = HERE / "results" / f"{name}_{kind}.json"
            path.write_text(json.dumps(results, indent=1) + "\n")
    if not settings.quick:
        write_tables(HERE / "results", HERE / "RESULTS.md", EXPERIMENTS)
    if json_out is not None:
        json_out.write_text(json.dumps({"figures": figures, "rows": rows, "machine": where}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True, description=__doc__)
