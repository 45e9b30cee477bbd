"""The server's side of TLS: what a listener shows its clients, and what clients may show it.

RFC 8446 (TLS 1.3, by OpenSSL), RFC 6066 §3 (server name indication), RFC 8314 §4.1 (versions). A client certificate
is asked for and never demanded: whether it counts is seen behind the handshake, by its fingerprint or, where it chains
to an authority of the listener's, by its names.

Nothing is resumed: each worker would have ticket keys of its own, so that most clients would come to the wrong one;
the keys would live as long as the process, and forward secrecy with them; and a resumed session brings no verdict on
its client's certificate. A whole handshake costs about a millisecond. (pyOpenSSL cannot keep the library from sending
tickets in TLS 1.3; who brings one back gets a whole handshake.) Nothing is renegotiated either.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from relaymta.net.keyring import Authorities, Group, Keyring, Shelf
from relaymta.net.pair import all_names, fingerprint
from relaymta.net.watched import Watched

_OPTIONS = SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET


class Minimum(Enum):
    """The oldest version of TLS that is spoken."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"

    @property
    def number(self) -> int:
        """As OpenSSL counts."""
        return SSL.TLS1_2_VERSION if self is Minimum.TLS_1_2 else SSL.TLS1_3_VERSION


class Asking(SSL.Connection):
    """A connection that asks for a client certificate. `sound`: nothing was found against its chain and its dates."""

    sound = False


@implementer(IOpenSSLServerConnectionCreator)
class ServerSide:
    """Makes the TLS connections of one listener.

    `asks`: for a certificate of the client; `authorities` are who may have signed it, None for nobody. What the
    keyring has is looked at for each connection; those that are there keep what they began with.
    """

    def __init__(
        self, keyring: Keyring, minimum: Minimum, *, asks: bool = False, authorities: Watched[Authorities] | None = None
    ) -> None:
        self._keyring = keyring
        self._minimum = minimum
        self._asks = asks or authorities is not None
        self._authorities = authorities
        self._made: _Contexts | None = None

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """A connection object for one handshake."""
        authorities = self._authorities.value if self._authorities is not None else ()
        made = self._made
        if made is None or made.shelf is not self._keyring.shelf or made.authorities is not authorities:
            made = self._made = _Contexts(self._keyring.shelf, self._minimum, self._asks, authorities)
        if not self._asks:
            return SSL.Connection(made.first, None)
        connection = Asking(made.first, None)
        connection.sound = bool(authorities)
        return connection


class _Contexts:
    """One context for each group of pairs, all alike but for the certificate."""

    def __init__(self, shelf: Shelf, minimum: Minimum, asks: bool, authorities: Authorities) -> None:
        self.shelf = shelf
        self.authorities = authorities
        self._minimum = minimum
        self._asks = asks
        self._made: dict[Group, SSL.Context] = {}
        self.first = self._of(shelf.default)
        self._only = len({*shelf.exact.values(), *shelf.wild.values(), shelf.default}) == 1

    def _of(self, group: Group) -> SSL.Context:
        context = self._made.get(group)
        if context is None:
            context = self._made[group] = self._make(group)
        return context

    def _make(self, group: Group) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(self._minimum.number)
        context.set_options(_OPTIONS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        for pair in group:
            pair.load_into(context)
        if self._asks:
            store = context.get_cert_store()
            assert store is not None
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # who stands in the file is believed, root or not
            for one in self.authorities:
                store.add_cert(crypto.X509.from_cryptography(one))
            # No list of authorities is sent: who has a certificate of another kind may show it too.
            context.set_verify(SSL.VERIFY_PEER, _note_verdict)
        context.set_tlsext_servername_callback(self._choose)
        return context

    def _choose(self, connection: SSL.Connection) -> None:
        """The client has said whom it wants to talk to, or has not (RFC 6066 §3)."""
        name = connection.get_servername()
        if name is None or self._only:
            return
        context = self._of(self.shelf.find(name.decode("ascii", "replace")))
        if context is not connection.get_context():
            connection.set_context(context)


def _note_verdict(connection: SSL.Connection, certificate: object, error: int, depth: int, well: int) -> bool:
    """Every certificate passes: what it is worth is seen later."""
    if (error or not well) and isinstance(connection, Asking):
        connection.sound = False
    return True


def client_certificate(connection: Any) -> tuple[str, tuple[str, ...]]:
    """Fingerprint (SHA-256, hex) and names of the client's certificate after the handshake; "" and () without one.

    The names of one whose chain or dates are not sound are left out: anybody can write them. One that cannot be read is
    none.
    """
    if not isinstance(connection, Asking):
        return "", ()
    try:
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return "", ()
        return fingerprint(certificate), all_names(certificate) if connection.sound else ()
    except Exception:  # noqa: BLE001 - OpenSSL reads more than cryptography, which has no common name for its refusals
        return "", ()
