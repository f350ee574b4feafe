"""A small model of each published kind of TrOCR."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_load import load_trocr
from tests.models_small import LIKES, small_trocr_folder


@pytest.fixture(scope="module", params=LIKES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trocr_folder(tmp_path_factory.mktemp(request.param) / "model", request.param, ctc=True, seed=3)


@pytest.fixture(scope="module")
def reader(folder: Path) -> TrOCRReader:
    return load_trocr(str(folder))
