"""The network policies, all of them: whatever is opened or closed has to be so here too."""

from __future__ import annotations

from tests.unit.cluster.manifests import OVERLAYS, Document, pods_of, render

Peer = dict[str, Document]


def _pods(name: str, key: str = "component") -> Peer:
    return {"podSelector": {"matchLabels": {f"app.kubernetes.io/{key}": name}}}


def _namespace(name: str) -> Peer:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _rule(side: str, peers: list[Peer], *ports: int) -> Document:
    told = {"ports": [{"protocol": "TCP", "port": port} for port in ports]} if ports else {}
    return {side: peers} | told


def _policy(pods: Document, ingress: list[Document] | None = None, egress: list[Document] | None = None) -> Document:
    ways = {"ingress": ingress, "egress": egress}
    types = [way.capitalize() for way, rules in ways.items() if rules is not None]
    opened = {way: rules for way, rules in ways.items() if rules}
    return {"policyTypes": types, "podSelector": pods.get("podSelector", {})} | opened


RAY, SUBMITTER, REDIS, MLFLOW, TEACHER = (_pods(it) for it in ("ray", "submitter", "redis", "mlflow", "teacher"))
MONITORING = _namespace("monitoring")
OPERATOR = _namespace("ray-system") | _pods("kuberay-operator", "name")
WORLD = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}
NAMES = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
NETWORK = {
    "nobody": _policy({}, [], []),
    "names": _policy({}, None, [NAMES]),
    "ray": _policy(
        RAY,
        [
            _rule("from", [RAY]),
            _rule("from", [SUBMITTER, OPERATOR], 8265),
            _rule("from", [MONITORING], 8080),
        ],
        [
            _rule("to", [RAY]),
            _rule("to", [REDIS], 6379),
            _rule("to", [MLFLOW], 5000),
            _rule("to", [{"namespaceSelector": {}} | TEACHER], 8000, 8080, 11434),
            _rule("to", [WORLD], 443, 6443),
        ],
    ),
    "teacher": _policy(TEACHER, [_rule("from", [RAY], 8000, 8080, 11434)], [_rule("to", [WORLD], 443)]),
    "submitter": _policy(SUBMITTER, None, [_rule("to", [RAY], 8265)]),
    "redis": _policy(REDIS, [_rule("from", [RAY], 6379)]),
    "mlflow": _policy(MLFLOW, [_rule("from", [RAY], 5000)]),
}


def test_the_network_is_closed_but_for_what_is_named() -> None:
    policies = [one for one in render("platform") if one["kind"] == "NetworkPolicy"]
    assert {one["metadata"]["name"]: one["spec"] for one in policies} == NETWORK


def test_whoever_needs_the_network_has_a_policy() -> None:
    pods = [pod for overlay in OVERLAYS for document in render(overlay) for _, pod in pods_of(document)]
    components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods}
    assert components - {"files"} | {"teacher"} == NETWORK.keys() - {"nobody", "names"}  # teacher: a user's own model
