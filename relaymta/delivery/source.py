"""Where connections leave from: local addresses by the name of their pool.

Our address decides our reputation at the peer, so a route may name the pool. Which pool it is, is left to routing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle

from relaymta.delivery.settings import Source

Binding = tuple[str, int]  # the local address, and port 0: any


class SourceError(Exception):
    """The pool has no address that could reach this one; the text is one short sentence."""


class Sources:
    """The pools. Addresses of one pool and family take turns."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._turns: dict[tuple[str, bool], Iterator[str]] = {}
        for source in sources:
            for six in (False, True):
                addresses = [address for address in source.addresses if (":" in address) is six]
                if addresses:
                    self._turns[source.name, six] = cycle(addresses)

    def binding(self, name: str, address: str) -> Binding | None:
        """What a connection to `address` (an IP address) is bound to; None, "as the system likes", without a name.

        Raises SourceError.
        """
        if not name:
            return None
        six = ":" in address
        turns = self._turns.get((name, six))
        if turns is None:
            raise SourceError(f"source {name} has no IPv{6 if six else 4} address")
        return next(turns), 0
