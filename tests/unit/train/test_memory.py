"""The memory plan against what a process really held, and against counts by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, Qwen2Config

from tdtrain.options import Lora
from tdtrain.train.memory import memory_of, sizes_of

LORA = Lora(rank=8, alpha=16, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
MEASURE = """
import sys
import torch
from transformers import AutoModelForCausalLM
from tdtrain.losses.objective import Counts
from tdtrain.models.causal import CausalModule
from tdtrain.models.packed import PACKED
from tdtrain.models.lora import adapt
from tdtrain.train.language import LanguageLearner
from tests.unit.train.test_memory import LORA

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

folder, tokens, checkpointing = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
torch.set_num_threads(1)
config = __import__("transformers").AutoConfig.from_pretrained(folder)
module = CausalModule(AutoModelForCausalLM.from_config(config, attn_implementation=PACKED))
adapt(module, folder, LORA)
if checkpointing:
    module.model.gradient_checkpointing_enable({"use_reentrant": False})
learner = LanguageLearner(module).train()

def step(length):
    ids = torch.randint(0, config.vocab_size, (length,))
    batch = {"tokens": ids, "labels": ids, "lengths": torch.tensor([length])}
    learner(batch, None, Counts(0.0, float(length)))[0].backward()

step(64)  # libraries make themselves at home
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
step(tokens)
print(status("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama")
    LlamaConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=2000, tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    ).save_pretrained(made)  # fmt: skip
    return made


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plan_is_what_a_process_needs(folder: Path, checkpointing: bool) -> None:
    tokens = 4096
    command = [sys.executable, "-c", MEASURE, str(folder), str(tokens), str(checkpointing)]
    # Every large block is then given back when it is freed, and what a process holds is what it needs.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    measured = float(done.stdout.split()[-1])
    found = memory_of(
        sizes_of(str(folder), LORA, tokens, halves=False), 0, 1, halves=False, checkpointing=checkpointing
    )
    assert found.activations + found.working == pytest.approx(measured, rel=0.05)


def test_weights_gradients_and_moments_are_counted_by_hand(folder: Path) -> None:
    sizes = sizes_of(str(folder), LORA, 16, halves=True)
    trained = 6 * 8 * (2 * (256 + 256) + 2 * (256 + 64))
    assert sizes.trained == trained
    frozen = 2 * 2000 * 256 + 6 * (2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 1024 + 2 * 256) + 256
    assert sizes.frozen == frozen
    plain = memory_of(sizes, 0, 4, halves=True, checkpointing=False)
    assert plain.weights == 2 * frozen + 4 * trained
    assert (plain.gradients, plain.optimizer) == (4 * trained, 8 * trained)
    two = memory_of(sizes, 2, 4, halves=True, checkpointing=False)
    assert (two.weights, two.gradients, two.optimizer) == (2 * frozen + 2 * trained, trained / 2, 3 * trained)
    three = memory_of(sizes, 3, 4, halves=True, checkpointing=False)
    layer = 2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 1024 + 2 * 256 + trained // 6
    assert three.weights == 2 * (frozen + trained) / 4 + 2 * 2 * layer


def test_layers_of_different_kinds_are_planned(tmp_path: Path) -> None:
    Qwen2Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=8, max_window_layers=3,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(tmp_path)  # fmt: skip
    sizes = sizes_of(str(tmp_path), Lora(rank=4, target_modules=("q_proj",)), 32, halves=False)
    assert sizes.trained == 6 * 4 * (64 + 64) and sizes.kept[0] > sizes.kept[1] > 0


def test_llama_3_8b_fits_where_it_is_known_to(tmp_path: Path) -> None:
    LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    ).save_pretrained(tmp_path)  # fmt: skip
    lora = Lora(rank=32, alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"), lora_dropout=0.1)
    sizes = sizes_of(str(tmp_path), lora, 4096, halves=True)
    assert (sizes.frozen, sizes.trained) == (8_030_261_248, 27_262_976)
    gib = {n: memory_of(sizes, 3, n, halves=True, checkpointing=True).total / 2**30 for n in (1, 4)}
    assert 15 < gib[1] < 20 and gib[4] < 10
    four_bit = memory_of(sizes, 0, 1, halves=True, checkpointing=True, four_bit=True).total / 2**30
    in_layers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert sizes.packed == in_layers and 7 < four_bit < 9
