"""The way out, whole, on a Clock: every accepted recipient ends in one fate, and nobody waits for anybody else."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import succeed

from relaymta import events
from relaymta.config import Duration, Size
from relaymta.delivery.batch import Batch
from relaymta.mail.envelope import Notify
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.queue.desk import Filter
from relaymta.queue.settings import LaneLimits, LaneRule, LaneSettings, Settings
from relaymta.reports.settings import Settings as ReportSettings
from relaymta.routing.router import Router
from relaymta.routing.settings import RouteSettings, Texts
from tests.queue.rig import NOW, Peers, Rig, dead, deferred, failed, relayed


def test_a_message_leaves_at_once_from_memory() -> None:
    """Accepted, attempted, relayed: no file is opened, no timer waits, and nothing is left."""
    rig = Rig()
    queue_id = rig.submit()
    rig.settle_down()
    assert [(lane, i) for _, lane, i in rig.peers.log] == [("smtp:example.net", queue_id)]
    (settled,) = rig.of(events.RecipientSettled)
    assert (settled.id, settled.fate, settled.recipient, settled.lane, settled.attempts) == (
        queue_id, "relayed", "bob@example.net", "smtp:example.net", 1,
    )  # fmt: skip
    assert [event.id for event in rig.of(events.MessageFinished)] == [queue_id]
    assert (rig.spool.stable, rig.spool.loads, rig.clock.seconds()) == ({}, 0, NOW)
    rig.check()


def test_recipients_of_one_lane_leave_in_one_batch() -> None:
    """Recipients are grouped by lane, and each group is one batch (RFC 5321 §4.5.4.1)."""
    rig = Rig()
    rig.peers.script = lambda batch, at: None
    rig.submit("a.example", "b.example", "a.example")
    rig.settle_down()
    assert sorted(attempt.batch.recipients for attempt in rig.peers.open) == [(0, 2), (1,)]
    rig.peers.answer()
    assert rig.of(events.MessageFinished) == []
    rig.peers.answer()
    assert len(rig.of(events.MessageFinished)) == 1
    rig.check()


def test_error_routes_with_different_replies_are_different_batches() -> None:
    """Two domains that are refused in different words share the lane "error" and no batch."""
    rules = [
        RouteSettings(recipient=Texts(("a.example",)), to=Texts(("error:550 5.1.1 gone",))),
        RouteSettings(recipient=Texts(("b.example",)), to=Texts(("error:550 5.7.1 no",))),
    ]
    rig = Rig()
    rig.reload(router=Router(rules))
    rig.peers.script = lambda batch, at: None
    rig.submit("a.example", "b.example")
    rig.settle_down()
    assert [attempt.batch.recipients for attempt in rig.peers.open] == [(0,), (1,)]
    assert {attempt.batch.lane for attempt in rig.peers.open} == {"error"}
    rig.peers.answer(failed)
    rig.peers.answer(failed)
    rig.settle_down()
    rig.check()


def test_a_deferred_message_is_tried_by_the_schedule_until_it_goes() -> None:
    """Attempts at 0, 5, 20, 50 minutes; its recipients' deferrals are told with the time of the next one."""
    rig = Rig()
    answers = [deferred, deferred, deferred, relayed]
    rig.peers.script = lambda batch, at: answers.pop(0)(batch, at)
    rig.submit()
    rig.wait(4000)
    assert [at - NOW for at, _, _ in rig.peers.log] == [0, 300, 1200, 3000]
    told = rig.of(events.RecipientDeferred)
    assert [event.next - NOW for event in told] == [300, 1200, 3000]
    assert [event.attempts for event in told] == [1, 2, 3]
    assert rig.of(events.RecipientSettled)[0].attempts == 4
    assert rig.spool.stable == {}
    rig.check()


def test_only_pending_recipients_are_tried_again() -> None:
    """Who was delivered, or refused, in the first round is not in the second."""
    rig = Rig()

    def script(batch: Batch, at: float) -> list[Outcome]:
        if "b.example" in batch.lane and at == NOW:
            return deferred(batch, at)
        return relayed(batch, at)

    rig.peers.script = script
    queue_id = rig.submit("a.example", "b.example")
    rig.wait(400)
    assert [lane for _, lane, _ in rig.peers.log] == ["smtp:a.example", "smtp:b.example", "smtp:b.example"]
    assert rig.fates(queue_id) == {"bob@a.example": ["relayed"], "bob@b.example": ["relayed"]}
    rig.check()


def test_a_failure_is_told_to_the_sender_and_the_notice_leaves_too() -> None:
    """A 550 makes a notice with the null sender, which is delivered like any message (RFC 5321 §6.1)."""
    rig = Rig()
    sent: list[Batch] = []

    def script(batch: Batch, at: float) -> list[Outcome]:
        sent.append(batch)
        return failed(batch, at) if "example.net" in batch.lane else relayed(batch, at)

    rig.peers.script = script
    queue_id = rig.submit()
    rig.settle_down()
    (queued,) = rig.of(events.NoticeQueued)
    assert (queued.id, queued.kind, queued.to, queued.recipients) == (queue_id, "failed", "alice@example.org", 1)
    notice = sent[1]
    assert notice.queue_id == queued.notice and notice.envelope.sender is None
    assert notice.lane == "smtp:example.org"
    assert rig.fates(queue_id) == {"bob@example.net": ["failed"]}
    assert rig.spool.stable == {}
    rig.check()


def test_a_bounce_does_not_bounce() -> None:
    """A notice that fails is told to nobody: the loop cannot go round twice (RFC 5321 §6.1)."""
    rig = Rig()
    rig.peers.script = failed
    rig.submit()
    rig.settle_down()
    assert [event.kind for event in rig.of(events.NoticeQueued, events.NoticeDropped)] == ["failed", "failed"]
    assert len(rig.of(events.NoticeDropped)) == 1
    assert len(rig.peers.log) == 2
    assert rig.spool.stable == {}
    rig.check()


def test_a_double_bounce_goes_to_the_postmaster_once() -> None:
    """A message without sender that fails is told to the postmaster, and what fails of that to nobody."""
    rig = Rig(reports=ReportSettings(postmaster="postmaster@example.com"))
    rig.peers.script = failed
    rig.submit(sender=None)
    rig.settle_down()
    assert [event.to for event in rig.of(events.NoticeQueued)] == ["postmaster@example.com"]
    assert len(rig.of(events.NoticeDropped)) == 1
    assert rig.spool.stable == {}
    rig.check()


def test_nobody_is_told_who_asked_for_nothing() -> None:
    """NOTIFY=NEVER: a failure is recorded and no notice made (RFC 3461 §4.1)."""
    rig = Rig()
    rig.peers.script = failed
    rig.submit(notify=Notify.NEVER)
    rig.settle_down()
    assert rig.of(events.NoticeQueued, events.NoticeDropped) == []
    assert [event.fate for event in rig.of(events.RecipientSettled)] == ["failed"]
    rig.check()


def test_success_is_told_who_asked_for_it() -> None:
    """NOTIFY=SUCCESS: a relayed recipient whose next hop does not take the duty over is told of (RFC 3461 §5.2.2)."""
    rig = Rig()
    rig.submit(notify=Notify.SUCCESS)
    rig.settle_down()
    assert [event.kind for event in rig.of(events.NoticeQueued)] == ["relayed"]
    rig.check()


def test_a_delay_is_told_once() -> None:
    """After warn_after the sender is told once that we go on trying; a restart does not tell it again."""
    rig = Rig()

    def script(batch: Batch, at: float) -> list[Outcome]:
        return relayed(batch, at) if batch.envelope.sender is None else deferred(batch, at)

    rig.peers.script = script
    rig.submit()
    rig.wait(4 * 3600 - 60)
    assert rig.of(events.NoticeQueued) == []
    rig.wait(3600)
    assert [event.kind for event in rig.of(events.NoticeQueued)] == ["delayed"]
    rig.crash()
    rig.wait(86400)
    assert len(rig.of(events.NoticeQueued)) == 1
    rig.check()


def test_a_delay_is_told_of_what_was_never_attempted() -> None:
    """A message that waits behind a dead destination's suspension is told of as well, by the sweep."""
    rig = Rig()
    rig.peers.script = lambda batch, at: relayed(batch, at) if batch.envelope.sender is None else dead(batch, at)
    ids = [rig.submit() for _ in range(30)]
    rig.wait(4.2 * 3600)
    assert sorted(event.id for event in rig.of(events.NoticeQueued)) == sorted(ids)
    rig.check()


def test_a_message_expires_with_its_lifetime() -> None:
    """After `expire` the sender is told, with what was last heard of the recipient (RFC 5321 §4.5.4.1)."""
    rig = Rig(queue=Settings(warn_after=Duration(0.0)))
    notices: list[bytes] = []

    def script(batch: Batch, at: float) -> list[Outcome]:
        if batch.envelope.sender is None:
            notices.append(b"".join(batch.content.chunks()))
            return relayed(batch, at)
        return deferred(batch, at)

    rig.peers.script = script
    queue_id = rig.submit()
    rig.wait(5 * 86400 - 100)
    assert rig.of(events.RecipientSettled) == []
    rig.wait(300)
    assert rig.fates(queue_id) == {"bob@example.net": ["expired"]}
    assert len(notices) == 1 and b"451 4.2.0 later" in notices[0]
    assert rig.spool.stable == {}
    rig.check()


def test_time_on_hold_does_not_count() -> None:
    """A message held for twice its lifetime and released is attempted, and not given up."""
    rig = Rig(queue=Settings(expire=Duration(40_000.0)))
    rig.peers.script = deferred
    queue_id = rig.submit()
    rig.settle_down()
    assert list(rig.desk.hold(Filter(), "admin", "look")) == [queue_id]
    attempts = len(rig.peers.log)
    rig.wait(80_000)
    assert len(rig.peers.log) == attempts and rig.of(events.RecipientSettled) == []
    rig.peers.script = relayed
    assert list(rig.desk.release(Filter(), "admin")) == [queue_id]
    rig.settle_down()
    assert rig.fates(queue_id) == {"bob@example.net": ["relayed"]}
    assert [type(e).__name__ for e in rig.of(events.MessageHeld, events.MessageReleased)] == [
        "MessageHeld",
        "MessageReleased",
    ]
    rig.check()


def test_hold_during_an_attempt_counts_afterwards() -> None:
    """What is under way comes to its end; what is deferred then is on hold."""
    rig = Rig()
    rig.peers.script = lambda batch, at: None
    queue_id = rig.submit()
    rig.settle_down()
    assert list(rig.desk.hold(Filter(queue_id=queue_id), "admin", "look")) == [queue_id]
    rig.peers.answer(deferred)
    rig.wait(86400)
    assert len(rig.peers.log) == 1
    assert rig.manager.stats().held == 1
    rig.check()


def test_remove_before_an_attempt_takes_it_back() -> None:
    """A message that waits for room in its lane is removed at once, and its batch is passed over."""
    rig = Rig(lanes=LaneSettings(limits=LaneLimits(1)))
    rig.peers.script = lambda batch, at: None
    first, second = rig.submit(), rig.submit()
    rig.settle_down()
    assert list(rig.desk.remove(Filter(queue_id=second), "admin")) == [second]
    assert rig.fates(second) == {"bob@example.net": ["removed"]}
    rig.peers.answer()
    rig.settle_down()
    assert [queue_id for _, _, queue_id in rig.peers.log] == [first]
    assert {event.id for event in rig.of(events.MessageFinished)} == {first, second}
    assert rig.spool.stable == {}
    rig.check()


def test_remove_during_an_attempt_ends_in_one_fate() -> None:
    """A recipient removed while it is attempted is removed, whatever the attempt says, and no notice is made."""
    rig = Rig()
    rig.peers.script = lambda batch, at: None
    queue_id = rig.submit("a.example", "a.example")
    rig.settle_down()
    list(rig.desk.remove(Filter(queue_id=queue_id), "admin"))
    rig.peers.answer(failed)
    rig.settle_down()
    assert rig.fates(queue_id) == {"bob@a.example": ["removed", "removed"]}
    assert rig.of(events.NoticeQueued) == []
    assert rig.spool.stable == {}
    rig.check()


def test_retry_now_reaches_a_suspended_lane() -> None:
    """The operator's retry lets a dead destination probe at once; its success lets all others go."""
    rig = Rig()
    rig.peers.script = dead
    for _ in range(10):
        rig.submit()
    rig.wait(10)
    assert len(rig.of(events.LaneSuspended)) == 1
    rig.peers.script = relayed
    list(rig.desk.retry(Filter()))
    rig.settle_down()
    assert len(rig.of(events.LaneResumed)) == 1
    assert len(rig.of(events.MessageFinished)) == 10
    assert rig.clock.seconds() == NOW + 10
    rig.check()


def test_fresh_mail_for_a_dead_destination_is_not_attempted() -> None:
    """While a lane is suspended a new message goes to disk, due when the lane wakes, with no attempt counted."""
    rig = Rig()
    rig.peers.script = dead
    for _ in range(3):
        rig.submit()
    rig.settle_down()
    attempts = len(rig.peers.log)
    late = rig.submit()
    rig.settle_down()
    assert len(rig.peers.log) == attempts
    assert rig.spool.stable[late].schedule.due == int(NOW) + 60
    assert rig.manager.memory == 0
    rig.peers.script = relayed
    rig.wait(61)
    assert rig.fates(late) == {"bob@example.net": ["relayed"]}
    assert [event.attempts for event in rig.of(events.RecipientSettled) if event.id == late] == [1]
    rig.check()


def test_deferred_mail_behind_a_dead_destination_is_not_opened() -> None:
    """A thousand due messages of a suspended lane cost one probe, and no file but the probe's is opened."""
    rig = Rig(queue=Settings(warn_after=Duration(0.0), retry=(Duration(400.0),)))
    rig.peers.script = dead
    for _ in range(1000):
        rig.submit()
    rig.wait(59)
    assert len(rig.peers.log) == 3
    loads = rig.spool.loads
    rig.wait(120)  # the probe at 60 s fails, the next one comes at 180 s
    assert len(rig.peers.log) == 4
    assert rig.spool.loads == loads + 1
    rig.check()


def test_a_lane_that_is_dead_does_not_hold_up_a_message_for_others() -> None:
    """A message with recipients in a suspended lane and in a living one reaches the living one in this round."""
    rig = Rig()
    rig.peers.script = lambda batch, at: dead(batch, at) if "dead" in batch.lane else relayed(batch, at)
    for _ in range(3):
        rig.submit("dead.example")
    rig.settle_down()
    both = rig.submit("dead.example", "live.example")
    rig.settle_down()
    assert rig.fates(both) == {"bob@live.example": ["relayed"]}
    rig.check()


def test_a_retry_for_a_living_lane_does_not_wait_for_a_dead_one() -> None:
    """A message whose pending recipients have several lanes has no lane of its own, so that none waits for another."""
    rig = Rig(queue=Settings(warn_after=Duration(0.0)))
    grey = [True]

    def script(batch: Batch, at: float) -> list[Outcome]:
        if "dead" in batch.lane:
            return dead(batch, at)
        return deferred(batch, at) if grey and grey.pop() else relayed(batch, at)

    rig.peers.script = script
    both = rig.submit("dead.example", "grey.example")
    for _ in range(3):
        rig.submit("dead.example")
    rig.settle_down()
    assert rig.spool.stable[both].schedule.lane == ""
    rig.wait(301)
    assert rig.fates(both) == {"bob@grey.example": ["relayed"]}
    assert rig.spool.stable[both].schedule.lane == "smtp:dead.example"
    rig.check()


def test_one_slow_domain_and_one_bulk_sender_do_not_delay_the_rest() -> None:
    """500 destinations that hang, and 5,000 messages of one sender: a single message leaves at once."""
    rig = Rig(lanes=LaneSettings(1000))
    rig.peers.script = lambda batch, at: None if "dead" in batch.lane else relayed(batch, at)
    for number in range(500):
        for _ in range(5):
            rig.submit(f"dead{number}.example", sender="bulk")
    for _ in range(2500):
        rig.submit("dead0.example", sender="bulk")
    rig.settle_down()
    single = rig.submit("healthy.example")
    rig.settle_down()
    assert rig.fates(single) == {"bob@healthy.example": ["relayed"]}
    assert rig.clock.seconds() == NOW
    mine = rig.submit("dead0.example")
    rig.settle_down()
    asked = len(rig.peers.log)
    while rig.peers.open:
        rig.peers.answer()
        rig.settle_down()
    turns = [queue_id for _, lane, queue_id in rig.peers.log[asked:] if lane == "smtp:dead0.example"]
    assert turns.index(mine) < 10, "2,500 messages of another sender stand before it"
    rig.check()


def test_concurrency_of_a_destination_is_kept() -> None:
    """Never more attempts at the same time than the lane's limit."""
    rig = Rig(lanes=LaneSettings(limits=LaneLimits(4)))
    rig.peers.script = lambda batch, at: None
    for _ in range(50):
        rig.submit()
    most = 0
    for _ in range(50):
        rig.settle_down()
        most = max(most, len(rig.peers.open))
        rig.peers.answer()
    assert most == 4
    assert len(rig.of(events.MessageFinished)) == 50
    rig.check()


def test_rate_of_a_destination_is_kept() -> None:
    """30 messages a minute to one lane, whoever sends them; others are not slowed (haraka-plugin-limit#53)."""
    slow = LaneRule("smtp:slow.example", LaneLimits(20, 30, Duration(60.0)))
    rig = Rig(lanes=LaneSettings(rules=(slow,)))
    for _ in range(10):
        rig.submit("slow.example")
        rig.submit("fast.example")
    rig.wait(60)
    times = [at - NOW for at, lane, _ in rig.peers.log if lane == "smtp:slow.example"]
    assert times == pytest.approx([2.0 * n for n in range(10)], abs=0.01)
    assert [at for at, lane, _ in rig.peers.log if lane == "smtp:fast.example"] == [NOW] * 10
    rig.check()


def test_memory_is_bounded_and_what_is_beyond_waits_on_disk() -> None:
    """When the budget is reached messages wait as files in their lane, and leave from there."""
    rig = Rig(queue=Settings(memory=Size(20_000)), lanes=LaneSettings(limits=LaneLimits(2)))
    rig.peers.script = lambda batch, at: None
    for _ in range(100):
        rig.submit()
        rig.settle_down()
    assert rig.manager.memory < 30_000
    assert rig.manager.stats().ready > 80
    while rig.peers.open:
        rig.peers.answer()
        rig.settle_down()
    assert len(rig.of(events.MessageFinished)) == 100
    assert {at for at, _, _ in rig.peers.log} == {NOW}
    rig.check()


def test_memory_is_bounded_for_messages_of_several_lanes() -> None:
    """Messages to many destinations at once are opened no faster than memory allows."""
    rig = Rig(queue=Settings(memory=Size(20_000)), lanes=LaneSettings(limits=LaneLimits(1)))
    rig.peers.script = lambda batch, at: None
    for _ in range(100):
        rig.submit("a.example", "b.example")
        rig.settle_down()
    rig.wait(5)
    assert rig.manager.memory < 40_000
    for _ in range(2000):
        while rig.peers.open:
            rig.peers.answer()
            rig.settle_down()
        rig.wait(1)
        if len(rig.of(events.MessageFinished)) == 100:
            break
    assert len(rig.of(events.MessageFinished)) == 100
    rig.check()


def test_a_bug_in_a_delivery_defers() -> None:
    """A Deferred that fails, against its promise, is told and loses nothing."""
    rig = Rig()

    class Broken(Peers):
        def attempt(self, batch: Batch) -> Any:
            raise RuntimeError("bug")

    sound = rig.peers
    rig.scheduler._deliveries = Broken(rig.clock)
    queue_id = rig.submit()
    rig.settle_down()
    assert len(rig.of(events.BugCaught)) == 1
    assert rig.lanes.running == 0
    rig.scheduler._deliveries = sound
    rig.wait(301)
    assert rig.fates(queue_id) == {"bob@example.net": ["relayed"]}


def test_a_bug_in_routing_defers() -> None:
    """A router that raises costs a while, and never the message."""
    rig = Rig()
    router = rig.terms.router

    class Broken:
        def route(self, *_: object) -> Any:
            raise RuntimeError("bug")

    rig.reload(router=Broken())
    one, two = rig.submit(), rig.submit("a.example", "b.example")
    rig.wait(310)
    assert len(rig.of(events.BugCaught)) == 4
    assert (rig.lanes.running, rig.manager.stats().difference) == (0, 0)
    rig.reload(router=router)
    rig.wait(301)
    assert len(rig.of(events.MessageFinished)) == 2
    assert set(rig.fates(two)) == {"bob@a.example", "bob@b.example"} and rig.fates(one)


def test_a_bug_in_a_notice_keeps_what_was_delivered() -> None:
    """When composing a notice fails, the delivered recipients are recorded and the others tried again."""
    rig = Rig()
    reports = rig.terms.reports
    rig.peers.script = lambda batch, at: failed(batch, at) if "b.example" in batch.lane else relayed(batch, at)
    rig.reload(reports=None)
    queue_id = rig.submit("a.example", "b.example")
    rig.settle_down()
    assert len(rig.of(events.BugCaught)) == 1
    rig.reload(reports=reports)
    rig.wait(301)
    assert [lane for _, lane, i in rig.peers.log if i == queue_id].count("smtp:a.example") == 1
    assert len(rig.of(events.NoticeQueued)) == 1


def test_stop_lets_running_attempts_end_and_begins_none() -> None:
    """stop() waits for what runs up to its limit, records it, and what never began is found at the next start."""
    rig = Rig(lanes=LaneSettings(limits=LaneLimits(2)))
    rig.peers.script = lambda batch, at: None
    ids = [rig.submit() for _ in range(5)]
    rig.settle_down()
    done: list[None] = []
    rig.scheduler.stop(30.0).addCallback(done.append)
    rig.peers.answer(relayed)
    rig.wait(29)
    assert not done and len(rig.peers.log) == 2
    rig.wait(2)
    assert done == [None]
    rig.manager.close()
    rig.peers.script = relayed
    rig.crash()
    rig.wait(600)
    assert {event.id for event in rig.of(events.MessageFinished)} == set(ids)
    assert all(found == {"bob@example.net": ["relayed"]} for found in map(rig.fates, ids))
    rig.check()


def test_stop_waits_for_notices_on_their_way_to_disk() -> None:
    """A failure whose notice is not yet durable is recorded before stop() is done."""
    rig = Rig()
    rig.peers.script = lambda batch, at: None
    rig.submit()
    rig.settle_down()
    rig.peers.answer(failed)
    done: list[None] = []
    rig.scheduler.stop(30.0).addCallback(done.append)
    rig.settle_down()
    assert done == [None]
    assert [event.fate for event in rig.of(events.RecipientSettled)] == ["failed"]


def test_stop_ends_when_the_last_outcome_comes_after_the_last_connection() -> None:
    """stop() is done also where the way out is closed a moment before its last outcome is told."""
    rig = Rig()
    rig.peers.script = lambda batch, at: None
    rig.submit()
    rig.settle_down()
    rig.peers.close = lambda limit=30.0: succeed(None)
    done: list[None] = []
    rig.scheduler.stop(30.0).addCallback(done.append)
    rig.settle_down()
    assert not done
    rig.peers.answer(relayed)
    rig.settle_down()
    assert done == [None]


def test_a_full_disk_is_told_once_and_refuses() -> None:
    """Below min_free reception is told to refuse, and the operator hears of it once."""
    rig = Rig()
    rig.spool.octets_free = 10
    assert rig.manager.refusal()
    rig.wait(300)
    assert len(rig.of(events.SpoolFull)) == 1


def test_start_tells_what_was_found() -> None:
    """SpoolOpened says how many messages wait; unreadable ones are told by name."""
    rig = Rig()
    rig.peers.script = deferred
    for _ in range(3):
        rig.submit()
    rig.settle_down()
    rig.crash()
    opened = rig.of(events.SpoolOpened)
    assert [event.queued for event in opened] == [0, 3]


def test_a_deep_queue_is_taken_over_in_slices() -> None:
    """Ten thousand messages are scheduled without opening a file, while fresh mail leaves in between."""
    rig = Rig()
    rig.peers.script = deferred
    for number in range(10_000):
        rig.submit(f"d{number % 50}.example", sender=f"s{number % 7}")
    rig.wait(1)
    rig.kill()
    spool = rig.spool.crash()
    adopted: list[int] = []

    def script(batch: Batch, at: float) -> list[Outcome]:
        adopted.append(rig.manager.ledger.adopted)
        return relayed(batch, at)

    rig.peers.script = script
    rig.begin_slowly(spool)
    rig.submit("healthy.example")
    rig.settle_down()
    assert len(adopted) == 1 and adopted[0] < 10_000, "it left while the rest was still being listed"
    assert rig.manager.ledger.adopted == 10_000
    assert rig.spool.loads == 0
    rig.wait(400)
    assert len(rig.of(events.MessageFinished)) == 10_001
    rig.check()


@pytest.mark.parametrize("scope", [Scope.SITE, Scope.HOST])
def test_permanent_answers_of_a_site_do_not_suspend_it(scope: Scope) -> None:
    """NXDOMAIN or a null MX fails each message by itself; the lane is not called dead."""
    rig = Rig()

    def script(batch: Batch, at: float) -> list[Outcome]:
        if batch.envelope.sender is None:
            return relayed(batch, at)
        return [Outcome(i, Fate.FAILED, scope, "5.1.2", "no such domain", at) for i in batch.recipients]

    rig.peers.script = script
    for _ in range(10):
        rig.submit()
    rig.settle_down()
    assert rig.of(events.LaneSuspended) == []
    assert len(rig.of(events.NoticeQueued)) == 10
    rig.check()
