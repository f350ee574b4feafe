"""Mistakes planted in rendered manifests: each is caught by the checks that find nothing wrong with the manifests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.cluster.checks import rule_faults
from tests.unit.cluster.manifests import Document, cluster_of, render
from tests.unit.cluster.schemas import schema_faults

Plant = Callable[[Document], object]


def _cluster(document: Document) -> Document:
    cluster = cluster_of(document)
    assert cluster is not None
    return cluster


def _head(document: Document) -> Document:
    return _cluster(document)["headGroupSpec"]


def _worker(document: Document) -> Document:
    return _cluster(document)["workerGroupSpecs"][0]


def _container(group: Document) -> Document:
    return group["template"]["spec"]["containers"][0]


def _context(document: Document) -> Document:
    return _container(_worker(document))["securityContext"]


def _entrypoint(more: str) -> Plant:
    return lambda job: job["spec"].update(entrypoint=f"{job['spec']['entrypoint']} {more}")


def _volume(name: str) -> Plant:
    mount = {"name": name, "mountPath": "/node"}
    return lambda job: (
        _worker(job)["template"]["spec"]["volumes"].append({"name": name, "hostPath": {"path": "/"}}),
        _container(_worker(job))["volumeMounts"].append(mount),
    )


PLANTED: list[tuple[str, Plant, str]] = [
    ("no TTL", lambda job: job["spec"].pop("ttlSecondsAfterFinished"), "ttlSecondsAfterFinished is not said"),
    ("a TTL alone", lambda job: job["spec"].pop("shutdownAfterJobFinishes"), "needs shutdownAfterJobFinishes"),
    ("no deadline", lambda job: job["spec"].pop("activeDeadlineSeconds"), "activeDeadlineSeconds"),
    ("a long name", lambda job: job["metadata"].update(name="t" * 48), "48 characters"),
    ("a restart", lambda job: _worker(job)["template"]["spec"].update(restartPolicy="Always"), "restartPolicy Never"),
    ("two places", lambda job: _head(job).update(resources={"CPU": "0"}), "two places"),
    ("GPUs twice", lambda job: _worker(job)["rayStartParams"].update({"num-gpus": "1"}), "two places"),
    ("a gated field", lambda job: _cluster(job).update(networkPolicy={"mode": "DenyAll"}), "feature gate"),
    ("an old Ray", lambda job: _cluster(job).update(rayVersion="2.51.0"), "2.52"),
    ("privileged", lambda job: _context(job).update(privileged=True), "privileged"),
    ("no context", lambda job: _container(_head(job)).pop("securityContext"), "capabilities"),
    ("root", lambda job: _head(job)["template"]["spec"]["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
    ("a writable root", lambda job: _context(job).pop("readOnlyRootFilesystem"), "readOnlyRootFilesystem"),
    ("the node's files", _volume("node"), "folder of the node's"),
    ("the node's network", lambda job: _head(job)["template"]["spec"].update(hostNetwork=True), "hostNetwork"),
    ("a token for all", lambda job: _head(job)["template"]["spec"].pop("automountServiceAccountToken"), "automount"),
    (
        "the autoscaler's token",
        lambda job: _container(_head(job))["volumeMounts"].append({"name": "autoscaler-token", "mountPath": "/token"}),
        "service account's token",
    ),
    ("a blind autoscaler", lambda job: _cluster(job)["autoscalerOptions"].pop("volumeMounts"), "cannot scale"),
    ("no authentication", lambda job: _cluster(job).pop("authOptions"), "authOptions.mode"),
    ("authentication off", lambda job: _cluster(job)["authOptions"].update(mode="disabled"), "authOptions.mode"),
    ("a dashboard for all", lambda job: _head(job).update(serviceType="LoadBalancer"), "dashboard is exposed"),
    ("an ingress", lambda job: _head(job).update(enableIngress=True), "dashboard is exposed"),
    (
        "a key written out",
        lambda job: _container(_head(job))["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "planted"}),
        "AWS_SECRET_ACCESS_KEY is written out",
    ),
    ("a busy head", lambda job: _head(job)["rayStartParams"].pop("num-cpus"), "num-cpus must be 0"),
    ("no start", lambda job: _container(_worker(job)).pop("startupProbe"), "startupProbe"),
    (
        "objects on the disk",
        lambda job: _worker(job)["rayStartParams"].update({"object-store-memory": "90000000000"}),
        "object-store-memory",
    ),
    ("GPUs out of reach", lambda job: _worker(job)["template"]["spec"].pop("tolerations"), "taint"),
    ("an image of any day", lambda job: _container(_worker(job)).update(image="tdtrain:latest"), "no version"),
    ("an unknown flag", _entrypoint("--learning_rte 1e-4"), "learning_rte"),
    ("an impossible run", _entrypoint("--batch_size 7"), "not divisible"),
    ("a label that nobody has", _entrypoint("--worker_label pool=studnets"), "no label of a worker group"),
    ("a pool that nobody told of", lambda job: _worker(job).update(maxReplicas=3), "the worker groups are"),
    ("an autoscaler that is gone", lambda job: _cluster(job).pop("enableInTreeAutoscaling"), "there is no autoscaler"),
    ("teachers out of their pool", _entrypoint("--teacher_actors 5"), "teacher_label=pool=teacher) do not fit"),
    ("too many workers", _entrypoint("--num_workers 16"), "do not fit"),
    ("a folder that is lost", _entrypoint("--output_dir /tmp/runs"), "on no volume"),
    ("a folder that is read", _entrypoint("--output_dir /corpus/runs"), "cannot be written"),
]


MISSPELT: list[tuple[str, Plant, str]] = [
    ("a typo", lambda job: job["spec"].update(ttlSecondsAfterFinish=60), "ttlSecondsAfterFinish"),
    ("a typo deep down", lambda job: _container(_worker(job)).update(volumeMount=[]), "volumeMount"),
    ("a wrong type", lambda job: _worker(job).update(maxReplicas="two"), "maxReplicas"),
    ("a token, misspelt", lambda job: _cluster(job)["authOptions"].update(mode="tokens"), "tokens"),
    ("a probe's field", lambda job: _container(_head(job))["startupProbe"].update(period=5), "period"),
]


@pytest.mark.parametrize(("plant", "words"), [mistake[1:] for mistake in MISSPELT], ids=[one[0] for one in MISSPELT])
def test_what_is_misspelt_is_caught(plant: Plant, words: str) -> None:
    (job,) = render("jobs/pools")
    plant(job)
    assert any(words in fault for fault in schema_faults(job)), list(schema_faults(job))


@pytest.mark.parametrize(("plant", "words"), [mistake[1:] for mistake in PLANTED], ids=[one[0] for one in PLANTED])
def test_a_planted_mistake_is_caught(plant: Plant, words: str) -> None:
    (job,) = render("jobs/pools")
    plant(job)
    assert any(words in fault for fault in rule_faults(job)), rule_faults(job)


def test_mistakes_of_other_kinds_are_caught() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "planted"}}
    assert any("never part of a manifest" in fault for fault in rule_faults(secret))
    (service,) = [one for one in render("platform") if one["kind"] == "Service" and one["metadata"]["name"] == "mlflow"]
    service["spec"]["type"] = "NodePort"
    assert any("exposed" in fault for fault in rule_faults(service))
    (job,) = render("jobs/kueue")
    job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] = True
    assert any("Kueue reserves" in fault for fault in rule_faults(job))
    for deadline in ("preRunningDeadlineSeconds", "activeDeadlineSeconds"):
        (job,) = render("jobs/volcano")
        job["spec"][deadline] = 3600
        assert any("Volcano's queue" in fault for fault in rule_faults(job))


def test_misspelt_fields_of_other_kinds_are_caught() -> None:
    (monitor,) = [one for one in render("monitoring") if one["kind"] == "PodMonitor"]
    monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    assert any("intervall" in fault for fault in schema_faults(monitor))
    (service,) = [one for one in render("platform") if one["kind"] == "Service" and one["metadata"]["name"] == "mlflow"]
    service["spec"]["port"] = 5000
    assert any("'port' was unexpected" in fault for fault in schema_faults(service))
