"""Network namespaces on a bridge: hosts with addresses of their own on one machine, for Linux, root and iproute2.

The bridge is in a namespace as well. So nothing of it is seen outside, two networks never meet, and all of one goes
with its namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence

SUBNET = "10.77.0"
OUTSIDE = 254
"""The number of the place where the bridge is: it reaches all hosts, and is none."""
MOST_HOSTS = 200


def missing() -> str | None:
    """What this machine lacks for a network, in words; None where nothing is missing."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, and this is {sys.platform}"
    if shutil.which("ip") is None:
        return "the command ip is missing (Debian's package iproute2)"
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    name = f"tdtrain-{uuid.uuid4().hex[:8]}"
    try:
        ip("netns", "add", name)
        ip("netns", "exec", name, "true")  # mounts /sys anew, which some containers refuse
    except RuntimeError as error:
        return f"network namespaces are not permitted here: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None


def ip(*arguments: str) -> str:
    """Runs `ip`. Raises RuntimeError with what it says."""
    return _run("ip", *arguments)


class Network:
    """Hosts 1, 2, ... and the place OUTSIDE; host n has the address 10.77.0.n on its eth0."""

    def __init__(self, name: str, num_hosts: int) -> None:
        if not 1 <= num_hosts <= MOST_HOSTS:
            raise ValueError(f"num_hosts={num_hosts} is not between 1 and {MOST_HOSTS}")
        self.name = name
        self.numbers = range(1, num_hosts + 1)

    def start(self) -> None:
        """Makes the namespaces, the bridge and the links."""
        bridge = self.namespace(OUTSIDE)
        for number in (OUTSIDE, *self.numbers):
            ip("netns", "add", self.namespace(number))
            ip("-n", self.namespace(number), "link", "set", "lo", "up")
        ip("-n", bridge, "link", "add", "bridge0", "type", "bridge")
        ip("-n", bridge, "address", "add", f"{address(OUTSIDE)}/24", "dev", "bridge0")
        ip("-n", bridge, "link", "set", "bridge0", "up")
        for number in self.numbers:
            host, port = self.namespace(number), port_of(number)
            ip("-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("-n", bridge, "link", "set", port, "master", "bridge0", "up")
            ip("-n", host, "address", "add", f"{address(number)}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")

    def namespace(self, number: int) -> str:
        """The name of a host's namespace."""
        if number != OUTSIDE and number not in self.numbers:
            raise ValueError(
                f"there is no host {number}; there are 1 to {len(self.numbers)}, and {OUTSIDE}, the bridge"
            )
        return f"{self.name}-{number}"

    def inside(self, number: int, command: Sequence[str]) -> list[str]:
        """The command that runs a command on a host."""
        return ["ip", "netns", "exec", self.namespace(number), *command]

    def pids(self, number: int) -> list[int]:
        """The processes of a host; none where it has no namespace (any more)."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace(number)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in listed.stdout.split()]

    def cut(self, number: int) -> None:
        """Takes a host's cable out: nothing reaches it or leaves it, and nobody is told."""
        self._set(number, "down")

    def join(self, number: int) -> None:
        """Puts the cable in again."""
        self._set(number, "up")

    def slow(self, number: int, megabits: float | None = None, delay_ms: float = 0, loss: float = 0) -> None:
        """Makes a host's link slow, both ways.

        Args:
            megabits: at most so many a second; None: as many as there may be.
            delay_ms: each packet takes so much longer, each way.
            loss: the share of packets that are lost, each way.

        Raises: RuntimeError where the kernel cannot delay or lose packets (netem); all can limit the rate.
        """
        rate = [] if megabits is None else ["rate", f"{megabits}mbit"]
        if delay_ms or loss:
            how = ["netem", "delay", f"{delay_ms}ms", "loss", f"{loss * 100}%", *rate]
        elif rate:
            how = ["tbf", *rate, "burst", "64kb", "latency", "400ms"]
        else:
            raise ValueError("megabits=None, delay_ms=0 and loss=0 slow nothing; give one of them, or use steady")
        self.steady(number)
        for end in self._ends(number):
            try:
                _run("tc", "-n", end[0], "qdisc", "add", "dev", end[1], "root", *how)
            except RuntimeError as error:
                if how[0] == "netem" and "kind is unknown" in str(error):
                    raise RuntimeError(
                        f"delay_ms={delay_ms:g} and loss={loss:g} need a kernel with netem (CONFIG_NET_SCH_NETEM), and "
                        "this one has none; give megabits alone"
                    ) from None
                raise

    def steady(self, number: int) -> None:
        """Takes back what `slow` did."""
        for namespace, device in self._ends(number):
            with contextlib.suppress(RuntimeError):  # it was not slow
                _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")

    def kill(self, number: int, wait_s: float = 10) -> None:
        """Ends all processes of a host at once. Raises RuntimeError where some are still there after `wait_s`."""
        until = time.monotonic() + wait_s
        while pids := self.pids(number):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > until:
                raise RuntimeError(f"processes {pids} of {self.namespace(number)} do not end")
            time.sleep(0.05)

    def remove(self) -> None:
        """Ends all processes of all hosts and takes the namespaces away, with the links in them. What is not there is
        no error, so that it may be called again."""
        for number in (*self.numbers, OUTSIDE):
            self.kill(number)
            subprocess.run(["ip", "netns", "del", self.namespace(number)], capture_output=True, check=False)

    def _set(self, number: int, state: str) -> None:
        self.namespace(number)  # says which hosts there are
        ip("-n", self.namespace(OUTSIDE), "link", "set", port_of(number), state)

    def _ends(self, number: int) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.namespace(OUTSIDE), port_of(number)), (self.namespace(number), "eth0")


def address(number: int) -> str:
    """Of a host, or of OUTSIDE."""
    return f"{SUBNET}.{number}"


def port_of(number: int) -> str:
    """The bridge's end of a host's cable."""
    return f"port{number}"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
