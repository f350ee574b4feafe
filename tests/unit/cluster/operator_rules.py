"""What KubeRay 1.7 and Kueue refuse although their schemas allow it, as their own validation has it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.unit.cluster.manifests import Document, cluster_of, groups_of

LONGEST = {"RayCluster": 53, "RayJob": 47}
"""A job's cluster has six more characters, and its services ten."""
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")
"""Fields behind feature gates that are off: the operator refuses the whole object."""
REDIS_ENV = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME")


def operator_faults(document: Document) -> Iterator[str]:
    """Why the operators would refuse this object."""
    kind, name = document["kind"], document["metadata"]["name"]
    if kind not in LONGEST:
        return
    if len(name) > LONGEST[kind]:
        yield f"{kind} {name}: its name has {len(name)} characters, more than {LONGEST[kind]}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"{kind} {name}: its name is no DNS label"
    faults = list(_job_faults(document["spec"])) if kind == "RayJob" else []
    if cluster := cluster_of(document):
        faults += _cluster_faults(cluster)
        if "kueue.x-k8s.io/queue-name" in document["metadata"].get("labels", {}):
            faults += _kueue_faults(document, cluster)
    yield from (f"{kind} {name}: {fault}" for fault in faults)


def _job_faults(spec: Document) -> Iterator[str]:
    shutdown, selected = spec.get("shutdownAfterJobFinishes", False), spec.get("clusterSelector")
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished is negative"
    if spec.get("suspend") and (not shutdown or selected):
        yield "suspend needs shutdownAfterJobFinishes, and a cluster of the job's own"
    if bool(selected) == bool(spec.get("rayClusterSpec")):
        yield "a job has either a rayClusterSpec or a clusterSelector"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field} is not positive"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit is negative"
    if spec.get("backoffLimit", 0) and (selected or spec.get("submissionMode") == "InteractiveMode"):
        yield "backoffLimit does not go with clusterSelector or InteractiveMode"
    if spec.get("submissionMode") == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode has no submitter of its own"
    if spec.get("deletionStrategy", {}).get("deletionRules") and shutdown:
        yield "deletionRules do not go with shutdownAfterJobFinishes"
    if (spec.get("rayClusterSpec") or {}).get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth is not for jobs"


def _cluster_faults(cluster: Document) -> Iterator[str]:
    scales = cluster.get("enableInTreeAutoscaling", False)
    v2 = scales and cluster.get("autoscalerOptions", {}).get("version") == "v2"
    version = tuple(int(part) for part in cluster.get("rayVersion", "0.0").split(".")[:2])
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52):
        yield f"authOptions.mode=token needs rayVersion 2.52, and this is {cluster.get('rayVersion')}"
    for field in GATED:
        if field in cluster:
            yield f"{field} needs a feature gate that is off unless the operator was installed with it"
    for group, spec in groups_of(cluster):
        params, container = spec.get("rayStartParams", {}), spec["template"]["spec"]["containers"][0]
        given = {"num-cpus", "num-gpus", "memory", "resources"} & set(params)
        if given and spec.get("resources"):
            yield f"{group}: {', '.join(sorted(given))} of rayStartParams and resources are two places for the same"
        if "labels" in params:
            yield f"{group}: labels belong into the group, not into rayStartParams"
        if v2 and spec["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{group}: autoscaler v2 needs restartPolicy Never"
        if group != "head":
            yield from _group_faults(group, spec, scales, v2, version)
        elif v2 and any(one["name"] == "RAY_enable_autoscaler_v2" for one in container.get("env", [])):
            yield "head: RAY_enable_autoscaler_v2 is set beside autoscalerOptions.version"
    yield from _redis_faults(cluster)


def _group_faults(group: str, spec: Document, scales: bool, v2: bool, version: tuple[int, ...]) -> Iterator[str]:
    low, high = spec.get("minReplicas"), spec.get("maxReplicas")
    if not scales and (low is None or high is None):
        yield f"{group}: without an autoscaler minReplicas and maxReplicas must be there"
    if min(low or 0, high or 0) < 0 or (low is not None and high is not None and low > high):
        yield f"{group}: minReplicas={low} and maxReplicas={high}"
    if spec.get("suspend") and scales:
        yield f"{group}: suspend does not go with the autoscaler"
    if "idleTimeoutSeconds" in spec and not v2:
        yield f"{group}: idleTimeoutSeconds needs autoscaler v2"
    if spec.get("priority") and (not v2 or version < (2, 56)):
        yield f"{group}: priority needs autoscaler v2 and Ray 2.56"


def _redis_faults(cluster: Document) -> Iterator[str]:
    head, options = cluster["headGroupSpec"], cluster.get("gcsFaultToleranceOptions")
    for one in head["template"]["spec"]["containers"][0].get("env", []):
        if one["name"] in REDIS_ENV:
            yield f"head: {one['name']} belongs into gcsFaultToleranceOptions"
    for param in ("redis-password", "redis-username"):
        if param in head.get("rayStartParams", {}):
            yield f"head: {param} belongs into gcsFaultToleranceOptions"
    if options and options.get("backend") == "rocksdb":
        yield "gcsFaultToleranceOptions.backend=rocksdb needs a feature gate that is off"
    if options and options.get("backend", "redis") == "redis" and "storage" in options:
        yield "gcsFaultToleranceOptions.storage is for rocksdb"


def _kueue_faults(document: Document, cluster: Document) -> Iterator[str]:
    if document["kind"] == "RayJob" and not document["spec"].get("shutdownAfterJobFinishes"):
        yield "Kueue needs shutdownAfterJobFinishes"
    if cluster.get("enableInTreeAutoscaling"):
        yield "Kueue reserves the whole cluster, so enableInTreeAutoscaling must be false"
    if len(cluster.get("workerGroupSpecs", [])) > 6:
        yield "Kueue has eight sets of pods a job: head, submitter and six worker groups"
