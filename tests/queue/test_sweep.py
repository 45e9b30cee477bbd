"""The sweep and the alarm: what is too old is found, and what is young is not opened."""

from __future__ import annotations

from twisted.internet.task import Clock

from relaymta import events
from relaymta.config import Duration
from relaymta.queue.alarm import Alarm
from relaymta.queue.desk import Filter
from relaymta.queue.settings import Settings
from tests.queue.rig import NOW, Rig, dead, deferred, relayed


def test_young_messages_are_not_opened() -> None:
    """An hour of sweeps over a thousand waiting messages opens none of them."""
    rig = Rig(queue=Settings(retry=(Duration(90_000.0),)))
    rig.peers.script = deferred
    for number in range(1000):
        rig.submit(f"d{number}.example")
    rig.wait(3600)
    assert rig.spool.loads == 0
    rig.check()


def test_a_message_released_late_is_opened_once_and_spared() -> None:
    """A message whose time stood still on hold is looked at once, not every minute until its own end."""
    rig = Rig(queue=Settings(retry=(Duration(90_000.0),), expire=Duration(100_000.0), warn_after=Duration(0.0)))
    rig.peers.script = deferred
    queue_id = rig.submit()
    rig.settle_down()
    list(rig.desk.hold(Filter(), "admin", "look"))
    rig.wait(50_000)
    list(rig.desk.release(Filter(), "admin"))
    rig.wait(52_000)
    loads = rig.spool.loads
    rig.wait(30_000)
    assert rig.spool.loads == loads
    rig.peers.script = lambda batch, at: relayed(batch, at) if batch.envelope.sender is None else deferred(batch, at)
    rig.wait(30_000)
    assert rig.fates(queue_id) == {"bob@example.net": ["expired"]}
    (settled,) = [event for event in rig.of(events.RecipientSettled) if event.id == queue_id]
    assert 150_000 <= settled.seconds < 150_100
    rig.check()


def test_delays_that_fell_due_while_we_were_down_are_told() -> None:
    """After a restart the sweep tells of delays that crossed the limit shortly before."""
    rig = Rig(queue=Settings(retry=(Duration(90_000.0),), warn_after=Duration(1000.0)))
    rig.peers.script = deferred
    rig.submit()
    rig.wait(900)
    rig.kill()
    spool = rig.spool.crash()
    rig.clock.advance(1800)
    rig.peers.script = relayed
    rig.begin(spool)
    rig.wait(130)
    assert [event.kind for event in rig.of(events.NoticeQueued)] == ["delayed"]
    (waiting,) = rig.desk.select(Filter())
    assert waiting.due == NOW + 90_000, "its next attempt is as it was"
    rig.check()


def test_a_mass_expiry_does_not_pile_up() -> None:
    """A thousand messages that expire at one time are given up in slices, a bounded number of notices at a time."""
    rig = Rig(queue=Settings(expire=Duration(4000.0), warn_after=Duration(0.0)))
    rig.peers.script = dead
    for _ in range(1000):
        rig.submit()
    rig.wait(100)
    most = 0
    rig.peers.script = lambda batch, at: relayed(batch, at) if batch.envelope.sender is None else dead(batch, at)
    while rig.clock.seconds() < NOW + 4200:
        rig.clock.advance(1)
        most = max(most, rig.manager.stats().active)
    rig.wait(300)
    assert rig.manager.stats().fates["expired"] == 1000
    assert most < 500
    assert rig.spool.stable == {}
    rig.check()


def test_an_alarm_rings_at_the_earliest_time_that_was_asked_for() -> None:
    """A later time does not move it, an earlier one does, and one that has passed rings at once."""
    clock, rung = Clock(), []
    alarm = Alarm(clock, lambda: rung.append(clock.seconds()))
    alarm.at(10)
    alarm.at(20)
    alarm.at(5)
    clock.advance(5)
    assert rung == [5]
    clock.advance(30)
    assert rung == [5]
    alarm.at(1)
    clock.advance(0)
    assert rung == [5, 35]
    alarm.at(50)
    alarm.stop()
    alarm.at(40)
    clock.advance(100)
    assert rung == [5, 35]
