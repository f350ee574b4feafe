"""What an autoscaler may add to a cluster.

Ray has a place for it (`get_max_resources_from_cluster_config`), into which neither KubeRay's autoscaler nor that of
`ray up` writes. So whoever makes a cluster says it on the head, where drivers run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from tdtrain.options import Frozen, Positive

MAY_GROW = "TDTRAIN_MAY_GROW"
EXAMPLE = '[{"nodes": 4, "resources": {"CPU": 8, "GPU": 1, "memory": 5e10}, "labels": {"pool": "students"}}]'


class Group(Frozen):
    """Nodes of one kind."""

    nodes: Positive
    """The most that there may be, with those that are there."""
    resources: dict[str, float]
    """Of one of them, as Ray counts them. Without `memory`, bytes, nobody knows whether a model has room there."""
    labels: dict[str, str] = Field(default_factory=dict)

    def has(self, node: Mapping[str, Any]) -> bool:
        """Whether a living node is one of them."""
        own = node["Resources"]
        alike = all(own.get(kind, 0.0) == amount for kind, amount in self.resources.items() if kind != "memory")
        return alike and self.labels.items() <= node.get("Labels", {}).items()


def groups() -> list[Group]:
    """The groups of nodes that an autoscaler looks after; none where nobody says so. Raises ValueError."""
    if not (told := os.environ.get(MAY_GROW)):
        return []
    try:
        return TypeAdapter(list[Group]).validate_json(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{MAY_GROW}={told}: {place + ': ' if place else ''}{first['msg']}; say what groups of nodes the cluster "
            f"may have, as in {EXAMPLE}, or unset it"
        ) from None


def coming(alive: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The nodes that an autoscaler may add to those that are there, as `ray.nodes` has these."""
    left, nodes = list(alive), list[Mapping[str, Any]]()
    for group in groups():
        own = [node for node in left if group.has(node)][: group.nodes]
        left = [node for node in left if all(node is not one for one in own)]
        one = {"NodeManagerAddress": f"of {MAY_GROW}", "Resources": group.resources, "Labels": group.labels}
        nodes += [one] * (group.nodes - len(own))
    return nodes
