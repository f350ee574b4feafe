"""All checks on one object."""

from __future__ import annotations

from collections.abc import Iterator

from tests.unit.cluster.commands import command_faults
from tests.unit.cluster.house_rules import house_faults
from tests.unit.cluster.manifests import Document
from tests.unit.cluster.operator_rules import operator_faults
from tests.unit.cluster.schemas import schema_faults


def faults(document: Document) -> Iterator[str]:
    """All that is wrong with an object."""
    for check in (schema_faults, operator_faults, house_faults, command_faults):
        yield from check(document)
