"""Which network interface a worker talks to the others through.

Left to themselves gloo and NCCL choose one: gloo the one that the host's name leads to, which on many hosts is
loopback, so that workers of two hosts never meet.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import psutil

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def use_interface_of(address: str, environment: dict[str, str] | os._Environ[str] = os.environ) -> str | None:
    """Has gloo and NCCL use the interface that holds the node's address, but where the user has set another.

    Args:
        address: of the node, as the cluster knows it.
        environment: of this process, before its process group starts.

    Returns: the interface; None where none holds the address, which is a warning.
    """
    interface = interface_of(address, addresses())
    if interface is None:
        if GLOO not in environment and NCCL not in environment:
            warnings.warn(
                f"no network interface of this node holds its address {address}, so gloo and NCCL choose one "
                f"themselves; if workers do not meet, set {GLOO} and {NCCL} in the job's runtime env",
                stacklevel=2,
            )
        return None
    environment.setdefault(GLOO, interface)
    environment.setdefault(NCCL, f"={interface}")  # without =, NCCL takes any whose name begins so: eth1 is also eth10
    return interface


def addresses() -> dict[str, list[str]]:
    """The addresses of each network interface of this machine."""
    return {name: [entry.address for entry in entries] for name, entries in psutil.net_if_addrs().items()}


def interface_of(address: str, table: Mapping[str, Iterable[str]]) -> str | None:
    """The interface that holds an address; None where none does.

    Args:
        address: IPv4 or IPv6, in any spelling.
        table: the addresses of each interface; of any kind, hardware addresses among them.
    """
    wanted = _parsed(address)
    if wanted is None:
        return None
    return next((name for name, held in table.items() if any(_parsed(one) == wanted for one in held)), None)


def _parsed(address: str) -> object | None:
    try:
        return ip_address(address.partition("%")[0])  # fe80::1%eth0
    except ValueError:  # a hardware address, or a host's name
        return None
