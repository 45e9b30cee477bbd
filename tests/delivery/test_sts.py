"""The MTA-STS policies of a relay as configured, with a real name server and a real file."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.names import dns
from twisted.trial.unittest import TestCase

from relaymta import events
from relaymta.delivery.sts import FILE, Sts
from relaymta.net.dns import DnsSettings, Resolver
from relaymta.net.mtasts import UNASKED, Mode, StsPolicy, StsSettings
from tests.net.nameserver import Asked, NameServer, record, reply, soa


class StsTests(TestCase):
    """Switched on and off, and what it tells."""

    timeout = 20

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.told: list[events.Event] = []
        self.names = NameServer(self.answer)
        self.addCleanup(self.names.close)
        self.resolver = Resolver(reactor, DnsSettings(servers=(self.names.address,)))
        self.addCleanup(self.resolver.close)
        self.sts = Sts(reactor, self.folder, random=lambda: 0.5, tell=self.told.append)
        self.addCleanup(lambda: self.sts.close())

    def answer(self, asked: Asked) -> list[bytes]:
        """A record for everybody, servers failing for some, and no web server for any."""
        if "broken" in asked.name:
            return [reply(asked, rcode=dns.ESERVER)]
        if asked.kind == dns.TXT:
            return [reply(asked, record(asked.name, dns.Record_TXT(b"v=STSv1; id=1")))]
        return [reply(asked, authority=[soa(asked.name)])]

    async def test_off_is_no_policy_and_no_question(self) -> None:
        """Before it is configured, or where it is disabled, nothing is asked."""
        self.sts.configure(self.resolver, StsSettings(enabled=False))
        self.assertIsNone(await self.sts.policy("a.test"))
        self.assertIsNone(self.sts.cached("a.test"))
        self.assertEqual((self.names.asked, os.listdir(self.folder)), ([], []))

    async def test_what_fails_is_told(self) -> None:
        """A policy that cannot be fetched, and a name server that fails, are events; the reason is a sentence."""
        self.sts.configure(self.resolver, StsSettings())
        self.assertIs(self.sts.cached("a.test"), UNASKED)
        self.assertIsNone(await self.sts.policy("a.test"))
        self.assertIsNone(await self.sts.policy("broken.test"))
        fetch, names = self.told
        assert isinstance(fetch, events.StsPolicyFailed) and isinstance(names, events.StsPolicyFailed)
        self.assertEqual((fetch.domain, fetch.result, fetch.mode), ("a.test", "sts-policy-fetch-error", ""))
        self.assertEqual((names.domain, names.result), ("broken.test", "dns"))
        self.assertIn("_mta-sts.broken.test", names.reason)
        self.assertIsNone(self.sts.cached("a.test"))

    async def test_a_policy_that_comes_is_told_to_who_keeps_connections(self) -> None:
        """And as an event."""
        changed: list[int] = []
        tell = self.told.append
        self.sts = Sts(reactor, self.folder, random=lambda: 0.5, tell=tell, changed=lambda: changed.append(1))
        self.sts.configure(self.resolver, StsSettings())
        policies: Any = self.sts.policies
        policies._ears.fetched("a.test", StsPolicy(Mode.ENFORCE, ("mx.a.test",), 86400, "1", ()))
        assert changed == [1] and isinstance(self.told[-1], events.StsPolicyFetched)
        many = tuple(f"mx{number}.a.test" for number in range(500))
        policies._ears.fetched("a.test", StsPolicy(Mode.ENFORCE, many, 86400, "1", ()))
        told: Any = self.told[-1]
        assert told.mx.endswith("mx19.a.test,...")  # one line of a log, whatever a stranger writes

    async def test_a_reload_keeps_what_is_known(self) -> None:
        """Another resolver and timeout; off and on again reads the file."""
        self.sts.configure(self.resolver, StsSettings())
        await self.sts.policy("a.test")
        before: Any = self.sts.policies
        self.sts.configure(self.resolver, StsSettings())
        self.assertIs(self.sts.policies, before)
        self.sts.configure(self.resolver, StsSettings(enabled=False))
        self.assertIsNone(self.sts.cached("a.test"))
        self.sts.configure(self.resolver, StsSettings())
        self.assertIsNone(await self.sts.policy("a.test"))
        self.assertEqual(len(self.told), 1)

    async def test_a_file_that_cannot_be_used_is_told(self) -> None:
        """Deliveries go on."""
        os.mkdir(os.path.join(self.folder, FILE))
        self.sts.configure(self.resolver, StsSettings())
        self.assertIsNone(await self.sts.policy("a.test"))
        self.assertIn(FILE, [event.file for event in self.told if isinstance(event, events.StateFailed)])
