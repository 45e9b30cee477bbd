"""Who may relay where: the check that keeps us from being an open relay."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory.account import Account
from relaymta.mail.address import parse_path
from relaymta.policy.relaying import Domains, Networks, Relaying
from relaymta.policy.settings import RelaySettings
from relaymta.policy.verdict import Transaction

OURS = RelaySettings(networks=(ip_network("192.0.2.0/24"),), domains=("ours.example", ".sub.example"))


def ask(path: str, client: str = "198.51.100.9", rights: Account | None = None) -> str:
    """The reply to RCPT for `path` from `client`; "" when it is taken. `rights` are those of who has logged in."""
    relaying = Relaying(OURS)
    transaction = Transaction(client=client, trusted=relaying.trusts(client), rights=rights)
    address = parse_path(path.encode(), utf8=True)
    assert address is not None
    verdict = relaying.rcpt(transaction, address)
    return "" if verdict is None else str(verdict.reply)


@pytest.mark.parametrize("path", ["<a@ours.example>", "<A@OURS.EXAMPLE>", "<x@y.sub.example>", "<postmaster>"])
def test_a_stranger_may_reach_our_domains(path: str) -> None:
    """Anybody may send to our own domains, to subdomains named with a dot, and to postmaster (RFC 5321 §4.5.1)."""
    assert ask(path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "<a@else.example>",
        "<a@sub.example>",
        "<a@notours.example>",
        "<a@ours.example.evil.example>",
        "<a%else.example@ours.example>",
        "<else.example!a@ours.example>",
        '<"a@else.example"@ours.example>',
        '<"a%else.example"@ours.example>',
        "<@ours.example:a@else.example>",
        "<a@[192.0.2.1]>",
        "<a@[127.0.0.1]>",
        "<a@[IPv6:::1]>",
        "<postmaster@else.example>",
        '<"a@else.example"@[127.0.0.1]>',
        "<a\uff20else.example@ours.example>",
        "<a\uff05else.example@ours.example>",
        "<a@\uff45lse.example>",
        "<a@else\u3002example>",
        "<a@ours.ex\u0430mple>",
    ],
)
def test_every_trick_to_relay_through_us_is_550_5_7_1(path: str) -> None:
    """Percent hack, bang path, quoted at-sign, source route and address literals do not open the relay.

    Nor do the same in characters that somebody behind us may take for those of ASCII.
    """
    assert ask(path).startswith("550 5.7.1 ")


PRINT = "5E:61:0C:8A:" * 8


@pytest.mark.parametrize(
    ("certificate", "names", "may"),
    [
        (PRINT[:-1].replace(":", "").lower(), (), True),
        ("00" * 32, (), False),
        ("00" * 32, ("app.example.org",), True),
        ("00" * 32, ("APP.Example.org",), True),
        ("00" * 32, ("x.hosts.example.org",), True),
        ("00" * 32, ("ops@example.org", "other.example"), True),
        ("00" * 32, ("hosts.example.org", "app.example.org.evil", "x@example.org"), False),
        ("00" * 32, ("joe@hosts.example.org", "joe@mail.hosts.example.org", "ops@example.org.hosts"), False),
        ("", (), False),
    ],
)
def test_a_client_certificate_may_relay(certificate: str, names: tuple[str, ...], may: bool) -> None:
    """By its fingerprint, colons and case aside, or by a name that can be trusted."""
    settings = RelaySettings(
        certificates=(PRINT[:-1],), certificate_names=("app.example.org", ".hosts.example.org", "ops@example.org")
    )
    assert Relaying(settings).vouches(certificate, names) is may
    assert not Relaying(RelaySettings()).vouches(certificate, names)


@pytest.mark.parametrize("client", ["192.0.2.7", "::ffff:192.0.2.7", ""])
def test_a_named_network_may_relay_to_anywhere(client: str) -> None:
    """A client of relay.networks may send to any domain, also when it comes as an IPv4-mapped address."""
    assert ask("<a@else.example>", client) == ""


@pytest.mark.parametrize("client", ["10.0.0.1", "172.17.0.1", "192.168.1.1", "fd00::1", "fe80::1%eth0", "garbage"])
def test_no_private_network_is_trusted_by_default(client: str) -> None:
    """Behind a container proxy every client has one private address: mailcow#5242 and its kin were open relays."""
    assert not Relaying(RelaySettings()).trusts(client)


def test_loopback_is_trusted_by_default() -> None:
    """The default configuration lets this host relay, and nobody else."""
    relaying = Relaying(RelaySettings())
    assert relaying.trusts("127.0.0.1")
    assert relaying.trusts("::1")
    assert not relaying.trusts("192.0.2.7")


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_networks_agree_with_the_standard_library(address: object, length: int) -> None:
    """Membership by masks says what ipaddress says."""
    network = ip_network("10.20.30.40").supernet(new_prefix=length)
    assert (str(address) in Networks([network])) == (address in network)


@given(st.lists(st.sampled_from(["a", "b", "ours", "example"]), min_size=1, max_size=5))
def test_a_leading_dot_means_subdomains_only(labels: list[str]) -> None:
    """".ours.example" takes every name below ours.example, and not the name itself."""
    name = ".".join(labels)
    assert (name in Domains([".ours.example"])) == name.endswith(".ours.example")


@pytest.mark.parametrize("client", ["198.51.100.9", "192.0.2.7"])
def test_an_account_relays_as_it_may(client: str) -> None:
    """Who has logged in relays to anywhere or to our domains alone, wherever it comes from."""
    assert ask("<a@else.example>", client, Account("tim")) == ""
    assert ask("<a@else.example>", client, Account("tim", relay=False)).startswith("550 5.7.1")
    assert ask("<a@ours.example>", client, Account("tim", relay=False)) == ""
