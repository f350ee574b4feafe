"""RESULTS.md from the JSON files of all experiments: generated, never typed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

KINDS = ("cpu", "gpu")


def write_tables(results: Path, target: Path, experiments: Sequence[str]) -> None:
    """Writes all tables; an experiment that was not measured on a kind of machine is a line with its command."""
    parts = ["# Results", "", "Written by `python benchmarks/run.py`; attempts at more speed are in LOG.md."]
    for name in experiments:
        for kind in KINDS:
            path = results / f"{name}_{kind}.json"
            parts += ["", f"## {name}, {kind}", ""]
            if not path.exists():
                parts.append(f"Not measured. `python benchmarks/run.py --only {name}` on a machine with a {kind}.")
                continue
            held = json.loads(path.read_text())
            where = held["machine"]
            versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
            device = f"{where['gpu']}, " if where["gpu"] else ""
            parts.append(f"{device}{where['cpu']}, {where['cpus']} CPUs, {where['memory_gb']} GB; {versions}; "
                         f"{where['measured']}.")  # fmt: skip
            if held["words"]:
                parts += ["", held["words"]]
            parts += ["", *_table(held["rows"])]
            if held["figures"]:
                parts += ["", *(f"- `{figure}`: {value}" for figure, value in held["figures"].items())]
    target.write_text("\n".join(parts) + "\n")


def _table(rows: list[dict]) -> Iterable[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join("" if row.get(key) is None else f"{row[key]}" for key in columns) + " |"
