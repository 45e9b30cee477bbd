"""Mail that is taken and does not leave yet: with a time of release (RFC 4865), or on hold from the start."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from relaymta import events
from relaymta.config import Duration
from relaymta.mail.address import Address
from relaymta.mail.content import Content
from relaymta.mail.envelope import Envelope, Recipient
from relaymta.queue.desk import Filter
from relaymta.queue.manager import POLICY
from relaymta.queue.settings import Settings
from tests.queue.memory_spool import MemorySpool
from tests.queue.rig import BODY, NOW, Rig, dead, deferred, relayed

AHEAD = 7_200.5
HOUR = Duration(3600.0)


def submit(rig: Rig, *, ahead: float = 0.0, hold: str = "", large: bool = False) -> str:
    """Take a message that is to leave in so many seconds, or is held."""
    now = rig.clock.seconds()
    envelope = Envelope(
        Address("alice", "example.org"), (Recipient(Address("bob", "example.net")),), now,
        release_at=now + ahead if ahead else 0.0,
    )  # fmt: skip
    queue_id = rig.manager.new_id()
    durable: Deferred[None] | Deferred[Content]
    if large:
        incoming = rig.manager.receive(queue_id, envelope, hold)
        incoming.write(BODY)
        durable = incoming.commit()
    else:
        durable = rig.manager.accept(queue_id, envelope, BODY, hold)
    fired: list[object] = []
    durable.addCallback(fired.append)
    rig.settle_down()
    assert fired
    return queue_id


def attempts(rig: Rig) -> list[float]:
    """When the peers were asked, in seconds since the beginning."""
    return [at - NOW for at, _, _ in rig.peers.log]


def state(rig: Rig) -> list[tuple[str, int]]:
    """State and due time of what is in the queue."""
    return [(row.state, row.due) for row in rig.desk.select(Filter())]


@pytest.mark.parametrize("large", [False, True])
def test_nothing_leaves_before_its_time(large: bool) -> None:
    """It waits on disk, is not opened meanwhile, and leaves in the second of its release."""
    rig = Rig()
    queue_id = submit(rig, ahead=AHEAD, large=large)
    assert state(rig) == [("waiting", int(NOW + AHEAD) + 1)] and rig.manager.memory == 0
    rig.wait(AHEAD - 1)
    assert attempts(rig) == [] and rig.spool.loads <= 1
    rig.check()
    rig.wait(2)
    [at] = attempts(rig)
    assert AHEAD <= at <= AHEAD + 1
    assert rig.fates(queue_id) == {"bob@example.net": ["relayed"]}
    rig.check()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("moment", ["journal", "disk", "later"])
def test_a_crash_does_not_hurry_it(moment: str, large: bool) -> None:
    """From the journal, half way to its file, or from the file: what was promised is kept after a restart."""
    rig = Rig()
    if moment == "journal":
        rig.manager._park = lambda *_: None  # type: ignore[method-assign] # the crash comes before it is put on disk
    submit(rig, ahead=AHEAD, large=large)
    if moment == "later":
        rig.wait(AHEAD / 2)
    rig.crash()
    assert [one for one, _ in state(rig)] == ["waiting"]
    rig.wait(NOW + AHEAD - rig.clock.seconds() - 1)
    assert attempts(rig) == []
    rig.wait(2)
    [at] = attempts(rig)
    assert AHEAD <= at <= AHEAD + 1
    rig.check()


def test_a_time_that_has_come_is_no_delay() -> None:
    """The content took longer than the wish: it leaves from memory like any other."""
    rig = Rig()
    envelope = Envelope(None, (Recipient(Address("bob", "example.net")),), NOW, release_at=NOW + 1)
    rig.clock.advance(2)
    rig.manager.accept(rig.manager.new_id(), envelope, BODY)
    rig.settle_down()
    assert attempts(rig) == [2.0] and rig.spool.loads == 0
    rig.check()


def test_its_lifetime_begins_at_its_release() -> None:
    """Neither is it given up, nor its sender warned, for the time that was wished (RFC 4865)."""
    rig = Rig(queue=Settings(retry=(HOUR,), expire=Duration(50_000.0), warn_after=Duration(10_000.0)))
    queue_id = submit(rig, ahead=AHEAD)
    rig.peers.script = lambda batch, at: relayed(batch, at) if batch.envelope.sender is None else deferred(batch, at)
    rig.wait(AHEAD + 9_000)
    assert rig.of(events.NoticeQueued) == [] and len(attempts(rig)) == 3
    rig.wait(2_000)
    assert [event.kind for event in rig.of(events.NoticeQueued)] == ["delayed"]
    rig.wait(38_000)
    assert rig.fates(queue_id) == {}
    rig.wait(2_000)
    assert rig.fates(queue_id) == {"bob@example.net": ["expired"]}
    rig.check()


def test_its_delay_is_told_behind_a_dead_destination() -> None:
    """Where no attempt comes that could tell, the sweep does, at the message's own time."""
    rig = Rig(queue=Settings(retry=(Duration(40_000.0),), warn_after=Duration(10_000.0)))
    submit(rig, ahead=20_000.0)
    rig.peers.script = lambda batch, at: relayed(batch, at) if batch.envelope.sender is None else dead(batch, at)
    rig.wait(29_900)
    assert rig.of(events.NoticeQueued) == []
    rig.wait(300)
    assert [event.kind for event in rig.of(events.NoticeQueued)] == ["delayed"]
    rig.check()


def test_the_operator_may_release_it_early() -> None:
    """`queue retry` attempts it now."""
    rig = Rig()
    queue_id = submit(rig, ahead=AHEAD)
    assert list(rig.desk.retry(Filter())) == [queue_id]
    rig.settle_down()
    assert attempts(rig) == [0.0] and rig.fates(queue_id) == {"bob@example.net": ["relayed"]}
    rig.check()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_what_is_held_from_the_start_waits_for_the_operator(large: bool, crash: bool) -> None:
    """It is taken, on disk and on hold, with its reason, also after a crash; released, it leaves."""
    rig = Rig(queue=Settings(retry=(Duration(60.0),), expire=HOUR, warn_after=Duration(0.0)))
    queue_id = submit(rig, hold="quota", large=large)
    if crash:
        rig.crash()
    rig.wait(7_200)
    assert attempts(rig) == [] and [one for one, _ in state(rig)] == ["held"]
    [row] = rig.desk.select(Filter(held=True), opened=True)
    assert row.message is not None
    assert (row.message.progress.held_by, row.message.progress.held_reason) == (POLICY, "quota")
    assert rig.manager.memory == 0
    rig.check()
    assert list(rig.desk.release(Filter(), "admin")) == [queue_id]
    rig.settle_down()
    assert rig.fates(queue_id) == {"bob@example.net": ["relayed"]}
    rig.check()


@pytest.mark.parametrize("surviving", range(4))
def test_a_hold_is_as_durable_as_the_message(surviving: int) -> None:
    """Whenever the crash comes after the 250, the message is there and on hold; its reason alone may be lost."""
    rig = Rig()
    envelope = Envelope(None, (Recipient(Address("bob", "example.net")),), NOW)
    fired: list[object] = []
    rig.manager.accept(rig.manager.new_id(), envelope, BODY, "quota").addCallback(fired.append)
    rig.spool.sync()
    assert fired
    rig.crash(surviving)
    rig.wait(7_200)
    assert attempts(rig) == [] and [one for one, _ in state(rig)] == ["held"]
    list(rig.desk.release(Filter(), "admin"))
    rig.settle_down()
    assert len(attempts(rig)) == 1
    rig.check()


def test_released_while_on_its_way_to_disk_it_leaves() -> None:
    """The operator is quicker than the disk."""
    rig = Rig()
    fired: list[object] = []
    envelope = Envelope(None, (Recipient(Address("bob", "example.net")),), NOW)
    rig.manager.accept(rig.manager.new_id(), envelope, BODY, "quota").addCallback(fired.append)
    rig.spool.sync()
    assert len(list(rig.desk.release(Filter(), "admin"))) == 1
    rig.settle_down()
    assert len(attempts(rig)) == 1
    rig.check()


def test_what_cannot_be_put_on_disk_waits_all_the_same() -> None:
    """A disk that fails after the 250 neither loses the message nor lets it go early."""
    rig = Rig()
    spool = rig.spool
    assert isinstance(spool, MemorySpool)
    envelope = Envelope(None, (Recipient(Address("bob", "example.net")),), NOW, release_at=NOW + AHEAD)
    accepted = rig.manager.accept(rig.manager.new_id(), envelope, BODY)
    accepted.addCallback(lambda _: None)
    refused = rig.manager._put_by

    def put_by(message: object, hold: str) -> None:
        spool.refusal = "no space left on device"
        refused(message, hold)  # type: ignore[arg-type]

    rig.manager._put_by = put_by  # type: ignore[method-assign]
    rig.settle_down()
    spool.refusal = ""
    assert len(rig.of(events.SpoolFailed)) == 1 and [one for one, _ in state(rig)] == ["waiting"]
    rig.wait(AHEAD - 1)
    assert attempts(rig) == []
    rig.wait(2)
    assert len(attempts(rig)) == 1
    rig.check()
