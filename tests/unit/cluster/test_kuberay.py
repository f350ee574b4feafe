"""Every overlay is what Kubernetes, KubeRay, Kueue and this project ask for."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import version

import pytest
import ray

from tdtrain.config import DistillRun
from tdtrain.may_grow import MAY_GROW
from tdtrain.ray_start import check_elastic, check_label, check_room, cores_of_machine, within_reach
from tests.unit.cluster.checks import rule_faults
from tests.unit.cluster.commands import dry_run
from tests.unit.cluster.manifests import (
    CLUSTERS,
    JOBS,
    OVERLAYS,
    REPOSITORY,
    Document,
    amount_of,
    cluster_of,
    containers_of,
    env_of,
    groups_of,
    nodes_of,
    pods_of,
    render,
)
from tests.unit.cluster.schemas import schema_faults


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_no_field_that_its_kinds_do_not_know(overlay: str) -> None:
    assert [fault for document in render(overlay) for fault in schema_faults(document)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_operators_and_this_project_ask_for(overlay: str) -> None:
    assert [fault for document in render(overlay) for fault in rule_faults(document)] == []


def _cluster(document: Document) -> Document:
    cluster = cluster_of(document)
    assert cluster is not None
    return cluster


def test_a_job_has_the_cluster_that_stands_beside_it() -> None:
    for name in ("cpu", "gpu", "pools", "spot"):
        (cluster,), (job,) = render(f"clusters/{name}"), render(f"jobs/{name}")
        assert job["spec"]["rayClusterSpec"] == cluster["spec"]
        images = {container["image"] for _, pod in pods_of(job) for container in containers_of(pod)}
        assert len(images) == 1, "submitter, head and workers have one image"


@pytest.mark.parametrize("overlay", JOBS)
def test_a_job_is_let_in_on_the_nodes_that_are_there_when_it_starts(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = render(overlay)
    cluster, none = _cluster(job), {"resources": {"CPU": 0.0}, "labels": {}}
    living = [none, *(nodes_of(group) for group in cluster["workerGroupSpecs"] for _ in range(group["replicas"]))]
    nodes = [
        {"Alive": True, "Resources": node["resources"], "Labels": node["labels"], "NodeManagerAddress": "10.0.0.1"}
        for node in living
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setenv(MAY_GROW, env_of(cluster["headGroupSpec"]).get(MAY_GROW, ""))
    run = DistillRun.model_validate(dry_run(job["spec"]["entrypoint"]))
    compute = run.compute.on(within_reach({}).get("GPU", 0.0), cores_of_machine(), run.models_at_once)
    check_label(compute.labels)
    check_label(run.cache.labels, "teacher_label")
    check_room(compute)
    check_elastic(compute)
    with pytest.raises(ValueError, match="and no node has that label"):
        check_label({"pool": "nobody"})
    with pytest.raises(ValueError, match=r"num_workers=99 .* so that training could never start"):
        check_room(compute.model_copy(update={"num_workers": 99}))


def test_versions_are_those_of_this_repository() -> None:
    ours = re.search(r'^version = "(.*)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert ours is not None
    for overlay in (*CLUSTERS, *JOBS):
        (document,) = render(overlay)
        assert _cluster(document)["rayVersion"] == version("ray")
        for _, group in groups_of(_cluster(document)):
            for container in containers_of(group["template"]):
                assert re.fullmatch(rf".*tdtrain:{ours[1]}-(cpu|cuda)", container["image"])


def test_what_pods_refer_to_is_on_the_platform() -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in render("platform")}
    guide = (REPOSITORY / "docs" / "deploy.md").read_text()
    for document in (document for overlay in OVERLAYS for document in render(overlay)):
        assert document["metadata"].get("namespace") in ("tdtrain", None)
        for _, pod in pods_of(document):
            if priority := pod["spec"].get("priorityClassName"):
                assert ("PriorityClass", priority) in there
            claims = (volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes", []))
            for claim in filter(None, claims):
                assert ("PersistentVolumeClaim", claim["claimName"]) in there or document["kind"] == "StatefulSet"
        for name in re.findall(r"'secretKeyRef': \{[^}]*'name': '([^']+)'", str(document)):
            assert f"secret generic {name}" in guide, f"docs/deploy.md does not say how {name} is made"


def test_the_gang_fits_into_its_queues() -> None:
    (job,) = render("jobs/kueue")
    pods = [(group.get("replicas", 1), group["template"]) for _, group in groups_of(_cluster(job))]
    wanted: Counter[str] = Counter()
    for number, pod in (*pods, (1, job["spec"]["submitterPodTemplate"])):
        for resource, amount in pod["spec"]["containers"][0]["resources"]["requests"].items():
            wanted[resource] += number * amount_of(amount)
    quotas = next(one for one in render("queues/kueue") if one["kind"] == "ClusterQueue")["spec"]["resourceGroups"][0]
    kueue = {one["name"]: one["nominalQuota"] for one in quotas["flavors"][0]["resources"]}
    assert list(kueue) == quotas["coveredResources"]
    (volcano,) = render("queues/volcano")
    for queue in (kueue, volcano["spec"]["capability"]):
        assert {resource for resource, total in wanted.items() if total > amount_of(queue.get(resource, "0"))} == set()


def test_the_guide_names_every_overlay_and_none_that_is_not() -> None:
    guide = (REPOSITORY / "docs" / "deploy.md").read_text()
    named = set(re.findall(r"cluster/kuberay/((?:clusters|jobs|queues)/\w+|platform|monitoring|files)", guide))
    assert named == set(OVERLAYS)
