"""The operator's commands over the daemon itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from relaymta.admin.commands import LANES_SHOWN, DaemonCommands, RelayCommands
from relaymta.admin.control import CommandError
from relaymta.admin.recorder import Recorder
from relaymta.config import ConfigError, Problem
from relaymta.events import MessageFinished
from tests.queue.rig import Rig


class Daemon:
    """The commands, over a queue that is empty and a clock that moves by hand."""

    def __init__(self, reload: Callable[[], Any] = lambda: None, lanes: int = 0) -> None:
        self.now = 1000.0
        self.stopped: list[str] = []
        self.recorder = Recorder(lambda: self.now)
        self.rig = Rig()
        for number in range(lanes):
            for ticket in range(number + 1):
                self.rig.lanes.add_ticket(f"smtp:{number}.example", f"{number}-{ticket}")
        steering = DaemonCommands(
            version="0.1.0", pid=42, seconds=lambda: self.now, reload=reload, stop=self.stopped.append
        )
        showing = RelayCommands(
            version="0.1.0",
            pid=42,
            seconds=lambda: self.now,
            stats=self.rig.manager.stats,
            lanes=self.rig.lanes,
            recorder=self.recorder,
            more=lambda: {"sessions": {"mx": 3}},
        )
        self.table = {**steering.table(), **showing.table()}

    def ask(self, command: str, **arguments: Any) -> Any:
        """An answer."""
        return self.table[command](arguments)


def test_ping_says_who_is_there() -> None:
    """Version, process and how long it is up."""
    daemon = Daemon()
    daemon.now += 5
    assert daemon.ask("ping") == [{"version": "0.1.0", "pid": 42, "uptime": 5.0}]


def test_stats_are_numbers_by_name() -> None:
    """The queue by state, the ledger's difference, the fullest lanes first, and what the daemon adds."""
    daemon = Daemon(lanes=LANES_SHOWN + 5)
    daemon.rig.submit()
    [row] = daemon.ask("stats")
    assert row["queue"]["queued"] == 0 and row["queue"]["difference"] == 0
    assert row["lanes"]["count"] == LANES_SHOWN + 5 and len(row["lanes"]["fullest"]) == LANES_SHOWN
    assert row["lanes"]["fullest"][0]["lane"] == f"smtp:{LANES_SHOWN + 4}.example"
    assert row["sessions"] == {"mx": 3}


def test_trace_tells_what_is_remembered() -> None:
    """Events as rows, by their id."""
    daemon = Daemon()
    daemon.recorder(MessageFinished("Q1", 0.5))
    assert list(daemon.ask("trace", id="Q1")) == [
        {"time": 1000.0, "event": "message-finished", "id": "Q1", "seconds": 0.5}
    ]
    assert list(daemon.ask("trace", id="Q2")) == []
    with pytest.raises(CommandError):
        daemon.ask("trace")


@pytest.mark.parametrize("answer", [None, succeed(None)])
def test_reload_says_that_it_is_done(answer: Any) -> None:
    """At once or later."""
    done = Daemon(lambda: answer).ask("reload")
    assert (done.result if isinstance(done, Deferred) else done) == [{"reloaded": True}]


@pytest.mark.parametrize("later", [False, True])
def test_a_configuration_that_is_wrong_is_the_answer(later: bool) -> None:
    """Every problem is told to who asked, at once or later."""
    wrong = ConfigError([Problem("f.toml", 3, "spool", "must not be empty"), Problem("f.toml", 4, "x", "no")])

    def reload() -> Any:
        if later:
            return fail(wrong)
        raise wrong

    daemon = Daemon(reload)
    if not later:
        with pytest.raises(CommandError, match=r"f.toml:3: spool: must not be empty\nf.toml:4: x: no"):
            daemon.ask("reload")
        return
    failures: list[Any] = []
    daemon.ask("reload").addErrback(failures.append)
    assert isinstance(failures[0].value, CommandError) and "f.toml:3" in str(failures[0].value)


def test_stop_says_who_asked() -> None:
    """The log shall tell why the daemon went."""
    daemon = Daemon()
    assert daemon.ask("stop", by="alice") == [{"stopping": True, "pid": 42}]
    assert daemon.stopped == ["relaymta stop, by alice"]
