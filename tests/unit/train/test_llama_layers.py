"""Llama-3-8B's own layers at their full width: two workers under ZeRO-3 take the step of plain torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, LlamaConfig

from tdtrain.compute import Compute
from tdtrain.losses.objective import Objective
from tdtrain.models.causal import CausalModule
from tdtrain.models.lora import adapt
from tdtrain.models.packed import PACKED
from tdtrain.models.reader import IGNORED
from tdtrain.options import Lora, Optimisation
from tdtrain.train.engine import build_engine
from tdtrain.train.language import LanguageLearner
from tdtrain.train.loop import take_step

LORA = Lora(rank=32, alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
DOCUMENTS = (12, 12)
VOCABULARY = 4096


def learner_of(layers: int) -> LanguageLearner:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, rope_theta=500000.0, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=PACKED)
    rotary = type(model.model.rotary_emb)(config=config)  # what it holds is computed, not loaded
    module = CausalModule(model.to_empty(device="cpu"))
    model.model.rotary_emb = rotary
    noise = 0.02 * torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.data.fill_(1.0)
        else:
            for part in parameter.data.view(-1).split(len(noise)):
                part.copy_(noise[: len(part)].roll(len(name)))
    torch.manual_seed(0)
    adapt(module, "llama", LORA)
    for name, parameter in module.named_parameters():
        if ".lora_B." in name:  # else A would have no gradient
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(len(name)))
    return LanguageLearner(module).train()


def micro_batch(documents: range) -> tuple[dict[str, torch.Tensor], list[str]]:
    tokens, labels = [], []
    for document in documents:
        ids = torch.randint(
            0, VOCABULARY, (DOCUMENTS[document] + 1,), generator=torch.Generator().manual_seed(document)
        )
        tokens.append(ids[:-1])
        labels.append(ids[1:].clone())
        labels[-1][:4] = IGNORED
    lengths = torch.tensor([len(ids) for ids in tokens])
    return {"tokens": torch.cat(tokens), "labels": torch.cat(labels), "lengths": lengths}, [str(d) for d in documents]


def one_step(layers: int, stage: int, documents: range) -> tuple[float, float]:
    """Loss and gradient norm of the first step."""
    torch.set_num_threads(1)
    optimisation = Optimisation(batch_size=2, learning_rate=1e-4, precision="fp32")
    compute = Compute(num_workers=2 if stage else 0, zero_stage=stage)
    engine = build_engine(learner_of(layers), optimisation, compute, 1)
    objective = Objective("autoregressive", 1.0, 0.0)
    sums, norm = take_step([micro_batch(documents)], engine, objective, None, 1e-4, 0)
    return sums.losses[0], norm


def _worker(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {layers: one_step(layers, 3, range(rank, rank + 1)) for layers in (1, 2)}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_zero_3_takes_the_step_of_plain_torch(tmp_path: Path) -> None:
    mp.spawn(_worker, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    for layers, sharded in first.items():
        loss, norm = one_step(layers, 0, range(2))
        assert sharded == (pytest.approx(loss, rel=1e-4), pytest.approx(norm, rel=1e-3)), layers
        assert 7 < loss < 14 and norm > 0
