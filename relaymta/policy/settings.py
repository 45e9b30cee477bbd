"""Who may relay, and who may try to log in: the [relay] and [auth] tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from attrs import field, frozen, validators

from relaymta.config import Duration

LOOPBACK: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("127.0.0.0/8"),
    IPv6Network("::1/128"),
)

_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)


@frozen(slots=True)
class RelaySettings:
    """The [relay] table.

    `networks`: clients that may relay to anywhere; no private network is trusted unless it is named.
    `certificates`: fingerprints of client certificates (SHA-256 in hex) whose owners may; the fingerprint alone
    decides. `certificate_names`: names in those that an authority of the listener's `tls_client_ca` has signed; a
    leading dot means subdomains.
    `domains`: recipient domains taken from anyone, as lower-case A-labels; a leading dot means subdomains.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = LOOPBACK
    domains: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    certificate_names: tuple[str, ...] = ()

    def check(self) -> Iterable[tuple[str, str]]:
        """What is no fingerprint, as (key, what is wrong)."""
        for position, text in enumerate(self.certificates):
            if not _FINGERPRINT.fullmatch(fingerprint(text)):
                yield (
                    f"certificates[{position}]",
                    f'"{text}" is not a SHA-256 fingerprint: 64 digits of hex, as `openssl x509 -noout -fingerprint'
                    " -sha256 -in FILE` shows them",
                )


def fingerprint(text: str) -> str:
    """A fingerprint as we compare them: without colons, in lower case."""
    return text.replace(":", "").lower()


@frozen(slots=True)
class AuthSettings:
    """The [auth] table: what follows failed log-ins.

    An offence is one wrong password. `offences` of a client address, or `offences_per_account` of an address at one
    account, each 0 for any number, `within` a time: refused for the time `refuse`. Each no is held back for `delay`,
    doubled by each failure before it up to `delay_max`; at most `delayed` sessions of a process wait so.
    """

    offences: int = field(default=10, validator=validators.ge(0))
    offences_per_account: int = field(default=5, validator=validators.ge(0))
    within: Duration = field(default=Duration(600.0), validator=validators.gt(Duration(0.0)))
    refuse: Duration = field(default=Duration(900.0), validator=validators.gt(Duration(0.0)))
    delay: Duration = Duration(1.0)
    delay_max: Duration = Duration(16.0)
    delayed: int = field(default=100, validator=validators.ge(0))

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if self.delay_max < self.delay:
            yield "delay_max", "is less than delay"


def network(text: str) -> IPv4Network | IPv6Network:
    """Read "192.0.2.0/24" or "2001:db8::/32"; ValueError says what is wrong, host bits included."""
    return ip_network(text)
