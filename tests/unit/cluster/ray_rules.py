"""What this project asks of its Ray clusters and jobs: closed, bounded, able to start, and left alone at work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tdtrain.may_grow import MAY_GROW
from tests.unit.cluster.house_rules import TOKEN_PATH, context_faults
from tests.unit.cluster.manifests import Document, amount_of, cluster_of, env_of, groups_of, nodes_of

DAY_S = 86400
NOTICE_S = 15
"""What GKE gives the pods of a spot node, the shortest of all clouds."""
BOUNDS = ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit")
DEADLINES = ("preRunningDeadlineSeconds", "activeDeadlineSeconds")
STAYS = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def ray_faults(document: Document) -> Iterator[str]:
    """What is wrong with a RayCluster or RayJob by the rules of this project."""
    name = f"{document['kind']} {document['metadata']['name']}"
    if cluster := cluster_of(document):
        yield from (f"{name}: {fault}" for fault in _cluster_faults(cluster))
    if document["kind"] == "RayJob":
        labels = document["metadata"].get("labels", {})
        yield from (f"{name}: {fault}" for fault in _job_faults(document["spec"], labels))


def _job_faults(spec: Document, labels: dict[str, str]) -> Iterator[str]:
    for field in (*BOUNDS, *DEADLINES):
        if not spec.get(field):
            yield f"{field} is not said, so it may hold its nodes for ever"
    kept_s, waits_s, ends_s = (spec.get(field, 0) for field in ("ttlSecondsAfterFinished", *DEADLINES))
    if not 0 < waits_s < ends_s:
        yield f"preRunningDeadlineSeconds={waits_s} is not between 0 and activeDeadlineSeconds={ends_s}"
    if kept_s > DAY_S:
        yield f"ttlSecondsAfterFinished={kept_s} holds nodes that do nothing for more than a day"
    volcano = labels.get("ray.io/scheduler-name") == "volcano"
    if (volcano or "kueue.x-k8s.io/queue-name" in labels) and waits_s < 10 * kept_s:
        yield f"the next job of its queue waits ttlSecondsAfterFinished={kept_s} for its nodes, of its {waits_s} s"
    if volcano and (waits_s < DAY_S or ends_s < waits_s + DAY_S):
        yield "it has no day to wait in Volcano's queue, and one to run after the longest wait"
    yield from (f"submitter: {fault}" for fault in _staying_faults(spec.get("submitterPodTemplate", {}), True))


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
        yield from _autoscaler_faults(cluster)
    elif MAY_GROW in env_of(head):
        yield f"{MAY_GROW} of the head says that nodes may come, and there is no autoscaler"
    for group, spec in groups_of(cluster):
        faults = [*_node_faults(spec), *_end_faults(spec, group == "head")]
        yield from (f"{group}: {fault}" for fault in faults)


def _autoscaler_faults(cluster: Document) -> Iterator[str]:
    options = cluster.get("autoscalerOptions", {})
    if options.get("version") != "v2":
        yield "autoscalerOptions.version is not v2"
    yield from (f"autoscaler: {fault}" for fault in context_faults(options.get("securityContext", {})))
    if TOKEN_PATH not in {mount["mountPath"] for mount in options.get("volumeMounts", [])}:
        yield "autoscaler: it has no service account's token, and cannot scale"
    told = json.loads(env_of(cluster["headGroupSpec"]).get(MAY_GROW) or "[]")
    there = [{"nodes": group["maxReplicas"]} | nodes_of(group) for group in cluster["workerGroupSpecs"]]
    if told != there:
        yield f"{MAY_GROW} of the head says {told}, and the worker groups are {there}"


def _node_faults(group: Document) -> Iterator[str]:
    pod, params = group["template"]["spec"], group.get("rayStartParams", {})
    container = pod["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe not in container:
            yield f"it has no {probe}"
    mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
    memory = {volume["name"]: volume.get("emptyDir", {}) for volume in pod.get("volumes", [])}
    shared = memory.get(mounts.get("/dev/shm", {}).get("name", ""), {})
    if shared.get("medium") != "Memory" or "sizeLimit" not in shared:
        yield "/dev/shm is no volume in memory with a limit, so objects would go to the disk"
    elif int(params.get("object-store-memory", 0)) > 0.95 * amount_of(shared["sizeLimit"]):
        yield f"object-store-memory does not fit into {shared['sizeLimit']} of /dev/shm"
    if "/tmp" not in mounts:
        yield "/tmp, where Ray puts its session, cannot be written to"
    if not mounts.get("/corpus", {}).get("readOnly"):
        yield "/corpus is not there to be read alone"
    limits = container["resources"]["limits"]
    tolerated = {toleration.get("key") for toleration in pod.get("tolerations", [])}
    if "nvidia.com/gpu" in limits and "nvidia.com/gpu" not in tolerated:
        yield "it asks for GPUs, and does not tolerate the taint of the nodes that have them"
    for param, resource in (("num-gpus", "nvidia.com/gpu"), ("memory", "memory")):
        if params.get(param, "0") != "0" and resource in limits:
            yield f"{param} of rayStartParams and the container's limits are two places for the same"


def _end_faults(group: Document, head: bool) -> Iterator[str]:
    """Who goes first, and what is said when one goes."""
    pod = group["template"]["spec"]
    wanted = "tdtrain-head" if head else "tdtrain-work"
    if pod.get("priorityClassName") != wanted:
        yield f"priorityClassName is not {wanted}: heads go before workers"
    said = " ".join(pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", []))
    drains = re.search(r"ray drain-node .*--deadline-remaining-seconds (\d+); sleep (\d+)$", said)
    if not head and said != "ray stop" and not drains:
        yield "nobody tells Ray when it goes: preStop is neither ray stop nor a drain-node that is waited for"
    if drains and not int(drains[1]) <= int(drains[2]) < pod.get("terminationGracePeriodSeconds", 30) <= NOTICE_S:
        yield f"notice takes longer than terminationGracePeriodSeconds, or that longer than {NOTICE_S} s: {drains[0]}"
    yield from _staying_faults(group["template"], not drains)


def _staying_faults(template: Document, stays: bool) -> Iterator[str]:
    there = template.get("metadata", {}).get("annotations", {}).items()
    if stays and not STAYS.items() <= there:
        yield f"whoever saves nodes may move it: it needs {STAYS}"
    if not stays and STAYS.items() & there:
        yield f"who wants its node back may not evict it, so nobody hears of it: it has one of {STAYS}"
