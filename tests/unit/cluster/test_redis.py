"""The platform's Redis, started here as its pod starts it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cluster.manifests import pods_of, render

PASSWORD = "planted-4711"


@contextlib.contextmanager
def started(folder: Path) -> Iterator[int]:
    """Its port, and whoever has it until the end of the block."""
    pods = {one["metadata"]["name"]: pod for one in render("platform") for _, pod in pods_of(one)}
    redis = pods["redis"]["spec"]["containers"][0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for mounted in ("run", "data"):
        (folder / mounted).mkdir(exist_ok=True)
    (script,) = redis["args"]
    script = script.replace("/run/redis", str(folder / "run")).replace("/data", str(folder / "data")).rstrip()
    command = [*redis["command"], f"{script} --port {port}"]
    process = subprocess.Popen(command, env=os.environ | {"REDIS_PASSWORD": PASSWORD}, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def said(port: int, *commands: str) -> str:
    """What it answers, once it does."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
            wire.sendall("".join(f"{command}\r\n" for command in (*commands, "QUIT")).encode())
            answer = b""
            while part := wire.recv(4096):
                answer += part
            return answer.decode()
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_who_has_no_password_learns_nothing_and_what_was_told_outlives_a_kill(tmp_path: Path) -> None:
    with started(tmp_path) as port:
        assert said(port, "GET jobs").startswith("-NOAUTH") and said(port, "AUTH wrong").startswith("-WRONGPASS")
        assert said(port, f"AUTH {PASSWORD}", "SET jobs kept").startswith("+OK\r\n+OK")
        (conf,) = (tmp_path / "run").iterdir()
        assert conf.stat().st_mode & 0o077 == 0 and PASSWORD in conf.read_text()
        time.sleep(1.5)  # it writes once a second
    with started(tmp_path) as port:
        assert "kept" in said(port, f"AUTH {PASSWORD}", "GET jobs")
    kept = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert kept and not [one for one in kept if PASSWORD.encode() in one]
