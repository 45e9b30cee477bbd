"""The comb of checks: at each stage every check is asked in order, until one refuses.

A check is any object with a `name` and a method for each stage it cares about: connect, helo, mail, rcpt, data (all
recipients are known, no content has come), content (the header section is known, the message is whole).
A stage whose checks all answer at once stays a plain call; the first that has to wait makes it a coroutine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from relaymta.mail.address import Address
from relaymta.policy.verdict import Judgement, Opinion, Transaction, Verdict

_Ask = Callable[..., Judgement]


class Pipeline:
    """The checks in force, by stage."""

    def __init__(self, checks: Iterable[object]) -> None:
        self.checks = tuple(checks)
        self._connect = self._askers("connect")
        self._helo = self._askers("helo")
        self._mail = self._askers("mail")
        self._rcpt = self._askers("rcpt")
        self._data = self._askers("data")
        self._content = self._askers("content")
        self.judges_content = bool(self._content)

    def _askers(self, stage: str) -> tuple[_Ask, ...]:
        return tuple(getattr(check, stage) for check in self.checks if hasattr(check, stage))

    def connect(self, transaction: Transaction) -> Judgement:
        """What is thought of a client that has just connected."""
        return _run(self._connect, transaction)

    def helo(self, transaction: Transaction) -> Judgement:
        """What is thought of its name."""
        return _run(self._helo, transaction)

    def mail(self, transaction: Transaction) -> Judgement:
        """What is thought of its sender."""
        return _run(self._mail, transaction)

    def rcpt(self, transaction: Transaction, address: Address) -> Judgement:
        """What is thought of one more recipient."""
        return _run(self._rcpt, transaction, address)

    def data(self, transaction: Transaction) -> Judgement:
        """What is thought of the whole envelope."""
        return _run(self._data, transaction)

    def content(self, transaction: Transaction, header: bytes) -> Judgement:
        """What is thought of a message with this header section (its empty line included), as the client sent it."""
        return _run(self._content, transaction, header)


def _run(askers: tuple[_Ask, ...], *facts: Any) -> Judgement:
    for position, ask in enumerate(askers):
        opinion = ask(*facts)
        if opinion is None:
            continue
        if isinstance(opinion, Verdict):
            return opinion
        return _run_on(opinion, askers[position + 1 :], facts)
    return None


async def _run_on(waiting: Awaitable[Opinion], askers: tuple[_Ask, ...], facts: tuple[Any, ...]) -> Opinion:
    opinion = await waiting
    for ask in askers:
        if opinion is not None:
            return opinion
        answer = ask(*facts)
        opinion = answer if answer is None or isinstance(answer, Verdict) else await answer
    return opinion
