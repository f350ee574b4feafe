"""Every usable line is in exactly one step of an epoch, whatever the number of workers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.data.plan import Plan, Shard, cut


def plan(sizes: list[int], batch_size: int, seed: int = 0) -> Plan:
    return Plan(tuple(Shard(f"part-{i}", None, size) for i, size in enumerate(sizes)), batch_size, seed)


@given(
    sizes=st.lists(st.integers(0, 6000), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) >= 32),
    seed=st.integers(0, 9),
)
def test_an_epoch_reads_every_shard_once_and_steps_follow_each_other(sizes: list[int], seed: int) -> None:
    windows = list(plan(sizes, 32, seed).epoch(3, first_step=100))
    names = [shard.lines for window in windows for shard in window.shards]
    assert sorted(names) == sorted(f"part-{i}" for i, size in enumerate(sizes) if size)
    assert sum(window.num_lines for window in windows) == sum(sizes)
    step = 100
    for window in windows:
        assert window.first_step == step
        step += window.num_steps


@given(
    sizes=st.lists(st.integers(0, 6000), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= 16),
    parts=st.integers(1, 16),
)
def test_no_micro_batch_is_empty(sizes: list[int], parts: int) -> None:
    shards = tuple(Shard(f"part-{i}", None, size) for i, size in enumerate(sizes))
    for window in Plan(shards, 16, seed=0, parts=parts).epoch(0, 0):
        steps = cut([100] * window.num_lines, window.num_steps, parts, np.random.default_rng(0))
        assert len(steps) == window.num_steps and all(part for step in steps for part in step)


@given(
    widths=st.lists(st.integers(8, 900), min_size=8, max_size=300),
    parts=st.integers(1, 4),
    batch_size=st.integers(4, 64),
)
def test_cut_uses_each_line_once_and_never_exceeds_the_batch(widths: list[int], parts: int, batch_size: int) -> None:
    num_steps = -(-len(widths) // batch_size)
    steps = cut(widths, num_steps, parts, np.random.default_rng(0))
    assert sorted(i for step in steps for part in step for i in part) == list(range(len(widths)))
    assert all(len(step) == parts and sum(map(len, step)) <= batch_size for step in steps)
    assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in steps)


def test_the_number_of_parts_does_not_change_what_a_step_learns_from() -> None:
    widths = list(range(10, 500, 3))
    steps = [cut(widths, 6, parts, np.random.default_rng(4)) for parts in (1, 2, 4)]
    as_sets = [[{i for part in step for i in part} for step in cutting] for cutting in steps]
    assert as_sets[0] == as_sets[1] == as_sets[2]


def test_similar_widths_meet() -> None:
    widths = np.random.default_rng(0).integers(20, 800, 640).tolist()
    steps = cut(widths, 20, 1, np.random.default_rng(0))
    padded = sum(max(widths[i] for i in step[0]) * len(step[0]) for step in steps)
    assert padded < 1.25 * sum(widths)


@given(first=st.integers(0, 400), length=st.integers(1, 400))
def test_windows_cover_the_steps_asked_for(first: int, length: int) -> None:
    chosen = plan([3000, 2500, 1200], 32).windows(first, first + length)
    covered = {s for window in chosen for s in range(window.first_step, window.first_step + window.num_steps)}
    assert set(range(first, first + length)) <= covered


def test_epochs_differ_and_seeds_repeat() -> None:
    sizes = [4096] * 8
    runs = ((0, 0), (0, 1), (0, 0))
    names = [[s.lines for w in plan(sizes, 32, seed).epoch(epoch, 0) for s in w.shards] for seed, epoch in runs]
    assert names[0] == names[2] != names[1]


def test_a_batch_larger_than_the_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size=64 is more than the 40 lines"):
        plan([40], 64)
