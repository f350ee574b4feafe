"""Training adapters: the base stays as it is, a resumed run is the whole one, and what is left is only adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tdtrain.compute import Compute
from tdtrain.models.load import load_reader
from tdtrain.options import Lora, Optimisation
from tdtrain.train import loop
from tdtrain.train.launch import fit
from tdtrain.train.runs import TrainRun
from tests.corpora import packed_lines
from tests.models_small import small_trocr_folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_lines(tmp_path_factory.mktemp("corpus"), annotated=60, num=80)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    trocr = small_trocr_folder(tmp_path_factory.mktemp("base") / "trocr", "small", ctc=True)
    return {"trocr": str(trocr), "ppocr": "ppocrv6-tiny"}


def run_of(
    corpus: str, model: str, storage: Path, lora: Lora | None, steps: int = 6, learning_rate: float = 1e-4
) -> TrainRun:
    return TrainRun(
        name="student",
        model=model,
        lines=corpus,
        storage=str(storage),
        lora=lora,
        max_steps=steps,
        compute=Compute(num_workers=0),
        optimisation=Optimisation(batch_size=16, learning_rate=learning_rate, evaluations=2, precision="fp32"),
    )


@pytest.mark.parametrize("family", ["trocr", "ppocr"])
def test_adapters_learn_and_a_resumed_run_is_the_whole_one(
    family: str, corpus: str, bases: dict[str, str], tmp_path: Path
) -> None:
    lora = Lora(rank=4, target_modules=("all",), lora_dropout=0.1, lora_plus_ratio=4)
    rate = 3e-3 if family == "trocr" else 1e-4  # the one is random, the other reads these lines already
    records: list[loop.Record] = []
    whole = run_of(corpus, bases[family], tmp_path / "a", lora, learning_rate=rate)
    fit(whole, tmp_path / "a" / "out", lambda _, record, __: records.append(record))
    assert records[-1].loss < (records[0].loss if family == "trocr" else 0.1)

    def stop(name: str, record: loop.Record, total: int) -> None:
        if record.step == 5:
            raise KeyboardInterrupt

    again = run_of(corpus, bases[family], tmp_path / "b", lora, learning_rate=rate)
    with pytest.raises(KeyboardInterrupt):
        fit(again, tmp_path / "b" / "out", stop)
    fit(again, tmp_path / "b" / "out", lambda *_: None)
    names = {path.name for path in (tmp_path / "a" / "out").iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "run.json", "progress.json", "README.md"}
    first, second = (load_file(tmp_path / run / "out" / "adapter_model.safetensors") for run in "ab")
    assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
    assert all("lora_" in name for name in first) and any(value.any() for name, value in first.items() if "_B" in name)
    engine = next((tmp_path / "a" / "student").glob("checkpoint_*/engine/torch.pt"))
    assert engine.stat().st_size < 8 * sum(p.numel() for p in load_reader(bases[family]).module.parameters())


def test_the_first_loss_is_that_of_the_base(corpus: str, bases: dict[str, str], tmp_path: Path) -> None:
    firsts = []
    for name, lora in (("full", None), ("lora", Lora(rank=4, target_modules=("fc1",)))):
        seen: list[float] = []
        run = run_of(corpus, bases["ppocr"], tmp_path / name, lora, steps=1)
        fit(run, tmp_path / name / "out", lambda _, record, __, seen=seen: seen.append(record.loss))
        firsts += seen
    assert firsts[0] == firsts[1]
