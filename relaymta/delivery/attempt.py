"""One attempt: a batch of recipients of one message leaves, and each of them gets an Outcome.

RFC 5321 §4.5.4.1, §5.1. The common case is a plain call: a connection of this lane is idle, the message goes out on
it at once. All else is walk's. What an answer means is left to classify, who gets a connection to pool.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool

from relaymta.delivery import classify, local
from relaymta.delivery.account import AccountSettings
from relaymta.delivery.batch import Batch, Tally
from relaymta.delivery.dial import Connect, Dialer, Place
from relaymta.delivery.login import Accounts
from relaymta.delivery.policy import StsPolicies, sharing
from relaymta.delivery.pool import Connection, Pool
from relaymta.delivery.refusals import Refusals
from relaymta.delivery.security import Security
from relaymta.delivery.settings import Settings, Source, TlsException
from relaymta.delivery.source import Sources
from relaymta.delivery.walk import Ailing, Finder, Means, Walk
from relaymta.events import BugCaught, Ear
from relaymta.mail.content import Content
from relaymta.mail.downgrade import to_seven_bit
from relaymta.mail.outcome import Outcome
from relaymta.net.dane import Names
from relaymta.net.eager import connect_tcp
from relaymta.routing.route import Transport
from relaymta.smtp.actions import Answer, Parcel
from relaymta.smtp.client import SMALL

__all__ = ["Batch", "Deliveries"]

Outcomes = Deferred[list[Outcome]]
_PEERLESS = (Transport.DISCARD, Transport.ERROR)


class Deliveries:
    """The way out of one process.

    `reactor` is Twisted's (time, TCP, UNIX sockets, its thread pool for large conversions); `hostname` (str) is our
    name for EHLO; `tell` hears ConnectFailed, TlsChecked and BugCaught; `now` gives POSIX time; `connect` makes TCP
    connections. `refusals` is what the workers of this host know of log-ins. `tlsa` asks for TLSA records (None: there
    is no DANE), `sts` for MTA-STS policies; `exemptions` are the operator's exceptions from TLS policy.
    """

    def __init__(
        self,
        reactor: Any,
        finder: Finder,
        settings: Settings,
        *,
        hostname: str,
        tell: Ear,
        sources: Iterable[Source] = (),
        accounts: Iterable[AccountSettings] = (),
        refusals: Refusals | None = None,
        now: Callable[[], float] = time.time,
        connect: Connect = connect_tcp,
        tlsa: Names | None = None,
        sts: StsPolicies | None = None,
        exemptions: Iterable[TlsException] = (),
    ) -> None:
        self._reactor = reactor
        self._tell = tell
        self._now = now
        self._pool = Pool(
            reactor,
            max_per_connection=settings.max_per_connection,
            idle_timeout=settings.idle_timeout,
            reuse_time=settings.reuse_time,
        )
        self.accounts = Accounts(reactor, accounts, reactor.seconds, tell, refusals=refusals)
        self._dialer = Dialer(reactor, hostname, settings, Sources(sources), connect, self.accounts)
        self._security = Security(
            reactor.seconds,
            settings.tls_backoff,
            names=tlsa,
            sts=sts,
            ca_file=settings.tls_ca,
            exemptions=[exemption.ready() for exemption in exemptions],
            now=now,
        )
        self._means = Means(
            finder=finder,
            pool=self._pool,
            dialer=self._dialer,
            security=self._security,
            ailing=Ailing(reactor.seconds, settings.host_backoff),
            settings=settings,
            tell=tell,
            now=now,
            seconds=reactor.seconds,
            seven_bit=self._seven_bit,
            stopping=lambda: self._closing is not None,
        )
        self._running: set[_Errand] = set()
        self._closing: Deferred[None] | None = None
        self._cut: IDelayedCall | None = None

    @property
    def means(self) -> Means:
        """What attempts are made with, for who explains them."""
        return self._means

    @property
    def connections(self) -> int:
        """How many sessions stand."""
        return len(self._pool)

    @property
    def security(self) -> Security:
        """The judge of TLS: what it would decide can be asked without connecting."""
        return self._security

    def attempt(self, batch: Batch) -> Outcomes:
        """Deliver `batch`: fires, perhaps at once, with one Outcome for each of its recipients, in their order.

        Never fails: a bug of ours is told as BugCaught and defers.
        """
        errand = _Errand(self, batch)
        self._running.add(errand)
        result = errand.result
        try:
            if self._closing is not None:
                errand.tally.settle([classify.stopping(index, self._now()) for index in batch.recipients])
                errand.end()
            elif batch.route.transport in _PEERLESS:
                errand.tally.settle(local.deliver(batch, self._now()))
                errand.end()
            else:
                errand.start()
        except OSError as error:
            errand.unreadable(error)
        except Exception:  # noqa: BLE001 - a bug must neither lose nor bounce a message
            errand.bug()
        return result

    def policies_changed(self) -> None:
        """What a domain publishes came to be known: nothing goes on over a connection that was opened without it."""
        self._pool.renew()

    def close(self, limit: float = 30.0) -> Deferred[None]:
        """Take leave of idle peers, let what runs come to its end for at most `limit` seconds, cut the rest.

        No new connection is made from now on: what has not been sent is safe in the queue. Fires when no attempt runs
        and no connection stands.
        """
        if self._closing is None:
            self._closing = Deferred()
            self._cut = self._reactor.callLater(limit, self._abort)
            self._pool.on_empty = self._look_whether_closed
            self._pool.close()
            self._look_whether_closed()
        closed: Deferred[None] = Deferred()
        self._closing.chainDeferred(closed)
        return closed

    def _abort(self) -> None:
        self._cut = None
        self._dialer.abort()
        self._pool.abort()
        for errand in list(self._running):  # those that wait for a name server or a thread
            errand.give_up("the relay is stopping", "4.3.2")

    def _look_whether_closed(self) -> None:
        closing = self._closing
        if closing is not None and not closing.called and not self._running and not len(self._pool):
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None
            closing.callback(None)

    def _ended(self, errand: _Errand) -> None:
        self._running.discard(errand)
        if self._closing is not None:
            self._look_whether_closed()

    def _seven_bit(self, content: Content) -> Awaitable[Content | None]:
        """Convert in a thread what would hold up everybody else."""
        if content.size <= SMALL:
            return _now(to_seven_bit(content))
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), to_seven_bit, content)


async def _now(content: Content | None) -> Content | None:
    return content


class _Errand:
    """One batch on its way."""

    __slots__ = ("_batch", "_connection", "_house", "_sharing", "result", "tally")

    def __init__(self, house: Deliveries, batch: Batch) -> None:
        self._house = house
        self._batch = batch
        self._sharing = batch.route.lane
        self._connection: Connection | None = None
        self.tally = Tally(batch.recipients)
        self.result: Outcomes = Deferred()

    def start(self) -> None:
        """Send over an idle connection of the lane, or set out to find one."""
        batch = self._batch
        if batch.envelope.requiretls or batch.envelope.tls_optional:
            self._sharing = sharing(batch.envelope, batch.route)
        connection = self._house._pool.lend(self._sharing)
        if connection is None:
            self._walk(Walk(self._house._means, batch, self.tally))
            return
        sender, content = connection.sender, batch.content
        if content.eightbit and not sender.dialogue.offers.eightbitmime:
            self._house._pool.give_back(connection, self._sharing)
            self._walk(Walk(self._house._means, batch, self.tally))  # which converts the content
            return
        self._connection = connection
        try:
            sender.send(Parcel(batch.envelope, content, batch.recipients), self._finished)
        except Exception:
            self._house._pool.give_back(connection, self._sharing)  # nothing was said
            raise

    def _finished(self, answers: list[Answer | None]) -> None:
        house, connection = self._house, self._connection
        assert connection is not None
        try:
            house._pool.give_back(connection, self._sharing)
            fault = self.tally.record(answers, connection.peer, house._now())
            if not self.tally.pending:
                self.end()
            else:
                walk = Walk(house._means, self._batch, self.tally)
                if fault is not None:
                    place = Place(connection.peer.host, connection.key.address, connection.key.port)
                    walk.been(place, fault, connection.peer)
                self._walk(walk)
        except Exception:  # noqa: BLE001 - as in attempt
            self.bug()

    def _walk(self, walk: Walk) -> None:
        Deferred.fromCoroutine(walk.run()).addCallbacks(self._walked, self._stumbled)

    def _walked(self, _: None) -> None:
        self.end()

    def _stumbled(self, failure: Any) -> None:
        if failure.check(OSError):
            self.unreadable(failure.value)
        else:
            self.bug(failure.getTraceback())

    def unreadable(self, error: OSError) -> None:
        """Our own disk failed before a word was said."""
        self.give_up(f"the content could not be read: {error.strerror or error}")

    def give_up(self, text: str, status: str = "4.3.0") -> None:
        """All that is pending waits, for a reason of our own."""
        at = self._house._now()
        self.tally.settle([classify.ours(index, at, text, status) for index in self.tally.pending])
        self.end()

    def bug(self, trace: str = "") -> None:
        """Tell it, and let the message wait."""
        self._house._tell(BugCaught("delivery", trace or traceback.format_exc()))
        self.give_up("internal error")

    def end(self) -> None:
        """Every recipient has its Outcome."""
        if self.result.called:
            return  # cut at the end of close; the walk came home later
        outcomes = self.tally.outcomes
        self._house._ended(self)
        self.result.callback([outcomes[index] for index in self._batch.recipients])
