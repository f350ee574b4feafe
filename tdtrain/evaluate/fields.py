"""How right a document is: fields, time blocks, whole pages, JSON. Counts of a page, so that any pages can be summed.

Blocks and fields are compared as multisets, whatever their order, after the normalisation of `metrics.normalize`. An
answer that is no JSON, or does not fit the schema, says nothing: it matches no field.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from anls_star import anls_score
from pydantic import ValidationError

from tdtrain.data.timetable import HEADER, TimeBlock, Timetable
from tdtrain.evaluate.metrics import normalize
from tdtrain.evaluate.tree import tree_edits

BLOCK = ("day", "name", "startTime", "endTime")


@dataclass(frozen=True)
class PageCounts:
    """What one answer costs.

    Attributes:
        fields_right, fields_said, fields_true: (field, value) pairs in both, in the answer, in the truth.
        blocks_right, blocks_said, blocks_true: time blocks, right where day, name, start and end are.
        anls: how alike all texts are, blocks paired at their best, from 0 to 1 (ANLS*, Peer et al. 2024, arXiv
            2402.03848).
        tree_edits, tree_size: edits from the answer's tree to the truth's, and from nothing to the truth's.
        exact: header and blocks are all there, and nothing else.
        valid_json, valid_schema: what the answer was.
    """

    fields_right: int
    fields_said: int
    fields_true: int
    blocks_right: int
    blocks_said: int
    blocks_true: int
    anls: float
    tree_edits: float
    tree_size: float
    exact: bool
    valid_json: bool
    valid_schema: bool


def parse_answer(answer: str) -> tuple[Timetable | None, bool]:
    """What an answer says, None where it does not fit the schema; and whether it is JSON at all."""
    try:
        values = json.loads(answer)
    except ValueError:
        return None, False
    try:
        return Timetable.model_validate(values), True
    except ValidationError:
        return None, True


def count(truth: Timetable, answer: str) -> PageCounts:
    """Compares one answer, the text of a JSON document, with what the page says."""
    said, valid_json = parse_answer(answer)
    fields_true, blocks_true = _fields(truth), blocks_of(truth)
    fields_said, blocks_said = (Counter(), Counter()) if said is None else (_fields(said), blocks_of(said))
    fields_right, blocks_right = (fields_true & fields_said).total(), (blocks_true & blocks_said).total()
    whole = max(fields_true.total(), fields_said.total()), max(blocks_true.total(), blocks_said.total())
    edits, size = tree_edits(said, truth)
    return PageCounts(
        fields_right=fields_right,
        fields_said=fields_said.total(),
        fields_true=fields_true.total(),
        blocks_right=blocks_right,
        blocks_said=blocks_said.total(),
        blocks_true=blocks_true.total(),
        anls=0.0 if said is None else float(anls_score(json.loads(truth.canonical()), json.loads(said.canonical()))),  # type: ignore[arg-type]
        tree_edits=edits,
        tree_size=size,
        exact=(fields_right, blocks_right) == whole,
        valid_json=valid_json,
        valid_schema=said is not None,
    )


def _fields(timetable: Timetable) -> Counter[tuple[str, str]]:
    header = ((key, getattr(timetable, key)) for key in HEADER)
    found = [(key, normalize(value)) for key, value in header if value is not None]
    return Counter(found + [pair for block in timetable.timeblocks for pair in _pairs(block)])


def _pairs(block: TimeBlock) -> Iterator[tuple[str, str]]:
    return ((key, normalize(getattr(block, key))) for key in BLOCK)


def blocks_of(timetable: Timetable) -> Counter[tuple[str, ...]]:
    """Day, name, start and end of each time block, normalised."""
    return Counter(tuple(value for _, value in _pairs(block)) for block in timetable.timeblocks)
