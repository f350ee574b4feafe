"""A cache of keys and values with room ahead: a token is written beside those before it, which are not copied for it.

Shapes: B pages, H heads of keys and values, T tokens so far, E width of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 256
"""Tokens; when they are used up, all is copied once to where there is room for as many more."""


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a model; layers that see a window or keep a state have their own kind, as transformers does.

    Args:
        config: the model's.
    """
    cache = DynamicCache(config=config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _GrowingLayer(DynamicLayer):
    """`keys`, `values`: B,H,T,E, the part in use of what is held."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._held = (key_states[:, :, :0], value_states[:, :, :0])
            self.keys, self.values = self._held
        used, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        if end > self._held[0].shape[2]:
            keys, values = (_with_room(held[:, :, :used], end + ROOM) for held in self._held)
            self._held = (keys, values)
        self._held[0][:, :, used:end] = key_states
        self._held[1][:, :, used:end] = value_states
        self.keys, self.values = (held[:, :, :end] for held in self._held)
        return self.keys, self.values


def _with_room(states: Tensor, length: int) -> Tensor:
    pages, heads, used, width = states.shape
    held = states.new_empty(pages, heads, length, width)
    held[:, :, :used] = states
    return held
