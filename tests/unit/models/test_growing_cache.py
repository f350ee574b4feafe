"""A cache with room ahead holds what transformers' own does, and copies what it holds only now and then."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tdtrain.models.growing_cache import ROOM, growing_cache

LLAMA = LlamaConfig(num_hidden_layers=2)


@given(lengths=st.lists(st.integers(1, 2 * ROOM), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_it_holds_what_a_plain_cache_holds(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    ours, plain = growing_cache(LLAMA), DynamicCache(config=LLAMA)
    for length in lengths:
        for layer in range(2):
            new = torch.randn(2, 3, length, 4), torch.randn(2, 3, length, 5)
            held = ours.update(*new, layer)
            for found, wanted in zip(held, plain.update(*new, layer), strict=True):
                assert torch.equal(found, wanted)
        assert ours.get_seq_length() == plain.get_seq_length()


def test_a_token_is_written_beside_those_before_it() -> None:
    cache, places = growing_cache(LLAMA), []
    for length in (10, *[1] * (ROOM + 1)):
        new = torch.zeros(1, 1, length, 4)
        places.append(cache.update(new, new, 0)[0].data_ptr())
    assert len(set(places[: ROOM + 1])) == 1
    assert places[ROOM + 1] != places[0]


def test_layers_of_other_kinds_stay_what_they_are() -> None:
    layers = growing_cache(MistralConfig(num_hidden_layers=2, sliding_window=8)).layers
    assert [type(layer) for layer in layers] == [DynamicSlidingWindowLayer] * 2
    assert all(type(layer) is not DynamicLayer for layer in growing_cache(LLAMA).layers)
