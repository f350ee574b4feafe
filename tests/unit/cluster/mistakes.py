"""Mistakes to plant in rendered manifests: what is done to an object, and what the checks then say."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.cluster.manifests import Document, cluster_of
from tests.unit.cluster.ray_rules import STAYS

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
    return _pod(group)["containers"][0]


def _pod(group: Document) -> Document:
    return group["template"]["spec"]


def _mount(group: Document, name: str) -> Document:
    return next(mount for mount in _container(group)["volumeMounts"] if mount["name"] == name)


def _volumes(group: Document) -> dict[str, Document]:
    return {volume["name"]: volume for volume in _pod(group)["volumes"]}


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


def _notice(said: str, planted: str) -> Plant:
    def plant(job: Document) -> None:
        command = _container(_worker(job))["lifecycle"]["preStop"]["exec"]["command"]
        command[-1] = command[-1].replace(said, planted)

    return plant


POOLS: list[tuple[str, Plant, str]] = [
    ("no TTL", lambda job: job["spec"].pop("ttlSecondsAfterFinished"), "ttlSecondsAfterFinished is not said"),
    ("a TTL alone", lambda job: job["spec"].pop("shutdownAfterJobFinishes"), "needs shutdownAfterJobFinishes"),
    ("a TTL of days", lambda job: job["spec"].update(ttlSecondsAfterFinished=86401), "more than a day"),
    ("no deadline", lambda job: job["spec"].pop("activeDeadlineSeconds"), "activeDeadlineSeconds is not said"),
    ("a deadline below 0", lambda job: job["spec"].update(preRunningDeadlineSeconds=-1), "is not between 0 and"),
    ("a start after the end", lambda job: job["spec"].update(preRunningDeadlineSeconds=86400), "is not between 0 and"),
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
    ("pages that are written", lambda job: _mount(_worker(job), "corpus").pop("readOnly"), "to be read alone"),
    ("a volume of another group", lambda job: _pod(_worker(job))["securityContext"].pop("fsGroup"), "fsGroup"),
    ("a head like work", lambda job: _pod(_head(job)).update(priorityClassName="tdtrain-work"), "not tdtrain-head"),
    ("work of any priority", lambda job: _pod(_worker(job)).pop("priorityClassName"), "not tdtrain-work"),
    ("an end in silence", lambda job: _container(_worker(job)).pop("lifecycle"), "nobody tells Ray"),
    ("a head that is moved", lambda job: _head(job)["template"]["metadata"].pop("annotations"), "may move it"),
    ("work that is moved", lambda job: _worker(job)["template"]["metadata"].pop("annotations"), "may move it"),
    (
        "a submitter that is moved",
        lambda job: job["spec"]["submitterPodTemplate"]["metadata"].pop("annotations"),
        "submitter: whoever saves nodes may move it",
    ),
    (
        "a disk that nobody asked for",
        lambda job: _container(_worker(job))["resources"]["requests"].pop("ephemeral-storage"),
        "may take 25 GiB of the disk",
    ),
    ("a folder without end", lambda job: _volumes(_head(job))["tmp"]["emptyDir"].clear(), "tmp has no sizeLimit"),
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
PLANTED: dict[str, list[tuple[str, Plant, str]]] = {
    "jobs/pools": POOLS,
    "jobs/kueue": [
        ("a size of any day", lambda job: _cluster(job).update(enableInTreeAutoscaling=True), "Kueue reserves"),
        ("nodes that are kept", lambda job: job["spec"].update(ttlSecondsAfterFinished=3600), "of its queue waits"),
    ],
    "jobs/volcano": [
        ("no day to wait", lambda job: job["spec"].update(preRunningDeadlineSeconds=3600), "no day to wait"),
        ("no day to run", lambda job: job["spec"].update(activeDeadlineSeconds=604801), "one to run after"),
        ("nodes that are kept", lambda job: job["spec"].update(ttlSecondsAfterFinished=86400), "of its queue waits"),
    ],
    "jobs/spot": [
        ("notice too long", _notice("10; sleep 10", "20; sleep 20"), "takes longer"),
        ("notice, and gone", _notice("; sleep 10", ""), "nobody tells Ray"),
        ("a long good-bye", lambda job: _pod(_worker(job)).pop("terminationGracePeriodSeconds"), "takes longer"),
        (
            "nobody may evict it",
            lambda job: _worker(job)["template"]["metadata"].update(annotations=dict(STAYS)),
            "nobody hears of it",
        ),
    ],
}
"""By overlay: a mistake's name, how it is made, and words of the fault."""

MISSPELT: list[tuple[str, Plant, str]] = [
    ("a typo", lambda job: job["spec"].update(ttlSecondsAfterFinish=60), "ttlSecondsAfterFinish"),
    ("a typo deep down", lambda job: _container(_worker(job)).update(volumeMount=[]), "volumeMount"),
    ("a wrong type", lambda job: _worker(job).update(maxReplicas="two"), "maxReplicas"),
    ("a token, misspelt", lambda job: _cluster(job)["authOptions"].update(mode="tokens"), "tokens"),
    ("a probe's field", lambda job: _container(_head(job))["startupProbe"].update(period=5), "period"),
]
