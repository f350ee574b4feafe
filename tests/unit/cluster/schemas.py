"""Schemas, in which nothing is allowed that they do not name: an API server drops a misspelt field without a word."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.cluster.manifests import REPOSITORY, Document

KUBERNETES = "1.32"
ANY: Any = object()
NAMED = {"apiVersion": ANY, "kind": ANY, "metadata": {"name": ANY, "namespace": ANY, "labels": ANY}}
FOREIGN: dict[str, Any] = {
    # Kinds of other projects: what of each is used here, as their documentation has it.
    "PodMonitor": {
        "spec": {
            "selector": {"matchLabels": ANY},
            "podMetricsEndpoints": [
                {"port": ANY, "interval": ANY, "relabelings": [{"sourceLabels": [ANY], "targetLabel": ANY}]}
            ],
        }
    },
    "ResourceFlavor": {"spec": {"nodeLabels": ANY}},
    "ClusterQueue": {
        "spec": {
            "namespaceSelector": {"matchLabels": ANY},
            "resourceGroups": [
                {
                    "coveredResources": [ANY],
                    "flavors": [{"name": ANY, "resources": [{"name": ANY, "nominalQuota": ANY}]}],
                }
            ],
        }
    },
    "LocalQueue": {"spec": {"clusterQueue": ANY}},
    "WorkloadPriorityClass": {"value": ANY, "description": ANY},
    "Queue": {"spec": {"weight": ANY, "capability": ANY}},
}


def schema_faults(document: Document) -> Iterator[str]:
    """What is wrong with an object by the schema of its kind."""
    name = f"{document['kind']} {document['metadata']['name']}"
    if document["apiVersion"] == "ray.io/v1":
        for error in ray_schema(document["kind"]).iter_errors(document):
            yield f"{name}: {error.json_path}: {error.message}"
    elif document["kind"] in FOREIGN:
        for place in _unknown(document, NAMED | FOREIGN[document["kind"]]):
            yield f"{name}: {place} is no field that this kind is known to have"
    else:
        kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="no schemas of Kubernetes' own kinds")
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except jsonschema.ValidationError as error:
            yield f"{name}: {error.json_path}: {error.message}"


@functools.cache
def ray_schema(kind: str) -> jsonschema.Draft202012Validator:
    """KubeRay's own schema of RayCluster or RayJob, made strict.

    Skips the test where the definitions are missing; they are KubeRay's and no part of this repository.
    """
    beside = REPOSITORY.parent / "shared" / "kuberay"
    path = Path(os.environ.get("TDTRAIN_KUBERAY_CRDS", beside)) / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(
            f"KubeRay's definition of {kind} is not at {path}; put ray-operator/config/crd/bases of KubeRay 1.7 there, "
            "or name its folder in TDTRAIN_KUBERAY_CRDS"
        )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(path.read_text(), loader)
    version = next(one for one in definition["spec"]["versions"] if one["name"] == "v1")
    strict = _strict(version["schema"]["openAPIV3Schema"])
    strict["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(strict)


def _strict(schema: Any) -> Any:
    """The same, with additionalProperties false in every object but those that keep what they do not know."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    return made


def _unknown(value: Any, known: Any, place: str = "$") -> Iterator[str]:
    if known is ANY:
        return
    if isinstance(known, list):
        for number, one in enumerate(value):
            yield from _unknown(one, known[0], f"{place}[{number}]")
        return
    for key, one in value.items():
        if key not in known:
            yield f"{place}.{key}"
        else:
            yield from _unknown(one, known[key], f"{place}.{key}")
