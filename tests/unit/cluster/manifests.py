"""The overlays of cluster/kuberay as kustomize renders them, and what is in them."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Document = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[3]
KUBERAY = REPOSITORY / "cluster" / "kuberay"
OVERLAYS = sorted(
    str(found.parent.relative_to(KUBERAY))
    for found in KUBERAY.rglob("kustomization.yaml")
    if found.relative_to(KUBERAY).parts[0] not in ("base", "components")
)
CLUSTERS = [overlay for overlay in OVERLAYS if overlay.startswith("clusters/")]
JOBS = [overlay for overlay in OVERLAYS if overlay.startswith("jobs/")]


def render(overlay: str) -> list[Document]:
    """What `kubectl apply -k` would send, one document an object; the caller may change it.

    Skips the test where kubectl is missing.
    """
    return copy.deepcopy(_rendered(overlay))


@functools.cache
def _rendered(overlay: str) -> list[Document]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: overlays cannot be rendered")
    told = subprocess.run(["kubectl", "kustomize", KUBERAY / overlay], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, f"{overlay}: {told.stderr}"
    return [document for document in yaml.safe_load_all(told.stdout) if document]


def cluster_of(document: Document) -> Document | None:
    """The spec of the Ray cluster that an object is or makes."""
    if document["kind"] == "RayCluster":
        return document["spec"]
    return document["spec"].get("rayClusterSpec") if document["kind"] == "RayJob" else None


def groups_of(cluster: Document) -> Iterator[tuple[str, Document]]:
    """Head and worker groups, by name."""
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", []):
        yield group["groupName"], group


def nodes_of(group: Document) -> Document:
    """What Ray knows of a node of a worker group."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    kinds = {"CPU": "cpu", "GPU": "nvidia.com/gpu", "memory": "memory"}
    resources = {kind: amount_of(limits[named]) for kind, named in kinds.items() if named in limits}
    return {"resources": resources, "labels": group.get("labels", {})}


def env_of(group: Document) -> dict[str, str]:
    """The variables of a group's Ray container that are written out."""
    return {one["name"]: one.get("value", "") for one in group["template"]["spec"]["containers"][0].get("env", [])}


def pods_of(document: Document) -> Iterator[tuple[str, Document]]:
    """The pod templates in an object, each with its place."""
    name = f"{document['kind']} {document['metadata']['name']}"
    if cluster := cluster_of(document):
        for group, spec in groups_of(cluster):
            yield f"{name}: {group}", spec["template"]
    if document["kind"] == "RayJob" and "submitterPodTemplate" in document["spec"]:
        yield f"{name}: submitter", document["spec"]["submitterPodTemplate"]
    if document["kind"] in ("Deployment", "DaemonSet", "Job"):
        yield name, document["spec"]["template"]
    if document["kind"] == "StatefulSet":  # each pod has the volumes that are claimed for it
        spec = document["spec"]["template"]["spec"]
        claims = [claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])]
        volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
        yield name, document["spec"]["template"] | {"spec": spec | {"volumes": [*spec.get("volumes", []), *volumes]}}
    if document["kind"] == "Pod":
        yield name, document


def containers_of(pod: Document) -> list[Document]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def amount_of(quantity: str) -> float:
    """A quantity as Kubernetes writes it, in CPUs, bytes or GPUs."""
    for unit, factor in {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}.items():
        if quantity.endswith(unit):
            return float(quantity.removesuffix(unit)) * factor
    return float(quantity)
