"""The daemon itself: start, reload, end, workers that died, and bugs of ours."""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class DaemonStarted(Event):
    """Listening."""

    version: str
    pid: int
    listeners: str


@frozen(slots=True)
class DaemonReloaded(Event):
    """A new configuration is in force."""

    version: str
    file: str


@frozen(slots=True)
class ReloadFailed(Event):
    """A new configuration is wrong or cannot be put in force; the one before stays."""

    file: str
    reason: str


@frozen(slots=True)
class DaemonStopping(Event):
    """Draining: no new sessions."""

    reason: str


@frozen(slots=True)
class WorkerEnded(Event):
    """A worker process ended without being asked; it is started again."""

    worker: str
    reason: str


@frozen(slots=True)
class BugCaught(Event):
    """An exception that no rule foresaw; the peer got 451 or the message was deferred."""

    where: str
    trace: str
