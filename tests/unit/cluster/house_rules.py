"""What this project asks of its objects and their pods beyond what would run: closed, and sure of their disks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.unit.cluster.manifests import Document, amount_of, containers_of, pods_of

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


def house_faults(document: Document) -> Iterator[str]:
    """What is wrong with an object by the rules of this project."""
    kind, name = document["kind"], document["metadata"]["name"]
    if kind == "Secret":
        yield f"Secret {name}: secrets are referred to, never part of a manifest"
    if kind in ("Ingress", "HTTPRoute", "Gateway", "Route"):
        yield f"{kind} {name}: nothing here is exposed"
    if kind == "Service" and document["spec"].get("type", "ClusterIP") != "ClusterIP":
        yield f"Service {name}: type {document['spec']['type']} is exposed"
    for place, pod in pods_of(document):
        yield from (f"{place}: {fault}" for fault in _pod_faults(pod))


def _pod_faults(pod: Document) -> Iterator[str]:
    spec = pod["spec"]
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    yield from (f"{field} shares the node's" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        yield "securityContext has no runAsNonRoot and runAsUser"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccompProfile is not RuntimeDefault"
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    yield from (f"volume {name} is a folder of the node's" for name, one in volumes.items() if "hostPath" in one)
    claims = any("persistentVolumeClaim" in one for one in volumes.values())
    if claims and context.get("fsGroup") != context.get("runAsGroup"):
        yield "fsGroup is not its own group, so volumes may not be its to write to"
    yield from _disk_faults(volumes, containers_of(pod))
    tokens = {name for name, one in volumes.items() if "serviceAccountToken" in str(one)}
    for container in containers_of(pod):
        for fault in (*_container_faults(container), *_mount_faults(container, volumes, tokens)):
            yield f"{container['name']}: {fault}"


def _disk_faults(volumes: dict[str, Document], containers: list[Document]) -> Iterator[str]:
    folders = {name: one["emptyDir"] for name, one in volumes.items() if "emptyDir" in one}
    yield from (f"volume {name} has no sizeLimit" for name, one in folders.items() if "sizeLimit" not in one)
    on_disk = (one for one in folders.values() if one.get("medium") != "Memory")
    needed = sum(amount_of(one.get("sizeLimit", "0")) for one in on_disk)
    requests = (container.get("resources", {}).get("requests", {}) for container in containers)
    asked = sum(amount_of(one.get("ephemeral-storage", "0")) for one in requests)
    if asked < needed:
        yield f"its folders may take {needed / 2**30:.0f} GiB of the disk, and it asks for {asked / 2**30:.0f}"


def _container_faults(container: Document) -> Iterator[str]:
    yield from context_faults(container.get("securityContext", {}))
    for port in container.get("ports", []):
        if "hostPort" in port:
            yield f"hostPort {port['hostPort']} is exposed"
    if not re.search(r":(?!latest$)[\w.-]+$", container["image"]):
        yield f"image {container['image']} has no version"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "it has no limit of memory"
    for one in container.get("env", []):
        if SECRET_NAME.search(one["name"]) and "secretKeyRef" not in one.get("valueFrom", {}):
            yield f"{one['name']} is written out; take it from a Secret"


def context_faults(context: Document) -> Iterator[str]:
    """What a container's securityContext leaves open."""
    if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
        yield "it is privileged, or may become so"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities are not dropped, all of them"
    if not context.get("readOnlyRootFilesystem"):
        yield "readOnlyRootFilesystem is not true"
    if not context.get("runAsNonRoot"):
        yield "runAsNonRoot is not true"


def _mount_faults(container: Document, volumes: dict[str, Document], tokens: set[str]) -> Iterator[str]:
    mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
    env = {one["name"]: one.get("value", "") for one in container.get("env", [])}
    for mount in mounts.values():
        if mount["name"] not in volumes:
            yield f"it mounts {mount['name']}, which is no volume of the pod's"
        if mount["name"] in tokens or mount["mountPath"] == TOKEN_PATH:
            yield "it has the service account's token"
    if "HOME" in env and env["HOME"] not in mounts:
        yield f"HOME={env['HOME']} cannot be written to"
