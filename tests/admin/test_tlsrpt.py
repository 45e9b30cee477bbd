"""TLS reports from the first session to the last retry: real databases, two workers, a real web server."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import os
import shutil
import tempfile
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relaymta import events
from relaymta.admin import tlsrptgatherer, tlsrptshelf
from relaymta.admin.control import CommandError
from relaymta.admin.tlsrptgatherer import SETTLED, SPREAD, TlsGatherer
from relaymta.admin.tlsrptsender import TRIES_MAX, TlsReporter
from relaymta.admin.tlsrptshelf import LEASE, SCHEMA, Shelf
from relaymta.mail.address import Address
from relaymta.mail.envelope import Envelope
from relaymta.net.dns_answer import Answer, Security, State
from relaymta.net.https import Https
from relaymta.reports.tlsrpt import Reporter
from relaymta.store import state
from relaymta.store.interfaces import SpoolError
from tests.delivery.certificates import authority
from tests.net.webserver import WebServer, text

DAY = 86_400
TODAY = 20_000
NOON = TODAY * DAY + DAY / 2
MORNING = (TODAY + 1) * DAY + SETTLED + SPREAD + 1.0  # the reports of the day are due
REPORTER = Reporter("Example", "postmaster@sender.example", Address("tls", "sender.example"))
NONE: Answer[bytes] = Answer(State.NXDOMAIN, text="no such domain")
FAILED: Answer[bytes] = Answer(State.FAILED, text="SERVFAIL", security=Security.FAILED)
GOOD = events.TlsChecked(
    "a.example", "sts", ("version: STSv1",), "mx.a.example", ("*.a.example",), "", "192.0.2.1", "", ""
)
BAD = evolve(GOOD, source="198.51.100.1", result="certificate-expired", reason="certificate has expired")


def asks(*uris: str) -> Answer[bytes]:
    """The record of a domain that wants reports there."""
    return Answer(State.FOUND, (f"v=TLSRPTv1; rua={','.join(uris)}".encode(),), 60.0)


class Worker:
    """One process: its ear and its sender."""

    def __init__(self, test: TlsReportTests) -> None:
        call: Any = reactor
        self.shelf = Shelf(state.State(test.file, SCHEMA, call.callFromThread))
        self.ear = TlsGatherer(self.shelf, test.clock.seconds, test.clock.callLater, Random(1), test.told.append)
        self.sender = TlsReporter(
            test.clock,
            self.shelf,
            self.ear,
            REPORTER,
            texts=test.texts,
            https=Https(reactor, test.addresses, trust_root=authority().trusted),
            take=test.take,
            tell=test.told.append,
            random=Random(2),
            new_id=test.new_id,
        )

    def close(self) -> None:
        """As when the process ends."""
        self.sender.close()
        self.ear.close()
        self.shelf.close()


class TlsReportTests(TestCase):
    """A day and the morning after it."""

    timeout = 20

    def setUp(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.file = os.path.join(folder, "state", "tlsrpt.sqlite")
        self.clock = Clock()
        self.clock.advance(NOON)
        self.told: list[events.Event] = []
        self.records: dict[str, Answer[bytes]] = {"a.example": asks("mailto:tls@a.example")}
        self.taken: list[tuple[Envelope, bytes]] = []
        self.full = False
        self.ids = 0
        self.worker = self.another()

    def another(self) -> Worker:
        """One more worker on the same file."""
        worker = Worker(self)
        self.addCleanup(worker.close)
        return worker

    def texts(self, name: str) -> Deferred[Answer[bytes]]:
        """The records."""
        return succeed(self.records.get(name.removeprefix("_smtp._tls."), NONE))

    def addresses(self, name: str) -> Deferred[Answer[str]]:
        """Every web server is here."""
        return succeed(Answer(State.FOUND, ("127.0.0.1",), 60.0))

    def take(self, envelope: Envelope, octets: bytes) -> Deferred[None]:
        """The queue."""
        if self.full:
            return fail(SpoolError("no room"))
        self.taken.append((envelope, octets))
        return succeed(None)

    def new_id(self) -> str:
        """An id for a report."""
        self.ids += 1
        return f"id-{self.ids}"

    async def gather(self, *gathered: events.Event, worker: Worker | None = None) -> None:
        """Hear these, and write them."""
        worker = worker or self.worker
        for event in gathered:
            worker.ear(event)
        await worker.ear.flush()

    def at(self, seconds: float) -> None:
        """Let it be so late."""
        self.clock.advance(seconds - self.clock.seconds())

    def of(self, kind: type[events.Event]) -> list[Any]:
        """What was told of a kind."""
        return [event for event in self.told if isinstance(event, kind)]

    def report(self, octets: bytes) -> Any:
        """The JSON in a mail."""
        parsed: Any = email.message_from_bytes(octets, policy=email.policy.default)
        _, attached = parsed.iter_parts()
        return json.loads(gzip.decompress(attached.get_content()))

    async def test_the_sessions_of_all_workers_are_one_report(self) -> None:
        """RFC 8460 §4: counted over the host by policy, sent in the morning after; once, whoever looks first."""
        other = self.another()
        await self.gather(GOOD, GOOD, BAD)
        await self.gather(GOOD, BAD, BAD, evolve(BAD, mx="mx2.a.example"), worker=other)
        dane = evolve(GOOD, policy="tlsa", terms=("3 1 1 AB",), mx_patterns=(), policy_domain="mx.a.example")
        await self.gather(dane, worker=other)
        await self.worker.sender.work()
        self.assertEqual(self.taken, [])
        self.at(MORNING)
        await gatherResults([Deferred.fromCoroutine(one.sender.work()) for one in (self.worker, other)])
        await self.worker.sender.work()
        [(envelope, octets)] = self.taken
        self.assertEqual(str(envelope.recipients[0].address), "tls@a.example")
        self.assertTrue(envelope.tls_optional)
        report = self.report(octets)
        sts, tlsa = report["policies"]
        self.assertEqual(sts["summary"], {"total-successful-session-count": 3, "total-failure-session-count": 4})
        self.assertEqual([one["failed-session-count"] for one in sts["failure-details"]], [3, 1])
        self.assertEqual(tlsa["policy"]["policy-string"], ["3 1 1 AB"])
        domains = [one["policy"]["policy-domain"] for one in (sts, tlsa)]
        self.assertEqual(domains, ["a.example", "mx.a.example"])  # RFC 8460 §1.1
        self.assertEqual({one["sending-mta-ip"] for one in sts["failure-details"]}, {"198.51.100.1"})
        [sent] = self.of(events.TlsReportSent)
        self.assertEqual((sent.domain, sent.to, sent.day), ("a.example", "mailto:tls@a.example", "2024-10-04"))

    async def test_results_of_a_new_day_are_another_report(self) -> None:
        """RFC 8460 §4.1: midnight UTC is the border, also within what is not yet written."""
        self.worker.ear(GOOD)
        self.at((TODAY + 1) * DAY + 1.0)
        self.worker.ear(GOOD)
        await self.worker.ear.flush()
        self.at(MORNING)
        await self.worker.sender.work()
        self.at(MORNING + DAY)
        await self.worker.sender.work()
        starts = [self.report(octets)["date-range"]["start-datetime"][:10] for _, octets in self.taken]
        self.assertEqual(starts, ["2024-10-04", "2024-10-05"])

    async def test_who_asks_for_none_gets_none(self) -> None:
        """RFC 8460 §3: without a record the results are dropped."""
        await self.gather(evolve(GOOD, domain="b.example"))
        self.at(MORNING)
        await self.worker.sender.work()
        self.assertEqual((self.taken, await self.worker.shelf.domains(TODAY, 9)), ([], []))

    async def test_a_name_server_that_fails_is_asked_again_until_it_is_too_late(self) -> None:
        """Could not ask is not a no; after two days the results are dropped, and told."""
        self.records["a.example"] = FAILED
        await self.gather(GOOD)
        self.at(MORNING)
        await self.worker.sender.work()
        self.records["a.example"] = asks("mailto:tls@a.example")
        await self.worker.sender.work()
        self.assertEqual(self.taken, [])
        self.at(MORNING + 6000.0)
        await self.worker.sender.work()
        self.assertEqual(len(self.taken), 1)
        self.records["a.example"] = FAILED
        self.at((TODAY + 2) * DAY)
        await self.gather(GOOD)
        self.at((TODAY + 5) * DAY - 1.0)
        await self.worker.sender.work()
        self.assertEqual(self.of(events.TlsReportDropped), [])
        self.at((TODAY + 5) * DAY)
        await self.worker.sender.work()
        self.assertEqual([event.domain for event in self.of(events.TlsReportDropped)], ["a.example"])
        self.assertEqual(await self.worker.shelf.domains(TODAY + 2, 9), [])

    async def test_a_full_queue_is_tried_again(self) -> None:
        """RFC 8460 §5.5: with growing pauses; the report stays the same."""
        self.full = True
        await self.gather(GOOD)
        self.at(MORNING)
        await self.worker.sender.work()
        self.full = False
        await self.worker.sender.work()
        self.assertEqual(self.taken, [])
        self.at(MORNING + 700.0)
        await self.another().sender.work()
        [(_, octets)] = self.taken
        self.assertEqual(self.report(octets)["report-id"], "id-1")
        [failed] = self.of(events.TlsReportFailed)
        self.assertEqual((failed.again, failed.reason), (True, "no room"))

    async def test_a_report_is_posted(self) -> None:
        """RFC 8460 §5.4: POST of application/tlsrpt+gzip; both of two URIs get it."""
        server = WebServer(authority().server("reports.a.example"), text(b"", status=201))
        self.addCleanup(server.close)
        url = f"https://reports.a.example:{server.port}/v1"
        self.records["a.example"] = asks("mailto:tls@a.example", url)
        await self.gather(GOOD)
        self.at(MORNING)
        await self.worker.sender.work()
        [(method, _, path, body)] = server.asked
        self.assertEqual((method, path), ("POST", "/v1"))
        self.assertEqual(server.headers[0][b"Content-Type"], [b"application/tlsrpt+gzip"])
        self.assertEqual(json.loads(gzip.decompress(body)), self.report(self.taken[0][1]))
        self.assertEqual({event.to for event in self.of(events.TlsReportSent)}, {url, "mailto:tls@a.example"})

    async def test_a_server_that_fails_is_tried_for_a_day(self) -> None:
        """RFC 8460 §5.5: retries with growing pauses over about 24 hours, then it is given up and told."""
        server = WebServer(authority().server("reports.a.example"), text(b"", status=503))
        self.addCleanup(server.close)
        self.records["a.example"] = asks(f"https://reports.a.example:{server.port}/")
        await self.gather(GOOD)
        self.at(MORNING)
        while len(self.of(events.TlsReportFailed)) < TRIES_MAX:
            await self.worker.sender.work()
            self.clock.advance(300.0)
        self.assertTrue(DAY / 2 < self.clock.seconds() - MORNING < DAY * 1.1)
        await self.worker.sender.work()
        self.assertEqual(len(server.asked), TRIES_MAX)
        self.assertEqual([event.again for event in self.of(events.TlsReportFailed)], [True] * (TRIES_MAX - 1) + [False])
        self.assertEqual(await self.worker.shelf.claim_outgoing(self.clock.seconds() + DAY, 9), [])

    async def test_a_worker_that_dies_leaves_its_claim_to_another(self) -> None:
        """A claim ends with its lease."""
        await self.gather(GOOD)
        self.at(MORNING)
        self.assertEqual(await self.worker.shelf.claim_days(MORNING, 9), [(TODAY, "a.example")])
        other = self.another()
        await other.sender.work()
        self.assertEqual(self.taken, [])
        self.at(MORNING + LEASE)
        await other.sender.work()
        self.assertEqual(len(self.taken), 1)

    async def test_policies_that_could_not_be_fetched_are_told(self) -> None:
        """RFC 8460 §4.3.2.2: as failures of the policy type "sts"; a name server's are nobody's."""
        await self.gather(
            events.StsPolicyFailed("a.example", "sts-webpki-invalid", "", "expired"),
            events.StsPolicyFailed("a.example", "dns", "", "SERVFAIL"),
            events.LaneResumed("smtp:a.example"),
        )
        [row] = await self.shown()
        [policy] = row["report"]["policies"]
        self.assertEqual(policy["policy"], {"policy-type": "sts", "policy-domain": "a.example"})
        self.assertEqual(
            policy["failure-details"],
            [{"result-type": "sts-webpki-invalid", "failed-session-count": 1, "failure-reason-code": "expired"}],
        )

    async def shown(self, **arguments: Any) -> list[Any]:
        """What the operator sees."""
        return list(await self.worker.sender.show(arguments))

    async def test_the_operator_sees_what_would_be_sent(self) -> None:
        """For one domain or all, of one day; what is not written yet too."""
        self.worker.ear(GOOD)
        self.worker.ear(evolve(GOOD, domain="b.example"))
        self.assertEqual([row["domain"] for row in await self.shown()], ["a.example", "b.example"])
        [row] = await self.shown(domain="B.example", day="2024-10-04")
        self.assertEqual(row["report"]["policies"][0]["summary"]["total-successful-session-count"], 1)
        self.assertEqual(await self.shown(day="2024-10-05"), [])
        with self.assertRaises(CommandError):
            await self.shown(day="yesterday")

    async def test_what_is_counted_is_written_after_a_while_and_at_the_end(self) -> None:
        """A timer writes it; so does the end of the process."""
        self.worker.ear(GOOD)
        self.clock.advance(tlsrptgatherer.FLUSH_SECONDS)
        await self.worker.ear.flush()
        other = Worker(self)
        other.ear(GOOD)
        other.close()
        [tally] = await self.worker.shelf.tallies(TODAY, "a.example")
        self.assertEqual(tally.successes, 2)

    async def test_the_same_failure_in_a_thousand_ways_is_bounded(self) -> None:
        """What peers vary does not fill the disk: the rest is counted by its result."""
        self.patch(tlsrptshelf, "DETAILS_MAX", 10)
        await self.gather(*(evolve(BAD, reason=f"error {number}") for number in range(50)))
        [tally] = await self.worker.shelf.tallies(TODAY, "a.example")
        self.assertEqual((tally.failures, len(tally.details)), (50, 11))

    async def test_a_policy_that_is_another_one_each_time_is_bounded(self) -> None:
        """A domain whose records differ in each answer gets a report with some of them, and no session is lost."""
        self.patch(tlsrptshelf, "TALLIES_MAX", 3)
        names = ("policy_domain", "terms", "mx_patterns")
        for name in names:
            kept = [{name: f"h{n}.example" if name == "policy_domain" else (f"x{n}",)} for n in range(9)]
            await self.gather(*(evolve(kind, domain=f"{name}.example", **one) for one in kept for kind in (GOOD, BAD)))
            tallies = await self.worker.shelf.tallies(TODAY, f"{name}.example")
            self.assertEqual(sum(one.successes for one in tallies), 9)
            self.assertEqual(sum(one.failures for one in tallies), 9)
            self.assertLessEqual(len(tallies), 3 + 2)

    async def test_domains_of_a_day_are_bounded(self) -> None:
        """Beyond so many domains nothing is counted."""
        self.patch(tlsrptshelf, "DOMAINS_MAX", 3)
        await self.gather(*(evolve(kind, domain=f"d{n}.example") for n in range(9) for kind in (GOOD, BAD)))
        self.assertEqual(len(await self.worker.shelf.domains(TODAY, 99)), 3)

    async def test_memory_is_bounded(self) -> None:
        """Many different results are written at once; when the disk is too slow they are dropped, and told."""
        self.patch(tlsrptgatherer, "PENDING_MAX", 100)
        for number in range(1000):
            self.worker.ear(evolve(GOOD, domain=f"d{number}.example"))
        self.assertTrue(len(self.worker.ear._successes) <= 101)
        self.assertIn("too slow", self.of(events.StateFailed)[0].reason)
        await self.worker.ear.flush()

    async def test_a_broken_database_is_told(self) -> None:
        """Counting never hurts mail."""
        os.makedirs(self.file)
        await self.gather(GOOD)
        self.worker.sender._look()
        assert self.worker.sender._working is not None
        await self.worker.sender._working
        self.assertEqual(len(self.of(events.StateFailed)), 2)
        with self.assertRaises(CommandError):
            await self.shown()

    async def test_the_sender_looks_by_itself(self) -> None:
        """Every two minutes or so, until it is closed."""
        await self.gather(GOOD)
        self.at(MORNING)
        self.worker.sender.start()
        self.clock.advance(200.0)
        assert self.worker.sender._working is not None
        await self.worker.sender._working
        self.assertEqual(len(self.taken), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)  # the next look
