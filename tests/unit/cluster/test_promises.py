"""What queues, clouds and Redis know an overlay by: nobody refuses it without, so nobody would miss it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ray.train.v2._internal.constants import PREEMPTION_POLL_INTERVAL_S_ENV_VAR

from tdtrain.train.ray_worker import ASK_EVERY_S
from tests.unit.cluster.manifests import Document, cluster_of, env_of, render

SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}


def _label(key: str, operator: str) -> Document:
    return {"key": key, "operator": operator, "values": [SPOT_LABELS[key]]}


def _nodes(*terms: list[Document]) -> Document:
    wanted = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": wanted}}


def _tolerated(key: str, **value: str) -> Document:
    return {"key": key, "operator": "Equal" if value else "Exists", "effect": "NoSchedule"} | value


PASSWORD = {"valueFrom": {"secretKeyRef": {"name": "tdtrain-redis", "key": "password"}}}
FALLS = {"cluster/gcsFaultToleranceOptions": {"redisAddress": "redis:6379", "redisPassword": PASSWORD}}
SPOT = FALLS | {
    "cluster/headGroupSpec/template/spec/affinity": _nodes([_label(key, "NotIn") for key in SPOT_LABELS]),
    "cluster/workerGroupSpecs/0/template/spec/affinity": _nodes(*([_label(key, "In")] for key in SPOT_LABELS)),
    "cluster/workerGroupSpecs/0/template/spec/tolerations": [
        _tolerated("nvidia.com/gpu"),
        _tolerated("cloud.google.com/gke-spot", value="true"),
        _tolerated("kubernetes.azure.com/scalesetpriority", value="spot"),
    ],
}
LABELS = "RayJob/metadata/labels/"
PROMISES: dict[str, dict[str, Any]] = {
    "platform": {"Service redis/spec/ports/0/port": 6379, "PriorityClass tdtrain-work/value": 1000},
    "clusters/pools": FALLS,
    "clusters/spot": SPOT,
    "jobs/pools": FALLS,
    "jobs/spot": SPOT,
    "queues/kueue": {
        "LocalQueue tdtrain/spec/clusterQueue": "tdtrain",
        "LocalQueue tdtrain/metadata/namespace": "tdtrain",
        "ClusterQueue tdtrain/spec/resourceGroups/0/flavors/0/name": "tdtrain",
        "ClusterQueue tdtrain/spec/namespaceSelector/matchLabels/kubernetes.io~1metadata.name": "tdtrain",
        "ResourceFlavor tdtrain/metadata/name": "tdtrain",
        "WorkloadPriorityClass tdtrain-work/value": 1000,
    },
    "jobs/kueue": FALLS
    | {
        LABELS + "kueue.x-k8s.io~1queue-name": "tdtrain",
        LABELS + "kueue.x-k8s.io~1priority-class": "tdtrain-work",
        "RayJob/metadata/namespace": "tdtrain",
    },
    "queues/volcano": {"Queue tdtrain/spec/weight": 1},
    "jobs/volcano": FALLS
    | {
        LABELS + "ray.io~1scheduler-name": "volcano",
        LABELS + "volcano.sh~1queue-name": "tdtrain",
        LABELS + "ray.io~1priority-class-name": "tdtrain-work",
    },
}
"""Of each overlay what is where: an object by its kind, and its name where there are several; then a JSON pointer."""


def _parent(documents: list[Document], place: str) -> tuple[Any, Any]:
    """What holds the value at a place, and its key there; (None, None) where nothing does."""
    whose, _, pointer = place.partition("/")
    names = [(one, {one["kind"], f"{one['kind']} {one['metadata'].get('name')}"}) for one in documents]
    held: Any = next((one for one, known in names if whose in known), None)
    held = cluster_of(documents[0]) if whose == "cluster" else held
    *path, last = (key.replace("~1", "/") for key in pointer.split("/"))
    for key in path:
        held = held[int(key)] if isinstance(held, list) else (held or {}).get(key)
    return held, last


def _broken(documents: list[Document], promises: dict[str, Any]) -> list[str]:
    found = ((place, *_parent(documents, place)) for place in promises)
    return [place for place, held, key in found if (held or {}).get(key) != promises[place]]


@pytest.mark.parametrize("overlay", PROMISES)
def test_an_overlay_has_what_it_is_known_by_and_it_would_be_missed(overlay: str) -> None:
    assert _broken(render(overlay), PROMISES[overlay]) == []
    for place in PROMISES[overlay]:
        documents = render(overlay)
        held, key = _parent(documents, place)
        del held[key]
        assert place in _broken(documents, PROMISES[overlay])


def test_notice_is_heard_long_before_the_node_goes() -> None:
    (job,) = render("jobs/spot")
    cluster = cluster_of(job)
    assert cluster is not None
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    told = re.search(r"--deadline-remaining-seconds (\d+)", str(worker["lifecycle"]["preStop"]))
    looks_every_s = float(env_of(cluster["headGroupSpec"])[PREEMPTION_POLL_INTERVAL_S_ENV_VAR])
    assert told is not None and looks_every_s + ASK_EVERY_S < int(told[1]) / 2
