"""Who may come in, and how all are seen out: connections in all, from one client, and the drain.

RFC 5321 §3.8 and §4.3.1 (421). A client is an IPv4 address or an IPv6 /64, of which one host has the whole. What a
client may do inside is left to smtp.session and the handler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relaymta.mail.reply import Reply
from relaymta.smtp import answers


class Guest(Protocol):
    """What a door knows of a session."""

    def drain(self) -> None:
        """End as soon as no transaction runs."""

    def abort(self) -> None:
        """End now."""


class Counts(Protocol):
    """Who counts: this process alone (OwnCounts), or the whole host (relaymta.board)."""

    def take(self, key: bytes, limit: int) -> bool:
        """Count one more of `key`, unless that makes more than `limit`."""

    def give(self, key: bytes) -> None:
        """Count one less of `key`."""


class OwnCounts:
    """Counts of one process by itself."""

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}

    def take(self, key: bytes, limit: int) -> bool:
        """See Counts."""
        count = self._counts.get(key, 0)
        if count >= limit:
            return False
        self._counts[key] = count + 1
        return True

    def give(self, key: bytes) -> None:
        """See Counts."""
        count = self._counts.pop(key) - 1
        if count:
            self._counts[key] = count


class Door:
    """Counts who is in; 0 is no limit. `exempt` says which clients (addresses) are not limited one by one.

    `name` keeps this listener's counts apart from others'.
    """

    def __init__(
        self,
        most: int,
        most_per_client: int,
        exempt: Callable[[str], bool],
        clock: IReactorTime,
        counts: Counts | None = None,
        name: str = "",
    ) -> None:
        self.most = most
        self.most_per_client = most_per_client
        self._exempt = exempt
        self._clock = clock
        self._counts = counts or OwnCounts()
        self._all = f"door {name}".encode()
        self._inside: dict[Guest, tuple[bytes, ...]] = {}  # what each one is counted under
        self._shut = False
        self._empty: Deferred[None] | None = None  # fires when the last one has gone, in a drain
        self._limit: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, guest: Guest, client: str | None) -> Reply | None:
        """Let a client in and count it, or say why not; None is who speaks for others, and is not one of them."""
        if self._shut:
            return answers.GOING_DOWN
        counts = self._counts
        counted: tuple[bytes, ...] = ()
        if self.most > 0:
            if not counts.take(self._all, self.most):
                return answers.TOO_MANY_CONNECTIONS
            counted = (self._all,)
        key = self._key(client)
        if key is not None:
            if not counts.take(key, self.most_per_client):
                for one in counted:
                    counts.give(one)
                return answers.TOO_MANY_FROM_CLIENT
            counted = (*counted, key)
        self._inside[guest] = counted
        return None

    def rename(self, guest: Guest, client: str | None) -> Reply | None:
        """One who is inside turns out to be another client: count it as that one, or say why not.

        Who is refused is counted under no client any more.
        """
        counts, counted = self._counts, list(self._inside[guest])
        for one in [one for one in counted if one != self._all]:
            counted.remove(one)
            counts.give(one)
        key = self._key(client)
        refused = key is not None and not counts.take(key, self.most_per_client)
        if key is not None and not refused:
            counted.append(key)
        self._inside[guest] = tuple(counted)
        return answers.TOO_MANY_FROM_CLIENT if refused else None

    def _key(self, client: str | None) -> bytes | None:
        """What a client is counted under; None where it is not limited."""
        if client is None or self.most_per_client <= 0 or self._exempt(client):
            return None
        return self._all + b" " + client_key(client).encode()

    def leave(self, guest: Guest) -> None:
        """Forget one who has gone; nothing happens when it was never let in."""
        counted = self._inside.pop(guest, None)
        if counted is None:
            return
        for key in counted:
            self._counts.give(key)
        if self._empty is not None and not self._inside:
            self._end_drain()

    def drain(self, limit: float) -> Deferred[None]:
        """Shut; fires when all have gone, who are aborted after `limit` seconds. To be called once."""
        self._shut = True
        if not self._inside:
            return succeed(None)
        empty = self._empty = Deferred()
        self._limit = self._clock.callLater(limit, self._abort_all)
        for guest in list(self._inside):
            guest.drain()
        return empty

    def _abort_all(self) -> None:
        self._limit = None
        for guest in list(self._inside):
            guest.abort()

    def _end_drain(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        empty, self._empty = self._empty, None
        if empty is not None:
            empty.callback(None)


def client_key(client: str) -> str:
    """What stands for one client: an IPv4 address, or the first half of an IPv6 one."""
    if ":" not in client:
        return client
    return IPv6Address(client.partition("%")[0]).packed[:8].hex()


def is_loopback(client: str) -> bool:
    """Whether a client is this machine, also over a UNIX socket ("")."""
    return client.startswith("127.") or client in ("", "::1")


def within(client: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether a client (an address as text, "" over a UNIX socket) is of these networks."""
    if not networks or not client:
        return False
    address = ip_address(client.partition("%")[0])
    return any(address in network for network in networks)
