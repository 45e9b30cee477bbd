"""The walk: next hops in order, their hosts, their addresses, until every recipient has an Outcome.

RFC 5321 §5.1 (hosts by preference, several addresses, at least two of them tried). An address that could not be used
a short while ago comes last, so that a dead first MX costs one message its connect timeout and not every message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta.delivery import classify
from relaymta.delivery.batch import Batch, Tally
from relaymta.delivery.classify import Peer
from relaymta.delivery.dial import Dialer, Place
from relaymta.delivery.pool import Connection, Key, Pool
from relaymta.delivery.security import Need, Security
from relaymta.delivery.settings import Settings
from relaymta.events import ConnectFailed, Ear
from relaymta.mail.content import Content
from relaymta.routing.mx import Host, Refusal
from relaymta.routing.route import Hop, Transport
from relaymta.smtp.actions import Answer, Parcel, Stage, Trouble
from relaymta.smtp.client import SessionError

_POLICY = (Trouble.NO_TLS, Trouble.TLS)  # what this message asked for and another may not


class Finder(Protocol):
    """Who finds the hosts of a next hop: routing.mx.HostFinder."""

    def find(self, hop: Hop) -> Awaitable[tuple[Host, ...] | Refusal]:
        """The hosts in the order in which they are to be tried."""

    def resolve(self, host: Host) -> Awaitable[Host | Refusal]:
        """The host with its addresses."""


class Ailing:
    """Addresses that could not be used a short while ago. `seconds` is a monotonic clock."""

    def __init__(self, seconds: Callable[[], float], memory: float) -> None:
        self._seconds = seconds
        self._memory = memory
        self._until: dict[tuple[str, int], float] = {}

    def add(self, place: Place) -> None:
        """It could not be used."""
        now = self._seconds()
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[place.address, place.port] = now + self._memory

    def discard(self, place: Place) -> None:
        """It could."""
        self._until.pop((place.address, place.port), None)

    def __contains__(self, place: Place) -> bool:
        until = self._until.get((place.address, place.port))
        return until is not None and until > self._seconds()


@frozen(slots=True)
class Means:
    """What a walk is made with.

    `now` is POSIX time, `seconds` a monotonic clock; `seven_bit` converts content (None: it cannot be); `stopping`
    tells that no new connection is to be made.
    """

    finder: Finder
    pool: Pool
    dialer: Dialer
    security: Security
    ailing: Ailing
    settings: Settings
    tell: Ear
    now: Callable[[], float]
    seconds: Callable[[], float]
    seven_bit: Callable[[Content], Awaitable[Content | None]]
    stopping: Callable[[], bool]


class Walk:
    """One batch on its way."""

    def __init__(self, means: Means, batch: Batch, tally: Tally) -> None:
        self._means = means
        self._batch = batch
        self._tally = tally
        self._lmtp = batch.route.transport is Transport.LMTP
        self._tried: set[Place] = set()
        self._left = means.settings.max_addresses
        self._fault: tuple[Answer, Peer] | None = None
        self._refusal: Refusal | None = None
        self._converted: Content | None = None

    def been(self, place: Place, answer: Answer, peer: Peer) -> None:
        """This is where the batch has been already, and what sent it on."""
        self._tried.add(place)
        self._left -= 1
        self._failed(place, answer, peer, 0.0)

    async def run(self) -> None:
        """Give every pending recipient an Outcome."""
        ailing: list[Place] = []
        for hop in self._batch.route.hops:
            if await self._over_hop(hop, ailing):
                return
        for place in ailing:
            if self._left <= 0 or await self._at(place):
                break
        self._give_up()

    async def _over_hop(self, hop: Hop, ailing: list[Place]) -> bool:
        """Try the hosts of one next hop; whether the walk is over. Those that ail are put off."""
        if hop.path:
            return await self._at(Place(str(hop), hop.path, 0))
        hosts = await self._means.finder.find(hop)
        if isinstance(hosts, Refusal):
            self._refused(hosts)
            return False
        for host in hosts:
            found = host if host.addresses else await self._means.finder.resolve(host)
            if isinstance(found, Refusal):
                self._refused(found)
                continue
            for address in found.addresses:
                place = Place(host.name, address, host.port)
                if place in self._tried:
                    continue
                if place in self._means.ailing:
                    ailing.append(place)
                elif self._left <= 0:
                    return False
                elif await self._at(place):
                    return True
        return False

    def _refused(self, refusal: Refusal) -> None:
        # Only an answer that says no is a no: one "do not know" among several makes the whole temporary.
        if self._refusal is None or self._refusal.permanent:
            self._refusal = refusal

    def _give_up(self) -> None:
        """Nowhere is left to go."""
        tally, at = self._tally, self._means.now()
        if not tally.pending:
            return
        if self._fault is not None:
            answer, peer = self._fault
            outcomes = [classify.everywhere(classify.outcome(index, answer, at, peer)) for index in tally.pending]
        elif self._refusal is not None:
            outcomes = [classify.of_refusal(index, self._refusal, at) for index in tally.pending]
        else:
            outcomes = [classify.nowhere(index, at) for index in tally.pending]
        tally.settle(outcomes)

    # One address

    async def _at(self, place: Place) -> bool:
        """Try one address; whether every recipient has an Outcome now."""
        means, route = self._means, self._batch.route
        self._tried.add(place)
        need = means.security.need(route.tls, place.host, place.address, place.port)
        if not isinstance(need, Answer) and place.port and not means.dialer.reaches(place.address, route.source):
            text = f"source {route.source} has no address of this family"
            need = Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE, status="4.3.5", text=text)
        if isinstance(need, Answer):
            self._failed(place, need, Peer(place.host, place.address), 0.0)
            return False
        self._left -= 1
        key = Key(place.address, place.port, self._lmtp, need.mark, route.source, route.account)
        connection = means.pool.lend_at(key)
        while True:
            started = means.seconds()
            if connection is None and means.stopping():
                self._tally.settle([classify.stopping(index, means.now()) for index in self._tally.pending])
                return True
            if connection is None:
                connection = await self._open(place, need, key)
            if connection is None:
                return False
            fault = await self._over(connection)
            if not self._tally.pending:
                return True
            if fault is not None:
                self._failed(place, fault, connection.peer, means.seconds() - started)
                return False
            connection = None  # it had ended, or may carry no more messages: the rest goes over a new one

    async def _open(self, place: Place, need: Need, key: Key) -> Connection | None:
        """A new session, or None and what was the matter is noted."""
        means = self._means
        started = means.seconds()
        try:
            try:
                sender = await means.dialer.open(place, need, lmtp=self._lmtp, source=key.source)
            except SessionError as error:
                clear = means.security.in_clear(need, error.answer, place.address, place.port)
                if clear is None:
                    raise
                sender = await means.dialer.open(place, clear, lmtp=self._lmtp, source=key.source)
        except SessionError as error:
            self._failed(place, error.answer, Peer(place.host, place.address), means.seconds() - started)
            return None
        means.ailing.discard(place)
        peer = Peer(
            place.host, place.address if place.port else "", sender.tls, sender.dialogue.offers.dsn, self._lmtp
        )
        return means.pool.adopt(key, sender, peer)

    def _failed(self, place: Place, answer: Answer, peer: Peer, seconds: float) -> None:
        self._fault = answer, peer
        if answer.trouble not in _POLICY and not answer.status:
            self._means.ailing.add(place)
        reason = classify.reason(answer)
        self._means.tell(ConnectFailed(self._batch.lane, place.host, place.address, reason, seconds))

    async def _over(self, connection: Connection) -> Answer | None:
        """Send what is pending over this connection; the answer that sends us elsewhere, if one does."""
        means, batch, tally, sender = self._means, self._batch, self._tally, connection.sender
        content = batch.content
        try:
            if content.eightbit and not sender.dialogue.offers.eightbitmime:
                content = await self._seven_bit()
            if not sender.usable:
                means.pool.give_back(connection, batch.route.lane)
                return Answer(Stage.HELLO, trouble=Trouble.LOST, text="the connection was lost before MAIL")
            finished: Deferred[list[Answer | None]] = Deferred()
            sender.send(Parcel(batch.envelope, content, tally.pending), finished.callback)
        except BaseException:
            means.pool.give_back(connection, batch.route.lane)
            raise
        answers = await finished
        means.pool.give_back(connection, batch.route.lane)
        return tally.record(answers, connection.peer, means.now())

    async def _seven_bit(self) -> Content:
        """The content for a peer without 8BITMIME (RFC 6152 §3); as it is where it cannot be converted."""
        if self._converted is None:
            self._converted = await self._means.seven_bit(self._batch.content) or self._batch.content
        return self._converted


