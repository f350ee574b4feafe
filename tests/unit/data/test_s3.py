"""A corpus, its packed lines and a teacher's labels on an S3 server that speaks the real protocol over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tdtrain.data.manifest import load_manifest
from tdtrain.data.pack import PackOptions, pack
from tdtrain.data.storage import open_folder
from tests.buckets import local_bucket
from tests.corpora import line_corpus, packed_lines


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with local_bucket() as uri:
        yield uri


def test_a_corpus_on_s3_packs_to_the_same_bytes_as_on_disk(bucket: str, tmp_path: Path) -> None:
    local = line_corpus(tmp_path / "corpus", annotated=30, num=40)
    remote = open_folder(f"{bucket}/corpus")
    for path in sorted(local.rglob("*.*")):
        remote.write(str(path.relative_to(local)), path.read_bytes())
    options = PackOptions(corpus_kind="lines")
    here = pack(local, tmp_path / "lines", options, use_ray=False)
    there = pack(f"{bucket}/corpus", f"{bucket}/lines", options, use_ray=False)
    assert there.fingerprint == here.fingerprint
    for shard in here.shards:
        assert open_folder(f"{bucket}/lines").read(shard.path) == (tmp_path / "lines" / shard.path).read_bytes()
    assert load_manifest(f"{bucket}/lines").num_annotated() == 30
    assert pack(f"{bucket}/corpus", f"{bucket}/lines", options, use_ray=False) == there  # nothing to do


def test_a_student_learns_from_s3_as_from_disk(bucket: str, tmp_path: Path) -> None:
    from tdtrain.compute import Compute
    from tdtrain.models.students import build_student
    from tdtrain.options import Optimisation
    from tdtrain.teachers.label_pass import label, plan_labels
    from tdtrain.train.launch import fit
    from tdtrain.train.runs import TrainRun
    from tests.models_small import timetable_texts

    local = packed_lines(tmp_path, annotated=20, num=48)
    for path in sorted(Path(local).rglob("*.*")):
        open_folder(f"{bucket}/packed").write(str(path.relative_to(local)), path.read_bytes())
    build_student("nano", "".join(sorted(set("".join(timetable_texts(48))))), 0, tmp_path / "student")
    weights = []
    for place, labels in ((local, str(tmp_path / "labels")), (f"{bucket}/packed", f"{bucket}/labels")):
        job = plan_labels("ppocrv6-tiny", place, labels)
        label(job, 0, lambda done, total: None)
        run = TrainRun(
            name="student",
            model=str(tmp_path / "student"),
            lines=place,
            labels=job.folder,
            storage=str(tmp_path / f"checkpoints-{len(weights)}"),
            alpha=0.5,
            min_confidence=0.0,
            optimisation=Optimisation(epochs=1, batch_size=16, evaluations=1, precision="fp32"),
            compute=Compute(num_workers=0),
        )
        fit(run, tmp_path / f"out-{len(weights)}", lambda name, record, total: None)
        weights.append((tmp_path / f"out-{len(weights)}" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_checkpoints_on_s3_are_checked_and_published_as_on_disk(bucket: str, tmp_path: Path) -> None:
    from tdtrain.train.checkpoint import LocalStore, publish
    from tdtrain.train.whole import names, to_resume_from
    from tests.unit.train.test_checkpoint import filling

    store, record = LocalStore(tmp_path / "store"), open_folder(f"{bucket}/checkpoints/student")
    for step, cer in enumerate((0.2, 0.1), 1):
        store.commit(step, filling(step, cer))
    for name in store.folder.files(""):
        record.write(name, store.folder.read(name))
    assert names(record) == names(store.folder) and to_resume_from(record) == "checkpoint_00000002"
    publish(record, names(record), tmp_path / "first")
    record.write("checkpoint_00000002/model/weights", b"?")
    with pytest.warns(UserWarning, match="checkpoint_00000002 is passed over: model/weights is not as it was written"):
        assert to_resume_from(record) == "checkpoint_00000001"
        publish(record, names(record), tmp_path / "second")
    assert [(tmp_path / name / "weights").read_text() for name in ("first", "second")] == ["2", "1"]
