"""Sending TLS reports: once a day for each domain that asks for them, by exactly one worker.

RFC 8460 §3 (whom), §4.1 (when), §5.3 and §5.4 (by mail, by HTTPS), §5.5 (retries). A claim on the shelf says which
worker does what; a mail is handed to the queue, whose affair it is from then on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from relaymta import events
from relaymta.admin.control import Arguments, CommandError, Rows
from relaymta.admin.tlsrptgatherer import TlsGatherer
from relaymta.admin.tlsrptshelf import Outgoing, Shelf
from relaymta.mail.envelope import Envelope
from relaymta.net.dns_answer import Answer, State
from relaymta.net.https import Https, HttpsError, Trouble
from relaymta.reports.tlsrpt import (
    DAY,
    MEDIA,
    Package,
    Report,
    Reporter,
    document,
    in_order,
    letter,
    mailbox,
    packed,
    report_uris,
    show_day,
)
from relaymta.store.interfaces import SpoolError

FIRST_LOOK: Final = 1.0  # seconds after the start, about: what waited meanwhile; ours
LOOK: Final = 120.0  # seconds between looks for what is due, about; ours
AT_ONCE: Final = 10  # reports at the same time; ours
DNS_AGAIN: Final = 3600.0  # seconds until a name server that failed is asked again; ours
TRIES_MAX: Final = 8  # RFC 8460 §5.5: up to 24 hours, with growing pauses: after 10 min, 20 min, ... 10 h 40 min
FIRST_PAUSE: Final = 600.0  # seconds
DETAILS_MAX: Final = 500  # in one report, about; ours: a stranger chooses to whom it goes
POST_SECONDS: Final = 60.0  # ours
ANSWER_MAX: Final = 64 * 1024  # octets of what a web server says to a report; ours
SHOWN_MAX: Final = 1000  # domains in one answer to the operator; ours

Texts = Callable[[str], "Deferred[Answer[bytes]]"]
Take = Callable[[Envelope, bytes], "Deferred[None]"]


class TlsReporter:
    """Looks every now and then for what is due. `take` gives a message to the queue; `new_id` makes report ids.

    `https` posts to URLs that strangers chose.
    """

    def __init__(
        self,
        reactor: Any,
        shelf: Shelf,
        gatherer: TlsGatherer,
        reporter: Reporter,
        *,
        texts: Texts,
        https: Https,
        take: Take,
        tell: Callable[[events.Event], None],
        random: Random,
        new_id: Callable[[], str],
    ) -> None:
        self._reactor = reactor
        self._seconds: Callable[[], float] = reactor.seconds
        self._shelf = shelf
        self._gatherer = gatherer
        self._reporter = reporter
        self._texts = texts
        self._https = https
        self._take = take
        self._tell = tell
        self._random = random
        self._new_id = new_id
        self._timer: IDelayedCall | None = None
        self._working: Deferred[None] | None = None
        self._closed = False

    def configure(self, reporter: Reporter, texts: Texts, https: Https) -> None:
        """Put another configuration in force."""
        self._reporter, self._texts, self._https = reporter, texts, https

    def start(self) -> None:
        """Begin to look."""
        self._look_in(FIRST_LOOK)

    def _look_in(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds * (0.5 + self._random.random()), self._look)

    def close(self) -> None:
        """Look no more; what is under way is done by another worker, or after the restart. To be called once."""
        self._closed = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._working is not None:
            self._working.cancel()

    # What is due

    def _look(self) -> None:
        working = self._working = Deferred.fromCoroutine(self.work())
        working.addErrback(self._explain)
        working.addBoth(self._looked)

    def _looked(self, _: object) -> None:
        if not self._closed:
            self._look_in(LOOK)

    def _explain(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(sqlite3.Error, OSError):
            self._tell(events.StateFailed("tlsrpt.sqlite", failure.getErrorMessage()))
        else:
            self._tell(events.BugCaught("tlsrpt", failure.getTraceback()))

    async def work(self) -> None:
        """Make the reports that are due, and send those that wait. Raises sqlite3.Error."""
        for day, domain in await self._shelf.drop_old(self._seconds()):
            self._tell(events.TlsReportDropped(domain, show_day(day), "no report could be made in time"))
        while due := await self._shelf.claim_days(self._seconds(), AT_ONCE):
            await self._each([self._make(day, domain) for day, domain in due])
        while waiting := await self._shelf.claim_outgoing(self._seconds(), AT_ONCE):
            await self._each([self._send(one) for one in waiting])

    async def _each(self, works: list[Any]) -> None:
        """All of them; one that fails does not keep the others from their end."""
        running = [Deferred.fromCoroutine(work).addErrback(self._explain) for work in works]
        await gatherResults(running, consumeErrors=True)

    async def _make(self, day: int, domain: str) -> None:
        """Out of a day's results make what goes to each of the URIs that the domain names."""
        answer = await self._texts(f"_smtp._tls.{domain}")  # RFC 8460 §3
        if answer.state is State.FAILED:
            pause = DNS_AGAIN * (0.5 + self._random.random())
            await self._shelf.postpone(day, domain, self._seconds() + pause)
            return
        uris = report_uris(answer.records)
        tallies = in_order(await self._shelf.tallies(day, domain), DETAILS_MAX) if uris else ()
        outgoing: list[Outgoing] = []
        if tallies:
            made = packed(Report(domain, day, self._new_id(), tallies), self._reporter)
            outgoing = [
                Outgoing(day, domain, uri, made.ident, made.successes, made.failures, made.octets) for uri in uris
            ]
        await self._shelf.move(day, domain, outgoing, self._seconds())

    async def _send(self, one: Outgoing) -> None:
        """One report to one URI; what it does not take is tried again, for about a day."""
        try:
            await (self._mail(one) if one.uri[:7].lower() == "mailto:" else self._post(one))
        except (HttpsError, SpoolError) as error:
            again = one.tries + 1 < TRIES_MAX
            self._tell(events.TlsReportFailed(one.domain, show_day(one.day), one.uri, again, str(error)))
            if again:
                pause = FIRST_PAUSE * 2**one.tries * (0.9 + self._random.random() / 5)
                await self._shelf.again(one, self._seconds() + pause)
                return
        else:
            self._tell(events.TlsReportSent(one.domain, show_day(one.day), one.uri, one.ident))
        await self._shelf.done(one)

    async def _mail(self, one: Outgoing) -> None:
        to = mailbox(one.uri)
        if to is None:  # it was one when it came from DNS
            raise SpoolError(f"{one.uri} is not an address")
        package = Package(one.domain, one.day, one.ident, one.successes, one.failures, one.octets)
        made = letter(package, self._reporter, to, self._seconds())
        taken: Deferred[None] = Deferred()  # of our own: the queue's must not be cancelled when we are
        self._take(made.envelope, made.octets).addCallbacks(taken.callback, taken.errback)
        await taken

    async def _post(self, one: Outgoing) -> None:
        page = await self._https.post(one.uri, one.octets, MEDIA, limit=ANSWER_MAX, timeout=POST_SECONDS)
        if not 200 <= page.status < 300:  # RFC 8460 §5.4: others could indicate a failure, and may be retried
            raise HttpsError(Trouble.UNREACHABLE, f"status {page.status}")

    # The operator

    async def show(self, arguments: Arguments) -> Rows:
        """What would be reported of a day (of UTC, today's by default), for one domain or all."""
        day = _day(arguments.get("day"), self._seconds())
        wanted = arguments.get("domain")
        await self._gatherer.flush()
        try:
            domains = [str(wanted).lower()] if wanted else await self._shelf.domains(day, SHOWN_MAX)
            rows = [await self._shown(day, domain) for domain in domains]
        except (sqlite3.Error, OSError) as error:
            raise CommandError(f"the results cannot be read: {error}") from None
        return [row for row in rows if row is not None]

    async def _shown(self, day: int, domain: str) -> dict[str, Any] | None:
        tallies = in_order(await self._shelf.tallies(day, domain), DETAILS_MAX)
        if not tallies:
            return None
        report = Report(domain, day, "preview", tallies)
        return {"domain": domain, "day": show_day(day), "report": document(report, self._reporter)}


def _day(text: object, now: float) -> int:
    if text is None:
        return int(now) // DAY
    try:
        return int(datetime.strptime(str(text), "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) // DAY
    except ValueError:
        raise CommandError('a day is written "2026-11-23"') from None
