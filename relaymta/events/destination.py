"""Destinations: hosts that cannot be used, log-ins that they refuse, lanes that are left alone."""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class ConnectFailed(Event):
    """A host of a next hop could not be used; the next one is tried where there is one."""

    lane: str
    host: str
    address: str
    reason: str
    seconds: float


@frozen(slots=True)
class LoginRefused(Event):
    """A next hop refused our log-in, or there can be none; the account is not tried there for `seconds`."""

    account: str
    host: str
    reason: str
    seconds: float


@frozen(slots=True)
class LaneSuspended(Event):
    """A destination is left alone for `seconds` after failures that were its own."""

    lane: str
    reason: str
    seconds: float


@frozen(slots=True)
class LaneResumed(Event):
    """A suspended destination answered again."""

    lane: str
