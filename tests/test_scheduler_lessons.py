"""Faults that real mail servers shipped in their queues, each as a test of ours (the thread in brackets)."""

from __future__ import annotations

import pytest

from relaymta import events
from relaymta.config import Duration
from relaymta.delivery.batch import Batch
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.queue.desk import Filter
from relaymta.queue.settings import LaneLimits, LaneRule, LaneSettings, Settings
from relaymta.queue.story import Attempted, decode_entry, encode_entry
from relaymta.routing.router import Router
from relaymta.routing.settings import RouteSettings, Texts
from tests.queue.rig import NOW, Rig, Script, dead, deferred, failed, relayed

DAY = 86_400.0


def notices_relayed_else(how: Script) -> Script:
    """A script that takes every notice and answers everything else with `how`."""
    return lambda batch, at: relayed(batch, at) if batch.envelope.sender is None else how(batch, at)


def test_kumomta_539_what_is_ready_and_never_attempted_expires() -> None:
    """A hundred messages that wait ready behind a dead destination are all given up when their time is over."""
    rig = Rig(queue=Settings(warn_after=Duration(0.0), expire=Duration(DAY)))
    rig.peers.script = notices_relayed_else(dead)
    ids = [rig.submit() for _ in range(100)]
    rig.wait(DAY - 200)
    never = set(ids) - {queue_id for _, _, queue_id in rig.peers.log}
    assert len(never) > 20, "most were never attempted: their lane slept"
    rig.wait(400)
    assert all(rig.fates(queue_id) == {"bob@example.net": ["expired"]} for queue_id in ids)
    assert {event.id for event in rig.of(events.NoticeQueued)} == set(ids)
    rig.check()


def test_kumomta_539_what_hangs_in_memory_expires() -> None:
    """A fresh message that waits for room behind attempts that never end is given up all the same."""
    rig = Rig(
        queue=Settings(warn_after=Duration(0.0), expire=Duration(3600.0)), lanes=LaneSettings(limits=LaneLimits(1))
    )
    rig.peers.script = lambda batch, at: relayed(batch, at) if batch.envelope.sender is None else None
    rig.submit()
    stuck = rig.submit()
    rig.wait(3700)
    assert rig.fates(stuck) == {"bob@example.net": ["expired"]}
    rig.check()


def test_kumomta_116_the_next_message_does_not_wait_for_a_poll() -> None:
    """When an attempt ends the next message of its lane begins at that instant; no time has to pass."""
    rig = Rig(lanes=LaneSettings(limits=LaneLimits(1)))
    rig.peers.script = lambda batch, at: None
    for _ in range(20):
        rig.submit()
    rig.settle_down()
    for _ in range(20):
        rig.peers.answer()
    assert len(rig.peers.log) == 20
    assert {at for at, _, _ in rig.peers.log} == {NOW}
    rig.check()


def test_kumomta_116_a_parked_message_has_a_timer_of_its_own() -> None:
    """Every message that waits is attempted in the second in which it is due, and not at the next sweep."""
    rig = Rig(queue=Settings(retry=(Duration(7.0),)))
    answers = [deferred, relayed]
    rig.peers.script = lambda batch, at: answers.pop(0)(batch, at)
    rig.submit()
    rig.wait(7)
    assert [at - NOW for at, _, _ in rig.peers.log] == [0, 7]
    rig.check()


def test_maddy_678_a_changed_schedule_counts_from_the_next_attempt() -> None:
    """Shorter delays after a reload are used at once, and a shorter lifetime ends the retries."""
    rig = Rig(queue=Settings(warn_after=Duration(0.0)))
    rig.peers.script = notices_relayed_else(deferred)
    queue_id = rig.submit()
    rig.wait(301)
    rig.reload(queue=Settings(retry=(Duration(10.0),), expire=Duration(2000.0), warn_after=Duration(0.0)))
    rig.wait(900)
    times = [at - NOW for at, lane, _ in rig.peers.log if lane == "smtp:example.net"]
    assert times[:3] == [0, 300, 1200]
    rig.wait(1000)
    assert rig.fates(queue_id) == {"bob@example.net": ["expired"]}
    rig.check()


@pytest.mark.parametrize("surviving", range(8))
@pytest.mark.parametrize("synced", [False, True])
def test_maddy_328_slimta_the_notice_is_durable_before_the_failure_is_recorded(surviving: int, synced: bool) -> None:
    """Wherever a crash cuts between a refusal and the end of its message, the sender is told, at least once."""
    rig = Rig()
    rig.peers.script = lambda batch, at: None
    queue_id = rig.submit()
    rig.settle_down()
    rig.peers.answer(failed)
    if synced:
        rig.spool.sync()
    rig.peers.script = notices_relayed_else(failed)
    rig.crash(surviving)
    rig.wait(60)
    told = [lane for _, lane, _ in rig.peers.log if lane == "smtp:example.org"]
    assert told, "the notice was lost"
    (fates,) = rig.fates(queue_id).values()
    assert set(fates) == {"failed"}
    assert rig.spool.stable == {}
    rig.check()


def test_slimta_a_notice_that_cannot_be_stored_is_owed_still() -> None:
    """When the disk takes no notice the failure is not recorded: it is tried again until it can be told."""
    rig = Rig()
    rig.peers.script = notices_relayed_else(failed)
    queue_id = rig.submit()
    rig.spool.sync()
    rig.spool.refusal = "no space left"
    rig.settle_down()
    assert rig.of(events.RecipientSettled, events.NoticeQueued) == []
    rig.wait(200)
    rig.spool.refusal = ""
    rig.wait(200)
    assert rig.fates(queue_id) == {"bob@example.net": ["failed"]}
    assert len(rig.of(events.NoticeQueued)) == 1
    rig.check()


def test_kumomta_every_write_that_fails_is_looked_at() -> None:
    """With a disk that takes nothing no message is lost, none is acknowledged, and the operator hears of it."""
    rig = Rig()
    rig.peers.script = deferred
    taken = rig.submit()
    rig.spool.sync()
    rig.spool.refusal = "no space left"
    rig.submit()
    rig.wait(3600)
    assert list(rig.accepted) == [taken]
    assert rig.of(events.SpoolFailed)
    assert rig.manager.refusal() == "no space left"
    rig.spool.refusal = ""
    rig.peers.script = relayed
    rig.wait(7200)
    assert rig.fates(taken) == {"bob@example.net": ["relayed"]}
    rig.check()


def test_maddy_845_an_unknown_host_is_tried_again() -> None:
    """A look-up that failed is temporary: the message waits, its lane rests, and nobody is told of a failure."""
    rig = Rig()
    rig.peers.script = dead
    queue_id = rig.submit()
    rig.wait(3600)
    assert rig.of(events.RecipientSettled, events.NoticeQueued) == []
    rig.peers.script = relayed
    rig.wait(3600)
    assert rig.fates(queue_id) == {"bob@example.net": ["relayed"]}
    rig.check()


def test_haraka_2325_content_is_stored_once() -> None:
    """A message for many domains is one record and one file, whatever its recipients do."""
    rig = Rig()
    rig.peers.script = deferred
    queue_id = rig.submit(*[f"d{number}.example" for number in range(50)])
    rig.settle_down()
    assert list(rig.spool.stable) == [queue_id]
    rig.check()


def test_postal_3016_an_unknown_end_is_kept_in_the_story() -> None:
    """An end of data whose reply never came is its own state, and is still so after a restart."""
    unknown = Outcome(0, Fate.DEFERRED, Scope.MESSAGE, "4.4.2", "no reply to the end of data", NOW, unknown=True)
    entry = decode_entry(encode_entry(Attempted(NOW, (unknown,))))
    assert isinstance(entry, Attempted) and entry.outcomes[0].unknown
    rig = Rig()
    rig.peers.script = lambda batch, at: [unknown]
    queue_id = rig.submit()
    rig.settle_down()
    rig.crash()
    message = rig.manager.peek(queue_id)
    assert message is not None and message.progress.last[0].unknown


def test_opensmtpd_373_one_corrupt_message_does_not_stop_the_rest() -> None:
    """At every start a broken queue file is told, and all others are delivered."""
    rig = Rig()
    rig.peers.script = deferred
    ids = [rig.submit() for _ in range(5)]
    rig.settle_down()
    rig.crash()
    rig.spool.corrupt.add(ids[2])
    rig.peers.script = relayed
    rig.wait(600)
    assert {event.id for event in rig.of(events.MessageFinished)} == set(ids) - {ids[2]}
    assert [event.file for event in rig.of(events.SpoolCorrupt)] == [ids[2]]
    assert rig.manager.stats().unreadable == 1
    rig.check()


def test_opensmtpd_275_routes_are_found_anew_at_each_attempt() -> None:
    """A mended route reaches the mail that waits: its next attempt goes the new way."""
    rig = Rig()
    rig.peers.script = deferred
    rig.submit()
    rig.settle_down()
    rule = RouteSettings(recipient=Texts(("example.net",)), to=Texts(("[192.0.2.7]:25",)))
    rig.reload(router=Router([rule]))
    rig.peers.script = relayed
    rig.wait(301)
    assert [lane for _, lane, _ in rig.peers.log] == ["smtp:example.net", "smtp:[192.0.2.7]:25"]
    rig.check()


def test_postal_1021_a_claim_ends_with_its_owner() -> None:
    """What was being attempted when the daemon died is attempted again after its restart."""
    rig = Rig()
    rig.peers.script = lambda batch, at: None
    ids = [rig.submit(), rig.submit("other.example")]
    rig.settle_down()
    assert len(rig.peers.open) == 2
    rig.peers.script = relayed
    rig.crash()
    rig.wait(60)
    assert {event.id for event in rig.of(events.MessageFinished)} == set(ids)
    rig.check()


def test_zone_mta_129_287_467_hold_retry_release_delete_by_filter() -> None:
    """The operator needs no database: each wish works by filter, on what waits and after a restart."""
    rig = Rig()
    rig.peers.script = deferred
    spam = [rig.submit(sender="spammer") for _ in range(3)]
    good = [rig.submit("good.example"), rig.submit("other.example")]
    rig.settle_down()
    assert sorted(rig.desk.hold(Filter(sender="spammer@example.org"), "admin", "spam")) == spam
    rig.settle_down()
    rig.crash()
    assert sorted(row.queue_id for row in rig.desk.select(Filter(held=True))) == spam
    rig.peers.script = relayed
    assert list(rig.desk.retry(Filter(domain="good.example"))) == [good[0]]
    rig.settle_down()
    assert rig.fates(good[0]) == {"bob@good.example": ["relayed"]}
    assert list(rig.desk.release(Filter(queue_id=spam[0]), "admin")) == [spam[0]]
    rig.settle_down()
    assert rig.fates(spam[0]) == {"bob@example.net": ["relayed"]}
    assert sorted(rig.desk.remove(Filter(held=True), "admin")) == spam[1:]
    rig.wait(86_400)
    assert rig.fates(spam[1]) == {"bob@example.net": ["removed"]}
    assert rig.spool.stable == {}
    rig.check()


def test_haraka_limit_12_53_rate_per_destination_holds_for_retries_too() -> None:
    """The rate of a lane counts fresh mail and retried mail together."""
    slow = LaneRule("smtp:slow.example", LaneLimits(20, 60, Duration(60.0)))
    rig = Rig(queue=Settings(retry=(Duration(30.0),)), lanes=LaneSettings(rules=(slow,)))

    def script(batch: Batch, at: float) -> list[Outcome]:
        return deferred(batch, at) if at < NOW + 25 else relayed(batch, at)

    rig.peers.script = script
    for _ in range(20):
        rig.submit("slow.example")
    rig.wait(29)
    for _ in range(20):
        rig.submit("slow.example")
    rig.wait(120)
    times = sorted(at for at, _, _ in rig.peers.log)
    assert len(times) == 60
    for start in times:
        assert sum(start <= at < start + 10 for at in times) <= 12
    rig.check()


def test_a_clock_set_back_before_a_restart_makes_no_id_twice() -> None:
    """New ids pass over those of messages that wait already."""
    rig = Rig()
    rig.peers.script = deferred
    first = rig.submit()
    rig.settle_down()
    rig.kill()
    rig.begin(rig.spool.crash())
    rig.manager._next_id = iter([first, first, "NEW"]).__next__
    assert rig.manager.new_id() == "NEW"
