"""The resolver: typed questions to the domain name system, answered from memory where they can be.

RFC 1035, RFC 2308 (negative answers are kept too), RFC 5452 (against forged ones), RFC 6761 §6.3 (localhost),
RFC 7766 (TCP when truncated). The modules dns_* beside it: answer (the values), wire (messages), transport
(sockets), servers (whom to ask), cache. It stands on the messages and records of twisted.names and not on its
client.Resolver, which believes any reply with the right number, forgets AD, keeps nothing and never fails over.
Nothing here follows an MX or knows what mail is; names arrive as A-labels.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, TypeVar, cast

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from relaymta.net.dns_answer import (
    AAAA,
    CNAME,
    MX,
    PTR,
    SRV,
    TLSA,
    TXT,
    A,
    Answer,
    Kind,
    Mx,
    Security,
    Srv,
    State,
    both_families,
)
from relaymta.net.dns_cache import Cache
from relaymta.net.dns_servers import DnsSettings, Server, Servers
from relaymta.net.dns_transport import Lost, Reactor, Reply, ask_tcp, ask_udp
from relaymta.net.dns_wire import FAILED_TTL, TTL_MAX, Question, Unusable, is_reply, query, read

__all__ = [
    "A",
    "AAAA",
    "Answer",
    "CNAME",
    "DnsSettings",
    "Kind",
    "MX",
    "Mx",
    "PTR",
    "Resolver",
    "SRV",
    "Security",
    "Srv",
    "State",
    "TLSA",
    "TXT",
]

R = TypeVar("R")
_BOTH: Final = 0  # the cache's key for A and AAAA together; no record type has this number
_RESTARTS_MAX: Final = 8  # CNAMEs that we follow ourselves, for servers that do not
_TROUBLE_TTL: Final = 1.0  # seconds that a failure of our own (no descriptor left) is kept
_PAUSE: Final = 1.0  # seconds before the next try when every server refused: one that restarts is back by then
_PATIENCE: Final = 2.0  # seconds that a slow AAAA may keep a known A waiting; some servers never answer it
_CACHE_OCTETS: Final = 32 * 1024 * 1024


class Resolver:
    """Asks the servers of `settings` and remembers. Never fails: what cannot be asked is an Answer, State.FAILED.

    `new_id` returns a random number of 16 bits for each query (RFC 5452 §9.2).
    """

    def __init__(
        self,
        reactor: Reactor,
        settings: DnsSettings | None = None,
        *,
        servers: Servers | None = None,
        new_id: Callable[[], int] = lambda: secrets.randbits(16),
    ) -> None:
        self._reactor = reactor
        self._settings = settings = settings or DnsSettings()
        self._servers = servers or Servers(settings.servers, reactor.seconds)
        self._new_id = new_id
        self._cache = Cache(settings.cache_entries, _CACHE_OCTETS)
        self._room = DeferredSemaphore(settings.concurrency)
        self._asking: dict[tuple[str, int], list[Deferred[Answer[Any]]]] = {}
        self._running: set[Deferred[Any]] = set()

    # Questions

    def mx(self, name: str) -> Deferred[Answer[Mx]]:
        """The mail exchangers of a domain, in the order in which they came."""
        return self.lookup(name, MX)

    def txt(self, name: str) -> Deferred[Answer[bytes]]:
        """The TXT records, the strings of each joined."""
        return self.lookup(name, TXT)

    def tlsa(self, name: str) -> Deferred[Answer[bytes]]:
        """The TLSA records of `_25._tcp.host` as they are (RFC 6698 §2.1)."""
        return self.lookup(name, TLSA)

    def srv(self, name: str) -> Deferred[Answer[Srv]]:
        """The servers of `_service._tcp.domain`."""
        return self.lookup(name, SRV)

    def ptr(self, address: str) -> Deferred[Answer[str]]:
        """The names of an IP address. Raises ValueError where `address` is none."""
        return self.lookup(ip_address(address).reverse_pointer, PTR)

    def addresses(self, name: str) -> Deferred[Answer[str]]:
        """A and AAAA at once; IPv6 first in the answer, otherwise in the order in which they came."""
        known = self.cached_addresses(name)
        return succeed(known) if known is not None else Deferred.fromCoroutine(self._addresses(name))

    def lookup(self, name: str, kind: Kind[R]) -> Deferred[Answer[R]]:
        """Any question. The same one, asked while it is under way, is not asked again."""
        name = name.rstrip(".").lower()
        key = (name, kind.code)
        known = self._cache.get(key, self._reactor.seconds())
        if known is not None:
            return succeed(known)
        waiter: Deferred[Answer[R]] = Deferred()
        waiting = self._asking.get(key)
        if waiting is not None:
            waiting.append(waiter)
            return waiter
        question = _question(name, kind)
        if isinstance(question, Answer):
            return succeed(question)
        self._asking[key] = [waiter]
        running = Deferred.fromCoroutine(self._resolve(question))
        self._running.add(running)
        running.addBoth(self._settle, key, running)
        return waiter

    def cached(self, name: str, kind: Kind[R]) -> Answer[R] | None:
        """The answer if it is known already: the way for hot paths, a plain call."""
        return self._cache.get((name.rstrip(".").lower(), kind.code), self._reactor.seconds())

    def cached_addresses(self, name: str) -> Answer[str] | None:
        """What addresses() would say, if it is known already."""
        return self._cache.get((name.rstrip(".").lower(), _BOTH), self._reactor.seconds())

    def forget(self) -> None:
        """Forget all answers (after a reload, or by the operator)."""
        self._cache.clear()

    def close(self) -> None:
        """End all questions under way; they are answered with State.FAILED."""
        for running in list(self._running):
            running.cancel()

    # How they are answered

    async def _addresses(self, name: str) -> Answer[str]:
        asked, four = self.lookup(name, AAAA), await self.lookup(name, A)
        if four.state is State.FOUND:
            asked.addTimeout(_PATIENCE, cast(Any, self._reactor))
        try:
            six = await asked
        except TimeoutError:
            six = _failed(f"{name} AAAA: slow")
        answer = both_families(six, four)
        key = (name.rstrip(".").lower(), _BOTH)
        self._cache.put(key, answer, self._reactor.seconds(), _octets(answer))
        return answer

    def _settle(self, result: Answer[Any] | Failure, key: tuple[str, int], running: Deferred[Any]) -> None:
        """Keep the answer and hand it to all who wait; a bug of ours reaches them as a Failure."""
        self._running.discard(running)
        if isinstance(result, Failure) and result.check(CancelledError):
            result = _failed("the resolver was closed", ttl=0.0)
        if isinstance(result, Answer):
            self._cache.put(key, result, self._reactor.seconds(), _octets(result))
        for waiter in self._asking.pop(key):
            waiter.callback(result)

    async def _resolve(self, question: Question) -> Answer[Any]:
        await self._room.acquire()
        try:
            return await self._follow(question)
        except OSError as error:  # no descriptor or no memory for a socket: ours, soon over
            return _failed(f"cannot ask: {error.strerror or error}", ttl=_TROUBLE_TTL)
        finally:
            self._room.release()

    async def _follow(self, question: Question) -> Answer[Any]:
        """Ask, and where a server stopped at a CNAME, ask for its target."""
        asked = question
        for _ in range(_RESTARTS_MAX):
            answer = await self._ask(asked)
            if isinstance(answer, Answer):
                if asked is not question and answer.secure:  # nobody vouched for the link before it
                    return evolve(answer, security=Security.INSECURE)
                return answer
            try:
                asked = Question.of(answer, question.kind)
            except ValueError as error:
                return _failed(f"{question.name} is an alias of what is {error}")
        return _failed(f"{question.name}: too many aliases")

    async def _ask(self, question: Question) -> Answer[Any] | str:
        """Try server after server until one says yes or no; a str is the alias to ask for instead."""
        order = self._servers.in_order()
        timeouts = self._settings.timeouts
        tries = max(len(timeouts), len(order))
        unhappy, trouble = 0, Unusable("no server")
        for number in range(tries):
            server = order[number % len(order)]
            reading = await self._try(question, server, timeouts[min(number, len(timeouts) - 1)])
            if isinstance(reading, Answer):
                return reading
            if isinstance(reading, Lost):
                trouble = Unusable(f"{reading.text} ({server})")
                if reading.refused and number + 1 < tries and (number + 1) % len(order) == 0:
                    await deferLater(cast(Any, self._reactor), _PAUSE)
                continue
            if reading.alias:
                return reading.alias
            trouble = Unusable(f"{reading.text} ({server})", bogus=reading.bogus)
            unhappy += 1
            if unhappy >= max(2, len(order)):  # SERVFAIL is asked once more, elsewhere if there is an elsewhere
                break
        return _failed(f"{question.name} {question.kind.name}: {trouble.text}", bogus=trouble.bogus)

    async def _try(self, question: Question, server: Server, timeout: float) -> Answer[Any] | Unusable | Lost:
        """One server: UDP, without EDNS where it knows none, TCP where the datagram was too small.

        A server whose AD we believe validates, hence knows EDNS: without it DANE would silently be lost.
        """
        reading = await self._exchange(ask_udp, question, server, timeout)
        if isinstance(reading, Unusable) and reading.without_edns and server.edns and not self._settings.trust_ad:
            server.edns = False  # RFC 6891 §6.2.2
            reading = await self._exchange(ask_udp, question, server, timeout)
            server.edns = not isinstance(reading, Answer)
        if (isinstance(reading, Unusable) and reading.truncated) or (isinstance(reading, Lost) and reading.forged):
            reading = await self._exchange(ask_tcp, question, server, timeout)
        return reading

    async def _exchange(
        self, ask: Callable[..., Deferred[Reply]], question: Question, server: Server, timeout: float
    ) -> Answer[Any] | Unusable | Lost:
        ident, trust_ad = self._new_id(), self._settings.trust_ad
        octets = query(question, ident, edns=server.edns, dnssec=trust_ad)
        reply = await ask(
            self._reactor, server.host, server.port, octets, lambda got: is_reply(got, ident, question), timeout
        )
        if isinstance(reply, Lost):
            if not reply.forged:
                self._servers.silent(server, reply.refused)
            return reply
        self._servers.answered(server)
        return read(reply, question, trust_ad=trust_ad)


def _question(name: str, kind: Kind[Any]) -> Question | Answer[Any]:
    """The question for a server, or the answer where none needs to be asked."""
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 §6.3
        loopback = {A: "127.0.0.1", AAAA: "::1"}.get(kind)
        if loopback is not None:
            return Answer(State.FOUND, (loopback,), TTL_MAX, canonical=name)
        return Answer(State.NODATA, (), TTL_MAX, canonical=name, text=f"{name} has no {kind.name} record")
    try:
        return Question.of(name, kind)
    except ValueError as error:
        return Answer(State.NXDOMAIN, (), TTL_MAX, canonical=name, text=f"{name[:80]!r} is {error}")


def _failed(text: str, *, bogus: bool = False, ttl: float = FAILED_TTL) -> Answer[Any]:
    return Answer(State.FAILED, (), ttl, Security.BOGUS if bogus else Security.FAILED, text=text)


def _octets(answer: Answer[Any]) -> int:
    """Memory that the records take, about."""
    return sum(120 + len(record) if isinstance(record, (str, bytes)) else 250 for record in answer.records)
