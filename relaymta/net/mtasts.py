"""MTA-STS: which policy is in force for a recipient's domain, from memory where it can be.

RFC 8461 §3.3 (when a policy is fetched, what a failure means, refreshing), §5.1 (a policy is in force until its
max_age ends). The modules mtasts_* beside it: policy (the values), fetch (HTTPS), cache (the disk). What a delivery
must obey under a policy is left to delivery.

    record           fetch           the policy in force
    same id                          the one that is cached
    new id, or       fetched         the new one, also where it says "none"
    nothing cached   fails           the cached one until it expires, else none; again after five minutes
    none, or broken                  the cached one until it expires, else none
    DNS fails                        the same; asked again after a minute
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, Protocol

from attrs import define, field, frozen, validators
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from relaymta.config import Duration
from relaymta.net.dns_answer import Answer, State
from relaymta.net.mtasts_cache import Cache, Kept
from relaymta.net.mtasts_fetch import FetchError
from relaymta.net.mtasts_policy import Mode, StsPolicy, record_id

__all__ = ["UNASKED", "Asked", "Mode", "Policies", "StsPolicy", "StsSettings", "Unasked"]

# At the same time; ours: each may take its minute (RFC 8461 §3.3), and slow web servers of a few domains, which one
# message can name, must not keep the policies of others from coming before their mail goes without.
FETCHES_MAX: Final = 128
KNOWN_MAX: Final = 50_000  # domains in memory, those without a policy too; ours, about 10 MB
LOOK_MIN: Final = 60.0  # seconds that what was found is not asked for again; ours
LOOK_MAX: Final = 3600.0  # ours: so long a worker may miss that another fetched a new policy
FAILED_AGAIN: Final = 300.0  # RFC 8461 §3.3: five minutes or longer, before the same id is fetched again
LIFETIME_MIN: Final = 300.0  # ours: with a smaller max_age each message would fetch the policy
ANOTHER_LOOK: Final = 0.25  # seconds between looks for what another worker fetches; ours
REFRESH_LOOK: Final = 600.0  # seconds between looks for policies to refresh; ours
REFRESH_AT_ONCE: Final = 8  # which leaves room for those that mail waits for; ours


class Unasked(Enum):
    """Nothing is known yet, which is neither a policy nor the knowledge that there is none."""

    UNASKED = "not asked yet"


UNASKED: Final = Unasked.UNASKED
Asked = StsPolicy | Unasked | None


@frozen(slots=True)
class StsSettings:
    """The [mta_sts] table. `timeout`: how long a delivery waits for a policy at most."""

    enabled: bool = True
    timeout: Duration = field(default=Duration(10.0), validator=validators.gt(Duration(0.0)))


class Ears(Protocol):
    """Who is told: `failed` says what is in force nevertheless, `result` is of RFC 8460 §4.3, or "dns"."""

    def fetched(self, domain: str, policy: StsPolicy) -> None: ...

    def failed(self, domain: str, result: str, reason: str, policy: StsPolicy | None) -> None: ...

    def bug(self, failure: Failure) -> None: ...


Texts = Callable[[str], "Deferred[Answer[bytes]]"]
Fetch = Callable[[str, str], Awaitable[StsPolicy]]


@define(slots=True, eq=False)
class _Search:
    """One domain that is being asked for. `best` is what is in force as far as we know; after `late` nobody waits."""

    domain: str
    best: StsPolicy | None = None
    late: bool = False
    waiters: list[Deferred[StsPolicy | None]] = field(factory=list)
    patience: IDelayedCall | None = None
    running: Deferred[None] | None = None


class Policies:
    """The policies of all domains. `texts` asks for TXT records, `fetch` for a policy by domain and record id.

    `random` returns a float from 0.0 to 1.0.
    """

    def __init__(
        self,
        reactor: Any,
        texts: Texts,
        fetch: Fetch,
        cache: Cache,
        settings: StsSettings,
        *,
        random: Callable[[], float],
        ears: Ears,
    ) -> None:
        self._reactor = reactor
        self._seconds: Callable[[], float] = reactor.seconds
        self._texts = texts
        self._fetch = fetch
        self._cache = cache
        self._settings = settings
        self._random = random
        self._ears = ears
        self._known: dict[str, tuple[StsPolicy | None, float]] = {}
        self._searches: dict[str, _Search] = {}
        self._room = DeferredSemaphore(FETCHES_MAX)
        self._timer: IDelayedCall | None = None
        self._refreshing: Deferred[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to refresh what is cached before it expires."""
        self._timer = self._reactor.callLater(REFRESH_LOOK * (0.5 + self._random()), self._refresh)

    def configure(self, settings: StsSettings, texts: Texts, fetch: Fetch) -> None:
        """Put another configuration in force; what is known stays known."""
        self._settings, self._texts, self._fetch = settings, texts, fetch

    def close(self) -> None:
        """Ask nothing more; who waits gets what is known, and who comes later. To be called once."""
        self._closed = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._refreshing is not None:
            self._refreshing.cancel()
        for search in list(self._searches.values()):
            if search.running is not None:
                search.running.cancel()
        self._cache.close()

    # Questions

    def cached(self, domain: str) -> Asked:
        """What policy() would say, where it is known: the way for hot paths, a plain call."""
        known = self._known.get(domain)
        if known is None or known[1] <= self._seconds():
            return UNASKED
        return known[0]

    async def policy(self, domain: str) -> StsPolicy | None:
        """The policy in force for `domain` (lower-case A-labels), None where none is known. Never fails.

        It comes within `mta_sts.timeout`; a fetch that takes longer goes on for those who ask later.
        """
        known = self.cached(domain)
        if not isinstance(known, Unasked):
            return known
        if not domain or domain.startswith("[") or self._closed:  # RFC 8461 §2: a policy domain is a name
            return None
        search = self._searches.get(domain) or self._begin(domain)
        if search.late or search.running is None or search.running.called:
            return search.best
        waiter: Deferred[StsPolicy | None] = Deferred(lambda cancelled: search.waiters.remove(cancelled))
        search.waiters.append(waiter)
        return await waiter

    # How they are answered

    def _begin(self, domain: str) -> _Search:
        search = self._searches[domain] = _Search(domain)
        search.patience = self._reactor.callLater(self._settings.timeout, self._lose_patience, search)
        search.running = Deferred.fromCoroutine(self._look(search))
        search.running.addBoth(self._settle, search)
        return search

    def _lose_patience(self, search: _Search) -> None:
        """RFC 8461 §3.3: without a policy delivery goes on as though the domain had none."""
        search.patience = None
        search.late = True
        self._release(search)

    def _release(self, search: _Search) -> None:
        waiters, search.waiters = search.waiters, []
        for waiter in waiters:
            waiter.callback(search.best)

    def _settle(self, result: object, search: _Search) -> None:
        if search.patience is not None:
            search.patience.cancel()
            search.patience = None
        if self._searches.get(search.domain) is search:
            del self._searches[search.domain]
        if isinstance(result, Failure) and not result.check(CancelledError):
            self._remember(search.domain, search.best, 0.0, LOOK_MIN)  # a bug must not be met with every message
            self._ears.bug(result)
        self._release(search)

    async def _look(self, search: _Search) -> None:
        """Find out what is in force for one domain."""
        domain = search.domain
        kept = await self._cache.read(domain, self._seconds())
        live = search.best = kept.policy
        answer = await self._texts(f"_mta-sts.{domain}")
        if answer.state is State.FAILED:
            # not a reason to wait with the mail (RFC 8461 §3.3), nor to forget a policy
            self._remember(domain, live, kept.expires, LOOK_MIN)
            self._ears.failed(domain, "dns", answer.text, live)
            return
        ident = record_id(answer.records)
        while not self._settled(domain, kept, ident, answer.ttl):
            if await self._cache.claim(domain, self._seconds()):
                search.best = await self._renew(domain, ident, kept.policy, kept.expires, answer.ttl)
                return
            await deferLater(self._reactor, ANOTHER_LOOK)
            kept = await self._cache.read(domain, self._seconds())
            search.best = kept.policy

    def _settled(self, domain: str, kept: Kept, ident: str, ttl: float) -> bool:
        """Whether nothing needs to be fetched for a domain whose record has that id; what is kept is known then."""
        live, now = kept.policy, self._seconds()
        if not ident or (live is not None and live.id == ident):
            self._remember(domain, live, kept.expires, min(max(ttl, LOOK_MIN), LOOK_MAX))
        elif kept.failed_id == ident and kept.retry > now:
            self._remember(domain, live, kept.expires, kept.retry - now)
        else:
            return False
        return True

    async def _renew(
        self, domain: str, ident: str, live: StsPolicy | None, expires: float, ttl: float
    ) -> StsPolicy | None:
        """Fetch the policy; what is in force then."""
        await self._room.acquire()
        try:
            policy = await self._fetch(domain, ident)
        except FetchError as error:
            now = self._seconds()
            if live is not None and expires <= now:
                live = None
            again = FAILED_AGAIN * (1.0 + self._random() / 2)
            self._remember(domain, live, expires, again)
            self._ears.failed(domain, error.result, str(error), live)
            await self._cache.failed(domain, ident, now, now + again)
            return live
        finally:
            self._room.release()
        now = self._seconds()
        expires = now + max(float(policy.max_age), LIFETIME_MIN)
        self._remember(domain, policy, expires, min(max(ttl, LOOK_MIN), LOOK_MAX))
        self._ears.fetched(domain, policy)
        await self._cache.keep(domain, policy, now, expires)
        return policy

    def _remember(self, domain: str, policy: StsPolicy | None, expires: float, span: float) -> None:
        """Know it for `span` seconds; a policy no longer than it lasts."""
        until = self._seconds() + span
        known = self._known
        known.pop(domain, None)
        if len(known) >= KNOWN_MAX:
            del known[next(iter(known))]  # the one that was asked for longest ago
        known[domain] = (policy, until if policy is None else min(until, expires))

    # Refreshing

    def _refresh(self) -> None:
        """RFC 8461 §3.3: before they expire, so that an attacker must interfere for longer than their max_age."""
        self._refreshing = Deferred.fromCoroutine(self._refresh_stale())
        self._refreshing.addBoth(self._refreshed)

    def _refreshed(self, result: object) -> None:
        if isinstance(result, Failure):
            if result.check(CancelledError):
                return
            self._ears.bug(result)
        self._timer = self._reactor.callLater(REFRESH_LOOK * (0.5 + self._random()), self._refresh)

    async def _refresh_stale(self) -> None:
        await self._cache.sweep(self._seconds())
        while stale := await self._cache.claim_stale(self._seconds(), REFRESH_AT_ONCE):
            refreshing = [Deferred.fromCoroutine(self._refresh_one(domain)) for domain in stale]
            await gatherResults(refreshing, consumeErrors=True)

    async def _refresh_one(self, domain: str) -> None:
        if domain in self._searches:
            return
        kept = await self._cache.read(domain, self._seconds(), mail=False)
        answer = await self._texts(f"_mta-sts.{domain}")
        ident = record_id(answer.records)
        if ident:  # without a record the domain may have given MTA-STS up: the policy ends by itself
            await self._renew(domain, ident, kept.policy, kept.expires, answer.ttl)
