"""One listener: what all its sessions share, and Twisted's factory that makes them.

Settings and certificates are put in force here, for sessions to come. Who may come in and how all are seen out is left
to smtp.door, whose a connection is to smtp.whose, the session itself to smtp.server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.mail import smtp

from relaymta.directory.credentials import Directory
from relaymta.mail.reply import Reply
from relaymta.smtp.door import Counts, Door, is_loopback, within
from relaymta.smtp.handler import Handler, Peer
from relaymta.smtp.proxy import ProxyHeader
from relaymta.smtp.rules import rules_of
from relaymta.smtp.server import RelayESMTP
from relaymta.smtp.settings import ListenerSettings, Profile, TlsMode
from relaymta.smtp.vestibule import Vestibule
from relaymta.smtp.whose import behind

_NONE: frozenset[str] = frozenset()


class RelayFactory(smtp.SMTPFactory):
    """All sessions of one listener.

    `handler` makes the one who decides for a session; `new_id` makes session ids. `exempt` says which clients are not
    limited one by one. `on_bug` hears (where, traceback) of every exception that became a 421 or 451, `on_tls` of
    every handshake that ended well and `on_tls_failed` of every other, with the reason, `on_turned_away` of every
    client that was refused at the door, `on_bad_header` of every connection of a named proxy that says not whose it
    is. `certificate_of` gives fingerprint and names of a client certificate. `counts` is who counts connections, None
    for this process alone.
    """

    noisy = False
    protocol = RelayESMTP  # type: ignore[assignment]

    def __init__(
        self,
        settings: ListenerSettings,
        hostname: str,
        handler: Callable[[Peer], Handler],
        clock: IReactorTime,
        new_id: Callable[[], str],
        *,
        on_bug: Callable[[str, str], None],
        on_tls: Callable[[Peer], None] = lambda peer: None,
        on_tls_failed: Callable[[Peer, str], None] = lambda peer, reason: None,
        on_turned_away: Callable[[Peer, Reply], None] = lambda peer, reply: None,
        on_bad_header: Callable[[Peer, str], None] = lambda peer, reason: None,
        certificate_of: Callable[[Any], tuple[str, tuple[str, ...]]] = lambda connection: ("", ()),
        exempt: Callable[[str], bool] = is_loopback,
        tls_context: Any = None,
        counts: Counts | None = None,
        directory: Directory | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.domain = hostname.encode("ascii")
        self.hostname = hostname
        self.handler = handler
        self.clock = clock
        self.new_id = new_id
        self.on_bug = on_bug
        self.on_tls = on_tls
        self.on_tls_failed = on_tls_failed
        self.on_turned_away = on_turned_away
        self.on_bad_header = on_bad_header
        self.certificate_of = certificate_of
        self.tls_context: Any = None
        self.door = Door(0, 0, exempt, clock, counts, settings.name)
        self.configure(settings, tls_context, directory)

    def configure(
        self, settings: ListenerSettings, tls_context: Any = None, directory: Directory | None = None
    ) -> None:
        """Put settings and certificates in force for sessions to come; running ones keep theirs.

        `tls_context` is what ITLSTransport.startTLS takes; `directory` is who knows the accounts. Raises ValueError
        where TLS is asked for without a context.
        """
        if settings.tls is not TlsMode.NONE and tls_context is None:
            raise ValueError(f"listener {settings.name}: TLS needs a certificate")
        self.settings = settings
        if tls_context is not None:  # where it is turned off, sessions that were offered it may still come to it
            self.tls_context = tls_context
        self.implicit_tls = settings.tls is TlsMode.IMPLICIT
        self.directory = directory
        self._mechanisms: frozenset[str] | None = None
        self.renew()
        self.door.most = settings.limits.connections
        self.door.most_per_client = settings.limits.connections_per_client

    def renew(self) -> None:
        """Make the rules again where the accounts have changed and other mechanisms are possible."""
        mechanisms = _NONE if self.directory is None else self.directory.mechanisms
        if mechanisms is not self._mechanisms:
            self._mechanisms = mechanisms
            self.rules = rules_of(self.settings, self.hostname, mechanisms, seconds=self.clock.seconds)

    def buildProtocol(self, addr: object) -> RelayESMTP | Vestibule:  # type: ignore[override]
        """The protocol of a new connection; that of a named proxy has to say first whose it is."""
        if self.settings.proxy and within(_ip(getattr(addr, "host", "")), self.settings.proxy):
            return Vestibule(self)
        return self.session()

    def session(self, header: ProxyHeader | None = None) -> RelayESMTP:
        """The protocol of a connection, of which a named proxy may have said whose it is."""
        protocol = RelayESMTP(header)
        protocol.factory = self
        return protocol

    def peer_of(self, transport: Any, header: ProxyHeader | None = None) -> Peer:
        """The facts of a connection."""
        client, local = transport.getPeer(), transport.getHost()
        peer = Peer(
            session=self.new_id(),
            listener=self.settings.name,
            client=_ip(getattr(client, "host", "")),
            port=getattr(client, "port", 0),
            local=_ip(getattr(local, "host", "")),
            lmtp=self.settings.profile is Profile.LMTP,
        )
        return peer if header is None else behind(peer, header)

    def drain(self, limit: float = 30.0) -> Deferred[None]:
        """Take nobody in any more, say 421 4.3.2 to idle clients at once and to others after their transaction.

        Fires when all are gone; after `limit` seconds the rest is aborted. To be called once.
        """
        return self.door.drain(limit)


def _ip(host: str) -> str:
    """An address as text; an IPv4 client that came over an IPv6 socket is an IPv4 client."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host
