"""Mistakes planted in rendered manifests: each is caught by the checks that find nothing wrong with the manifests."""

from __future__ import annotations

import pytest

from tests.unit.cluster.checks import rule_faults
from tests.unit.cluster.manifests import render
from tests.unit.cluster.mistakes import MISSPELT, PLANTED, Plant
from tests.unit.cluster.schemas import schema_faults

MISTAKES = [(overlay, *mistake) for overlay, planted in PLANTED.items() for mistake in planted]


@pytest.mark.parametrize(("plant", "words"), [mistake[1:] for mistake in MISSPELT], ids=[one[0] for one in MISSPELT])
def test_what_is_misspelt_is_caught(plant: Plant, words: str) -> None:
    (job,) = render("jobs/pools")
    plant(job)
    assert any(words in fault for fault in schema_faults(job)), list(schema_faults(job))


@pytest.mark.parametrize(
    ("overlay", "plant", "words"),
    [(overlay, plant, words) for overlay, _, plant, words in MISTAKES],
    ids=[f"{overlay}: {name}" for overlay, name, *_ in MISTAKES],
)
def test_a_planted_mistake_is_caught(overlay: str, plant: Plant, words: str) -> None:
    (job,) = render(overlay)
    plant(job)
    assert any(words in fault for fault in rule_faults(job)), rule_faults(job)


def test_mistakes_of_other_kinds_are_caught() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "planted"}}
    assert any("never part of a manifest" in fault for fault in rule_faults(secret))
    (service,) = [one for one in render("platform") if one["kind"] == "Service" and one["metadata"]["name"] == "mlflow"]
    service["spec"]["type"] = "NodePort"
    assert any("exposed" in fault for fault in rule_faults(service))


def test_misspelt_fields_of_other_kinds_are_caught() -> None:
    (monitor,) = [one for one in render("monitoring") if one["kind"] == "PodMonitor"]
    monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    assert any("intervall" in fault for fault in schema_faults(monitor))
    (service,) = [one for one in render("platform") if one["kind"] == "Service" and one["metadata"]["name"] == "mlflow"]
    service["spec"]["port"] = 5000
    assert any("'port' was unexpected" in fault for fault in schema_faults(service))
