"""Opening a session: the socket, our name, the TLS asked for, and the time limits.

RFC 5321 §4.5.3.2, RFC 2033 (LMTP over TCP or a UNIX socket). Which address is tried is left to attempt.
"""

from __future__ import annotations

from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory

from relaymta.delivery.policy import Decision
from relaymta.delivery.settings import Settings
from relaymta.delivery.source import Sources
from relaymta.net.eager import connect_tcp
from relaymta.smtp.client import RelaySender, RelaySenderFactory
from relaymta.smtp.dialogue import Dialogue


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
    """One address of a host: `address` is an IP address (str), or the path of a UNIX socket with port 0."""

    host: str
    address: str
    port: int


class Dialer:
    """Opens sessions. `hostname` is our name for EHLO (str, A-labels or an address literal)."""

    def __init__(
        self, reactor: Any, hostname: str, settings: Settings, sources: Sources, connect: Connect = connect_tcp
    ) -> None:
        self._reactor = reactor
        self._connect = connect
        self._hello = hostname.encode("ascii")
        self._settings = settings
        self._timeouts = settings.timeouts()
        self._sources = sources
        self._opening: set[RelaySenderFactory] = set()

    def reaches(self, address: str, source: str) -> bool:
        """Whether `open` to this IP address is possible from that source."""
        return self._sources.reaches(source, address)

    def open(self, place: Place, decision: Decision, *, lmtp: bool, source: str) -> Deferred[RelaySender]:
        """Fires when the session stands; fails with SessionError."""
        settings = self._settings
        factory = RelaySenderFactory(
            Dialogue(self._hello, lmtp=lmtp, tls=decision.tls, max_recipients=settings.max_recipients),
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
