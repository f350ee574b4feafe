"""Packing on a real local Ray writes the bytes that packing in process writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdtrain.data.pack import pack
from tests.unit.data.pages import boxed_corpus, contents, draw_page

pytestmark = pytest.mark.ray
REPO = Path(__file__).parents[2]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    corpus = boxed_corpus(tmp_path / "corpus", 40, annotated=30)
    page, _ = draw_page(["Monday", "08:00", "Art"])
    page.save(corpus / "images/detected.png")
    (corpus / "images/broken.png").write_bytes(b"")
    return corpus


@pytest.fixture
def own_ray() -> Iterator[None]:
    import ray

    running = ray.is_initialized()
    yield
    if not running:
        ray.shutdown()


def test_same_bytes_as_in_process(own_ray: None, corpus: Path, tmp_path: Path) -> None:
    here = pack(corpus, tmp_path / "here", use_ray=False)
    there = pack(corpus, tmp_path / "there", use_ray=True)
    assert here.shards == there.shards and here.num_rows() == 83
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_the_job_runs_from_another_folder(corpus: Path, tmp_path: Path) -> None:
    """As a user starts it, with the package found through PYTHONPATH alone."""
    command = [sys.executable, str(REPO / "rayjobs/prepare.py"), "--dataset_path", "corpus", "--output_dir", "out"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Data card (pages)" in done.stdout and "images/broken.png: the file is empty" in done.stdout
    pack(corpus, tmp_path / "here", use_ray=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "here")
