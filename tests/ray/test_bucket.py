"""A training whose checkpoints lie in a bucket: what is killed goes on from there, and changes no bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tdtrain.data.storage import open_folder
from tdtrain.models.students import build_student
from tdtrain.ray_start import connect
from tdtrain.train import loop
from tdtrain.train.launch import fit
from tdtrain.train.whole import damage, names
from tests.buckets import local_bucket
from tests.corpora import packed_lines
from tests.models_small import timetable_texts
from tests.ray.test_train import curve, kill_one, run_of

pytestmark = pytest.mark.ray


@pytest.fixture
def bucket() -> Iterator[str]:
    with local_bucket() as uri:
        connect(num_cpus=6)  # whose workers find the bucket as this process does
        yield uri


def test_a_worker_is_killed_and_its_checkpoints_lie_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    corpus = packed_lines(tmp_path / "corpus", annotated=60, num=96)
    build_student("mobile-pretrained", "".join(sorted(set("".join(timetable_texts(96))))), 0, tmp_path / "model")
    here = run_of(corpus, str(tmp_path / "model"), tmp_path / "here", 0, epochs=10.0)
    there = curve(here, tmp_path / "here" / "out")
    killed: list[int] = []

    def kill_once(name: str, record: loop.Record, total: int) -> None:
        if not killed and record.step > total // 2:  # after the first of two checkpoints
            killed.extend(kill_one("RayTrainWorker"))

    run = run_of(corpus, str(tmp_path / "model"), tmp_path, 1, epochs=10.0).model_copy(
        update={"storage": f"{bucket}/runs"}
    )
    fit(run, tmp_path / "out", kill_once)
    record = open_folder(f"{bucket}/runs/student")
    kept = names(record)
    assert killed and len(kept) == 2 and not any(damage(record.within(name)) for name in kept)
    first, second = (folder / "model.safetensors" for folder in (tmp_path / "here" / "out", tmp_path / "out"))
    assert there and first.read_bytes() == second.read_bytes()
