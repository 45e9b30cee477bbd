"""TLS reports of this host, put together (RFC 8460): the ear that counts, the shelf, what sends; or none of them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from uuid import uuid4

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta import events
from relaymta.admin.control import Arguments, Command, CommandError, Rows
from relaymta.admin.tlsrptgatherer import TlsGatherer
from relaymta.admin.tlsrptsender import TlsReporter
from relaymta.admin.tlsrptshelf import SCHEMA, Shelf
from relaymta.mail.envelope import Envelope
from relaymta.net.dns import Resolver
from relaymta.net.https import Https
from relaymta.reports.tlsrpt import Reporter
from relaymta.store.state import State

FILE = "tlsrpt.sqlite"


@frozen(slots=True)
class _Office:
    """What there is while somebody reports."""

    shelf: Shelf
    ear: TlsGatherer
    sender: TlsReporter


class TlsReports:
    """Nothing is gathered nor sent while `reporter` is None.

    `ears`: where the events are told; `directory` holds the file that all workers share; `take` is the queue's door.
    """

    def __init__(
        self,
        reactor: Any,
        ears: events.Ears,
        directory: str,
        *,
        take: Callable[[Envelope, bytes], Deferred[None]],
        random: Random,
    ) -> None:
        self._reactor = reactor
        self._ears = ears
        self._directory = directory
        self._take = take
        self._random = random
        self._office: _Office | None = None

    def configure(self, resolver: Resolver, reporter: Reporter | None) -> None:
        """Put this configuration in force, at the start as after a reload."""
        if reporter is None:
            self.close()
        elif self._office is None:
            self._open(resolver, reporter)
        else:
            self._office.sender.configure(reporter, resolver.txt, self._https(resolver))

    def _open(self, resolver: Resolver, reporter: Reporter) -> None:
        reactor, tell = self._reactor, self._ears.tell

        def trouble(reason: str) -> None:
            tell(events.StateFailed(FILE, reason))

        shelf = Shelf(State(os.path.join(self._directory, FILE), SCHEMA, reactor.callFromThread, trouble))
        ear = TlsGatherer(shelf, reactor.seconds, reactor.callLater, self._random, tell)
        sender = TlsReporter(
            reactor,
            shelf,
            ear,
            reporter,
            texts=resolver.txt,
            https=self._https(resolver),
            take=self._take,
            tell=tell,
            random=self._random,
            new_id=lambda: str(uuid4()),
        )
        self._office = _Office(shelf, ear, sender)
        self._ears.add(ear)
        sender.start()

    def close(self) -> None:
        """Write what was counted, and end."""
        if self._office is not None:
            office, self._office = self._office, None
            self._ears.remove(office.ear)
            office.sender.close()
            office.ear.close()
            office.shelf.close()

    def table(self) -> dict[str, Command]:
        """The operator's commands."""
        return {"tlsrpt.show": self._show}

    def _show(self, arguments: Arguments) -> Awaitable[Rows]:
        if self._office is None:
            raise CommandError("no TLS results are gathered: tls_report.from is not set")
        return self._office.sender.show(arguments)

    def _https(self, resolver: Resolver) -> Https:
        """The URLs come from strangers: they shall not lead into our own network."""
        return Https(self._reactor, resolver.addresses, public_only=True)
