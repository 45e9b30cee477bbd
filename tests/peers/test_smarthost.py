"""A relay that logs in at its provider: aiosmtpd under TLS that is verified, failover, a changed password."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.delivery.certificates import authority
from tests.peers import daemon as daemon_module
from tests.peers.client import send_letter
from tests.peers.daemon import Daemon
from tests.peers.programs import free_port, wait_until

smtp = pytest.importorskip("aiosmtpd.smtp", reason="aiosmtpd is not installed (pip install aiosmtpd)")
controller = pytest.importorskip("aiosmtpd.controller")

ROUTE = """
[[route]]
recipient = "*"
to = [{to}]
tls = "verify"
account = "smarthost"
[[account]]
name = "smarthost"
username = "relay"
password_file = "{secret}"
{more}
[queue]
retry = ["1s"]
"""


@define(eq=False)
class Provider:
    """A provider's submission server at localhost, which takes mail after a log-in under TLS alone."""

    password: str
    port: int = field(factory=free_port)
    tried: list[tuple[str, str]] = field(factory=list)
    taken: list[tuple[str, list[str]]] = field(factory=list)
    _controller: Any = None

    def start(self, folder: Path, *without: str) -> Provider:
        """Listen; `without` are mechanisms that it does not have."""
        side = authority().server("localhost")
        pem = folder / f"{self.port}.pem"
        key = side.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem.write_bytes(key + side.certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self._controller = controller.Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=context,
            auth_required=True,
            auth_require_tls=True,
            auth_exclude_mechanism=without,
            authenticator=self._judge,
        )
        self._controller.start()
        return self

    def stop(self) -> None:
        """End it."""
        self._controller.stop()

    def _judge(self, server: Any, session: Any, envelope: Any, mechanism: str, shown: Any) -> Any:
        good = (shown.login.decode(), shown.password.decode()) == ("relay", self.password)
        self.tried.append((mechanism, shown.password.decode()))
        return smtp.AuthResult(success=good, handled=False, auth_data=shown)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """One message."""
        self.taken.append((session.auth_data.login.decode(), envelope.rcpt_tos))
        return "250 2.0.0 taken"


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Provider]]:
    """Starts providers, whose authority the relay's system trusts."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority().certificate.public_bytes(Encoding.PEM))
    monkeypatch.setattr(daemon_module, "ENVIRONMENT", {**daemon_module.ENVIRONMENT, "SSL_CERT_FILE": str(ca)})
    started: list[Provider] = []

    def start(password: str, *without: str) -> Provider:
        started.append(Provider(password).start(tmp_path, *without))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def extra(secret: Path, *providers: Provider, more: str = "") -> str:
    """The configuration of the account and its route."""
    hosts = ", ".join(f'"[localhost]:{one.port}"' for one in providers)
    return ROUTE.format(to=hosts, secret=secret, more=more)


def test_mail_goes_by_the_provider_that_knows_us(
    relay: Callable[..., Daemon], provider: Callable[..., Provider], tmp_path: Path
) -> None:
    """The first `to` refuses the log-in: it is asked once, all mail takes the next one, and no secret is in the log."""
    secret = tmp_path / "secret"
    secret.write_text("pencil-4711\n")
    bad, good = provider("another"), provider("pencil-4711")
    daemon: Daemon = relay(extra=extra(secret, bad, good))
    for number in range(8):
        send_letter(daemon.port, number)
    wait_until("eight messages", lambda: len(good.taken) == 8, instead=daemon.log)
    assert {login for login, _ in good.taken} == {"relay"} and not bad.taken
    assert bad.tried == [("PLAIN", "pencil-4711")] or bad.tried == [("LOGIN", "pencil-4711")]
    log = daemon.log()
    assert log.count(" login-refused account=smarthost host=localhost ") == 1 and "535 5.7.8" in log
    assert "pencil" not in log and "cGVuY2ls" not in log  # the same in base64


def test_a_changed_password_needs_no_reload(
    relay: Callable[..., Daemon], provider: Callable[..., Provider], tmp_path: Path
) -> None:
    """Mail waits while the password is wrong, and goes when the file has the right one."""
    secret = tmp_path / "secret"
    secret.write_text("old\n")
    site = provider("new", "PLAIN")
    daemon: Daemon = relay(extra=extra(secret, site))
    send_letter(daemon.port, 1)
    wait_until("a refusal", lambda: "login-refused" in daemon.log(), instead=daemon.log)
    wait_until("its wait", lambda: daemon.count("waiting") == 1, instead=daemon.log)
    assert site.tried == [("LOGIN", "old")]
    secret.write_text("new\n")
    daemon.ask("queue", "retry", "--all")
    wait_until("the message", lambda: len(site.taken) == 1, instead=daemon.log)
    assert site.tried[-1] == ("LOGIN", "new")


def test_a_probe_logs_in_and_tells_no_secret(
    relay: Callable[..., Daemon], provider: Callable[..., Provider], tmp_path: Path
) -> None:
    """`explain --probe` goes the whole way with the account, and shows whose certificate it was."""
    secret = tmp_path / "secret"
    secret.write_text("pencil-4711\n")
    site = provider("pencil-4711")
    daemon: Daemon = relay(extra=extra(secret, site))
    rows = daemon.ask("explain", "r@d.example.org", "--probe")
    [probe] = [row for row in rows if row.get("answered")]
    assert probe["certificate"]["names"] == ["localhost"] and rows[-1]["result"] == "ok"
    assert "pencil" not in repr(rows) and "S: 235" in "\n".join(probe["details"]) and not site.taken
