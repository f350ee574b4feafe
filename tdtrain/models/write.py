"""Language models that write timetables: greedy, in batches, and never anything but the schema's JSON.

What may come next is decided by `llguidance` from the schema's grammar; the model only chooses among that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from tdtrain.data.timetable import Timetable
from tdtrain.models.causal import CausalModule, Prompter
from tdtrain.models.packed import PACKED
from tdtrain.models.reader import evaluating


@torch.inference_mode()
def write_answers(
    module: CausalModule, prompter: Prompter, pages: Sequence[str], max_new_tokens: int, constrained: bool = True
) -> list[str]:
    """What the model writes about each page, as text; one that got no further than `max_new_tokens` is cut there.

    Args:
        pages: together in one batch; of similar length, or short ones wait for long ones.
        constrained: only JSON in the form of `Timetable.canonical`.
    """
    model, pad = module.model, prompter.end_ids[-1]
    prompts = [prompter.prompt(page) for page in pages]
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    tokens = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    processors = LogitsProcessorList([_OnlyTimetables(prompter, tokens.shape[1])] if constrained else [])
    model.set_attn_implementation("sdpa")
    try:
        with evaluating(module):
            written = model.generate(
                input_ids=tokens, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
                logits_processor=processors, eos_token_id=prompter.end_ids[-1], pad_token_id=pad,
                temperature=None, top_p=None, top_k=None,
                repetition_penalty=1.0, no_repeat_ngram_size=0,  # timetables repeat themselves
            )  # fmt: skip
    finally:
        model.set_attn_implementation(PACKED)
    return prompter.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)


class _OnlyTimetables(LogitsProcessor):
    """Takes away what would leave the grammar, for each line of a batch."""

    def __init__(self, prompter: Prompter, num_prompt: int) -> None:
        self._tokenizer, self._grammar = _constraint(prompter)
        self._end_id = prompter.end_ids[-1]
        self._num_prompt = num_prompt
        self._matchers: list[LLMatcher] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._matchers:
            self._matchers = [LLMatcher(self._tokenizer, self._grammar) for _ in input_ids]
        elif input_ids.shape[1] > self._num_prompt:
            for matcher, token in zip(self._matchers, input_ids[:, -1].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        for row, matcher in enumerate(self._matchers):
            allowed = np.zeros(scores.shape[1], np.uint8)
            if matcher.is_stopped():  # the document is whole
                allowed[self._end_id] = 1
            else:
                bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
                allowed[: len(bits)] = bits[: len(allowed)]
            scores[row].masked_fill_(torch.from_numpy(allowed == 0).to(scores.device), -torch.inf)
        return scores


@lru_cache(maxsize=4)
def _constraint(prompter: Prompter) -> tuple[LLTokenizer, str]:
    tokenizer = from_tokenizer(prompter.tokenizer, eos_token=prompter.end_ids[-1])  # type: ignore[arg-type]
    form: Any = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    return tokenizer, LLMatcher.grammar_from_json_schema(json.dumps(Timetable.model_json_schema()), overrides=form)
