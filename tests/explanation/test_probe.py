"""Probes over real sockets: up to RCPT and never further, with a transcript that tells no secret."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from twisted.internet import reactor as the_reactor
from twisted.internet import ssl
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relaymta.explanation import probe as probe_module
from relaymta.explanation.alone import deliveries_of
from relaymta.explanation.live import Explainer, Parts
from relaymta.explanation.probe import certificate_facts
from relaymta.queue.lanes import LaneRow
from relaymta.settings import load_settings
from tests.delivery.certificates import authority
from tests.delivery.loopback import Session
from tests.explanation.rig import short
from tests.net.certificates import naming
from tests.routing.zone import Zone
from tests.smtp.auth_server import AuthServer
from tests.smtp.scripted import DROP, Server

reactor: Any = the_reactor
HOST = "mx-probe.test"


def presenting(names: bytes) -> ssl.CertificateOptions:
    """A server whose subjectAltName is these octets."""
    made = naming(names)
    return ssl.CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(made.key),
        certificate=crypto.X509.from_cryptography(made.certificate),
    )


class Broken:
    """A session whose certificate no library can even load."""

    tls = "TLSv1.3"

    @property
    def transport(self) -> Any:
        """And all below it."""
        return self

    def getPeerCertificate(self) -> Any:
        """The certificate."""
        return self

    def to_cryptography(self) -> Any:
        """Fails."""
        raise ValueError("error parsing asn1 value")


class ProbeTests(TestCase):
    """A relay whose smarthost is on 127.0.0.1."""

    timeout = 20

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relaymta-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "ca.pem").write_bytes(authority().certificate.public_bytes(Encoding.PEM))
        os.putenv("SSL_CERT_FILE", str(self.folder / "ca.pem"))
        self.addCleanup(os.unsetenv, "SSL_CERT_FILE")
        self.servers: list[Server] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        """Let every session end."""
        for _ in range(400):
            if not [one for one in reactor.getDelayedCalls() if "RelaySender" in str(one)]:
                return
            await deferLater(reactor, 0.005)

    def listen(self, make: Callable[[], Server] = Server, context: Any = None) -> int:
        """One server; its port."""

        def build(_: Any) -> Session:
            self.servers.append(make())
            return Session(self.servers[-1], context, "")

        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def probe(self, *to: str, more: str = "", tables: str = "", **asked: Any) -> list[dict[str, Any]]:
        """The rows of `explain --probe` by a route to these next hops."""
        file = self.folder / "relaymta.toml"
        hops = ", ".join(f'"{one}"' for one in to)
        file.write_text(
            f'hostname = "us.test"\nuser = ""\n[[route]]\nrecipient = "*"\nto = [{hops}]\n{more}\n{tables}\n'
        )
        settings = load_settings(str(file)).settings
        zone = Zone(hosts={HOST: ["127.0.0.1"], "other-probe.test": ["127.0.0.1"]})
        self.deliveries = deliveries_of(reactor, settings, zone)
        lane = LaneRow("smtp:x", 1, 5, 0, 0, 0, 0.0)
        self.explainer = Explainer(reactor, lambda: Parts(settings, zone, self.deliveries), lambda: [lane])
        return list(await self.explainer.explain({"address": "bob@b.test", "probe": True, **asked}))  # type: ignore[arg-type]

    async def test_a_probe_goes_up_to_rcpt(self) -> None:
        """MAIL, RCPT, RSET, QUIT, each answered; no DATA; the reply to RCPT is the verdict."""
        port = self.listen()
        rows = await self.probe(f"[127.0.0.1]:{port}")
        assert short(rows)[-2:] == [("probe", "ok"), ("verdict", "ok")]
        assert self.servers[0].commands == [
            "EHLO us.test", "MAIL FROM:<>", "RCPT TO:<bob@b.test>", "RSET", "QUIT",
        ]  # fmt: skip
        probe = rows[-2]
        assert probe["answered"] is True and probe["reply"] == "250 2.1.5 recipient ok" and probe["tls"] == ""
        assert probe["details"][:2] == ["S: 220 peer.test ESMTP", "C: EHLO us.test"]
        assert probe["details"][-4:] == ["C: RSET", "S: 250 2.0.0 ok", "C: QUIT", "S: 221 2.0.0 bye"]
        assert "PIPELINING" in probe["offers"] and not self.servers[0].taken

    async def test_the_sender_of_the_question_is_said(self) -> None:
        """--sender; the null sender otherwise."""
        port = self.listen()
        await self.probe(f"[127.0.0.1]:{port}", sender="alice@a.test")
        assert "MAIL FROM:<alice@a.test>" in self.servers[0].commands

    async def test_a_refusal_is_the_verdict(self) -> None:
        """5xx fails, 4xx waits, at MAIL as at RCPT; RSET and QUIT follow."""
        for verb, said, result in (
            ("RCPT", b"550 5.1.1 who?\r\n", "fails"),
            ("RCPT", b"450 4.2.1 busy\r\n", "waits"),
            ("MAIL", b"550 5.7.1 no\r\n", "fails"),
        ):
            port = self.listen(lambda: Server(answers=lambda v, a: said if v == verb else None))  # noqa: B023
            rows = await self.probe(f"[127.0.0.1]:{port}")
            assert short(rows)[-2:] == [("probe", result), ("verdict", result)]
            assert self.servers[-1].commands[-2:] == ["RSET", "QUIT"] and rows[-2]["answered"] is True

    async def test_the_next_host_is_tried_until_one_answers(self) -> None:
        """Refused connections, banners and drops are steps of their own."""
        drops = self.listen(lambda: Server(answers=lambda v, a: DROP if v == "RCPT" else None))
        full = b"554 5.3.2 no mail here\r\n"
        busy = self.listen(lambda: Server(answers=lambda v, a: full if v == "BANNER" else None))
        bad = self.listen(lambda: Server(answers=lambda v, a: b"421 4.3.2 down\r\n" if v == "MAIL" else None))
        garbled = self.listen(lambda: Server(answers=lambda v, a: b"hello\r\n" if v == "MAIL" else None))
        good = self.listen()
        ports = [1, drops, busy, bad, garbled, good]
        rows = await self.probe(*(f"[127.0.0.1]:{port}" for port in ports), tables="[delivery]\nmax_addresses = 9")
        probes = [row for row in rows if row["step"] == "probe"]
        assert [row["result"] for row in probes] == ["waits"] * 5 + ["ok"]
        matters = ("refused", "after RCPT", "554 5.3.2", "421 4.3.2", "not an SMTP reply")
        for row, said in zip(probes, matters, strict=False):
            assert said in row["text"], row
        assert rows[-1]["result"] == "ok"

    async def test_nobody_answers(self) -> None:
        """The message would wait; the command says so."""
        rows = await self.probe("[127.0.0.1]:1")
        assert short(rows)[-2:] == [("probe", "waits"), ("verdict", "waits")]

    async def test_the_facts_of_tls(self) -> None:
        """Version, cipher, and whose certificate it is."""
        port = self.listen(lambda: Server(offers=("STARTTLS",)), authority().server(HOST))
        rows = await self.probe(f"[{HOST}]:{port}", more='tls = "verify"')
        probe = rows[-2]
        assert probe["result"] == "ok" and probe["tls"].startswith("TLSv1.")
        certificate = probe["certificate"]
        assert certificate["names"] == [HOST] and certificate["issuer"] == "relaymta test authority"
        assert certificate["not_after"] and "   (TLS begins)" in probe["details"]

    async def test_a_certificate_that_cannot_be_read_is_no_bug(self) -> None:
        """Names of kinds that no library takes, and octets that are none."""
        for names in (b"\x30\x02\xa5\x00", b"junk"):
            port = self.listen(lambda: Server(offers=("STARTTLS",)), presenting(names))
            rows = await self.probe(f"[{HOST}]:{port}")
            assert rows[-2]["result"] == "ok" and rows[-2]["certificate"]["names"] == []
        shown = Broken()
        assert certificate_facts(shown)["certificate"]["names"] == []  # type: ignore[arg-type]

    async def test_tls_that_does_not_verify(self) -> None:
        """The reason is the answer, and nothing is said in clear."""
        port = self.listen(lambda: Server(offers=("STARTTLS",)), authority().server("somebody-else.test"))
        rows = await self.probe(f"[other-probe.test]:{port}", more='tls = "verify"')
        assert rows[-2]["result"] == "waits" and "certificate" in rows[-2]["text"]
        assert rows[-2]["status"] == "4.7.5" and not any("MAIL" in line for line in rows[-2]["details"])

    async def test_a_broken_opportunistic_handshake_is_tried_in_clear(self) -> None:
        """As delivery would."""
        port = self.listen(lambda: Server(offers=("STARTTLS",)))
        rows = await self.probe(f"[127.0.0.1]:{port}")
        assert rows[-1]["result"] == "ok" and rows[-2]["tls"] == "" and len(self.servers) == 2

    def account(self) -> str:
        """An account that may be shown in clear."""
        (self.folder / "secret").write_text("pässword\n")
        return (
            '[[account]]\nname = "smarthost"\nusername = "relay"\ninsecure = true\n'
            f'password_file = "{self.folder}/secret"\n'
        )

    async def test_a_log_in_is_in_the_transcript_without_its_secrets(self) -> None:
        """Neither password nor proof nor challenge, by whatever mechanism."""
        for mechanism in ("PLAIN", "LOGIN", "SCRAM-SHA-256"):
            port = self.listen(lambda: AuthServer(mechanisms=mechanism))  # noqa: B023
            rows = await self.probe(f"[127.0.0.1]:{port}", more='account = "smarthost"', tables=self.account())
            assert rows[-1]["result"] == "ok", rows
            said = "\n".join(rows[-2]["details"])
            assert f"C: AUTH {mechanism}" in said and "***" in said and "S: 235 2.7.0 welcome" in said
            commands = self.servers[-1].commands
            mail = next(number for number, line in enumerate(commands) if line.startswith("MAIL"))
            told = [word for line in commands[1:mail] for word in line.removeprefix(f"AUTH {mechanism}").split()]
            assert told and not [word for word in told if word in said]

    async def test_a_refused_log_in_is_told_and_remembered(self) -> None:
        """The probe uses the live accounts, so that it locks nobody out either."""
        port = self.listen(lambda: AuthServer(password="changed", mechanisms="PLAIN", lies="tells"))
        account = self.account()
        rows = await self.probe(f"[127.0.0.1]:{port}", more='account = "smarthost"', tables=account)
        assert rows[-1]["result"] == "waits" and "535" in rows[-2]["text"] and "pässword" not in repr(rows)
        again = list(await self.explainer.explain({"address": "bob@b.test", "probe": True}))
        [login] = [row for row in again if row["step"] == "login"]  # type: ignore[index]
        assert "was refused 0 s ago, and is not tried: 535" in login["text"]  # type: ignore[index]
        assert again[-1]["result"] == "waits" and len(self.servers) == 1  # type: ignore[index]

    async def test_a_silent_peer_costs_seconds(self) -> None:
        """Somebody waits at a terminal."""
        self.patch(probe_module, "PATIENCE", 0.1)
        port = self.listen(lambda: Server(answers=lambda v, a: b"250-wait\r\n" if v == "RCPT" else None))
        rows = await self.probe(f"[127.0.0.1]:{port}")
        assert "timed out after RCPT" in rows[-2]["text"] and rows[-1]["result"] == "waits"

    async def test_a_probe_ends(self) -> None:
        """However many hosts there are."""
        self.patch(probe_module, "LIMIT", 0.1)
        port = self.listen(lambda: Server(answers=lambda v, a: b"250-wait\r\n" if v == "RCPT" else None))
        rows = await self.probe(f"[127.0.0.1]:{port}", "[127.0.0.1]:1")
        probes = [row["text"] for row in rows if row["step"] == "probe"]
        assert "no answer in time" in probes[0] and "not tried any more" in probes[1]
