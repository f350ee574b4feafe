"""A reader is scored on pages that it never learnt from, however the corpus has grown since."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdtrain.config import EvaluateRun
from tdtrain.data.manifest import read_lines
from tdtrain.data.pack import pack
from tdtrain.data.rows import SPLITS
from tdtrain.models.students import build_student
from tdtrain.scoring import score
from tdtrain.train.checkpoint import pages_learnt_from
from tests.corpora import line_corpus
from tests.models_small import timetable_texts


def test_pages_that_a_model_learnt_from_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = timetable_texts(60, seed=5)
    before = pack(line_corpus(tmp_path / "corpus", texts), tmp_path / "packed", use_ray=False)
    build_student("nano", "".join(sorted(set("".join(texts)))), 0, tmp_path / "model")
    (tmp_path / "model/run.json").write_text(json.dumps({"lines": before.root, "corpus": before.fingerprint}))
    learnt = {line.page_id for split in SPLITS[:2] for line in read_lines(before, split)}
    assert pages_learnt_from(str(tmp_path / "model")) == learnt and learnt
    (tmp_path / "corpus/images/more.png").write_bytes(next(tmp_path.glob("corpus/images/*.png")).read_bytes() + b"\0")
    (tmp_path / "corpus/annotations/more.txt").write_text(texts[0])
    run = EvaluateRun(
        model=str(tmp_path / "model"), dataset_path=str(tmp_path / "corpus"), output_dir=tmp_path / "out", num_workers=0
    )
    results = score(run)
    tested = sum(1 for _ in read_lines(before, "test"))
    assert results.readers["student"].num_lines == tested + 1
    assert f"{len(learnt)} pages that a model learnt from are left out" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "model/run.json").write_text(json.dumps({"lines": str(tmp_path / "gone")}))
    assert pages_learnt_from(str(tmp_path / "model")) == set()
