"""Documents from pages in this process: whole answers become files, cut ones say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdtrain.config import PredictRun
from tdtrain.data.annotation import parse_document
from tdtrain.data.sample.page import make_page
from tdtrain.predicting import predict
from tests.models_small import small_llama_folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    (folder / "term").mkdir()
    for index in (1, 2):
        image, truth = make_page(3, index, layout="list", harms=())
        (folder / "term" / truth.name).write_bytes(image)
    return folder


def run_of(scans: Path, out: Path, **changes: object) -> PredictRun:
    settings: dict = {"reader": "ppocrv6-tiny", "serialisation": "headings", "model": "smollm2-135m", "num_workers": 0}
    return PredictRun(dataset_path=str(scans), output_dir=str(out), **settings | changes)


def test_a_document_for_each_page_that_could_be_written(scans: Path, tmp_path: Path) -> None:
    found = predict(run_of(scans, tmp_path, max_answer_tokens=100))
    documents = sorted(tmp_path.glob("term/*.json"))
    assert found.done == len(documents) and found.done + found.failed == 2
    for path in documents:
        assert parse_document(path.read_bytes()).image_path == f"term/{path.stem}.png"
    failed = tmp_path / "failed.jsonl"
    reasons = [json.loads(line)["reason"] for line in failed.read_text().splitlines()] if failed.exists() else []
    assert len(reasons) == found.failed and all("did not end within 100 tokens" in reason for reason in reasons)
    cut = sorted(tmp_path.glob("term/*.json.cut"))
    assert len(cut) == found.failed and all(parse_document(path.read_bytes()).image_path for path in cut)


def test_a_model_that_does_not_say_how_it_learnt_is_refused(scans: Path, tmp_path: Path) -> None:
    model = str(small_llama_folder(tmp_path / "llama"))
    with pytest.raises(ValueError, match="does not say with which reader"):
        predict(run_of(scans, tmp_path / "out", model=model, reader=None))
    with pytest.raises(ValueError, match="reads itself"):
        predict(run_of(scans, tmp_path / "out", model="ppocrv6-tiny"))
    with pytest.raises(ValueError, match="holds no image"):
        predict(run_of(tmp_path / "nothing", tmp_path / "out"))


def test_a_reader_writes_a_page_line_by_line(scans: Path, tmp_path: Path) -> None:
    run = run_of(scans, tmp_path, model="ppocrv6-tiny", reader=None, serialisation=None)
    assert predict(run).done == 2
    assert all(len(path.read_text().splitlines()) > 10 for path in tmp_path.glob("term/*.txt"))
