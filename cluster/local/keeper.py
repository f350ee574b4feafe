"""Takes a cluster down when whoever started it is gone, however that came: `python -m cluster.local.keeper NAME HOSTS`.

Its standard input is a pipe that only the starting process holds, so that its end is that process's.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cluster.local.network import Network


def keep(name: str, num_hosts: int) -> subprocess.Popen:
    """Starts the keeper of a cluster; closing its stdin has it take the cluster down, and end."""
    command = [sys.executable, "-m", "cluster.local.keeper", name, str(num_hosts)]
    top = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=top, stdin=subprocess.PIPE, start_new_session=True)


def take_down(name: str, num_hosts: int) -> None:
    """Ends every process of the cluster and leaves nothing of it; what is gone already is no error."""
    Network(name, num_hosts).remove()
    shutil.rmtree(root_of(name), ignore_errors=True)


def root_of(name: str) -> Path:
    """The cluster's folder. Sockets lie below, whose paths may have 107 bytes."""
    return Path("/tmp") / name


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
    take_down(sys.argv[1], int(sys.argv[2]))
