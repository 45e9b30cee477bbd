"""Delivery to Postfix's smtp-sink: many messages over reused connections, octet for octet."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relaymta.delivery.attempt import Batch, Deliveries
from relaymta.delivery.settings import Settings
from relaymta.events import Event, TlsChecked
from relaymta.mail.content import MemoryContent
from relaymta.mail.outcome import Fate, Outcome
from relaymta.routing.mx import Host
from relaymta.routing.route import Hop, Route, Transport
from tests.delivery.network import Finder, route_to
from tests.smtp.scripted import envelope

reactor: Any = the_reactor
SINK = shutil.which("smtp-sink")
MESSAGES = 500


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.peers
@pytest.mark.skipif(SINK is None, reason="smtp-sink is not installed (Debian package postfix)")
class SinkTests(TestCase):
    """smtp-sink on loopback, which writes down what it takes."""

    timeout = 60

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        self.folder = Path(tempfile.mkdtemp(prefix="relaymta-sink-"))
        self.folder.chmod(0o777)
        self.addCleanup(shutil.rmtree, self.folder)
        self.events: list[Event] = []
        self.finder = Finder({})
        self.deliveries = Deliveries(
            reactor, self.finder, Settings(), hostname="us.test", tell=self.events.append
        )
        return self._start()

    def _start(self, *options: str) -> Deferred[None]:
        port = free_port()
        as_user = ["-u", "nobody"] if os.getuid() == 0 else []
        command = [str(SINK), *as_user, *options, "-d", f"{self.folder}/%M.", f"127.0.0.1:{port}", "200"]
        sink = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.finder.hosts["b.test"] = (Host("sink.b.test", port, 0, ("127.0.0.1",)),)

        def stop() -> Deferred[None]:
            def stopped(_: Any) -> None:
                sink.terminate()
                sink.wait(10)

            return self.deliveries.close(5.0).addCallback(stopped)

        self.addCleanup(stop)
        return self._listening(port, 100)

    def _listening(self, port: int, tries: int) -> Deferred[Any]:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return deferLater(reactor, 0, lambda: None)
        assert tries, "smtp-sink does not listen"
        again: Any = self._listening
        return deferLater(reactor, 0.05, again, port, tries - 1)

    def taken(self) -> list[bytes]:
        """The contents that the sink has written, as they came, its own header fields taken off."""
        found = []
        for path in self.folder.iterdir():
            content = path.read_bytes()
            assert content.endswith(b"\n\n")  # it parts messages with an empty line, as in an mbox
            found.append(content[content.index(b"X-Test-Id:") : -1])
        return found

    def content(self, number: int, random: Random) -> bytes:
        """A message that is hard on dots and line ends."""
        lines = [random.choice([b".", b"..", b".x", b"", b"x" * 70, b" . "]) for _ in range(random.randint(0, 200))]
        return b"X-Test-Id: %d\r\n\r\n" % number + b"".join(line + b"\r\n" for line in lines)

    def send(self, contents: list[bytes], route: Route, at_once: int) -> Deferred[list[list[Outcome]]]:
        """Deliver all contents, so many at a time."""
        left = list(contents)
        outcomes: list[list[Outcome]] = []

        def one(_: Any = None) -> Any:
            if not left:
                return None
            batch = Batch("Q1", envelope("a@b.test"), MemoryContent(left.pop()), (0,), route, route.lane)
            return self.deliveries.attempt(batch).addCallback(outcomes.append).addCallback(one)

        return gatherResults([deferLater(reactor, 0, one) for _ in range(at_once)]).addCallback(lambda _: outcomes)

    async def test_five_hundred_messages_over_reused_connections(self) -> None:
        """All arrive once, byte for byte, over no more connections than lanes allow and the limit asks for."""
        random = Random(7)
        contents = [self.content(number, random) for number in range(MESSAGES)]
        outcomes = await self.send(contents, route_to(), 10)
        assert [one.fate for batch in outcomes for one in batch] == [Fate.RELAYED] * MESSAGES
        # smtp-sink writes its files with LF.
        assert sorted(self.taken()) == sorted(content.replace(b"\r\n", b"\n") for content in contents)
        assert not [event for event in self.events if not isinstance(event, TlsChecked)]

    async def test_a_large_message(self) -> None:
        """Ten megabytes arrive as they are."""
        content = b"X-Test-Id: 1\r\n\r\n" + (b"." * 70 + b"\r\n.\r\n") * 130_000
        ((outcome,),) = await self.send([content], route_to(), 1)
        assert outcome.fate is Fate.RELAYED
        assert self.taken() == [content.replace(b"\r\n", b"\n")]

    async def test_lmtp(self) -> None:
        """smtp-sink as an LMTP server, with an answer for each recipient."""
        await self._start("-L")
        hops = (Hop("b.test", mx=False),)
        route = route_to(transport=Transport.LMTP, hops=hops)
        content = b"X-Test-Id: 1\r\n\r\nx\r\n"
        batch = Batch("Q1", envelope("a@b.test", "c@b.test"), MemoryContent(content), (0, 1), route, route.lane)
        outcomes = await self.deliveries.attempt(batch)
        assert [one.fate for one in outcomes] == [Fate.DELIVERED] * 2

    async def test_refusals_of_a_real_server(self) -> None:
        """smtp-sink told to refuse or to hang up at a command, over the wire as in the scripts."""
        cases = (
            ("-r", "RCPT", (Fate.DEFERRED, "4.3.0")),
            ("-f", "RCPT", (Fate.FAILED, "5.3.0")),
            ("-f", "DATA", (Fate.FAILED, "5.3.0")),
            ("-r", ".", (Fate.DEFERRED, "4.3.0")),
            ("-q", "DATA", (Fate.DEFERRED, "4.4.2")),
            ("-q", ".", (Fate.DEFERRED, "4.4.2")),
        )
        for number, (option, verb, expected) in enumerate(cases):
            await self._start(option, verb)
            route = route_to(f"sink{number}.test")
            self.finder.hosts[f"sink{number}.test"] = self.finder.hosts["b.test"]
            content = MemoryContent(b"X-Test-Id: 1\r\n\r\n")
            batch = Batch("Q1", envelope("a@b.test"), content, (0,), route, route.lane)
            (outcome,) = await self.deliveries.attempt(batch)
            assert (outcome.fate, outcome.status) == expected, (option, verb, outcome)
            assert outcome.unknown is (option == "-q" and verb == ".")
