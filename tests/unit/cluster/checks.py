"""All checks on one object."""

from __future__ import annotations

from tests.unit.cluster.commands import command_faults
from tests.unit.cluster.house_rules import house_faults
from tests.unit.cluster.manifests import Document
from tests.unit.cluster.operator_rules import operator_faults
from tests.unit.cluster.schemas import schema_faults


def faults(document: Document) -> list[str]:
    """All that is wrong with an object; where its schema refuses it, only that, as an API server would."""
    if refused := list(schema_faults(document)):
        return refused
    return [fault for check in (operator_faults, house_faults, command_faults) for fault in check(document)]
