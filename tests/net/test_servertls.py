"""The server's side of a handshake, against OpenSSL's client in memory."""

from __future__ import annotations

from base64 import encodebytes
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.task import Clock

from relaymta.net.keyring import LOOK_SECONDS, Keyring, Sources
from relaymta.net.servertls import Minimum, ServerSide, client_certificate
from tests.net.certificates import Made, make


class Side:
    """A ServerSide with the certificates in `folder`."""

    def __init__(
        self, folder: Path, *made: Made, minimum: Minimum = Minimum.TLS_1_2, asks: bool = False, ca: Made | None = None
    ) -> None:
        self.clock = Clock()
        self.folder = folder
        files = [Sources(*one.write(folder, f"server-{number}")) for number, one in enumerate(made)]
        authorities = []
        if ca is not None:
            (folder / "ca.pem").write_bytes(ca.pem)
            authorities = [str(folder / "ca.pem")]
        keyring = Keyring(
            files, authorities, self.clock.callLater, on_loaded=lambda *_: None, on_refused=lambda _: None
        )
        watched = keyring.authorities[authorities[0]] if authorities else None
        self.made = ServerSide(keyring, minimum, asks=asks, authorities=watched)

    def meet(self, client: SSL.Context, name: str = "") -> tuple[SSL.Connection, SSL.Connection]:
        """Both ends after the handshake. Raises SSL.Error."""
        server = self.made.serverConnectionForTLS(None)
        server.set_accept_state()
        other = SSL.Connection(client, None)
        other.set_connect_state()
        if name:
            other.set_tlsext_host_name(name.encode())
        pump(other, server)
        return server, other


def pump(client: SSL.Connection, server: SSL.Connection) -> None:
    """Shake hands. Raises SSL.Error."""
    done: set[Any] = set()
    for _ in range(10):
        for here, there in ((client, server), (server, client)):
            try:
                here.do_handshake()
                done.add(here)
            except SSL.WantReadError:
                pass
            try:
                there.bio_write(here.bio_read(65536))
            except SSL.WantReadError:
                pass
        if len(done) == 2:
            return
    raise AssertionError("the handshake does not end")


def client(own: Made | None = None, maximum: int = 0, algorithms: bytes = b"") -> SSL.Context:
    """A client that looks at no certificate, and may have its own."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(maximum)
    if algorithms:
        context.set_cipher_list(algorithms)
    if own is not None:
        context.use_certificate(own.certificate)
        context.use_privatekey(own.key)
    return context


def shown(connection: SSL.Connection) -> int:
    """The serial number of the server's certificate."""
    certificate = connection.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    return certificate.serial_number


def test_the_certificate_follows_the_name(tmp_path: Path) -> None:
    """Server name indication picks the pair; a stranger's name and none get the first (RFC 6066 §3)."""
    first, second = make("a.example"), make("b.example", "*.c.example", kind="rsa")
    side = Side(tmp_path, first, second)
    for name, made in [("", first), ("a.example", first), ("b.example", second), ("x.c.example", second),
                       ("x.y.c.example", first), ("stranger.example", first)]:  # fmt: skip
        assert shown(side.meet(client(), name)[1]) == made.certificate.serial_number


def test_a_client_gets_the_kind_of_key_that_it_can_use(tmp_path: Path) -> None:
    """RSA and ECDSA for one name, each with the chain of its own."""
    ca = make(ca=True, kind="rsa", common_name="authority")
    ec, rsa = make("a.example"), make("a.example", kind="rsa")
    side = Side(tmp_path, ec, rsa)
    (tmp_path / "server-0.pem").write_bytes(ec.pem + ca.pem)
    side.clock.advance(LOOK_SECONDS)
    for algorithm, made, chain in [(b"ECDSA", ec, 2), (b"RSA", rsa, 1)]:
        cipher = b"ECDHE-%b-AES128-GCM-SHA256" % algorithm
        _, other = side.meet(client(maximum=SSL.TLS1_2_VERSION, algorithms=cipher))
        assert shown(other) == made.certificate.serial_number
        assert len(other.get_peer_cert_chain() or []) == chain


@pytest.mark.parametrize(
    ("minimum", "maximum", "version"),
    [
        (Minimum.TLS_1_2, SSL.TLS1_3_VERSION, "TLSv1.3"),
        (Minimum.TLS_1_2, SSL.TLS1_2_VERSION, "TLSv1.2"),
        (Minimum.TLS_1_2, SSL.TLS1_1_VERSION, ""),
        (Minimum.TLS_1_3, SSL.TLS1_3_VERSION, "TLSv1.3"),
        (Minimum.TLS_1_3, SSL.TLS1_2_VERSION, ""),
    ],
)
def test_nothing_older_than_the_minimum_is_spoken(tmp_path: Path, minimum: Minimum, maximum: int, version: str) -> None:
    """TLS 1.2 by default, and TLS 1.3 where the operator says so (RFC 8314 §4.1)."""
    side = Side(tmp_path, make("a.example"), minimum=minimum)
    context = client(maximum=maximum)
    if not version:
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        with pytest.raises(SSL.Error):
            side.meet(context)
        return
    assert side.meet(context)[1].get_protocol_version_name() == version


def test_who_is_inside_keeps_what_it_began_with(tmp_path: Path) -> None:
    """New files are for new connections; an old one goes on under the old ones."""
    old, new = make("a.example"), make("a.example")
    side = Side(tmp_path, old)
    server, other = side.meet(client())
    new.write(tmp_path, "server-0")
    side.clock.advance(LOOK_SECONDS)
    assert shown(side.meet(client())[1]) == new.certificate.serial_number
    other.send(b"still here")
    server.bio_write(other.bio_read(65536))
    assert server.recv(100) == b"still here"


def test_renegotiation_is_refused(tmp_path: Path) -> None:
    """A TLS 1.2 client that asks for another handshake gets an alert and none."""
    server, other = Side(tmp_path, make("a.example")).meet(client(maximum=SSL.TLS1_2_VERSION))
    assert other.renegotiate()
    with pytest.raises((SSL.Error, AssertionError)):
        pump(other, server)
    assert server.total_renegotiations() == 0


# Client certificates


def test_no_certificate_is_asked_for_unless_the_listener_wants_one(tmp_path: Path) -> None:
    """A client that has one does not show it."""
    server, _ = Side(tmp_path, make("a.example")).meet(client(make("me.example")))
    assert client_certificate(server) == ("", ())


def test_a_client_without_a_certificate_is_as_welcome(tmp_path: Path) -> None:
    """It is asked for and not demanded."""
    server, _ = Side(tmp_path, make("a.example"), asks=True, ca=make(ca=True)).meet(client())
    assert client_certificate(server) == ("", ())


@pytest.mark.parametrize("maximum", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_names_count_where_an_authority_signed_them(tmp_path: Path, maximum: int) -> None:
    """A certificate of the listener's authority brings fingerprint and names."""
    ca = make(ca=True, kind="rsa", common_name="authority")
    own = make("app.example", "ops@example.org", by=ca)
    server, _ = Side(tmp_path, make("a.example"), ca=ca).meet(client(own, maximum))
    assert client_certificate(server) == (own.fingerprint, ("app.example", "ops@example.org"))


@pytest.mark.parametrize("fault", ["self-signed", "stranger", "expired", "not yet", "no authority", "same name"])
def test_names_that_nobody_vouches_for_are_left_out(tmp_path: Path, fault: str) -> None:
    """The handshake succeeds and the fingerprint is known; names of a chain or dates that are wrong are not."""
    ca = make(ca=True, kind="rsa", common_name="authority")
    false = make(ca=True, kind="ec-other", common_name="authority")
    own = {
        "self-signed": lambda: make("app.example"),
        "stranger": lambda: make("app.example", by=make(ca=True, kind="ec-other", common_name="stranger")),
        "expired": lambda: make("app.example", by=ca, since=-9, days=-1),
        "not yet": lambda: make("app.example", by=ca, since=5),
        "no authority": lambda: make("app.example", by=ca),
        "same name": lambda: make("app.example", by=false),
    }[fault]()
    side = Side(tmp_path, make("a.example"), asks=True, ca=None if fault == "no authority" else ca)
    server, _ = side.meet(client(own))
    assert client_certificate(server) == (own.fingerprint, ())


@pytest.mark.parametrize(
    ("what", "instead"),
    [(bytes.fromhex("a003020102"), bytes.fromhex("a003020107")), (b"Z", b"X")],
    ids=["version 8", "a date that is none"],
)
def test_a_certificate_that_cannot_be_read_is_none(tmp_path: Path, what: bytes, instead: bytes) -> None:
    """OpenSSL takes such ones from anybody; the session goes on without it, and was lost with a traceback before."""
    made = make("evil.example")
    der = made.certificate.public_bytes(Encoding.DER)
    assert what in der
    file = tmp_path / "evil.pem"
    file.write_bytes(
        b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der.replace(what, instead, 1)) + b"-----END CERTIFICATE-----\n"
    )
    context = client()
    context.use_certificate_file(str(file))
    context.use_privatekey(made.key)
    server, _ = Side(tmp_path, make("relay.example"), asks=True).meet(context)
    assert client_certificate(server) == ("", ())


def test_an_authority_need_not_be_a_root(tmp_path: Path) -> None:
    """Who stands in the file is believed, though somebody else has signed it; its sisters are not."""
    root = make(ca=True, kind="rsa", common_name="root")
    middle = make(ca=True, by=root, common_name="middle")
    side = Side(tmp_path, make("a.example"), ca=middle)
    own, other = make("app.example", by=middle, kind="ec-other"), make("app.example", by=root, kind="ec-other")
    assert client_certificate(side.meet(client(own))[0])[1] == ("app.example",)
    assert client_certificate(side.meet(client(other))[0])[1] == ()


def test_a_client_certificate_counts_under_any_server_name(tmp_path: Path) -> None:
    """The context that the name picks asks and verifies like the first."""
    ca = make(ca=True, kind="rsa", common_name="authority")
    own = make("app.example", by=ca)
    side = Side(tmp_path, make("a.example"), make("b.example", kind="ec-other"), ca=ca)
    server, other = side.meet(client(own), "b.example")
    assert client_certificate(server) == (own.fingerprint, ("app.example",))
    assert other.get_peer_certificate() is not None


def test_a_new_authority_is_believed_without_a_restart(tmp_path: Path) -> None:
    """The file of client CAs is read again when it changes."""
    old = make(ca=True, kind="rsa", common_name="old")
    new = make(ca=True, kind="rsa", common_name="new")
    own = make("app.example", by=new)
    side = Side(tmp_path, make("a.example"), ca=old)
    assert client_certificate(side.meet(client(own))[0])[1] == ()
    (tmp_path / "ca.pem").write_bytes(new.pem)
    side.clock.advance(LOOK_SECONDS)
    assert client_certificate(side.meet(client(own))[0])[1] == ("app.example",)
