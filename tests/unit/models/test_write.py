"""Constrained writing: whatever a model would rather say, what it writes fits the schema."""

from __future__ import annotations

import json

import pytest
import torch

from tdtrain.data.timetable import TimeBlock
from tdtrain.evaluate.fields import parse_answer
from tdtrain.models.causal import CausalModule, Prompter, load_causal
from tdtrain.models.packed import PACKED
from tdtrain.models.write import EVERY, Answer, _closed, _GoesRound, form_for, write_answers

PAGES = ["Class 5a\nTime|Mon|Tue\n8:00-8:45|Art|Music", "Time|Fri\n9:00-9:45|Math", "x"]


@pytest.fixture(scope="module")
def smol() -> tuple[CausalModule, Prompter]:
    return load_causal("smollm2-135m", torch.float32)


def test_an_untrained_model_writes_only_what_the_schema_allows(smol: tuple[CausalModule, Prompter]) -> None:
    module, prompter = smol
    answers = write_answers(module, prompter, PAGES, 64)
    assert all(parse_answer(answer.text)[0] is not None for answer in answers)
    assert any(answer.ended for answer in answers)
    assert all(answer.text.startswith(('{"timeblocks":[', '{"teacher":', '{"className":')) for answer in answers)
    free = write_answers(module, prompter, PAGES[:1], 16, form="free")
    assert not free[0].text.startswith(('{"timeblocks":[', '{"teacher":', '{"className":'))
    assert module.model.config._attn_implementation == PACKED  # as training needs it


def test_what_was_cut_is_closed_after_its_last_whole_block() -> None:
    named = [{"day": "Mon", "name": name, "startTime": "08:00", "endTime": "08:45"} for name in ("Art", 'a "b" }]')]
    blocks = [json.dumps(block, separators=(",", ":")) for block in named]
    whole = f'{{"year":"2026","timeblocks":[{",".join(blocks)}]}}'
    assert _closed(whole) == Answer(whole, True)
    for end in range(len(whole)):
        text, ended = _closed(whole[:end])
        said, told = parse_answer(text)[0], parse_answer(whole)[0]
        assert said and told and not ended
        assert said.timeblocks == told.timeblocks[: len(said.timeblocks)]
    twice = f'{{"timeblocks":[{blocks[0]},{blocks[1]},'
    assert _closed(f"{twice}{blocks[0]},") == _closed(twice)


def test_who_goes_round_in_circles_is_stopped(smol: tuple[CausalModule, Prompter]) -> None:
    _, prompter = smol
    block = '{"day":"Mon","name":"Art","startTime":"08:00","endTime":"08:45"},'
    other = block.replace("Art", "French")
    prompt = prompter.prompt("x")
    for blocks, stops in (([block] * 4, True), ([block, other] * 3, True), ([block, other, block], False)):
        ids = prompter.tokenizer('{"timeblocks":[' + "".join(blocks))["input_ids"]
        ids += prompter.tokenizer("1")["input_ids"] * (-len(ids) % EVERY)  # it looks now and then
        found = _GoesRound(prompter, len(prompt))(torch.tensor([prompt + ids]), torch.zeros(1, 1))
        assert found.tolist() == [stops]


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


def test_each_page_of_a_batch_keeps_to_its_own_drafts(smol: tuple[CausalModule, Prompter]) -> None:
    module, prompter = smol
    drafts = [TimeBlock(day=day, name="Art", startTime="08:00", endTime="08:45") for day in ("Mon", "Fri")]
    answers = write_answers(module, prompter, [one.model_dump_json() for one in drafts], 64, "page")
    for draft, answer in zip(drafts, answers, strict=True):
        said = parse_answer(answer.text)[0]
        assert said is not None and said.timeblocks in ((), (draft,))
    assert form_for("blocks") == "page" and form_for("cells") == "schema"
