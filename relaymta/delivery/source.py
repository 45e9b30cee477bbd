"""Where connections leave from: local addresses by the name of their pool.

Our address decides our reputation at the peer, so a route may name the pool. Which pool it is, is left to routing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle

from relaymta.delivery.settings import Source

Binding = tuple[str, int]  # the local address, and port 0: any


class Sources:
    """The pools. Addresses of one pool and family take turns."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._turns: dict[tuple[str, bool], Iterator[str]] = {}
        for source in sources:
            for six in (False, True):
                addresses = [address for address in source.addresses if (":" in address) is six]
                if addresses:
                    self._turns[source.name, six] = cycle(addresses)

    def reaches(self, name: str, address: str) -> bool:
        """Whether the pool has an address of the family of `address` (an IP address)."""
        return not name or (name, ":" in address) in self._turns

    def binding(self, name: str, address: str) -> Binding | None:
        """What a connection to `address` is bound to; None, "as the system likes", without a name.

        Raises KeyError where the pool does not reach it.
        """
        return (next(self._turns[name, ":" in address]), 0) if name else None
