"""Code that a model brings along is not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdtrain.models.causal import load_causal
from tdtrain.models.load import load_reader
from tdtrain.models.remote_code import SWITCH, trusted
from tdtrain.options import Lora
from tdtrain.train.memory import sizes_of


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A model of a kind that transformers does not know; its code leaves a file where it is run."""
    told = {"model_type": "foreign", "auto_map": {"AutoConfig": "configuration_foreign.ForeignConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    ran = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    kind = (
        "from transformers import PretrainedConfig\nclass ForeignConfig(PretrainedConfig):\n    model_type = 'foreign'"
    )
    (tmp_path / "configuration_foreign.py").write_text(ran + kind)
    return tmp_path


def planned(name: str) -> None:
    sizes_of(name, Lora(), 8, halves=False)


def test_code_of_a_model_is_not_run_and_the_way_out_is_said(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    for load in (load_causal, load_reader, planned):
        with pytest.raises(ValueError, match=f"{foreign} brings code of its own, which is not run.*{SWITCH}=1"):
            load(str(foreign))
    assert not (foreign / "ran").exists()


def test_only_the_switch_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, on in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv(SWITCH, value)
        assert trusted() is on
