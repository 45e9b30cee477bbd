"""Where accounts are kept: the two kinds of sources there are.

A keeper shows what it keeps of an account, and we compare. A judge is shown the password and answers. Each answers
with a Deferred that fails with DirectoryUnavailableError where it could not be asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta.directory.account import Account
from relaymta.directory.entry import Entry, sender
from relaymta.directory.hashes import DUMMY, ITERATIONS

NOBODY = ".invalid"  # RFC 2606 §2: a pattern that no address fits
NAME = "{name}"  # where the name of the account goes in a pattern


class Keeper(ABC):
    """Keeps hashes. `dummy` and `iterations` are what most of its accounts look like (usersfile.Users).

    `has_scram`: whether every account with a password has SCRAM's keys; `has_certificates`: whether any account can
    log in by a certificate.
    """

    dummy: str = DUMMY
    iterations: int = ITERATIONS
    has_scram: bool = False
    has_certificates: bool = False

    @abstractmethod
    def find(self, name: str) -> Deferred[Entry | None]:
        """What is kept of a prepared name; None when it is not known."""

    @abstractmethod
    def by_certificate(self, certificate: str) -> Deferred[tuple[Entry, ...]]:
        """Every account that names this certificate."""

    def rest(self) -> None:
        """Watch nothing any more; what is known may still be asked for."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open. To be called once."""


class Judge(Protocol):
    """Looks at passwords itself."""

    def check(self, name: str, password: bytes) -> Deferred[Account | None]:
        """Whose password it is; None for nobody's. The name is prepared, and neither is empty or has a NUL."""

    def close(self) -> None:
        """Let go of what is open. To be called once."""


Source = Keeper | Judge


@frozen(slots=True)
class Rights:
    """What accounts may do whose source does not say it; "{name}" in `senders` is the account's name."""

    senders: tuple[str, ...] = ()
    relay: bool = True

    def account(self, name: str) -> Account:
        """The account of that name."""
        if not self.senders:
            return Account(name, relay=self.relay)
        # "{name}" alone means an address: somebody called "example.org" must not get a domain by it
        named = [one.replace(NAME, name) for one in self.senders if one != NAME or is_mailbox(name)]
        return Account(name, only(named), self.relay)


def is_mailbox(text: str) -> bool:
    """Whether a pattern of senders means one mailbox, or nothing."""
    return "@" in text[1:]


def only(patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns of senders that come from elsewhere: where none of them is one, nobody, and not anybody."""
    found: list[str] = []
    for one in patterns:
        with suppress(ValueError):
            found.append(sender(one))
    return tuple(found) or (NOBODY,)
