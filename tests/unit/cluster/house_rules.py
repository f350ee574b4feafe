"""What this project asks of its manifests beyond what would run: safe, bounded, and able to start."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tdtrain.may_grow import MAY_GROW
from tests.unit.cluster.manifests import (
    Document,
    bytes_of,
    cluster_of,
    containers_of,
    env_of,
    groups_of,
    nodes_of,
    pods_of,
)

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
DAY_S = 86400
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
    if cluster := cluster_of(document):
        yield from (f"{kind} {name}: {fault}" for fault in _cluster_faults(cluster))
    if kind == "RayJob":
        bounds = ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit")
        for field in (*bounds, "activeDeadlineSeconds", "preRunningDeadlineSeconds"):
            if not document["spec"].get(field):
                yield f"RayJob {name}: {field} is not said, so it may hold its nodes for ever"
        if document["metadata"].get("labels", {}).get("ray.io/scheduler-name") == "volcano":
            waits_s = document["spec"].get("preRunningDeadlineSeconds", 0)
            if waits_s < DAY_S or document["spec"].get("activeDeadlineSeconds", 0) < waits_s + DAY_S:
                yield f"RayJob {name}: it has no day to wait in Volcano's queue, and one to run after the longest wait"


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
    tokens = {name for name, one in volumes.items() if "serviceAccountToken" in str(one)}
    for container in containers_of(pod):
        for fault in (*_container_faults(container), *_mount_faults(container, volumes, tokens)):
            yield f"{container['name']}: {fault}"


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


def _cluster_faults(cluster: Document) -> Iterator[str]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token: anybody who reaches the head may run anything"
    head = cluster["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress", False):
        yield "the dashboard is exposed: serviceType must be ClusterIP, and enableIngress false"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield "the head takes work: num-cpus must be 0"
    if "value" in cluster.get("gcsFaultToleranceOptions", {}).get("redisPassword", {}):
        yield "redisPassword is written out; take it from a Secret"
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions", {})
        if options.get("version") != "v2":
            yield "autoscalerOptions.version is not v2"
        yield from (f"autoscaler: {fault}" for fault in context_faults(options.get("securityContext", {})))
        told = json.loads(env_of(head).get(MAY_GROW) or "[]")
        there = [{"nodes": group["maxReplicas"]} | nodes_of(group) for group in cluster["workerGroupSpecs"]]
        if told != there:
            yield f"{MAY_GROW} of the head says {told}, and the worker groups are {there}"
        if TOKEN_PATH not in {mount["mountPath"] for mount in options.get("volumeMounts", [])}:
            yield "autoscaler: it has no service account's token, and cannot scale"
    elif MAY_GROW in env_of(head):
        yield f"{MAY_GROW} of the head says that nodes may come, and there is no autoscaler"
    for group, spec in groups_of(cluster):
        yield from (f"{group}: {fault}" for fault in _node_faults(spec))


def _node_faults(group: Document) -> Iterator[str]:
    pod, params = group["template"]["spec"], group.get("rayStartParams", {})
    container = pod["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe not in container:
            yield f"it has no {probe}"
    names = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
    memory = {volume["name"]: volume.get("emptyDir", {}) for volume in pod.get("volumes", [])}
    shared = memory.get(names.get("/dev/shm", ""), {})
    if shared.get("medium") != "Memory" or "sizeLimit" not in shared:
        yield "/dev/shm is no volume in memory with a limit, so objects would go to the disk"
    elif int(params.get("object-store-memory", 0)) > 0.95 * bytes_of(shared["sizeLimit"]):
        yield f"object-store-memory does not fit into {shared['sizeLimit']} of /dev/shm"
    if "/tmp" not in names:
        yield "/tmp, where Ray puts its session, cannot be written to"
    limits = container["resources"]["limits"]
    tolerated = {toleration.get("key") for toleration in pod.get("tolerations", [])}
    if "nvidia.com/gpu" in limits and "nvidia.com/gpu" not in tolerated:
        yield "it asks for GPUs, and does not tolerate the taint of the nodes that have them"
    for param, resource in (("num-gpus", "nvidia.com/gpu"), ("memory", "memory")):
        if params.get(param, "0") != "0" and resource in limits:
            yield f"{param} of rayStartParams and the container's limits are two places for the same"
