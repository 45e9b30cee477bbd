"""The walk: next hops in order, their hosts, their addresses, until every recipient has an Outcome.

RFC 5321 §5.1 (hosts by preference, several addresses, at least two of them tried). An address that could not be used
a short while ago comes last, so that a dead first MX costs one message its connect timeout and not every message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from attrs import evolve, frozen
from twisted.internet.defer import Deferred

from relaymta.delivery import classify
from relaymta.delivery.batch import Batch, Tally
from relaymta.delivery.classify import Peer
from relaymta.delivery.dial import Dialer, Place, place_at
from relaymta.delivery.login import is_about_us
from relaymta.delivery.policy import Ask, Decision, sharing
from relaymta.delivery.pool import Connection, Key, Pool
from relaymta.delivery.security import CLEAR, Security, demanded, no_requiretls, result_of
from relaymta.delivery.settings import Settings
from relaymta.events import ConnectFailed, Ear, TlsChecked
from relaymta.mail.content import Content
from relaymta.mail.outcome import Fate
from relaymta.net.dane_chain import Result
from relaymta.routing.mx import FAILURES_MAX, NAMES_TROUBLE, Host, Refusal
from relaymta.routing.route import Hop, Transport
from relaymta.smtp.actions import Answer, Parcel, Stage, Tls, Trouble
from relaymta.smtp.client import RelaySender, SessionError

_POLICY = (Trouble.NO_TLS, Trouble.TLS, Trouble.UNSAFE)  # what this message asked for and another may not


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
        self._sharing = sharing(batch.envelope, batch.route)
        self._epoch = means.pool.epoch  # of the oldest policy that may be behind a decision
        self._tried: set[Place] = set()
        self._left = means.settings.max_addresses
        self._skipped = False  # a host was left for another attempt
        self._unasked = 0  # hosts of which name servers said nothing
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
        ailing: list[tuple[Place, Decision]] = []
        for hop in self._batch.route.hops:
            if await self._over_hop(hop, ailing):
                return
        for place, decision in ailing:
            if self._left <= 0:
                self._skipped = True
                break
            if await self._at(place, decision):
                break
        self._give_up()

    async def _over_hop(self, hop: Hop, ailing: list[tuple[Place, Decision]]) -> bool:
        """Try the hosts of one next hop; whether the walk is over. Those that ail are put off."""
        decide, ask = self._means.security.decide, Ask.of(self._batch.envelope, self._batch.route, hop)
        if hop.path:
            host = Host(str(hop), 0, addresses=(hop.path,), named=True)
            return await self._at(Place(host.name, hop.path, 0), await decide(ask, host))
        hosts = await self._means.finder.find(hop)
        if isinstance(hosts, Refusal):
            self._refused(hosts)
            return False
        for host in hosts:
            found = host if host.addresses else await self._means.finder.resolve(host)
            if isinstance(found, Refusal):
                self._refused(found)
                if self._tires_of(found.status):
                    return False
                continue
            decision = await decide(ask, found)
            if decision.refusal is not None:
                self._barred(found, decision)
                if self._tires_of(decision.refusal.status):
                    return False
                continue
            for address in found.addresses:
                place = place_at(hop, host, address)
                if place in self._tried:
                    continue
                if place in self._means.ailing:
                    ailing.append((place, decision))
                elif self._left <= 0:
                    self._skipped = True
                    return False
                elif await self._at(place, decision):
                    return True
        return False

    def _tires_of(self, status: str) -> bool:
        """Whether name servers were silent about so many hosts that the others wait for another attempt."""
        self._unasked += status == NAMES_TROUBLE
        self._skipped = self._skipped or self._unasked >= FAILURES_MAX
        return self._unasked >= FAILURES_MAX

    def _barred(self, host: Host, decision: Decision) -> None:
        """Policy bars the host before anybody connects to it."""
        assert decision.refusal is not None
        place = Place(host.name, host.addresses[0], host.port)
        self._check(place, decision, decision.result or None, decision.refusal.text, "")
        self._failed(place, decision.refusal, Peer(place.host, place.address), 0.0)

    def _refused(self, refusal: Refusal) -> None:
        # Only an answer that says no is a no: one "do not know" among several makes the whole temporary.
        if self._refusal is None or self._refusal.permanent:
            self._refusal = refusal

    def _give_up(self) -> None:
        """Nowhere is left to go."""
        tally, at = self._tally, self._means.now()
        if not tally.pending:
            return
        refusal = self._refusal
        if self._fault is not None and (refusal is None or refusal.permanent or not _is_final(self._fault[0])):
            answer, peer = self._fault
            if self._skipped and _is_final(answer):
                answer = evolve(answer, trouble=Trouble.NO_TLS, status=f"4{answer.status[1:]}")
            outcomes = [classify.everywhere(classify.outcome(index, answer, at, peer)) for index in tally.pending]
        elif refusal is not None:
            outcomes = [classify.of_refusal(index, refusal, at) for index in tally.pending]
        else:
            outcomes = [classify.nowhere(index, at) for index in tally.pending]
        tally.settle(outcomes)

    # One address

    async def _at(self, place: Place, decision: Decision) -> bool:
        """Try one address; whether every recipient has an Outcome now."""
        means, route = self._means, self._batch.route
        self._tried.add(place)
        refusal = decision.refusal
        if refusal is None and place.port and not means.dialer.reaches(place.address, route.source):
            text = f"source {route.source} has no address of this family"
            refusal = Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE, status="4.3.5", text=text)
        if refusal is not None:
            self._failed(place, refusal, Peer(place.host, place.address), 0.0)
            return False
        self._left -= 1
        key = Key(place.address, place.port, self._lmtp, decision.mark, route.source, route.account)
        connection = means.pool.lend_at(key, self._epoch)
        while True:
            started = means.seconds()
            if connection is None and means.stopping():
                self._tally.settle([classify.stopping(index, means.now()) for index in self._tally.pending])
                return True
            if connection is None:
                connection = await self._open(place, decision, key)
            if connection is None:
                return False
            fault = await self._over(connection)
            if not self._tally.pending:
                return True
            if fault is not None:
                self._failed(place, fault, connection.peer, means.seconds() - started)
                return False
            connection = None  # it had ended, or may carry no more messages: the rest goes over a new one

    async def _open(self, place: Place, decision: Decision, key: Key) -> Connection | None:
        """A new session, or None and what was the matter is noted."""
        means = self._means
        started = means.seconds()
        try:
            decision = means.security.at(decision, place.host, place.address, place.port)
            decision, sender = await self._dial(place, decision, key)
        except SessionError as error:
            self._check(place, decision, result_of(error.answer), classify.reason(error.answer), error.local)
            answer = demanded(decision, error.answer)
            self._failed(place, answer, Peer(place.host, place.address), means.seconds() - started)
            return None
        if decision.tls is Tls.NEVER and decision.mark != CLEAR.mark:
            # In clear since TLS is broken, under this name: who comes by another one has TLS tried.
            key = evolve(key, tls=f"{key.tls} in clear {place.host}")
        means.ailing.discard(place)
        self._check_session(place, decision, sender)
        peer = Peer(
            place.host, place.address if place.port else "", sender.tls, sender.dialogue.offers.dsn, self._lmtp
        )
        connection = means.pool.adopt(key, sender, peer, self._epoch)
        if decision.requiretls and not sender.dialogue.offers.requiretls:
            sender.quit()  # RFC 8689 §4.2.1
            self._failed(place, no_requiretls(place.host), peer, means.seconds() - started)
            return None
        return connection

    async def _dial(self, place: Place, decision: Decision, key: Key) -> tuple[Decision, RelaySender]:
        """A session as decided, or in clear where TLS was but a wish and is broken. Raises SessionError."""
        means = self._means
        try:
            return decision, await means.dialer.open(
                place, decision, lmtp=self._lmtp, source=key.source, account=key.account
            )
        except SessionError as error:
            clear = means.security.in_clear(decision, error.answer, place.host, place.address, place.port)
            if clear is None:
                raise
            self._check(place, decision, result_of(error.answer), classify.reason(error.answer), error.local)
        clear = evolve(clear, watch=None)  # it was counted as what it was
        return clear, await means.dialer.open(
            place, clear, lmtp=self._lmtp, source=key.source, account=key.account
        )

    def _check_session(self, place: Place, decision: Decision, sender: RelaySender) -> None:
        """Tell what came of a policy in a session that stands."""
        verdict, local = sender.verdict, sender.local
        if not sender.tls:
            avoided = decision.tls is Tls.NEVER and bool(decision.result)
            self._check(place, decision, decision.result if avoided else Result.STARTTLS.value, "in clear", local)
        elif verdict.result:
            self._check(place, decision, verdict.result, verdict.text, local)
        else:
            self._check(place, decision, decision.result, "", local)

    def _check(self, place: Place, decision: Decision, result: str | None, reason: str, local: str) -> None:
        """RFC 8460 §4.3: one session with a host of somebody's policy domain. None: it said nothing of TLS.

        `local` is our address in it, "" where there was no connection.
        """
        watch = decision.watch
        if watch is not None and result is not None:
            self._means.tell(
                TlsChecked(
                    watch.domain, watch.policy, watch.terms, place.host, watch.patterns, local, place.address,
                    result, reason, watch.policy_domain,
                )
            )  # fmt: skip

    def _failed(self, place: Place, answer: Answer, peer: Peer, seconds: float) -> None:
        # As of refusals: a host that may do better later keeps one that said no from being the end of the message.
        if self._fault is None or _is_final(self._fault[0]) or not _is_final(answer):
            self._fault = answer, peer
        if answer.trouble not in _POLICY and not answer.status and not is_about_us(answer):
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
                means.pool.give_back(connection, self._sharing)
                return Answer(Stage.HELLO, trouble=Trouble.LOST, text="the connection was lost before MAIL")
            finished: Deferred[list[Answer | None]] = Deferred()
            sender.send(Parcel(batch.envelope, content, tally.pending), finished.callback)
        except BaseException:
            means.pool.give_back(connection, self._sharing)
            raise
        answers = await finished
        means.pool.give_back(connection, self._sharing)
        return tally.record(answers, connection.peer, means.now())

    async def _seven_bit(self) -> Content:
        """The content for a peer without 8BITMIME (RFC 6152 §3); as it is where it cannot be converted."""
        if self._converted is None:
            self._converted = await self._means.seven_bit(self._batch.content) or self._batch.content
        return self._converted


def _is_final(answer: Answer) -> bool:
    return classify.meaning(answer).fate is Fate.FAILED
