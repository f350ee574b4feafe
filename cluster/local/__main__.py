"""Starts a Ray cluster of several hosts on this machine, and has them fail at your word: `make cluster`.

    sudo make cluster ARGS="--hosts 3 --cpus 2"
    make cluster ARGS=--plain                       # one host, for which nobody has to be root

It runs until Ctrl-C or the end of what is typed, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.local.hosts import DASHBOARD_PORT, HEAD, Hosts
from cluster.local.network import OUTSIDE, address, missing
from cluster.local.plain import plain_cluster

FAULTS = """
    cut N           take host N's cable out             join N         put it in again
    slow N MBITS    so many megabits a second           steady N       as fast as before
    kill WHAT [N]   raylet, gcs, dashboard, or a worker such as RayTrainWorker (of host N)
    stop N          end all processes of host N         start N        boot it (1 is the head; without
                                                                    --redis it forgets its jobs)
    notice N S      host N is wanted back in S seconds  alive          which hosts the head thinks are
    quit            take everything down
"""


def main() -> None:
    """Starts the cluster, says how to use it, does what is typed, and takes it down on quit or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=3, help="how many; the first is the head")
    parser.add_argument("--cpus", type=float, default=2, help="logical CPUs of each")
    parser.add_argument(
        "--redis", action="store_true", help="the head keeps jobs and nodes in Redis, and outlives a stop"
    )
    parser.add_argument("--plain", action="store_true", help="one host, without namespaces or root")
    told = parser.parse_args()
    for ended in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ended, lambda number, _: sys.exit(128 + number))
    if told.plain:
        with plain_cluster(told.cpus) as (url, token):
            _say(url, token)
            threading.Event().wait()
    if (lacks := missing()) is not None:
        sys.exit(
            f"error: several hosts on this machine: {lacks}. They need Linux, root and ip: sudo make cluster. Without, "
            "there is a plain cluster of one host: make cluster ARGS=--plain"
        )
    print(f"Starting {told.hosts} hosts ...", flush=True)
    with Hosts(told.hosts, told.cpus, redis=told.redis) as hosts, _reachable(hosts) as url:
        _say(url, hosts.token_file)
        print(f"Hosts are {address(HEAD)} to {address(told.hosts)}. To have them fail, type", FAULTS, sep="\n")
        for line in sys.stdin:
            if line.split()[:1] == ["quit"]:
                return
            obey(hosts, line.split())


def obey(hosts: Hosts, words: list[str]) -> None:
    """Does what a line of FAULTS says; what cannot be done it says, and goes on."""
    actions: dict[str, Callable[..., object]] = {
        "cut": lambda number: hosts.network.cut(int(number)),
        "join": lambda number: hosts.network.join(int(number)),
        "slow": lambda number, megabits: hosts.network.slow(int(number), float(megabits)),
        "steady": lambda number: hosts.network.steady(int(number)),
        "kill": lambda what, number=None: hosts.kill(what, number and int(number)),
        "stop": lambda number: hosts.stop(int(number)),
        "start": lambda number: hosts.start(int(number)),
        "notice": lambda number, seconds: hosts.give_notice(int(number), int(seconds)),
        "alive": hosts.alive,
    }
    if not words:
        return
    try:
        result = actions[words[0]](*words[1:])
        print("done" if result is None else result, flush=True)
    except (KeyError, TypeError):
        print(f"{' '.join(words)}: use one of{FAULTS}", flush=True)
    except (ValueError, LookupError, RuntimeError, ConnectionError) as error:
        print(f"{' '.join(words)}: {error}", flush=True)


@contextlib.contextmanager
def _reachable(hosts: Hosts) -> Iterator[str]:
    """The head's dashboard at an address of this machine's loopback, where browsers and `ray job submit` find it."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", DASHBOARD_PORT))
    except OSError:  # another cluster's
        listening.bind(("127.0.0.1", 0))
    listening.listen()  # from now on: who comes before the relay is ready waits for it
    program = str(Path(__file__).with_name("relay.py"))
    command = [sys.executable, program, str(listening.fileno()), address(HEAD), str(DASHBOARD_PORT)]
    with listening:
        hosts.popen(command, on=OUTSIDE, pass_fds=[listening.fileno()], stderr=subprocess.DEVNULL)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _say(url: str, token_file: Path) -> None:
    owner = os.environ.get("SUDO_USER")
    print(
        f"\nThe cluster is up; its dashboard is {url} and asks for the token in {token_file}. In another shell"
        f"{' (as root, whose the token is)' if owner else ''}:\n\n"
        f"    export RAY_API_SERVER_ADDRESS={url} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token_file}\n"
        f"    ray job submit --working-dir . -- python rayjobs/distill.py --output_dir {Path.cwd()}/output/distill\n\n"
        "Ctrl-C takes it down.",
        flush=True,
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except (RuntimeError, TimeoutError) as error:
            sys.exit(f"error: {error}")
