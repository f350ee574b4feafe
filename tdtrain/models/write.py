"""Language models that write timetables: greedy, in batches, and never anything but the schema's JSON.

What may come next is decided by `llguidance` from a grammar, the schema's or the page's own; the model only chooses
among that. An answer that does not end is closed after its last whole block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from tdtrain.data.serialise import Serialisation
from tdtrain.data.timetable import Timetable
from tdtrain.models.causal import CausalModule, Prompter
from tdtrain.models.growing_cache import growing_cache
from tdtrain.models.packed import PACKED
from tdtrain.models.page_grammar import BLOCKS, grammar_of
from tdtrain.models.reader import evaluating

AGAIN, EVERY = 3, 32
"""A timetable says nothing twice: an answer that has said so many blocks again goes round in circles. Looked for every
so many tokens."""
Form = Literal["free", "schema", "page"]
"""What an answer may be: anything, what fits the schema, or of that what keeps to the page's drafts
(`tdtrain.models.page_grammar`)."""


class Answer(NamedTuple):
    """The JSON of one page, and whether it ended by itself; else it was closed after its last whole block."""

    text: str
    ended: bool


def form_for(way: Serialisation) -> Form:
    """What answers about pages in a serialisation may be."""
    return "page" if way == "blocks" else "schema"


@torch.inference_mode()
def write_answers(
    module: CausalModule, prompter: Prompter, pages: Sequence[str], max_new_tokens: int, form: Form = "schema"
) -> list[Answer]:
    """What the model writes about each page; no more than `max_new_tokens`, and nothing in circles.

    Args:
        pages: together in one batch; of similar length, or short ones wait for long ones.
    """
    model, pad = module.model, prompter.end_ids[-1]
    prompts = [prompter.prompt(page) for page in pages]
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    tokens = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    constrained = form != "free"
    processors = LogitsProcessorList([_Only(prompter, pages, form, width)] if constrained else [])
    model.set_attn_implementation("sdpa")
    try:
        with evaluating(module):
            written = model.generate(
                input_ids=tokens, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
                past_key_values=growing_cache(model.config),
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([_GoesRound(prompter, width)] if constrained else []),
                eos_token_id=prompter.end_ids[-1], pad_token_id=pad,
                temperature=None, top_p=None, top_k=None,
                repetition_penalty=1.0, no_repeat_ngram_size=0,  # timetables repeat themselves
            )  # fmt: skip
    finally:
        model.set_attn_implementation(PACKED)
    texts = prompter.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return [_closed(text) if constrained else Answer(text, True) for text in texts]


def _closed(text: str) -> Answer:
    """The answer, or what is whole of one that was cut, without what it says again."""
    try:
        json.loads(text)
    except ValueError:
        head, blocks, _ = text.partition(BLOCKS)
        if not blocks:  # it had not come to what happens
            return Answer(f"{{{BLOCKS}]}}", False)
        return Answer(f"{head}{BLOCKS}{','.join(dict.fromkeys(_whole_blocks(text)))}]}}", False)
    return Answer(text, True)


def _whole_blocks(text: str) -> list[str]:
    """The JSON of each block of an answer that may be cut anywhere."""
    rest, found, decoder = text.partition(BLOCKS)[2], [], json.JSONDecoder()
    while rest.startswith("{"):
        try:
            _, end = decoder.raw_decode(rest)
        except ValueError:
            break
        found.append(rest[:end])
        rest = rest[end:].removeprefix(",")
    return found


class _GoesRound(StoppingCriteria):
    """Which answers of a batch say blocks again, and so would go on for ever."""

    def __init__(self, prompter: Prompter, num_prompt: int) -> None:
        self._prompter, self._num_prompt = prompter, num_prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        done = [False] * len(input_ids)
        if (input_ids.shape[1] - self._num_prompt) % EVERY == 0:
            texts = self._prompter.tokenizer.batch_decode(input_ids[:, self._num_prompt :], skip_special_tokens=True)
            said = [_whole_blocks(text) for text in texts]
            done = [len(blocks) - len(set(blocks)) >= AGAIN for blocks in said]
        return torch.tensor(done, device=input_ids.device)


class _Only(LogitsProcessor):
    """Takes away what would leave the grammar of each line of a batch."""

    def __init__(self, prompter: Prompter, pages: Sequence[str], form: Form, num_prompt: int) -> None:
        tokenizer, schema = _constraint(prompter)
        self._matchers = [
            LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar_of(page)) if form == "page" else schema)
            for page in pages
        ]
        self._end_id = prompter.end_ids[-1]
        self._num_prompt = num_prompt
        self._ended: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] > self._num_prompt:
            for row, (matcher, token) in enumerate(zip(self._matchers, input_ids[:, -1].tolist(), strict=True)):
                if token == self._end_id:
                    self._ended.add(row)
                elif not matcher.is_stopped():
                    matcher.consume_token(token)
        for row, matcher in enumerate(self._matchers):
            allowed = np.zeros(scores.shape[1], np.uint8)
            if matcher.is_stopped() or row in self._ended:  # the document is whole, or given up
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
