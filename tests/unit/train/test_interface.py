"""The interface that holds a node's address is found, and what the user set stays."""

from __future__ import annotations

import pytest

from tdtrain.train.interface import GLOO, NCCL, addresses, interface_of, use_interface_of

TABLE = {
    "lo": ["127.0.0.1", "::1", "00:00:00:00:00:00"],
    "docker0": ["172.17.0.1", "02:42:ac:11:00:01"],
    "eth1": ["10.0.0.7", "fe80::1%eth1", "02:fc:00:00:00:01"],
    "eth10": ["10.0.0.77", "2001:db8::7"],
}


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("10.0.0.7", "eth1"),
        ("10.0.0.77", "eth10"),
        ("127.0.0.1", "lo"),
        ("fe80::1", "eth1"),
        ("2001:0db8:0:0:0:0:0:7", "eth10"),
        ("10.0.0.8", None),
        ("02:42:ac:11:00:01", None),
        ("a-host", None),
    ],
)
def test_the_interface_that_holds_an_address(address: str, interface: str | None) -> None:
    assert interface_of(address, TABLE) == interface


def test_of_this_machine() -> None:
    for name, held in addresses().items():
        for address in held:
            if address.count(".") == 3:
                environment: dict[str, str] = {}
                found = use_interface_of(address, environment)
                assert found is not None and address in addresses()[found]
                assert environment == {GLOO: found, NCCL: f"={found}"} and found == name


def test_what_the_user_set_stays() -> None:
    environment = {GLOO: "ib0"}
    assert use_interface_of("127.0.0.1", environment) == "lo"
    assert environment == {GLOO: "ib0", NCCL: "=lo"}


def test_an_address_that_no_interface_holds_is_a_warning_with_a_way_out() -> None:
    environment: dict[str, str] = {}
    with pytest.warns(UserWarning, match=f"holds its address 198.51.100.1.*set {GLOO} and {NCCL}"):
        assert use_interface_of("198.51.100.1", environment) is None
    assert environment == {}
