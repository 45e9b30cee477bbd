"""The whole relay and DANE: unbound validates zones that NSD serves, and Postfix's smtpd speaks TLS."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.postfix import Postfix, why_not
from tests.net.dnssec import DNSSEC_MISSING, signed_world
from tests.net.pki import issue
from tests.peers.client import send_letter
from tests.peers.daemon import Daemon
from tests.peers.nameserver import BrokenNameserver
from tests.peers.programs import wait_until

WHY_NOT = DNSSEC_MISSING or why_not()
pytestmark = [pytest.mark.peers, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")]

SETTINGS = """
[dns]
servers = ["{resolver}"]
trust_ad = true

[delivery]
ehlo_timeout = "5s"
"""
ROUTE = """
[[route]]
recipient = "{name}.signed.test"
to = "{name}.signed.test:{port}"
tls = "{tls}"
"""
LEVELS = {"right": "dane", "wrong": "opportunistic", "failing": "opportunistic", "none": "dane"}
LEAF = issue("whoever", expired=True)


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    """A Postfix that takes mail over TLS, and throws it away."""
    folder = Path(tempfile.mkdtemp(prefix="relaymta-postfix-"))  # not below pytest's, which is for root alone
    folder.chmod(0o755)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    key.write_bytes(LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate.write_bytes(LEAF.pem)
    settings = {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_loglevel": "1",
        "smtpd_tls_cert_file": str(certificate),
        "smtpd_tls_key_file": str(key),
        "default_transport": "discard",
    }
    made = Postfix(folder / "postfix", None, settings=settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def test_mail_goes_where_dns_says_and_nowhere_else(relay: Callable[..., Daemon], postfix: Postfix) -> None:
    """Verified and delivered with a right record; with a wrong one, a failed look-up, or none it waits and says why."""
    port = postfix.port
    zone = "\n".join(
        [
            *(f"@ A 127.0.0.1\n{name} MX 10 mx-{name}\nmx-{name} A 127.0.0.1" for name in LEVELS),
            f"_{port}._tcp.mx-right TLSA 3 1 1 {sha256(LEAF.spki).hexdigest()}",
            f"_{port}._tcp.mx-wrong TLSA 3 1 1 {'00' * 32}",
            "_tcp.mx-failing NS ns.nowhere.test.",
        ]
    )
    with (
        BrokenNameserver() as broken,
        signed_world({"signed.test": zone}, elsewhere={"_tcp.mx-failing.signed.test": broken.address}) as world,
    ):
        extra = SETTINGS.format(resolver=world.resolver)
        extra += "".join(ROUTE.format(name=name, port=port, tls=tls) for name, tls in LEVELS.items())
        daemon = relay(extra=extra)
        for number, name in enumerate(LEVELS):
            send_letter(daemon.port, number, recipient=f"somebody@{name}.signed.test")
        wait_until("three deferrals", lambda: daemon.log().count(" recipient-deferred ") == 3, 30, daemon.log)
        wait_until("one delivery", lambda: " recipient-settled " in daemon.log(), 30, daemon.log)
        lines = daemon.log().splitlines()
        daemon.stop()
    settled = [line for line in lines if " recipient-settled " in line]
    assert len(settled) == 1 and "somebody@right.signed.test" in settled[0] and "(verified: DANE-EE)" in settled[0]
    for name, status, reason in (
        ("wrong", "4.7.5", "no TLSA record matches the certificate"),
        ("failing", "4.4.3", "SERVFAIL"),
        ("none", "4.7.4", "DANE is demanded"),
    ):
        [line] = [one for one in lines if " recipient-deferred " in one and f"@{name}.signed.test" in one]
        assert f"status={status}" in line and reason in line, line
    took = [line for line in postfix.log().splitlines() if "/smtpd[" in line and ": client=" in line]
    assert len(took) == 1, postfix.log()
