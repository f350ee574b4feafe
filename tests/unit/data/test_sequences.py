"""Examples in micro batches: each once an epoch, evenly dealt, and no token taught that is not an answer's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.data.plan import Plan
from tdtrain.data.sequences import Example, SequenceRecipe, balanced, most_tokens, write_sequences
from tdtrain.models.reader import IGNORED


def documents(num: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num):
        prompt, answer = int(rng.integers(2, 40)), int(rng.integers(1, 40))
        found.append(Example(f"{number}", tuple(rng.integers(0, 900, prompt + answer).tolist()), prompt))
    return found


def test_every_document_is_in_one_micro_batch_an_epoch(tmp_path: Path) -> None:
    wanted = documents(50)
    recipe = SequenceRecipe(parts=4, seed=3)
    plan = Plan(write_sequences(str(tmp_path), wanted), batch_size=16, seed=3, parts=4)
    orders = []
    for epoch in range(2):
        steps = plan.steps(1)
        batches = [b for w in plan.epoch(epoch, 0) for b in recipe.load(w, 0, steps)]
        assert [int(batch["step"]) for batch in batches] == [step for step in range(steps) for _ in range(4)]
        orders.append([row for batch in batches for row in batch["ids"].tolist()])
        assert sorted(orders[-1], key=int) == [one.id for one in wanted]
    assert orders[0] != orders[1]


def test_labels_are_the_answers_and_nothing_else(tmp_path: Path) -> None:
    wanted = {one.id: one for one in documents(20)}
    plan = Plan(write_sequences(str(tmp_path), list(wanted.values())), batch_size=20, seed=0)
    (window,) = plan.epoch(0, 0)
    (batch,) = SequenceRecipe(1, 0).load(window, 0, 1)
    start = 0
    for row, length in zip(batch["ids"].tolist(), batch["lengths"].tolist(), strict=True):
        one, here = wanted[row], slice(start, start + length)
        assert tuple(batch["tokens"][here]) == one.tokens[:-1]
        told = batch["labels"][here]
        assert tuple(told[told != IGNORED]) == one.tokens[one.num_prompt :]
        assert (told[: one.num_prompt - 1] == IGNORED).all()
        start += length
    assert start == len(batch["tokens"]) == len(batch["labels"])


@given(st.lists(st.integers(1, 500), min_size=4, max_size=40), st.integers(1, 4))
def test_parts_are_as_even_as_the_rule_promises(lengths: list[int], parts: int) -> None:
    """Graham's bound: no part has more than 4/3 of the best there can be."""
    dealt = balanced(lengths, range(len(lengths)), parts)
    assert sorted(i for part in dealt for i in part) == list(range(len(lengths))) and all(dealt)
    best = max(sum(lengths) / parts, max(lengths))
    assert max(sum(lengths[i] for i in part) for part in dealt) <= 4 / 3 * best + max(lengths) / 3


def test_the_longest_is_dealt_first() -> None:
    lengths = [1, 1, 1, 1, 4]
    assert sorted(sum(lengths[i] for i in part) for part in balanced(lengths, range(5), 2)) == [4, 4]


@pytest.mark.parametrize("parts", [1, 3])
def test_the_largest_micro_batch_is_known_before(parts: int, tmp_path: Path) -> None:
    wanted = documents(40)
    plan = Plan(write_sequences(str(tmp_path), wanted), batch_size=12, seed=5, parts=parts)
    seen = [
        int(batch["lengths"].sum() + len(batch["lengths"]))
        for window in plan.windows(0, 2 * plan.steps(1))
        for batch in SequenceRecipe(parts, 5).load(window, 0, 10**6)
    ]
    assert most_tokens(plan, [[len(one.tokens) for one in wanted]], parts, 2) == max(seen)
