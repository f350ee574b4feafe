"""Adapting SmolLM2-135M to documents: tdtrain's steps against TRL's SFTTrainer with peft, from the same adapters.

Both learn the same pages of the sample corpus in the same order, in fp32 on a CPU and bf16 on a GPU, with
rank 32 on q, k, v and o, the same AdamW, clipping and learning rate, no dropout; TRL's trainer is its own, stopped and
let go by a callback, so that the two take turns step by step. TRL pads a batch to its longest page (to do without, it
needs FlashAttention); it is installed by `pip install --no-deps trl`, and left out where it is not.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Measured, Row, Settings, extra_memory_mb, in_turns, summary
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from tdtrain.compute import Compute
from tdtrain.data.layout import PlacedLine
from tdtrain.data.order import in_order_of_page
from tdtrain.data.sample.page import make_page
from tdtrain.data.sequences import SequenceRecipe, write_sequences
from tdtrain.data.serialise import serialise
from tdtrain.data.training_set import stream
from tdtrain.losses.objective import Objective
from tdtrain.models.causal import CausalModule, Prompter, load_causal, source_of
from tdtrain.models.lora import adapt
from tdtrain.models.reader import IGNORED
from tdtrain.options import Lora, Optimisation
from tdtrain.train.engine import build_engine
from tdtrain.train.language import LanguageLearner, plan_language
from tdtrain.train.loop import take_step
from tdtrain.train.runs import LanguageRun

MODEL = "smollm2-135m"
BATCH, MAX_TOKENS, LEARNING_RATE = 4, 8192, 1e-4
LONGEST = 1200
"""Longer pages are left out: TRL keeps what it computes of a whole padded batch, which has to fit."""
LORA = Lora(rank=32, alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
OPTIMISATION = Optimisation(batch_size=BATCH, learning_rate=LEARNING_RATE, weight_decay=0.0, epochs=1)


class Ours:
    """A call takes one step."""

    def __init__(self, folder: str) -> None:
        run = LanguageRun(
            name="student", model=model_of(folder), sequences=folder, storage=f"{folder}/none", lora=LORA,
            max_tokens=MAX_TOKENS, optimisation=OPTIMISATION, compute=Compute(num_workers=0),
        )  # fmt: skip
        self.losses: list[float] = []
        self._job = plan_language(run)
        module, _, self._device = _adapted(folder)
        learner = LanguageLearner(module).to(self._device).train()
        self._engine = build_engine(learner, OPTIMISATION, run.compute, self._job.recipe.parts)
        self._batches = stream(self._job.plan, self._job.recipe, 0, self._job.total_steps)

    def __call__(self) -> None:
        micro = []
        for batch in (next(self._batches) for _ in range(self._job.recipe.parts)):
            tensors = {key: torch.from_numpy(batch[key]).to(self._device) for key in ("tokens", "labels", "lengths")}
            micro.append((tensors, batch["ids"].tolist()))
        sums, _ = take_step(micro, self._engine, Objective("autoregressive", 1.0, 0.0), None, LEARNING_RATE, 0)
        self.losses.append(sums.losses[0])


class Trl:
    """TRL's trainer in a thread; a call lets it take one step."""

    def __init__(self, folder: str) -> None:
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import SFTConfig, SFTTrainer

        self.losses: list[float] = []
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        turns = self

        class InTurns(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                turns._go.acquire()

            def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
                if "loss" in logs:
                    turns.losses.append(logs["loss"])
                    turns._done.release()

        module, prompter, device = _adapted(folder)
        model = module.model
        model.set_attn_implementation("sdpa")
        rows = _rows(folder)
        config = SFTConfig(
            output_dir=f"{folder}/trl", per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=OPTIMISATION.max_grad_norm, max_length=None,
            num_train_epochs=1, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
            activation_checkpointing=False, bf16=device.type == "cuda", use_cpu=device.type == "cpu",
            dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
        )  # fmt: skip
        trainer = SFTTrainer(
            _peft_model(module), config, train_dataset=Dataset.from_list(rows), callbacks=[InTurns()],
            processing_class=prompter.tokenizer,
        )  # fmt: skip
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)  # type: ignore[method-assign]
        self._trainer, self._failure = trainer, list[BaseException]()
        threading.Thread(target=self._train, daemon=True).start()

    def _train(self) -> None:
        try:
            self._trainer.train()
        except BaseException as error:
            self._failure.append(error)
            self._done.release()

    def __call__(self) -> None:
        torch.backends.cuda.enable_cudnn_sdp(True)  # torch's own default, which tdtrain changes
        self._go.release()
        self._done.acquire()
        if self._failure:
            raise self._failure[0]
        torch.backends.cuda.enable_cudnn_sdp(False)


def make(name: str, folder: str) -> Callable[[], object]:
    """One of the two, for `extra_memory_mb`."""
    torch.set_num_threads(2)
    return Ours(folder) if name == "tdtrain" else Trl(folder)


def measure(settings: Settings) -> Measured:
    """Steps of both in turns."""
    with tempfile.TemporaryDirectory() as folder:
        if settings.quick:
            _small_model(folder)
        tokens, answers = _write(folder, 1 + settings.repeats)
        names = ["tdtrain", *(["trl"] if find_spec("trl") else [])]
        memory = {name: extra_memory_mb(make, name, folder) for name in names}
        calls = {name: Ours(folder) if name == "tdtrain" else Trl(folder) for name in names}
        seconds = in_turns(calls, settings.repeats)
        rows: list[Row] = []
        for name in names:
            rates = [count / taken for count, taken in zip(tokens[1:], seconds[name], strict=True)]
            rows.append({
                "trainer": name, **summary(seconds[name]), "tokens_per_s": round(float(np.median(rates)), 1),
                "answer_share": round(sum(answers) / sum(tokens), 2), "extra_memory_mb": memory[name],
                "loss_first": round(calls[name].losses[0], 4), "loss_last": round(calls[name].losses[-1], 4),
            })  # fmt: skip
            print(rows[-1], flush=True)
        figures = {"lora_tokens_per_s": rows[0]["tokens_per_s"]}
        if len(rows) == 2:
            ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
            pairs = list(zip(*(call.losses for call in calls.values()), strict=True))
            figures["lora_tokens_over_trl"] = round(float(np.median(ratios)), 2)
            if memory["tdtrain"] and memory["trl"]:
                figures["lora_memory_over_trl"] = round(memory["tdtrain"] / memory["trl"], 2)
            figures["lora_loss_difference"] = round(max(abs(a - b) / b for a, b in pairs), 5)
    return Measured(rows, figures)


def model_of(folder: str) -> str:
    """What learns: SmolLM2, where there is no small model in the folder."""
    small = f"{folder}/model"
    return small if Path(small).exists() else MODEL


def _small_model(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(source_of(MODEL))
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(f"{folder}/model")
    tokenizer.save_pretrained(f"{folder}/model")


def _adapted(folder: str) -> tuple[CausalModule, Prompter, torch.device]:
    """The model with the same fresh adapters each time."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, prompter = load_causal(model_of(folder), torch.bfloat16 if device.type == "cuda" else torch.float32)
    torch.manual_seed(0)
    module.adapters = adapt(module, model_of(folder), LORA)  # type: ignore[assignment]
    return module.to(device), prompter, device


def _peft_model(module: CausalModule) -> Any:
    return module.adapters.wrapped  # type: ignore[union-attr]


def _write(folder: str, steps: int) -> tuple[list[int], list[int]]:
    """Pages as sequences; tokens, and tokens of answers, of each step."""
    _, prompter = load_causal(model_of(folder))
    examples = []
    for index in itertools.count():
        _, truth = make_page(11, index)
        lines = [PlacedLine(line.text, tuple(np.ravel(line.quad))) for line in truth.boxes.lines]
        answer = in_order_of_page(truth.document, lines).canonical()
        example = prompter.example(str(index), serialise(lines, "headings"), answer)
        if len(example.tokens) <= LONGEST:
            examples.append(example)
        if len(examples) == BATCH * steps:
            break
    write_sequences(f"{folder}/train", examples)
    Path(f"{folder}/validation").mkdir()
    batches = list(_in_order(folder))
    tokens = [sum(len(batch["tokens"]) for batch in step) for step in batches]
    return tokens, [sum(int((batch["labels"] != IGNORED).sum()) for batch in step) for step in batches]


def _in_order(folder: str) -> Any:
    run = LanguageRun(
        name="student", model=model_of(folder), sequences=folder, storage="none", max_tokens=10**9,
        optimisation=OPTIMISATION, compute=Compute(num_workers=0),
    )  # fmt: skip
    job = plan_language(run)
    for batch in stream(job.plan, SequenceRecipe(1, OPTIMISATION.seed), 0, job.total_steps):
        yield [batch]


def _rows(folder: str) -> list[dict[str, list[int]]]:
    """The documents of all steps in their order, as TRL takes them: all tokens, the prompt's labels ignored."""
    rows = []
    for (batch,) in _in_order(folder):
        ends = np.cumsum(batch["lengths"])
        for start, end in zip(np.r_[0, ends[:-1]], ends, strict=True):
            tokens, following = batch["tokens"][start:end], batch["labels"][start:end]
            ids = np.r_[tokens, following[-1]]  # the last token of all is only ever a label
            rows.append({"input_ids": ids.tolist(), "labels": np.r_[IGNORED, following].tolist()})
    return rows
