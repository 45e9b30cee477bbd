"""Which MTA-STS policy is in force: a real cache on disk, a clock of the test, records and fetches by script."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from typing import Any

from attrs import define
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from relaymta.config import Duration
from relaymta.net.dns_answer import Answer, Security, State
from relaymta.net.mtasts import ANOTHER_LOOK, REFRESH_LOOK, UNASKED, Policies, StsSettings
from relaymta.net.mtasts_cache import SCHEMA, Cache
from relaymta.net.mtasts_fetch import FETCH_ERROR, FetchError
from relaymta.net.mtasts_policy import Mode, StsPolicy, parse_policy
from relaymta.store import state
from tests.net.nsd import NSD_MISSING, nsd

NOW = 1_700_000_000.0
DAY = 86_400.0
NONE: Answer[bytes] = Answer(State.NXDOMAIN, ttl=60.0, text="no such domain")
BROKEN: Answer[bytes] = Answer(State.FAILED, text="SERVFAIL", security=Security.FAILED)


def record(ident: str, ttl: float = 300.0) -> Answer[bytes]:
    """What the name server says of _mta-sts.example.test."""
    return Answer(State.FOUND, (f"v=STSv1; id={ident};".encode(),), ttl)


@define
class World:
    """What is outside: the `records` and `pages` by domain; `fetched` and `asked` are what was wanted of it."""

    records: dict[str, Answer[bytes]]
    pages: dict[str, Any]
    asked: list[str]
    fetched: list[str]

    def texts(self, name: str) -> Deferred[Answer[bytes]]:
        domain = name.removeprefix("_mta-sts.")
        self.asked.append(domain)
        return succeed(self.records.get(domain, NONE))

    async def fetch(self, domain: str, ident: str) -> StsPolicy:
        self.fetched.append(f"{domain} {ident}")
        page = self.pages.get(domain)
        if isinstance(page, Deferred):
            page = await page
        if page is None:
            raise FetchError(FETCH_ERROR, "nobody there")
        return parse_policy(page, ident)


def page(mode: str = "enforce", age: int = 7 * 86_400, mx: str = "mx.example.test") -> bytes:
    """A policy file."""
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {age}\n".encode()


class Said:
    """What the ears heard."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def fetched(self, domain: str, policy: StsPolicy) -> None:
        self.events.append(("fetched", domain, policy.id))

    def failed(self, domain: str, result: str, reason: str, policy: StsPolicy | None) -> None:
        self.events.append(("failed", domain, result, policy.id if policy else ""))

    def bug(self, failure: Failure) -> None:
        self.events.append(("bug", failure.getErrorMessage()))


class PolicyTests(TestCase):
    """One domain, example.test, over time."""

    timeout = 20

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = os.path.join(self.folder, "state", "mtasts.sqlite")
        self.clock = Clock()
        self.clock.advance(NOW)
        self.world = World({"example.test": record("1")}, {"example.test": page()}, [], [])
        self.said = Said()
        self.trouble: list[str] = []
        self.policies = self.worker()

    def worker(self, *, ends: bool = False) -> Policies:
        """One process; all share the file. `ends`: by the test itself."""
        call: Any = reactor
        cache = Cache(state.State(self.file, SCHEMA, call.callFromThread), self.trouble.append)
        policies = Policies(
            self.clock,
            self.world.texts,
            self.world.fetch,
            cache,
            StsSettings(timeout=Duration(10.0)),
            random=lambda: 0.5,
            ears=self.said,
        )
        if not ends:
            self.addCleanup(policies.close)
        return policies

    def ask(self, domain: str = "example.test") -> Deferred[StsPolicy | None]:
        """Ask now, wait later."""
        return Deferred.fromCoroutine(self.policies.policy(domain))

    async def get(self, domain: str = "example.test") -> str:
        """The mode and id of the policy in force, "" for none."""
        policy = await self.policies.policy(domain)
        return f"{policy.mode.value} {policy.id}" if policy else ""

    async def test_a_policy_is_fetched_once_and_then_known(self) -> None:
        """The first message waits for it; the others find it in memory without asking anybody."""
        self.assertIs(self.policies.cached("example.test"), UNASKED)
        self.assertEqual(await self.get(), "enforce 1")
        known = self.policies.cached("example.test")
        assert isinstance(known, StsPolicy)
        self.assertTrue(known.allows("mx.example.test"))
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual((self.world.asked, self.world.fetched), (["example.test"], ["example.test 1"]))
        self.assertEqual(self.said.events, [("fetched", "example.test", "1")])

    async def test_a_domain_without_record_is_known_to_have_none(self) -> None:
        """RFC 8461 §3.1: no record, no policy, and no fetch."""
        self.assertEqual(await self.get("other.test"), "")
        self.assertIsNone(self.policies.cached("other.test"))
        self.assertEqual(await self.get("[192.0.2.1]"), "")
        self.assertEqual((self.world.asked, self.world.fetched), (["other.test"], []))

    async def test_those_who_ask_together_share_one_fetch(self) -> None:
        """One request at a time for a domain."""
        coming: Deferred[bytes] = Deferred()
        self.world.pages["example.test"] = coming
        waiting = [self.ask() for _ in range(5)]
        await self.until(lambda: self.world.fetched)
        coming.callback(page())
        modes = [policy.mode for policy in [await one for one in waiting] if policy]
        self.assertEqual((modes, self.world.fetched), ([Mode.ENFORCE] * 5, ["example.test 1"]))

    async def test_slow_web_servers_of_others_keep_no_policy_from_coming(self) -> None:
        """As many as one message has recipients: the first mail to everybody else would go without its policy."""
        domains = [f"d{number}.test" for number in range(100)]
        self.world.records |= dict.fromkeys(domains, record("1"))
        self.world.pages |= {domain: Deferred() for domain in domains}
        waiting = [self.ask(domain) for domain in domains]
        await self.until(lambda: len(self.world.fetched) >= 16)
        self.assertEqual(await self.get(), "enforce 1")
        for domain in domains:
            self.world.pages[domain].callback(None)
        for one in waiting:
            await one

    async def test_workers_do_not_fetch_the_same_policy_at_the_same_time(self) -> None:
        """One asks the server, the others find what it got; or ask themselves when it died."""
        coming: Deferred[bytes] = Deferred()
        self.world.pages["example.test"] = coming
        both = [self.ask(), Deferred.fromCoroutine(self.worker().policy("example.test"))]

        def looks_again() -> bool:
            soon = self.clock.seconds() + ANOTHER_LOOK
            return any(call.getTime() <= soon for call in self.clock.getDelayedCalls())

        await self.until(lambda: self.world.fetched and looks_again())
        coming.callback(page())
        while not all(one.called for one in both):
            await self.until(lambda: looks_again() or all(one.called for one in both))
            await self.turn(0.02)  # the database works in real time, which must not be slower than the clock's
            self.clock.advance(ANOTHER_LOOK)
        self.assertEqual([policy.id for policy in [await one for one in both] if policy], ["1", "1"])
        self.assertEqual(self.world.fetched, ["example.test 1"])
        self.world.records["example.test"] = record("2")
        self.world.pages["example.test"] = page("testing")
        self.assertTrue(await self.policies._cache.claim("example.test", NOW))
        self.clock.advance(3600.0)
        self.assertEqual(await self.get(), "testing 2")

    async def until(self, true: Any) -> None:
        """Let the reactor turn until it is so."""
        while not true():
            await self.turn(0.001)

    async def turn(self, seconds: float) -> None:
        """Let the reactor turn for so long."""
        turned: Deferred[None] = Deferred()
        reactor.callLater(seconds, turned.callback, None)
        await turned

    async def test_nobody_waits_longer_than_the_timeout(self) -> None:
        """RFC 8461 §3.3: without a policy delivery goes on; the fetch does too, for those who come later."""
        coming: Deferred[bytes] = Deferred()
        self.world.pages["example.test"] = coming
        waiting = self.ask()
        await self.until(lambda: self.world.fetched)
        self.clock.advance(10.0)
        self.assertIsNone(await waiting)
        self.assertIsNone(await self.policies.policy("example.test"))
        coming.callback(page())
        self.assertEqual(await self.get(), "enforce 1")

    async def test_a_new_id_brings_the_new_policy(self) -> None:
        """RFC 8461 §3.1: a changed id says that the policy changed; one that did not says that it did not."""
        self.assertEqual(await self.get(), "enforce 1")
        self.world.pages["example.test"] = page("testing")
        self.clock.advance(3600.0)
        self.assertEqual(await self.get(), "enforce 1")
        self.world.records["example.test"] = record("2")
        self.clock.advance(3600.0)
        self.assertEqual(await self.get(), "testing 2")
        self.world.records["example.test"] = record("3")
        self.world.pages["example.test"] = b"version: STSv1\nmode: none\nmax_age: 86400\n"
        self.clock.advance(3600.0)
        self.assertEqual(await self.get(), "none 3")
        self.assertEqual(len(self.world.fetched), 3)

    async def test_a_failed_fetch_never_throws_a_live_policy_away(self) -> None:
        """RFC 8461 §3.3: the cached policy is applied; the same id is not fetched again for five minutes."""
        self.assertEqual(await self.get(), "enforce 1")
        self.world.records["example.test"] = record("2")
        del self.world.pages["example.test"]
        self.clock.advance(3600.0)
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(self.said.events[-1], ("failed", "example.test", FETCH_ERROR, "1"))
        self.clock.advance(299.0)
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(self.world.fetched, ["example.test 1", "example.test 2"])
        self.world.pages["example.test"] = page("testing")
        self.clock.advance(200.0)
        self.assertEqual(await self.get(), "testing 2")

    async def test_without_any_policy_a_failed_fetch_is_none_for_a_while(self) -> None:
        """RFC 8461 §3.3: five minutes before another attempt, in every worker and after a restart."""
        del self.world.pages["example.test"]
        self.assertEqual(await self.get(), "")
        self.policies = self.worker()
        self.assertEqual(await self.get(), "")
        self.assertEqual(self.world.fetched, ["example.test 1"])
        self.clock.advance(500.0)
        self.world.pages["example.test"] = page()
        self.assertEqual(await self.get(), "enforce 1")

    async def test_a_policy_outlives_its_record_until_max_age(self) -> None:
        """RFC 8461 §5.1: without a record, or with a name server that fails, the cached policy stays in force."""
        self.assertEqual(await self.get(), "enforce 1")
        self.world.records["example.test"] = NONE
        self.clock.advance(3 * DAY)
        self.assertEqual(await self.get(), "enforce 1")
        self.world.records["example.test"] = BROKEN
        self.clock.advance(3 * DAY)
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(self.said.events[-1], ("failed", "example.test", "dns", "1"))
        self.clock.advance(DAY)
        self.assertEqual(await self.get(), "")
        self.assertEqual(self.world.fetched, ["example.test 1"])

    async def test_an_expired_policy_is_fetched_again(self) -> None:
        """RFC 8461 §5.1: after max_age, though the id is the same; a policy of no age lasts for minutes."""
        self.world.pages["example.test"] = page(age=0)
        self.assertEqual(await self.get(), "enforce 1")
        self.clock.advance(299.0)
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(len(self.world.fetched), 1)
        self.clock.advance(2.0)
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(len(self.world.fetched), 2)

    async def test_a_policy_survives_a_restart_and_is_shared(self) -> None:
        """What one worker fetched, another finds on disk; a new id that one fetched, the other sees within the hour."""
        await self.get()
        first, self.policies = self.policies, self.worker()
        self.assertEqual(await self.get(), "enforce 1")
        self.world.records["example.test"] = record("2")
        self.clock.advance(3600.0)
        self.assertEqual(await self.get(), "enforce 2")
        self.policies = first
        self.assertEqual(await self.get(), "enforce 2")
        self.assertEqual(self.world.fetched, ["example.test 1", "example.test 2"])

    async def test_policies_are_refreshed_by_one_worker_before_they_expire(self) -> None:
        """RFC 8461 §3.3: once a day, without mail for the domain; not where the record is gone."""
        self.policies.start()
        other = self.worker()
        other.start()
        await self.get()
        self.world.records["gone.test"], self.world.pages["gone.test"] = record("7"), page()
        await self.get("gone.test")
        self.world.records["gone.test"] = NONE
        self.world.fetched.clear()
        self.clock.advance(DAY)
        await self.until(lambda: self.world.fetched and not self.refreshing(self.policies, other))
        self.clock.pump([REFRESH_LOOK] * 2)
        await self.until(lambda: not self.refreshing(self.policies, other))
        self.assertEqual(self.world.fetched, ["example.test 1"])
        self.world.records["example.test"] = BROKEN
        self.clock.advance(6.5 * DAY)
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(await self.get("gone.test"), "")

    def refreshing(self, *workers: Policies) -> bool:
        """Whether one of them is at it."""
        return any(one._refreshing is not None and not one._refreshing.called for one in workers)

    async def test_a_policy_that_nobody_uses_is_left_to_expire(self) -> None:
        """A month without mail ends the refreshing."""
        self.world.pages["example.test"] = page(age=90 * 86_400)
        await self.get()
        cache = self.policies._cache
        self.assertEqual(await cache.claim_stale(NOW + 31 * DAY, 10), [])
        self.assertEqual(await cache.claim_stale(NOW + 2 * DAY, 10), ["example.test"])
        self.assertEqual(await cache.claim_stale(NOW + 2 * DAY, 10), [])

    async def test_what_expired_is_swept_away(self) -> None:
        """The file does not grow without bound."""
        await self.get()
        await self.policies._cache.sweep(NOW + 8 * DAY)
        with sqlite3.connect(self.file) as connection:
            self.assertEqual(connection.execute("SELECT count(*) FROM policies").fetchone(), (0,))

    async def test_a_broken_database_is_told_and_mail_goes_on(self) -> None:
        """Without a disk the policies are still fetched and obeyed."""
        os.makedirs(self.file)
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(await self.get(), "enforce 1")
        self.assertEqual(len(self.world.fetched), 1)
        self.assertIn("cannot be used", self.trouble[0])

    async def test_a_bug_is_told_and_nobody_hangs(self) -> None:
        """An exception that no rule foresaw: no policy, for a while."""
        self.world.pages["example.test"] = 5
        self.assertEqual(await self.get(), "")
        self.assertEqual(self.said.events[0][0], "bug")
        self.assertIsNone(self.policies.cached("example.test"))

    async def test_who_gives_up_waiting_disturbs_nobody(self) -> None:
        """A cancelled question leaves the others theirs."""
        coming: Deferred[bytes] = Deferred()
        self.world.pages["example.test"] = coming
        one, other = self.ask(), self.ask()
        one.addErrback(lambda _: None)
        one.cancel()
        await self.until(lambda: self.world.fetched)
        coming.callback(page())
        policy = await other
        assert policy is not None
        self.assertEqual(policy.id, "1")

    async def test_after_its_end_it_says_what_it_knows(self) -> None:
        """Deliveries that outlive a reload ask nothing more of a closed cache."""
        policies = self.worker(ends=True)
        await policies.policy("example.test")
        waiting = Deferred.fromCoroutine(policies.policy("other.test"))
        policies.close()
        known = await policies.policy("example.test")
        assert known is not None
        self.assertIsNone(await waiting)
        self.assertIsNone(await policies.policy("third.test"))

    async def test_memory_is_bounded(self) -> None:
        """Many domains: those asked for longest ago are forgotten."""
        self.patch(__import__("relaymta.net.mtasts", fromlist=["x"]), "KNOWN_MAX", 10)
        for number in range(30):
            await self.get(f"d{number}.test")
        self.assertEqual(len(self.policies._known), 10)
        self.assertIsNone(self.policies.cached("d29.test"))


class RecordTests(TestCase):
    """The record as a real name server has it."""

    skip = NSD_MISSING or None
    timeout = 20

    async def test_the_record_comes_from_the_name_server(self) -> None:
        """RFC 8461 §3.1: strings of a record are joined, other records beside it do no harm, a CNAME is followed."""
        from relaymta.net.dns import DnsSettings, Resolver
        from relaymta.net.mtasts_policy import record_id

        zone = (
            '_mta-sts.one TXT "v=STSv1; " "id=2026"\n_mta-sts.one TXT "other"\n'
            '_mta-sts.alias CNAME _mta-sts.one\n_mta-sts.two TXT "v=STSv1; id=1"\n_mta-sts.two TXT "v=STSv1; id=2"'
        )
        with nsd({"example.test": zone}) as address:
            resolver = Resolver(reactor, DnsSettings(servers=(address,)))
            self.addCleanup(resolver.close)
            found = [
                record_id((await resolver.txt(f"_mta-sts.{name}.example.test")).records)
                for name in ("one", "alias", "two", "three")
            ]
        self.assertEqual(found, ["2026", "2026", "", ""])
