"""What a step of LoRA takes against what `rayjobs/lora_document.py --plan` says: Llama-3-8B on a GPU, a small one here.

Weights are random, shapes are real. Measured is what a step takes beyond weights and AdamW's moments, which are counted
without guessing: what autograd keeps, what is worked in, gradients. FLOPs of a step are four a frozen weight and token
(forward, and back to the inputs); what is computed again is not counted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import torch
from harness import Measured, Row, Settings, extra_memory_mb, in_turns, peak_flops, summary
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from tdtrain.compute import Compute
from tdtrain.losses.objective import Counts
from tdtrain.models.causal import CausalModule
from tdtrain.models.lora import adapt
from tdtrain.models.packed import PACKED
from tdtrain.options import Lora, Optimisation
from tdtrain.train.engine import build_engine
from tdtrain.train.language import LanguageLearner
from tdtrain.train.memory import memory_of, sizes_of

LLAMA_3_8B = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
SMALL = {
    "vocab_size": 2_000, "hidden_size": 256, "intermediate_size": 1_024, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 2,
}  # fmt: skip
LORA = Lora(rank=32, alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))


def make(folder: str, tokens: int, checkpointing: bool) -> Callable[[], object]:
    """The call that takes one step of a model with adapters, after a first, short one."""
    gpu = torch.cuda.is_available()
    config, device = AutoConfig.from_pretrained(folder), torch.device("cuda" if gpu else "cpu")
    torch.manual_seed(0)
    with device:
        dtype = torch.bfloat16 if gpu else torch.float32
        module = CausalModule(AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=PACKED))
    adapt(module, folder, LORA)
    if checkpointing:
        module.model.gradient_checkpointing_enable({"use_reentrant": False})
    learner = LanguageLearner(module).to(device).train()
    optimisation = Optimisation(precision="bf16" if gpu else "fp32")
    engine = build_engine(learner, optimisation, Compute(num_workers=0), 1)

    def step(length: int) -> None:
        ids = torch.randint(0, config.vocab_size, (length,), device=device)
        batch = {"tokens": ids, "labels": ids, "lengths": torch.tensor([length])}
        with engine.accumulate(last=True):
            total = engine.module(batch, None, Counts(0.0, float(length)))[0]
        engine.backward(total)
        engine.step(1e-4)

    step(64)
    return lambda: step(tokens)


def measure(settings: Settings) -> Measured:
    """A row with and one without gradient checkpointing; the figure is the one that is further off."""
    gpu = torch.cuda.is_available()
    large = gpu and not settings.quick
    tokens = 4_096 if not settings.quick else 512
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # a process then holds what it needs, and no more
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(
            **(LLAMA_3_8B if large else SMALL), tie_word_embeddings=False, architectures=["LlamaForCausalLM"]
        ).save_pretrained(folder)  # type: ignore[arg-type]
        sizes = sizes_of(folder, LORA, tokens, halves=gpu)
        for checkpointing in (False, True):
            plan = memory_of(sizes, 0, 1, gpu, checkpointing)
            planned = (plan.activations + plan.working + plan.gradients) / 2**20
            measured = extra_memory_mb(make, folder, tokens, checkpointing)
            call = make(folder, tokens, checkpointing)
            timed = summary(in_turns({"step": call}, settings.repeats)["step"])
            flops, peak = 4 * (sizes.frozen - _embedding(folder)) * tokens, peak_flops()
            rows.append({
                "model": "Llama-3-8B" if large else "a Llama of 6 layers", "parameters": sizes.frozen + sizes.trained,
                "tokens": tokens, "gradient_checkpointing": checkpointing, "planned_step_mb": round(planned, 1),
                "measured_step_mb": measured, "planned_in_all_gb": round(plan.total / 2**30, 2),
                "tokens_per_s": round(tokens / timed["median_s"], 1), **timed,
                "mfu": None if peak is None else round(flops / timed["median_s"] / peak, 3),
            })  # fmt: skip
            del call
            print(rows[-1], flush=True)
    off = [row["measured_step_mb"] / row["planned_step_mb"] for row in rows if row["measured_step_mb"]]
    return Measured(rows, {"memory_measured_over_plan": round(max(off, key=lambda ratio: abs(ratio - 1)), 3)})


def _embedding(folder: str) -> int:
    """Weights that are looked up, not multiplied with."""
    config = AutoConfig.from_pretrained(folder)
    return config.vocab_size * config.hidden_size
