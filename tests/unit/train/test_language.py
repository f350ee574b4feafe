"""Language models on packed documents: the loss is that of plain transformers, however a step is cut; runs resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from tdtrain.compute import Compute
from tdtrain.data.sequences import Example, write_sequences
from tdtrain.models.causal import Prompter, load_causal
from tdtrain.options import Lora, Optimisation
from tdtrain.train import loop
from tdtrain.train.language import plan_language
from tdtrain.train.launch import fit
from tdtrain.train.runs import LanguageRun
from tests.models_small import small_llama_folder, timetable_texts

LORA = Lora(rank=4, target_modules=("q_proj", "v_proj", "mlp"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_llama_folder(tmp_path_factory.mktemp("models") / "llama"))


def examples(prompter: Prompter, texts: list[str]) -> list[Example]:
    return [prompter.example(str(i), text, f'{{"name":"{text.split()[-2]}"}}') for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def sequences(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sequences")
    _, prompter = load_causal(model)
    write_sequences(f"{folder}/train", examples(prompter, timetable_texts(24)))
    write_sequences(f"{folder}/validation", examples(prompter, timetable_texts(6, seed=1)))
    return str(folder)


def run_of(model: str, sequences: str, storage: Path, **changes: object) -> LanguageRun:
    settings = {"epochs": 3.0, "batch_size": 8, "learning_rate": 5e-3, "evaluations": 3, "precision": "fp32"}
    return LanguageRun(
        name="student", model=model, sequences=sequences, storage=str(storage),
        compute=Compute(num_workers=0), optimisation=Optimisation(**settings), **changes,
    )  # fmt: skip


def records_of(run: LanguageRun, output: Path) -> list[loop.Record]:
    seen: list[loop.Record] = []
    fit(run, output, lambda name, record, total: seen.append(record))
    return seen


def interrupted_and_resumed(run: LanguageRun, output: Path) -> None:
    def stop(name: str, record: loop.Record, total: int) -> None:
        if record.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(run, output, stop)
    fit(run, output, lambda *_: None)


def test_the_first_loss_is_that_of_plain_transformers(model: str, sequences: str, tmp_path: Path) -> None:
    run = run_of(model, sequences, tmp_path, lora=LORA, max_steps=1)
    job = plan_language(run)
    plain = AutoModelForCausalLM.from_pretrained(model)
    total = tokens = 0.0
    _, prompter = load_causal(model)
    documents = {one.id: one for one in examples(prompter, timetable_texts(24))}
    (window,) = job.plan.windows(0, 1)
    for batch in job.recipe.load(window, 0, 1):
        for row in batch["ids"].tolist():
            ids = torch.tensor(documents[row].tokens)
            with torch.no_grad():
                logits = plain(input_ids=ids[None]).logits[0, documents[row].num_prompt - 1 : -1].double()
            answer = ids[documents[row].num_prompt :]
            total, tokens = total + float(cross_entropy(logits, answer, reduction="sum")), tokens + len(answer)
    (record,) = records_of(run, tmp_path / "out")
    assert record.loss == pytest.approx(total / tokens, rel=1e-5)


def test_how_a_step_is_cut_changes_nothing(model: str, sequences: str, tmp_path: Path) -> None:
    curves = {}
    for max_tokens in (4096, 200):
        run = run_of(model, sequences, tmp_path / str(max_tokens), lora=LORA, max_tokens=max_tokens)
        assert (plan_language(run).recipe.parts > 1) == (max_tokens == 200)
        curves[max_tokens] = records_of(run, tmp_path / str(max_tokens) / "out")
    for whole, cut in zip(*curves.values(), strict=True):
        assert cut.loss == pytest.approx(whole.loss, rel=1e-4)
        assert (cut.validation_loss is None) == (whole.validation_loss is None)
    assert curves[200][-1].validation_loss == pytest.approx(curves[4096][-1].validation_loss, rel=1e-3)
    assert curves[200][-1].validation_loss < curves[200][0].loss - 0.1


@pytest.mark.parametrize("lora", [LORA.model_copy(update={"lora_dropout": 0.1}), None])
def test_a_resumed_run_is_the_whole_one(lora: Lora | None, model: str, sequences: str, tmp_path: Path) -> None:
    whole = run_of(model, sequences, tmp_path / "a", lora=lora, gradient_checkpointing=True)
    records_of(whole, tmp_path / "a" / "out")
    again = run_of(model, sequences, tmp_path / "b", lora=lora, gradient_checkpointing=True)
    interrupted_and_resumed(again, tmp_path / "b" / "out")
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    first, second = (load_file(tmp_path / run / "out" / name) for run in "ab")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    if lora is None:  # plain transformers, tokenizer included
        load_causal(str(tmp_path / "a" / "out"))


def test_adapters_learn_on_a_base_in_four_bits_and_merge_into_the_whole_one(
    model: str, sequences: str, tmp_path: Path
) -> None:
    curves = {}
    for four_bit in (False, True):
        run = run_of(model, sequences, tmp_path / str(four_bit), lora=LORA, four_bit=four_bit)
        curves[four_bit] = records_of(run, tmp_path / str(four_bit) / "out")
    first, last = curves[True][0], curves[True][-1]
    assert first.loss != curves[False][0].loss and first.loss == pytest.approx(curves[False][0].loss, rel=0.02)
    assert last.loss < first.loss - 0.1 and last.loss == pytest.approx(curves[False][-1].loss, rel=0.05)
    adapter = tmp_path / "True" / "out"
    assert all("lora_" in name for name in load_file(adapter / "adapter_model.safetensors"))
    merged, _ = load_causal(str(adapter))
    with pytest.raises(ValueError, match="do not merge into 4 bits"):
        load_causal(str(adapter), four_bit=True)
    base, _ = load_causal(model)
    changed = [name for name, value in merged.state_dict().items() if not torch.equal(value, base.state_dict()[name])]
    assert changed and all(any(part in name for part in ("q_proj", "v_proj", "mlp")) for name in changed)

    again = run_of(model, sequences, tmp_path / "again", lora=LORA, four_bit=True)
    interrupted_and_resumed(again, tmp_path / "again" / "out")
    whole, resumed = (load_file(out / "adapter_model.safetensors") for out in (adapter, tmp_path / "again" / "out"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_biases_that_are_trained_are_fp32_on_a_base_in_bf16(model: str, sequences: str, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model)
    base.config.attention_bias = True
    AutoModelForCausalLM.from_config(base.config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "model")
    lora = Lora(rank=2, target_modules=("q_proj", "v_proj"), bias="all")
    run = run_of(str(tmp_path / "model"), sequences, tmp_path / "runs", lora=lora)
    optimisation = run.optimisation.model_copy(update={"precision": "bf16", "learning_rate": 1e-4})
    records_of(run.model_copy(update={"optimisation": optimisation}), tmp_path / "out")
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    biases = {name: value for name, value in saved.items() if name.endswith(".bias")}
    assert biases and all(value.dtype == torch.float32 for value in biases.values())
    moved = torch.cat([value.flatten() for value in biases.values()])
    assert (moved != moved.to(torch.bfloat16).float()).any()


def test_a_document_that_does_not_fit_is_refused(model: str, sequences: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_tokens=20 is less than the \d+ tokens of the longest document"):
        plan_language(run_of(model, sequences, tmp_path, max_tokens=20))
