"""Opening a session: the socket, our name, the TLS asked for, and the time limits.

RFC 5321 §4.5.3.2, RFC 2033 (LMTP over TCP or a UNIX socket). Which address is tried is left to attempt, and our log-ins
to login.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory

from relaymta.delivery.login import Accounts
from relaymta.delivery.policy import Decision
from relaymta.delivery.settings import Settings
from relaymta.delivery.source import Sources
from relaymta.net.eager import connect_tcp
from relaymta.routing.mx import Host
from relaymta.routing.route import Hop
from relaymta.smtp.actions import Tls
from relaymta.smtp.client import RelaySender, RelaySenderFactory
from relaymta.smtp.dialogue import Dialogue
from relaymta.smtp.sasl_client import Login


class Connect(Protocol):
    """How TCP connections are made: net.eager.connect_tcp."""

    def __call__(
        self,
        reactor: Any,
        host: str,
        port: int,
        factory: ClientFactory[Any],
        timeout: float,
        bind_address: tuple[str, int] | None,
    ) -> object: ...


@frozen(slots=True)
class Place:
    """One address of a host: `address` is an IP address (str), or the path of a UNIX socket with port 0.

    `vouched`: the operator named the host, or DNSSEC did for a name of the operator's; so that a certificate with the
    host's name proves that it is the one that was meant.
    """

    host: str
    address: str
    port: int
    vouched: bool = field(default=False, eq=False)


def place_at(hop: Hop, host: Host, address: str) -> Place:
    """One address of a host that was found for a next hop."""
    return Place(host.name, address, host.port, hop.configured and (host.secure or host.name == hop.name))


class Dialer:
    """Opens sessions. `hostname` is our name for EHLO (str, A-labels or an address literal)."""

    def __init__(
        self,
        reactor: Any,
        hostname: str,
        settings: Settings,
        sources: Sources,
        connect: Connect = connect_tcp,
        accounts: Accounts | None = None,
        make: Callable[..., Dialogue] = Dialogue,
    ) -> None:
        self._reactor = reactor
        self._connect = connect
        self._hello = hostname.encode("ascii")
        self._settings = settings
        self._timeouts = settings.timeouts()
        self._sources = sources
        self._accounts = accounts
        self._make = make
        self._opening: set[RelaySenderFactory] = set()

    def reaches(self, address: str, source: str) -> bool:
        """Whether `open` to this IP address is possible from that source."""
        return self._sources.reaches(source, address)

    def open(
        self, place: Place, decision: Decision, *, lmtp: bool, source: str, account: str = ""
    ) -> Deferred[RelaySender]:
        """Fires when the session stands, logged in as `account` where one is named; fails with SessionError."""
        if not account:
            return self._dial(place, decision, lmtp, source, None)
        assert self._accounts is not None, "an account is never forgotten in silence"
        verified = place.vouched and verifies(decision)
        opening = self._accounts.open(
            account, place.host, place.port, verified, lambda login: self._dial(place, decision, lmtp, source, login)
        )
        return Deferred.fromCoroutine(opening)

    def _dial(
        self, place: Place, decision: Decision, lmtp: bool, source: str, login: Login | None
    ) -> Deferred[RelaySender]:
        settings = self._settings
        factory = RelaySenderFactory(
            self._make(
                self._hello,
                lmtp=lmtp,
                tls=decision.tls,
                max_recipients=settings.max_recipients,
                login=login,
                verified=place.vouched and verifies(decision),
            ),
            self._reactor,
            creator=decision.creator,
            timeouts=self._timeouts,
        )
        self._opening.add(factory)
        opened = factory.opened.addBoth(self._opened, factory)
        if place.port:
            binding = self._sources.binding(source, place.address)
            self._connect(
                self._reactor, place.address, place.port, factory, settings.connect_timeout, binding
            )
        else:
            self._reactor.connectUNIX(place.address, factory, settings.connect_timeout)
        return opened

    def abort(self) -> None:
        """Give up whatever is being opened."""
        for factory in list(self._opening):
            factory.abort()

    def _opened(self, result: Any, factory: RelaySenderFactory) -> Any:
        self._opening.discard(factory)
        return result


def verifies(decision: Decision) -> bool:
    """Whether a session by this decision proves who the host is: by a known authority, or by DANE."""
    return decision.tls is Tls.MUST and decision.verified
