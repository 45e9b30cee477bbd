"""The end of patience with a source: what does not answer in time could not be asked."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from relaymta.directory.credentials import DirectoryUnavailableError

T = TypeVar("T")


def within(seconds: float, asked: Deferred[T], reactor: Any, source: str) -> Deferred[T]:
    """The same Deferred; after so many seconds it is cancelled and fails with DirectoryUnavailableError."""

    def too_late(_: object, __: float) -> T:
        raise DirectoryUnavailableError(f"{source}: no answer within {seconds:g} s")

    return asked.addTimeout(seconds, reactor, onTimeoutCancel=too_late)
