"""Hosts on one machine: they can be made to fail, strangers are kept out, and nothing is left of them."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from cluster.local.hosts import HEAD, Hosts
from cluster.local.network import OUTSIDE, Network, address
from tests.cluster.conftest import namespaces

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
STRANGER = Path(tempfile.gettempdir()) / f"tdtrain-stranger-{secrets.token_hex(3)}"
JOB = json.dumps({"entrypoint": f"touch {STRANGER}"})


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_who_has_no_token_submits_no_job_and_reads_nothing(hosts: Hosts, token: str | None) -> None:
    """From outside and from a host, at the head's dashboard and at the agents of the others."""
    refused = 401 if token is None else 403
    for on in (OUTSIDE, 2):
        assert hosts.ask("/api/jobs/", token, body=JOB, on=on)[0] == refused
    for path in ("/api/jobs/", "/api/version", "/nodes?view=summary", "/logical/actors", "/api/v0/logs?node_id=x",
                 "/api/cluster_status", "/api/train/v2/runs/v1"):  # fmt: skip
        assert hosts.ask(path, token)[0] == refused, path
    agent = f"http://{address(2)}:52365/api/job_agent/jobs/"
    assert hosts.ask(agent, token, body=JOB)[0] == refused
    assert hosts.ask("/api/version", hosts.token_file.read_text())[0] == 200
    assert not STRANGER.exists()


def test_who_has_no_token_gets_nowhere_with_rays_own_tools(hosts: Hosts) -> None:
    bare = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(hosts.root)}
    submitted = hosts.run(["ray", "job", "submit", "--no-wait", "--", "true"], OUTSIDE, bare)
    assert submitted.returncode and "Unauthorized" in submitted.stdout
    code = f"import ray\nray.init('{address(HEAD)}:6379', log_to_driver=False)\nprint('joined', ray.nodes())"
    joined = hosts.run([sys.executable, "-c", code], 2, bare, timeout_s=120)
    assert joined.returncode and "joined" not in joined.stdout


def test_a_host_that_is_cut_off_is_back_when_it_is_joined(hosts: Hosts) -> None:
    token = hosts.token_file.read_text()
    hosts.network.cut(3)
    with pytest.raises(ConnectionError, match="from host 3"):
        hosts.ask("/api/version", token, on=3)
    assert hosts.ask("/api/version", token, on=2)[0] == 200
    hosts.network.join(3)
    assert hosts.ask("/api/version", token, on=3)[0] == 200


def test_a_slow_link_is_slow_and_fast_again(hosts: Hosts) -> None:
    def took_s() -> float:
        began = time.perf_counter()
        assert len(hosts.ask("/static/js/" + script, on=3)[1]) > 100_000
        return time.perf_counter() - began

    script = hosts.ask("/", on=3)[1].split("static/js/")[1].split('"')[0]
    hosts.network.slow(3, megabits=1)
    slow = took_s()
    hosts.network.steady(3)
    assert min(took_s() for _ in range(3)) < slow / 2
    with pytest.raises(ValueError, match="slow nothing"):
        hosts.network.slow(3)


def test_a_raylet_is_killed_and_its_host_booted_again(hosts: Hosts) -> None:
    on, _ = hosts.kill("raylet", on=3)
    hosts.wait_for(2)
    assert on == 3 and hosts.alive() == {1, 2}
    hosts.start(3)
    hosts.wait_for(3)
    with pytest.raises(LookupError, match="host 2 has RayTrainWorker"):
        hosts.kill("RayTrainWorker", on=2)


@pytest.mark.usefixtures("permitted")
def test_networks_side_by_side_and_one_is_taken_down() -> None:
    """They have the same addresses, and see nothing of each other. What is gone may be taken down again."""
    one, other = (Network(f"tdtrain-{secrets.token_hex(3)}", 2) for _ in range(2))
    try:
        for network in (one, other):
            network.start()
            subprocess.Popen(network.inside(2, ["sleep", "600"]), start_new_session=True)
        links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        assert "port1" not in links and "bridge0" not in links
        with pytest.raises(ValueError, match="there is no host 3; there are 1 to 2"):
            one.pids(3)
        one.remove()
        one.remove()
        assert one.name not in namespaces().split() and f"{other.name}-2" in namespaces()
        assert one.pids(2) == [] and len(other.pids(2)) == 1
    finally:
        one.remove()
        other.remove()
    assert not {one.name, other.name} & set(namespaces().split())


@pytest.mark.usefixtures("permitted")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_start_that_breaks_off_leaves_nothing(error: type[BaseException]) -> None:
    class Broken(Hosts):
        def start(self, number: int, env: object = None) -> None:
            self.popen(["sleep", "600"], on=number)
            if number == 2:
                raise error

    broken = Broken(2)
    with pytest.raises(error), broken:
        raise AssertionError("it started")
    assert not broken.root.exists() and broken.network.name not in namespaces()
    assert broken.network.pids(1) == []


@pytest.mark.usefixtures("permitted")
def test_make_cluster_says_how_to_use_it_and_takes_it_down() -> None:
    command = [sys.executable, "-m", "cluster.local", "--hosts", "1", "--cpus", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        told = ""
        while "export" not in told:
            told = process.stdout.readline()
            assert told, process.wait()
        words = dict(word.split("=", 1) for word in told.split() if "=" in word)
        token = Path(words["RAY_AUTH_TOKEN_PATH"])
        url = f"{words['RAY_API_SERVER_ADDRESS']}/api/version"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token.read_text()}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert "ray_version" in json.load(answer)
        said, _ = process.communicate("cut 7\nalive\nfly\nquit\n", timeout=60)
    assert "cut 7: there is no host 7" in said and "{1}" in said and "fly: use one of" in said
    assert process.returncode == 0 and not token.parent.exists() and token.parent.name not in namespaces()
