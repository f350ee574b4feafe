"""All rules on one object: the operators', this project's, and its command's."""

from __future__ import annotations

from tests.unit.cluster.commands import command_faults
from tests.unit.cluster.house_rules import house_faults
from tests.unit.cluster.manifests import Document
from tests.unit.cluster.operator_rules import operator_faults
from tests.unit.cluster.ray_rules import ray_faults


def rule_faults(document: Document) -> list[str]:
    """What is wrong with an object that its schema allows."""
    checks = (operator_faults, house_faults, ray_faults, command_faults)
    return [fault for check in checks for fault in check(document)]
