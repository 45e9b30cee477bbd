"""The MTA-STS policies of this host, put together: resolver, web client and disk, with what they say told as events.

RFC 8461. The rules are net.mtasts's; what a policy means for a connection is left to security.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from relaymta import events
from relaymta.net.dns import Resolver
from relaymta.net.https import Https
from relaymta.net.mtasts import Asked, Policies, StsPolicy, StsSettings
from relaymta.net.mtasts_cache import SCHEMA, Cache
from relaymta.net.mtasts_fetch import Fetcher
from relaymta.store.state import State

FILE = "mtasts.sqlite"
MX_TOLD = 20  # patterns of a policy in one event; ours


class _Teller:
    """Says as events what the policies do."""

    def __init__(self, tell: Callable[[events.Event], None], changed: Callable[[], None]) -> None:
        self._tell = tell
        self._changed = changed

    def fetched(self, domain: str, policy: StsPolicy) -> None:
        self._changed()
        mx = ",".join((*policy.mx[:MX_TOLD], "...") if len(policy.mx) > MX_TOLD else policy.mx)
        self._tell(events.StsPolicyFetched(domain, policy.mode.value, mx, policy.max_age, policy.id))

    def failed(self, domain: str, result: str, reason: str, policy: StsPolicy | None) -> None:
        self._tell(events.StsPolicyFailed(domain, result, "" if policy is None else policy.mode.value, reason))

    def bug(self, failure: Failure) -> None:
        self._tell(events.BugCaught("mtasts", failure.getTraceback()))


class Sts:
    """The policies as configured, the same object over every reload; cached in a file that all workers share.

    `directory` is where that file is. While `policies` is None, MTA-STS is not looked for. `changed` is called when a
    policy has come.
    """

    def __init__(
        self,
        reactor: Any,
        directory: str,
        *,
        random: Callable[[], float],
        tell: Callable[[events.Event], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._directory = directory
        self._random = random
        self._tell = tell
        self._changed = changed
        self.policies: Policies | None = None

    def configure(self, resolver: Resolver, settings: StsSettings) -> None:
        """Put this configuration in force, at the start as after a reload."""
        if not settings.enabled:
            self.close()
            return
        # certificates are verified against the system's authorities (RFC 8461 §3.3)
        fetch = Fetcher(Https(self._reactor, resolver.addresses)).fetch
        if self.policies is not None:
            self.policies.configure(settings, resolver.txt, fetch)
            return
        path = os.path.join(self._directory, FILE)
        cache = Cache(State(path, SCHEMA, self._reactor.callFromThread, self._trouble), self._trouble)
        ears = _Teller(self._tell, self._changed)
        self.policies = Policies(
            self._reactor, resolver.txt, fetch, cache, settings, random=self._random, ears=ears
        )
        self.policies.start()

    async def policy(self, domain: str) -> StsPolicy | None:
        """The policy in force for a domain, as Policies.policy()."""
        return None if self.policies is None else await self.policies.policy(domain)

    def cached(self, domain: str) -> Asked:
        """What policy() would say, where it is known: a plain call."""
        return None if self.policies is None else self.policies.cached(domain)

    def close(self) -> None:
        """Ask nothing more."""
        if self.policies is not None:
            self.policies.close()
            self.policies = None

    def _trouble(self, reason: str) -> None:
        self._tell(events.StateFailed(FILE, reason))
