"""Documents from pages in this process: whole answers become files, cut ones say so."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from tdtrain.config import PredictRun
from tdtrain.data import corpus
from tdtrain.data.annotation import parse_document
from tdtrain.data.sample.page import make_page
from tdtrain.predicting import _weights, predict
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


def test_a_folder_that_another_model_wrote_is_refused(scans: Path, tmp_path: Path) -> None:
    told = {"reader": None, "serialisation": None}
    assert predict(run_of(scans, tmp_path, model="ppocrv6-tiny", **told)).done == 2
    again = run_of(scans, tmp_path, model="ppocrv6-tiny", max_answer_tokens=9, **told)
    assert predict(again).there == 2
    with pytest.raises(ValueError, match="holds what was predicted with other model; give another folder"):
        predict(run_of(scans, tmp_path, model="ppocrv6-small", **told))
    with pytest.raises(ValueError, match="with other detector"):
        predict(again.model_copy(update={"detector": "small"}))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"old")
    before = _weights(str(tmp_path / "model"))
    (tmp_path / "model/model.safetensors").write_bytes(b"new")
    assert _weights(str(tmp_path / "model")) != before


def test_a_name_as_long_as_names_may_be_and_an_image_that_cannot_be_read(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (page, _) = sorted(scans.glob("term/*.png"))
    for name in ("я" * 125, "b"):
        (tmp_path / "scans" / f"{name}.png").write_bytes(page.read_bytes())
    (tmp_path / "scans/gone.png").symlink_to(tmp_path / "scans/b.png")
    told = {"model": "ppocrv6-tiny", "reader": None, "serialisation": None}
    with pytest.MonkeyPatch.context() as patch:
        read = corpus.Folder.read

        def failing(self: corpus.Folder, name: str) -> bytes:
            if name == "b.png":
                raise OSError(errno.EACCES, "Permission denied")
            return read(self, name)

        patch.setattr(corpus.Folder, "read", failing)
        found = predict(run_of(tmp_path / "scans", tmp_path / "out", **told))
    assert (found.done, found.failed) == (2, 1) and (tmp_path / f"out/{'я' * 125}.txt").exists()
    assert "Permission denied" in (tmp_path / "out/failed.jsonl").read_text()
