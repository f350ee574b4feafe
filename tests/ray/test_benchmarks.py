"""The benchmark harness, small: every experiment runs, and says what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def test_every_experiment_runs_small(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/run.py", "--quick", "--repeats", "1", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads((tmp_path / "out.json").read_text())
    assert set(measured["rows"]) == {path.stem for path in (ROOT / "benchmarks" / "experiments").glob("*.py")}
    promised = {"distill_cached_over_plain", "distill_over_guide_loop", "loss_time_over_full", "loss_memory_over_full"}
    promised |= {"lora_tokens_per_s", "search_compute_asha_over_none"}
    assert promised <= measured["figures"].keys() and all(value > 0 for value in measured["figures"].values())
    assert measured["machine"]["versions"]["torch"]
    steps = {row["step"]: row for row in measured["rows"]["distill"]}
    assert {"plain", "cached", "cached, trimmed", "live", "guide"} == steps.keys() and steps["live"]["teacher_s"] > 0


def test_an_experiment_that_is_none_is_refused_in_words() -> None:
    command = [sys.executable, "benchmarks/run.py", "--only", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    expected = "only=nothing is no experiment; there are distill, ingest, lora, loss, memory, search"
    assert done.returncode == 1 and expected in done.stderr
