"""A Ray cluster of one host, for which nobody has to be root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from cluster.local.hosts import DASHBOARD_PORT

START_S, STOP_S = 60, 10


@contextlib.contextmanager
def plain_cluster(cpus: float) -> Iterator[tuple[str, Path]]:
    """Starts Ray on this machine with token authentication, on ports that are free, and takes it down afterwards.

    Yields: the dashboard's address, and the file with the token.
    Raises: RuntimeError with what Ray says where it does not start.
    """
    root = Path(tempfile.mkdtemp(prefix="tdtrain-", dir="/tmp"))
    token, log = root / "token", root / "start.log"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = [
        "ray", "start", "--head", "--block", "--disable-usage-stats", "--temp-dir", str(root / "ray"),
        "--node-ip-address", "127.0.0.1", "--port", "0", "--num-cpus", f"{cpus:g}", "--dashboard-port",
        str(DASHBOARD_PORT), "--min-worker-port", "0", "--max-worker-port", "0",
        "--ray-client-server-port", str(_free_port()),
    ]  # fmt: skip
    with log.open("w") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
    try:
        yield _dashboard(process, log), token
    finally:
        _end(process)
        shutil.rmtree(root, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:  # Ray's client server takes no 0
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _dashboard(process: subprocess.Popen, log: Path) -> str:
    """Where it is: Ray takes the next free port where DASHBOARD_PORT is another's."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        told = log.read_text().split("RAY_API_SERVER_ADDRESS='")
        if len(told) > 1:
            return told[1].split("'")[0]
        time.sleep(0.2)
    raise RuntimeError(f"Ray ended, or did not start within {START_S} s: {log.read_text()[-2000:]}")


def _end(process: subprocess.Popen) -> None:
    """Ends Ray and all below it, and nothing else."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        for left in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(below, timeout=STOP_S)
    process.wait()
