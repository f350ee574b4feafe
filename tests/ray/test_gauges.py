"""What Prometheus gets of a job, scraped from a real node, and that every panel asks for something that is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tdtrain.gauges import WORDS

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
CODE = """
import time, urllib.request
import ray
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
port = ray.nodes()[0]["MetricsExportPort"]
from tdtrain.train.progress import Display
from tdtrain.train.state import Record
record = Record(
    step=3, epoch=0.5, loss=0.25, loss_soft=0, loss_hard=0, learning_rate=1e-3, grad_norm=1, images_per_s=12.5,
    validation_cer=0.04,
)
with Display("scans") as display:
    display("student", record, 10)
    until, found = time.monotonic() + 150, ""
    while "tdtrain_total" not in found and time.monotonic() < until:
        time.sleep(1)
        try:
            found = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        except OSError:
            pass
print(*(line for line in found.splitlines() if line.startswith("ray_tdtrain")), sep="\\n")
"""


def test_a_node_serves_what_a_training_showed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    values = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"ray_tdtrain_(\w+)\{(.*)\} (\S+)", line):
            assert 'run="scans"' in match[2] and 'what="student"' in match[2]
            values[match[1]] = float(match[3])
    assert values == {"loss": 0.25, "images_per_s": 12.5, "score": 0.04, "done": 3, "total": 10}


def test_every_panel_asks_for_a_gauge_that_there_is() -> None:
    dashboard = json.loads((ROOT / "cluster" / "grafana" / "tdtrain.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_tdtrain_(\w+)", target["expr"])
    }
    assert asked == set(WORDS)
