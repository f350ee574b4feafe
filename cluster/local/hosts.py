"""A Ray cluster of several hosts on one machine, whose hosts, links and processes can be made to fail.

    with Hosts(3) as hosts:
        hosts.run(["ray", "job", "submit", "--working-dir", ".", "--", "python", "rayjobs/distill.py", ...])
        hosts.network.cut(3)

Hosts share the machine's file system, as nodes share a network disk, but for `Hosts.disk`, which each has to itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from cluster.local.keeper import keep, root_of, take_down
from cluster.local.network import OUTSIDE, Network, address, missing

HEAD = 1
GCS_PORT, DASHBOARD_PORT, REDIS_PORT = 6379, 8265, 6380
DASHBOARD = f"http://{address(HEAD)}:{DASHBOARD_PORT}"
START_S = 300
PROCESSES = {"raylet": "/raylet/raylet", "gcs": "/gcs/gcs_server", "dashboard": "dashboard/dashboard.py"}
"""What kills by name look for in command lines; workers are found by the name of their actor or task."""
ASK = """
import json, os, urllib.error, urllib.request
method, url, body, headers = json.loads(os.environ["ASKED"])
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status, answer.read().decode(), sep="\\n")
except urllib.error.HTTPError as refused:
    print(refused.code, refused.read().decode(), sep="\\n")
"""


class Hosts:
    """Hosts 1 (the head), 2, ... with token authentication; the token is in a file of this cluster's own."""

    def __init__(
        self,
        num_hosts: int = 3,
        cpus: float = 2,
        object_store_mb: int = 150,
        env: Mapping[str, str] | None = None,
        redis: bool = False,
    ) -> None:
        """Says what is to be started; `with` starts it, and takes it down in any case.

        Args:
            cpus: logical ones of each host.
            env: for all processes of Ray.
            redis: the head keeps what it knows in a Redis outside of all hosts, and has it again when it is booted
                anew; takes Debian's package redis-server, or another that has that command.

        Raises: RuntimeError where this machine cannot have several hosts, or no Redis, in words.
        """
        if (lacks := missing()) is not None:
            raise RuntimeError(f"several hosts on this machine: {lacks}")
        if redis and shutil.which("redis-server") is None:
            raise RuntimeError("a head that survives takes redis-server, and this machine has none; install it")
        name = f"tdtrain-{secrets.token_hex(3)}"
        self.network = Network(name, num_hosts)
        self.root = root_of(name)
        self.disk = self.root / "disk"
        self.token_file = self.root / "token"
        self._cpus, self._object_store_mb, self._env = cpus, object_store_mb, dict(env or {})
        self._redis_password = secrets.token_hex(16) if redis else None
        self._keeper: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        self._keeper = keep(self.network.name, len(self.network.numbers))
        try:
            self._prepare()
            self.network.start()
            if self._redis_password is not None:
                self._start_redis(self._redis_password)
            self.start(HEAD)
            with ThreadPoolExecutor() as starting:
                list(starting.map(self.start, self.network.numbers[1:]))
            self.wait_for(len(self.network.numbers))
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Ends every process of the cluster and leaves nothing of it. May be called again."""
        take_down(self.network.name, len(self.network.numbers))
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait()

    def start(self, number: int, env: Mapping[str, str] | None = None) -> None:
        """Boots a host: whatever still runs there is ended, then Ray starts, as the head or as one that joins it. It is
        tried three times: on a busy machine Ray gives its own processes up too soon.

        Args:
            env: for this host's processes alone.

        Raises: RuntimeError with what Ray says where it does not start.
        """
        for last in (False, False, True):
            try:
                return self._boot(number, env)
            except RuntimeError:
                if last:
                    raise

    def _boot(self, number: int, env: Mapping[str, str] | None) -> None:
        self.network.kill(number)
        # Else a head does not start: `ray start` sees other hosts' raylets, which name its address, and thinks it runs.
        (self._disk_of(number) / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        command = [
            "ray", "start", "--disable-usage-stats", "--temp-dir", str(self.disk / "ray"), "--node-ip-address",
            address(number), "--num-cpus", f"{self._cpus:g}", "--object-store-memory",
            str(self._object_store_mb * 2**20),
        ]  # fmt: skip
        if number == HEAD:
            command += ["--head", "--port", str(GCS_PORT), "--dashboard-host", address(HEAD)]
            command += ["--dashboard-port", str(DASHBOARD_PORT)]
            if self._redis_password is not None:
                command += ["--redis-password", self._redis_password]
                env = dict(env or {}) | {"RAY_REDIS_ADDRESS": f"{address(OUTSIDE)}:{REDIS_PORT}"}
        else:
            command += ["--address", f"{address(HEAD)}:{GCS_PORT}"]
        said = self.root / f"start-{number}.log"  # a pipe would stay open as long as Ray runs
        with said.open("w") as log:
            started = self.popen(command, number, self._env | dict(env or {}), stdout=log, stderr=log)
            try:
                status = started.wait(START_S)
            except subprocess.TimeoutExpired:
                status = f"none within {START_S} s"
        if status != 0:
            raise RuntimeError(f"ray start on host {number} ended with {status}: {said.read_text()[-2000:]}")

    def popen(
        self, command: Sequence[str], on: int = HEAD, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen:
        """Starts a command on a host, as somebody who has the token; `options` are those of subprocess.Popen.

        `python` and `ray` are those of this process; Ctrl-C does not reach it.
        """
        shell = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'  # `ip netns exec` gives it mounts of its own
        own = ["sh", "-c", shell, "sh", str(self._disk_of(number=on)), str(self.disk), *command]
        options = {"env": self.environment() | dict(env or {}), "start_new_session": True, "text": True} | options
        return subprocess.Popen(self.network.inside(on, own), **options)

    def run(
        self,
        command: Sequence[str],
        on: int = HEAD,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host to its end, as `popen`; stdout has all that it says."""
        process = self.popen(command, on, env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(list(command), process.returncode, said)

    def environment(self) -> dict[str, str]:
        """Of who runs commands on a host, without what this process was told about other clusters."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_API_SERVER_ADDRESS": DASHBOARD,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def ask(
        self, url: str, token: str | None = None, body: str = "", method: str | None = None, on: int = OUTSIDE
    ) -> tuple[int, str]:
        """Sends an HTTP request from a host; the status and the text that come back.

        Args:
            url: a path is one of the dashboard.
            token: for authentication; None: none.
            body: of the request; JSON.
            method: None: POST with a body, else GET.

        Raises: ConnectionError where nobody answers.
        """
        whole = f"{DASHBOARD}{url}" if url.startswith("/") else url
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        asks = json.dumps([method or ("POST" if body else "GET"), whole, body, headers])
        try:
            asked = self.run([sys.executable, "-I", "-S", "-c", ASK], on, {"ASKED": asks}, timeout_s=30)
        except subprocess.TimeoutExpired:
            raise ConnectionError(f"{whole} from host {on}: no answer within 30 s") from None
        if asked.returncode:
            raise ConnectionError(f"{whole} from host {on}: {asked.stdout.strip().splitlines()[-1]}")
        status, _, text = asked.stdout.partition("\n")
        return int(status), text.rstrip("\n")

    def alive(self) -> set[int]:
        """The hosts that the head thinks are alive."""
        living = {node["ip"] for node in self._living()}
        return {number for number in self.network.numbers if address(number) in living}

    def wait_for(self, num_alive: int, timeout_s: float = 120) -> None:
        """Waits until the head has so many living nodes, no more and no fewer. Raises TimeoutError.

        A host that was booted again is two nodes until the head has missed the earlier one for a while.
        """
        until, living = time.monotonic() + timeout_s, list[dict[str, Any]]()
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionError):
                if len(living := self._living()) == num_alive:
                    return
            time.sleep(0.5)
        there = sorted(node["ip"] for node in living)
        raise TimeoutError(f"nodes {there} are alive after {timeout_s:g} s, and {num_alive} should be")

    def processes(self, what: str, on: int | None = None) -> list[tuple[int, int]]:
        """(host, process id) of those whose command line has `what`: one of PROCESSES, or the name of an actor or task.

        Args:
            on: a host; None: all of them.
        """
        wanted = PROCESSES.get(what, what)
        numbers = self.network.numbers if on is None else [on]
        all_of_them = ((number, pid) for number in numbers for pid in self.network.pids(number))
        return [(number, pid) for number, pid in all_of_them if wanted in _command_line(pid)]

    def kill(self, what: str, on: int | None = None) -> tuple[int, int]:
        """SIGKILL to the first of `processes`. Returns: its host and its id. Raises LookupError where there is none."""
        found = self.processes(what, on)
        if not found:
            raise LookupError(f"no process of {'any host' if on is None else f'host {on}'} has {what} in its command")
        os.kill(found[0][1], signal.SIGKILL)
        return found[0]

    def give_notice(self, number: int, deadline_s: int) -> None:
        """Tells Ray that a host will be taken away, as a cloud does that wants a spot instance back; `stop` takes it.

        Raises: LookupError where it is not alive; RuntimeError with what Ray says where it does not agree.
        """
        nodes = [node["raylet"]["nodeId"] for node in self._living() if node["ip"] == address(number)]
        if not nodes:
            raise LookupError(f"host {number} is not alive, so there is nobody to give notice to")
        told = self.run(
            ["ray", "drain-node", "--address", f"{address(HEAD)}:{GCS_PORT}", "--node-id", nodes[-1], "--reason",
             "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the spot instance is wanted back",
             "--deadline-remaining-seconds", str(deadline_s)], HEAD,
        )  # fmt: skip
        if told.returncode:
            raise RuntimeError(f"ray drain-node of host {number} ended with {told.returncode}: {told.stdout[-2000:]}")

    def stop(self, number: int) -> None:
        """Ends everything on a host at once, as a power cut does; `start` boots it again. With the head go the drivers
        of jobs, but for those that were placed on another host."""
        self.network.kill(number)

    def _start_redis(self, password: str) -> None:
        """On no host. The password comes by its standard input, where nobody lists it."""
        command = ["redis-server", "-", "--bind", address(OUTSIDE), "--port", str(REDIS_PORT), "--dir", str(self.root)]
        process = self.popen([*command, "--save", ""], OUTSIDE, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        process.stdin.write(f"requirepass {password}\n")
        process.stdin.close()

    def _living(self) -> list[dict[str, Any]]:
        """The nodes that the head thinks are alive."""
        status, text = self.ask("/nodes?view=summary", self.token_file.read_text(), on=HEAD)
        if status != 200:
            raise ConnectionError(f"the head answers {status}: {text[:200]}")
        return [node for node in json.loads(text)["data"]["summary"] if node["raylet"]["state"] == "ALIVE"]

    def _prepare(self) -> None:
        self.root.mkdir()
        self.disk.mkdir()
        for number in (*self.network.numbers, OUTSIDE):
            self._disk_of(number).mkdir(parents=True)
        self.token_file.touch(0o600)
        self.token_file.write_text(secrets.token_hex(32))

    def _disk_of(self, number: int) -> Path:
        """Where a host's own disk is on the machine's."""
        return self.root / "disks" / str(number)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has ended
        return ""
