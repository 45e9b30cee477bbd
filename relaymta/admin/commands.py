"""The commands over the daemon itself: ping, stats, trace, config, reload and stop.

Each takes the arguments of a request and gives rows. What the queue's are is left to admin.queuecommands; what
reloading and stopping mean is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from relaymta.admin.control import Arguments, Command, CommandError, Rows
from relaymta.admin.logline import as_row
from relaymta.admin.recorder import Recorder
from relaymta.config import ConfigError
from relaymta.queue.lanes import LaneRow
from relaymta.queue.ledger import Stats
from relaymta.workers import WorkerFailed

LANES_SHOWN = 20  # the fullest lanes in `stats`


class DaemonCommands:
    """Steers the daemon. `seconds` gives POSIX time; `reload` and `stop` may answer later."""

    def __init__(
        self,
        *,
        version: str,
        pid: int,
        seconds: Callable[[], float],
        reload: Callable[[], Deferred[None] | None],
        stop: Callable[[str], None],
    ) -> None:
        self._version = version
        self._pid = pid
        self._seconds = seconds
        self._started = seconds()
        self._reload = reload
        self._stop = stop

    def table(self) -> dict[str, Command]:
        """The commands by name."""
        return {"ping": self.ping, "reload": self.reload, "stop": self.stop}

    def ping(self, _: Arguments) -> Rows:
        """Who is there."""
        return [{"version": self._version, "pid": self._pid, "uptime": self._seconds() - self._started}]

    def reload(self, _: Arguments) -> Rows | Deferred[Rows]:
        """Read the configuration anew; what is wrong with it is the answer, and then nothing changes."""
        try:
            reloading = self._reload()
        except (ConfigError, OSError) as error:
            raise CommandError(str(error)) from None
        done: Rows = [{"reloaded": True}]
        if reloading is None:
            return done
        return reloading.addCallbacks(lambda _: done, _explain)

    def stop(self, arguments: Arguments) -> Rows:
        """Drain and stop; the connection ends when the daemon does."""
        self._stop(f"relaymta stop, by {arguments.get('by') or 'the operator'}")
        return [{"stopping": True, "pid": self._pid}]


class LaneTable(Protocol):
    """What is asked of queue.lanes.Lanes."""

    def __len__(self) -> int: ...

    def fullest(self, limit: int) -> list[LaneRow]: ...


class RelayCommands:
    """Shows one relay: in the daemon's own process, or in a worker of it."""

    def __init__(
        self,
        *,
        version: str,
        pid: int,
        seconds: Callable[[], float],
        stats: Callable[[], Stats],
        lanes: LaneTable,
        recorder: Recorder,
        more: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._version = version
        self._pid = pid
        self._seconds = seconds
        self._started = seconds()
        self._stats = stats
        self._lanes = lanes
        self._recorder = recorder
        self._more = more

    def table(self) -> dict[str, Command]:
        """The commands by name."""
        return {"stats": self.stats, "trace": self.trace}

    def stats(self, _: Arguments) -> Rows:
        """The relay, its queue and its fullest lanes in numbers."""
        stats = self._stats()
        return [
            {
                "version": self._version,
                "pid": self._pid,
                "uptime": self._seconds() - self._started,
                "queue": {"queued": stats.queued, **attrs.asdict(stats)},
                "lanes": {
                    "count": len(self._lanes),
                    "fullest": [attrs.asdict(row) for row in self._lanes.fullest(LANES_SHOWN)],
                },
                "clients": dict(self._recorder.counts),
                **self._more(),
            }
        ]

    def trace(self, arguments: Arguments) -> Rows:
        """What is remembered of a queue id or a session id."""
        identity = arguments.get("id")
        if not isinstance(identity, str) or not identity:
            raise CommandError("say what to trace: a queue id or a session id")
        return self._traced(identity)

    def _traced(self, identity: str) -> Iterator[dict[str, Any]]:
        for at, event in self._recorder.trace(identity):
            yield as_row(at, event)


def _explain(failure: Any) -> Rows:
    failure.trap(ConfigError, OSError, WorkerFailed)
    raise CommandError(failure.getErrorMessage())
