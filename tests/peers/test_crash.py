"""kill -9 in the midst of work: what had its 250 arrives, unchanged, and a spool has one owner."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from attrs import define, field

from tests.peers.client import Load, send_letter
from tests.peers.daemon import Daemon
from tests.peers.letters import number_of
from tests.peers.postbox import Postbox, Visit
from tests.peers.programs import wait_until

QUICK = '\n[queue]\nretry = ["1s"]\n'
SOMETIMES = 9  # every so many-th of the first messages is put off, so that a crash finds some waiting on disk
MOODS = 1000  # how many the first are


def moody(visit: Visit, stage: str, _: str) -> str | None:
    """Takes most, and puts off some."""
    seen = len(visit.postbox.seen)
    if stage == "DOT" and seen % SOMETIMES == 0 and seen < MOODS:
        return "451 4.3.0 not now"
    return None


@define
class Arrivals:
    """Which letters are at the sink; each is compared octet for octet when it is first looked at."""

    sink: Postbox
    found: Counter[int] = field(factory=Counter)
    _looked_at: int = 0

    def missing(self, numbers: set[int]) -> set[int]:
        """Those of `numbers` that are not there."""
        new = self.sink.taken[self._looked_at :]
        self._looked_at += len(new)
        self.found.update(number_of(one.content) for one in new)
        return numbers - self.found.keys()

    def wait_for(self, numbers: set[int], daemon: Daemon) -> None:
        """Wait until all are there, the queue is empty and the books are straight."""
        wait_until(
            "every acknowledged letter", lambda: not self.missing(numbers), 90,
            lambda: f"missing: {sorted(self.missing(numbers))[:20]}\n{daemon.log()[-3000:]}",
        )  # fmt: skip
        wait_until("an empty queue", lambda: daemon.count("queued", "active") == 0, 60, lambda: daemon.log()[-3000:])
        assert daemon.count("difference", "unreadable") == 0
        assert self.sink.faults == []
        assert "BugCaught" not in daemon.log() and "Traceback" not in daemon.log()


def _crash_again_and_again(
    daemon: Daemon, sink: Postbox, sending: Load, crash: Callable[[Daemon], None], times: int, between: int
) -> Arrivals:
    """Crash and start again, so many times, with so many acknowledged before each."""
    for _ in range(times):
        sending.wait_for(len(sending.acknowledged) + between)
        crash(daemon)
        daemon.start()
    sending.wait_for(len(sending.acknowledged) + 200)
    sending.stop()
    arrivals = Arrivals(sink)
    arrivals.wait_for(sending.acknowledged, daemon)
    # workers whose parent is gone take leave of their clients as they should
    assert [one for one in sending.refused if not one.startswith("421 4.3.2 ")] == []
    return arrivals


@pytest.mark.parametrize(
    ("workers", "crash", "times"),
    [(0, Daemon.kill, 2), (2, Daemon.kill, 1), (2, Daemon.kill_all, 1)],
    ids=["the daemon", "the parent", "parent and workers"],
)
def test_what_was_acknowledged_survives_kill_9(
    relay: Callable[..., Daemon],
    postbox: Callable[..., Postbox],
    load: Callable[..., Load],
    workers: int,
    crash: Callable[[Daemon], None],
    times: int,
) -> None:
    """Under load everything is killed: each letter with a 250 arrives, unchanged (RFC 5321 §6.1)."""
    sink = postbox(moody)
    daemon = relay(sink=sink.port, workers=workers, extra=QUICK)
    _crash_again_and_again(daemon, sink, load(daemon.port, size=1500), crash, times, between=800)


def _kill_a_worker(daemon: Daemon, which: int = 0) -> None:
    pid = daemon.worker_pids()[which]
    os.kill(pid, signal.SIGKILL)
    wait_until("its end", lambda: pid not in daemon.worker_pids())


def test_what_was_acknowledged_survives_the_kill_of_a_worker(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox], load: Callable[..., Load]
) -> None:
    """One of two workers is killed: the other goes on, the parent starts a new one, and nothing is lost."""
    sink = postbox(moody)
    daemon = relay(sink=sink.port, workers=2, extra=QUICK)
    sending = load(daemon.port, size=1500)
    sending.wait_for(1000)
    _kill_a_worker(daemon)
    wait_until("two workers again", lambda: len(daemon.worker_pids()) == 2)
    sending.wait_for(len(sending.acknowledged) + 500)
    sending.stop()
    Arrivals(sink).wait_for(sending.acknowledged, daemon)
    assert sending.refused == []
    assert daemon.alive


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_daemon_on_the_same_spool_is_refused(relay: Callable[..., Daemon], workers: int) -> None:
    """One spool, one owner: the second says so in one line and ends with 1, and the first goes on."""
    first = relay(workers=workers)
    second = Daemon(first.folder.parent / "second", spool=first.folder / "spool", workers=workers)
    second.launch()
    try:
        assert second.wait(30) == 1
    finally:
        second.stop()
    assert re.search(r"relaymta: .*/spool belongs to process \d+, which is running\n", second.log())
    assert "Traceback" not in second.log()
    assert first.ask("stats")


@pytest.mark.parametrize("workers", [0, 2])
def test_reload_under_load_loses_and_refuses_nothing(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox], load: Callable[..., Load], workers: int
) -> None:
    """The configuration is read anew three times while mail flows: no session is cut, no letter refused or lost."""
    sink, other = postbox(), postbox()
    daemon = relay(sink=sink.port, workers=workers, extra=QUICK)
    sending = load(daemon.port, size=1500, per_connection=20)
    for port in (other.port, sink.port, other.port):
        sending.wait_for(len(sending.acknowledged) + 500)
        daemon.write(sink=port)
        assert daemon.ask("reload") == [{"reloaded": True}]
    sending.wait_for(len(sending.acknowledged) + 500)
    sending.stop()
    assert (sending.refused, sending.cut) == ([], 0)
    both = Arrivals(sink), Arrivals(other)

    def missing() -> set[int]:
        return both[1].missing(both[0].missing(sending.acknowledged))

    wait_until("every acknowledged letter", lambda: not missing(), 60, lambda: f"missing: {sorted(missing())[:20]}")
    assert both[0].found and both[1].found
    assert both[0].found + both[1].found == Counter(sending.acknowledged)
    assert "Traceback" not in daemon.log()


def test_reloads_use_the_same_few_shards_again(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox]
) -> None:
    """A generation's shards are adopted, given up when they are empty, and used again; none holds on to a letter."""
    sink = postbox()
    daemon = relay(sink=sink.port, workers=2, extra=QUICK)
    spool = daemon.folder / "spool"
    for number in range(5):
        send_letter(daemon.port, number)
        sink.wait_for(number + 1)
        assert daemon.ask("reload") == [{"reloaded": True}]
        wait_until("the old workers' end", lambda: len(daemon.worker_pids()) == 2)
    assert len(list(spool.glob("shard-*"))) <= 6
    assert daemon.count("queued") == 0


def test_a_message_that_waits_survives_kill_9(relay: Callable[..., Daemon], postbox: Callable[..., Postbox]) -> None:
    """A deferred letter, and a held one, are there after a crash as they were before."""
    sink = postbox(lambda visit, stage, _: "450 4.2.0 later" if stage == "RCPT" else None)
    daemon = relay(sink=sink.port, extra='\n[queue]\nretry = ["1h"]\n')
    ids = [send_letter(daemon.port, number) for number in range(3)]
    wait_until("three attempts", lambda: daemon.count("waiting") == 3)
    daemon.ask("queue", "hold", ids[1])
    before = sorted((row["id"], row["state"], row["due"]) for row in daemon.ask("queue", "list"))
    daemon.kill()
    daemon.start()
    assert sorted((row["id"], row["state"], row["due"]) for row in daemon.ask("queue", "list")) == before
    sink.answer = lambda *_: None
    daemon.ask("queue", "release", ids[1])
    daemon.ask("queue", "retry", "--all")
    assert Counter(number_of(one.content) for one in sink.wait_for(3)) == Counter(range(3))


@pytest.mark.long
@pytest.mark.crash
@pytest.mark.parametrize(
    ("workers", "crash"),
    [(0, Daemon.kill), (2, Daemon.kill), (2, Daemon.kill_all)],
    ids=["the daemon", "the parent", "parent and workers"],
)
def test_twelve_crashes_in_a_row(
    relay: Callable[..., Daemon],
    postbox: Callable[..., Postbox],
    load: Callable[..., Load],
    workers: int,
    crash: Callable[[Daemon], None],
) -> None:
    """Crash, start, crash: twelve times under load of twenty sessions, at no chosen moment."""
    sink = postbox(moody)
    daemon = relay(sink=sink.port, workers=workers, extra=QUICK)
    sending = load(daemon.port, size=2000, sessions=20)
    _crash_again_and_again(daemon, sink, sending, crash, times=12, between=Random(workers).randrange(500, 2500))


@pytest.mark.long
@pytest.mark.crash
def test_workers_killed_at_random_for_20000_letters(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox], load: Callable[..., Load]
) -> None:
    """A worker dies about every 2,000 letters while 20,000 pass; each with a 250 arrives."""
    random = Random(7)
    sink = postbox(moody)
    daemon = relay(sink=sink.port, workers=3, extra=QUICK)
    sending = load(daemon.port, size=2000, sessions=20)
    while len(sending.acknowledged) < 20_000:
        sending.wait_for(len(sending.acknowledged) + random.randrange(1000, 3000), 120)
        _kill_a_worker(daemon, random.randrange(len(daemon.worker_pids())))
        wait_until("three workers", lambda: len(daemon.worker_pids()) == 3, 60)
    sending.stop()
    Arrivals(sink).wait_for(sending.acknowledged, daemon)
    assert sending.refused == []
