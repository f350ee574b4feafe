"""The edit distance between two timetables as trees, as Donut measures documents (Kim et al. 2022, arXiv 2111.15664).

A timetable's tree has the fields of its header and its blocks, by day and time, below its root; each field is a node
with one leaf, its text. Taking out or putting in a leaf costs its length, any other node 1; changing a leaf costs its
edits, a node's name 1.
"""

from __future__ import annotations

from typing import Any

from apted import APTED, Config
from rapidfuzz.distance import Levenshtein

from tdtrain.data.timetable import ABOUT_FILES, Timetable
from tdtrain.evaluate.metrics import normalize


class Node:
    """A node with its children, in order. Text is of a leaf."""

    __slots__ = ("children", "is_leaf", "text")

    def __init__(self, text: str, children: list[Node], is_leaf: bool = False) -> None:
        self.text, self.children, self.is_leaf = text, children, is_leaf


class _Costs(Config):
    def delete(self, node: Any) -> float:
        return max(1, len(node.text)) if node.is_leaf else 1

    insert = delete

    def rename(self, node1: Any, node2: Any) -> float:
        if node1.is_leaf and node2.is_leaf:
            return Levenshtein.distance(node1.text, node2.text)
        if not node1.is_leaf and not node2.is_leaf:
            return float(node1.text != node2.text)
        return self.delete(node1) + self.delete(node2)

    def children(self, node: Any) -> list[Node]:
        return node.children


def tree_edits(said: Timetable | None, truth: Timetable) -> tuple[float, float]:
    """Edits from what was said to the truth, and from nothing to the truth; the normalised accuracy is
    max(0, 1 - edits / size)."""
    size = _size(_tree(truth))
    if said is None:
        return size, size
    return float(APTED(_tree(said), _tree(truth), _Costs()).compute_edit_distance()), size


def _tree(timetable: Timetable) -> Node:
    def field(key: str, value: str) -> Node:
        return Node(key, [Node(normalize(value), [], is_leaf=True)])

    def fields(model: Any) -> list[Node]:
        return [field(key, value) for key, value in model if isinstance(value, str) and key not in ABOUT_FILES]

    in_order = sorted(timetable.timeblocks, key=lambda block: (block.day, block.startTime, block.name))
    blocks = [Node("block", fields(block)) for block in in_order]
    return Node("timetable", [*fields(timetable), Node("timeblocks", blocks)])


def _size(node: Node) -> float:
    return _Costs().insert(node) + sum(_size(child) for child in node.children)
