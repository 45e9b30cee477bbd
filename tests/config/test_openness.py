"""What is open to more than its writer may think."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from relaymta.config.openness import are_everybody, is_changeable, is_wide


@pytest.mark.parametrize(
    ("networks", "everybody"),
    [
        (["0.0.0.0/1", "128.0.0.0/1"], True),
        (["10.0.0.0/8", "::/1", "8000::/1"], True),
        (["128.0.0.0/2", "192.0.0.0/2", "64.0.0.0/2", "0.0.0.0/2"], True),
        (["0.0.0.0/1", "192.0.0.0/2"], False),
        (["0.0.0.0/1", "8000::/1"], False),
        ([], False),
        (["0.0.0.0/0"], False),
    ],
)
def test_networks_may_be_everybody_together(networks: list[str], everybody: bool) -> None:
    """Two halves make an open relay; one that is everybody by itself is told as such."""
    assert are_everybody(map(ip_network, networks)) is everybody


@pytest.mark.parametrize(
    ("network", "wide"),
    [
        ("10.0.0.0/8", False), ("11.0.0.0/8", False), ("8.0.0.0/7", True), ("0.0.0.0/1", True), ("127.0.0.0/8", False),
        ("fc00::/7", False), ("fe80::/10", False), ("2000::/3", True), ("2000::/15", True), ("2001::/16", False),
    ],
)  # fmt: skip
def test_a_network_may_be_wider_than_any_of_ones_own(network: str, wide: bool) -> None:
    """Private ones are everybody's own."""
    assert is_wide(ip_network(network)) is wide


def test_what_everybody_may_change_is_known(tmp_path: Path) -> None:
    """Files and directories, also such as /tmp; /dev/null is no such thing, nor is what is not there."""
    for mode, changeable in ((0o644, False), (0o664, False), (0o602, True), (0o1777, True)):
        path = tmp_path / oct(mode)
        path.write_text("")
        path.chmod(mode)
        assert is_changeable(str(path)) is changeable
    assert not is_changeable("/dev/null") and not is_changeable(str(tmp_path / "none"))
