"""Constrained writing: whatever a model would rather say, what it writes fits the schema."""

from __future__ import annotations

import pytest
import torch

from tdtrain.evaluate.fields import parse_answer
from tdtrain.models.causal import CausalModule, Prompter, load_causal
from tdtrain.models.packed import PACKED
from tdtrain.models.write import write_answers

PAGES = ["Class 5a\nTime|Mon|Tue\n8:00-8:45|Art|Music", "Time|Fri\n9:00-9:45|Math", "x"]


@pytest.fixture(scope="module")
def smol() -> tuple[CausalModule, Prompter]:
    return load_causal("smollm2-135m", torch.float32)


def test_an_untrained_model_writes_only_what_the_schema_allows(smol: tuple[CausalModule, Prompter]) -> None:
    module, prompter = smol
    answers = write_answers(module, prompter, PAGES, 64)
    whole = [answer for answer in answers if answer.endswith("]}")]
    assert whole and all(parse_answer(answer)[0] is not None for answer in whole)
    assert all(answer.startswith(('{"timeblocks":[', '{"teacher":', '{"className":')) for answer in answers)
    free = write_answers(module, prompter, PAGES[:1], 16, constrained=False)
    assert not free[0].startswith(('{"timeblocks":[', '{"teacher":', '{"className":'))
    assert module.model.config._attn_implementation == PACKED  # as training needs it


def test_a_model_s_own_penalties_do_not_count(smol: tuple[CausalModule, Prompter]) -> None:
    module, prompter = smol
    plain = write_answers(module, prompter, PAGES[:1], 24)
    module.model.generation_config.repetition_penalty = 1.5
    module.model.generation_config.no_repeat_ngram_size = 2
    try:
        assert write_answers(module, prompter, PAGES[:1], 24) == plain
    finally:
        module.model.generation_config.repetition_penalty = 1.0
        module.model.generation_config.no_repeat_ngram_size = 0


def test_a_batch_writes_what_each_page_gets_alone(smol: tuple[CausalModule, Prompter]) -> None:
    module, prompter = smol
    together = write_answers(module, prompter, PAGES[:2], 24)
    assert together == [write_answers(module, prompter, [page], 24)[0] for page in PAGES[:2]]
