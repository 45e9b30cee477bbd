"""The manager: one place for each message, and every result of the spool is looked at."""

from __future__ import annotations

import pytest
from attrs import evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaymta.config import Size
from relaymta.mail.address import Address
from relaymta.mail.envelope import Envelope, Origin, Recipient
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.queueid import IdMaker
from relaymta.queue.desk import Desk, Filter
from relaymta.queue.manager import Manager
from relaymta.queue.message import Message, fairness_key
from relaymta.queue.settings import Settings
from relaymta.queue.timeline import State
from relaymta.store.interfaces import SpoolError
from tests.queue.memory_spool import MemorySpool

NOW = 1_764_000_000.0


def envelope(*domains: str, sender: str = "alice", at: float = NOW) -> Envelope:
    """An envelope for bob at each of `domains`."""
    domains = domains or ("example.net",)
    recipients = tuple(Recipient(Address("bob", domain)) for domain in domains)
    return Envelope(Address(sender, "example.org"), recipients, at)


def outcome(index: int, fate: Fate) -> Outcome:
    """An outcome of which only the recipient and the fate matter."""
    return Outcome(index, fate, Scope.RECIPIENT, "4.0.0", "text", NOW)


class Case(SynchronousTestCase):
    """A manager on a shelf in memory, by a Clock."""

    def setUp(self) -> None:
        """A shard that is empty and open."""
        self.clock = Clock()
        self.clock.advance(NOW)
        self.begin(MemorySpool(self.clock))

    def begin(self, spool: MemorySpool) -> None:
        """Open `spool` with a manager of its own."""
        self.spool = spool
        self.manager = Manager(spool, self.clock, Settings(), IdMaker(self.clock.seconds), lambda: 0.5)
        self.desk = Desk(self.manager)
        self.ready: list[Message] = []
        self.trouble: list[str] = []
        self.unreadable: list[str] = []
        self.manager.on_ready = self.ready.append
        self.manager.on_trouble = self.trouble.append
        self.manager.on_unreadable = lambda file, reason: self.unreadable.append(file)
        self.successResultOf(self.manager.open())
        while self.manager.adopt(10):
            pass

    def run_on(self, seconds: float = 0.0) -> None:
        """Let what is due happen."""
        self.clock.advance(seconds)
        for _ in range(5):
            self.clock.advance(0)

    def accepted(self, taken: Envelope | None = None) -> Message:
        """A message that was accepted and is to be attempted."""
        queue_id = self.manager.new_id()
        durable = self.manager.accept(queue_id, taken or envelope(), b"Subject: x\r\n\r\n")
        self.assertNoResult(durable)
        self.run_on()
        self.successResultOf(durable)
        return self.ready[-1]

    def parked(self, taken: Envelope | None = None) -> str:
        """A message that was deferred once and waits on disk."""
        message = self.accepted(taken)
        self.manager.settle(message, [outcome(i, Fate.DEFERRED) for i in message.progress.pending], "smtp:x")
        self.run_on()
        return message.queue_id

    def difference(self) -> int:
        """What the ledger says too much or too little."""
        return self.manager.stats().difference


class WayInTests(Case):
    """From a client's octets to a message that is to be attempted."""

    def test_a_message_is_ready_when_it_is_durable_and_not_before(self) -> None:
        """The first attempt starts from memory, after the sync, in the turn after the 250."""
        durable = self.manager.accept(self.manager.new_id(), envelope(), b"x")
        self.assertNoResult(durable)
        self.assertEqual(self.ready, [])
        told: list[int] = []
        durable.addCallback(lambda _: told.append(len(self.ready)))
        self.run_on()
        self.assertEqual(told, [0], "the 250 goes out before the attempt begins")
        self.assertEqual(len(self.ready), 1)
        self.assertEqual(b"".join(self.ready[0].content.chunks()), b"x")

    def test_a_message_that_was_not_written_is_not_ours(self) -> None:
        """An error of the store reaches the caller, and nothing is attempted [kumomta changelog]."""
        self.spool.refusal = "no space left"
        durable = self.manager.accept(self.manager.new_id(), envelope(), b"x")
        self.failureResultOf(durable, SpoolError)
        incoming = self.manager.receive(self.manager.new_id(), envelope())
        incoming.write(b"x")
        self.failureResultOf(incoming.commit(), SpoolError)
        self.run_on()
        self.assertEqual((self.ready, self.manager.ledger.accepted, self.difference()), ([], 0, 0))

    def test_a_large_message_comes_in_pieces(self) -> None:
        """receive() streams, and commit() gives the content; its octets do not count as memory."""
        incoming = self.manager.receive(self.manager.new_id(), envelope("a.example", "b.example"))
        incoming.write(b"one")
        incoming.write(b"two")
        self.assertEqual(incoming.size, 6)
        done = incoming.commit()
        self.run_on()
        self.assertEqual(self.successResultOf(done).size, 6)
        self.assertEqual(self.ready[0].progress.pending, (0, 1))
        self.assertLess(self.manager.memory, 10_000)

    def test_no_mail_below_min_free(self) -> None:
        """A disk that is nearly full refuses mail, says so once, and takes it again (452, RFC 5321 §4.2.2)."""
        told: list[int] = []
        self.manager.on_full = told.append
        self.assertEqual(self.manager.refusal(), "")
        self.spool.octets_free = 5
        self.assertIn("5 octets free", self.manager.refusal())
        self.manager.refusal()
        self.assertEqual(told, [5])
        self.spool.octets_free = 1 << 40
        self.assertEqual(self.manager.refusal(), "")
        self.spool.refusal = "both segments failed"
        self.assertEqual(self.manager.refusal(), "both segments failed")

    def test_memory_is_counted_and_given_back(self) -> None:
        """crowded is true while messages in memory take more than the budget."""
        self.manager.settings = evolve(self.manager.settings, memory=Size(3000))
        first = self.accepted()
        self.assertFalse(self.manager.crowded)
        second = self.accepted()
        self.assertTrue(self.manager.crowded)
        self.manager.settle(first, [outcome(0, Fate.RELAYED)])
        self.manager.settle(second, (), "smtp:x", NOW)
        self.run_on()
        self.assertEqual(self.manager.memory, 0)


class SettleTests(Case):
    """What becomes of a message after a round."""

    def test_a_message_whose_recipients_are_final_leaves(self) -> None:
        """Nothing stays on the shelf, and the ledger agrees."""
        message = self.accepted(envelope("a.example", "b.example"))
        due = self.manager.settle(message, [outcome(0, Fate.RELAYED), outcome(1, Fate.FAILED)])
        self.run_on()
        self.assertEqual((due, self.spool.stable, self.difference()), (0, {}, 0))
        fates = self.manager.stats().fates
        self.assertEqual((fates["relayed"], fates["failed"]), (1, 1))

    def test_a_crash_repeats_only_who_is_pending(self) -> None:
        """An attempt that settled some recipients says which, so that a crash does not repeat them all."""
        message = self.accepted(envelope("a.example", "b.example"))
        self.manager.settle(message, [outcome(0, Fate.RELAYED), outcome(1, Fate.DEFERRED)], "smtp:b.example")
        self.run_on()
        self.begin(self.spool.crash())
        self.run_on()
        again = self.manager.claim(message.queue_id)
        assert again is not None
        self.assertEqual((again.progress.pending, again.progress.attempts), ((1,), 1))
        self.assertEqual(again.lane, "smtp:b.example")
        self.assertEqual(again.progress.last[1].fate, Fate.DEFERRED)

    def test_a_deferred_message_waits_for_the_next_delay(self) -> None:
        """The due time follows `retry` with the attempts so far, and is in the file's schedule."""
        queue_id = self.parked()
        self.assertEqual(self.spool.stable[queue_id].schedule.due, int(NOW) + 300)
        self.clock.advance(300)
        self.assertEqual(self.manager.timeline.pop_due(self.clock.seconds(), 9), [(queue_id, "smtp:x")])
        message = self.manager.claim_ready(queue_id)
        assert message is not None
        due = self.manager.settle(message, [outcome(0, Fate.DEFERRED)], "smtp:x")
        self.assertEqual(due, int(NOW) + 300 + 900)

    def test_settings_are_read_anew_at_every_attempt(self) -> None:
        """A reload reaches what waits already: the next delay and the lifetime are the new ones (maddy#678)."""
        queue_id = self.parked()
        self.manager.settings = Settings(retry=(60.0, 120.0), expire=150.0)  # type: ignore[arg-type]
        message = self.manager.claim(queue_id)
        assert message is not None
        self.assertEqual(self.manager.expires(message), NOW + 150)
        self.assertEqual(self.manager.settle(message, [outcome(0, Fate.DEFERRED)]), int(NOW) + 120)

    def test_a_round_without_attempt_keeps_the_schedule(self) -> None:
        """settle() without outcomes puts a ticket back as it was, or to where the caller says."""
        queue_id = self.parked()
        message = self.manager.claim(queue_id)
        assert message is not None
        due = message.due
        self.assertEqual(self.manager.settle(message, ()), due)
        self.run_on()
        entry = self.manager.timeline.get(queue_id)
        assert entry is not None
        self.assertEqual((entry.due, entry.lane), (due, "smtp:x"))
        again = self.manager.claim(queue_id)
        assert again is not None
        self.assertEqual(self.manager.settle(again, (), "smtp:y", NOW + 60), int(NOW) + 60)
        self.assertEqual(again.progress.attempts, 1)

    def test_a_message_that_cannot_be_put_on_disk_waits_in_memory(self) -> None:
        """A full disk at a deferral loses nothing: it is told, and the message is tried again when it is due."""
        message = self.accepted()
        self.spool.refusal = "no space left"
        due = self.manager.settle(message, [outcome(0, Fate.DEFERRED)])
        self.run_on()
        self.assertEqual((len(self.trouble), self.difference()), (1, 0))
        self.spool.refusal = ""
        self.clock.advance(due - NOW)
        self.manager.timeline.pop_due(self.clock.seconds(), 1)
        again = self.manager.claim_ready(message.queue_id)
        self.assertIs(again, message)
        self.manager.settle(message, [outcome(0, Fate.RELAYED)])
        self.run_on()
        self.assertEqual((self.manager.memory, self.spool.stable, self.difference()), (0, {}, 0))


class DiskTests(Case):
    """Found on disk, or not found."""

    def test_everything_on_disk_is_taken_over(self) -> None:
        """What waited and what was held before a restart waits and is held after it, with no file opened."""
        waiting, held = self.parked(), self.parked()
        list(self.desk.hold(Filter(queue_id=held), "admin", "look"))
        fresh = self.accepted().queue_id
        self.run_on()
        self.begin(self.spool.crash())
        self.assertEqual(self.spool.loads, 0)
        timeline = self.manager.timeline
        states = {i: timeline.get(i) for i in (waiting, held, fresh)}
        self.assertEqual(
            [entry.state for entry in states.values() if entry], [State.WAITING, State.HELD, State.WAITING]
        )
        self.assertEqual((self.manager.ledger.adopted, self.difference()), (3, 0))

    def test_one_corrupt_message_is_told_and_the_rest_goes_on(self) -> None:
        """An unreadable file is counted and told once, and does not end the daemon (OpenSMTPD#373)."""
        bad, good = self.parked(), self.parked()
        self.spool.corrupt.add(bad)
        self.assertIsNone(self.manager.claim(bad))
        self.assertIsNotNone(self.manager.claim(good))
        stats = self.manager.stats()
        self.assertEqual((self.unreadable, stats.unreadable, stats.difference), ([bad], 1, 0))

    def test_an_envelope_of_a_newer_version_is_kept_on_hold(self) -> None:
        """What this version cannot read stays where it is, is told once, and is not attempted."""
        queue_id = self.parked()
        self.spool.shelf[queue_id] = evolve(self.spool.shelf[queue_id], head=b"[99]")
        self.assertIsNone(self.manager.claim(queue_id))
        self.assertIsNone(self.manager.peek(queue_id))
        entry = self.manager.timeline.get(queue_id)
        assert entry is not None
        self.assertEqual((entry.state, self.unreadable, self.difference()), (State.HELD, [queue_id], 0))
        self.assertIn(queue_id, self.spool.stable)

    def test_a_file_that_vanished_is_told(self) -> None:
        """A queue file that somebody deleted leaves the ledger straight."""
        queue_id = self.parked()
        del self.spool.shelf[queue_id]
        self.assertIsNone(self.manager.claim(queue_id))
        self.assertEqual((self.unreadable, self.difference(), len(self.manager.timeline)), ([queue_id], 0, 0))

    def test_a_file_that_cannot_be_read_now_is_tried_again(self) -> None:
        """An error that may pass (no descriptors left) puts the ticket back for a minute."""
        queue_id = self.parked()
        self.clock.advance(300)
        self.manager.timeline.pop_due(self.clock.seconds(), 1)

        def load(_: str) -> object:
            raise SpoolError("too many open files")

        self.patch(self.spool, "load", load)
        self.assertIsNone(self.manager.claim_ready(queue_id))
        entry = self.manager.timeline.get(queue_id)
        assert entry is not None
        self.assertEqual((entry.state, entry.due), (State.WAITING, int(self.clock.seconds()) + 60))

    def test_a_claim_ends_with_its_owner(self) -> None:
        """A message that was claimed when its owner died is waiting again after a restart (postal#1021)."""
        queue_id = self.parked()
        self.assertIsNotNone(self.manager.claim(queue_id))
        self.assertIsNone(self.manager.claim(queue_id), "one owner at a time")
        self.begin(self.spool.crash())
        self.assertIsNotNone(self.manager.claim(queue_id))

    def test_a_finished_story_is_not_attempted_again(self) -> None:
        """A file all of whose recipients are final (crash before unlink) is removed when it is opened."""
        queue_id = self.parked()
        kept = self.spool.shelf[queue_id]
        line = b'["X",1.0,[0],"admin"]'
        self.spool.stable[queue_id] = evolve(kept, lines=(*kept.lines, line))
        self.begin(self.spool.crash())
        self.assertIsNone(self.manager.claim(queue_id))
        self.run_on()
        self.assertEqual((self.spool.stable, self.difference()), ({}, 0))


class DeskTests(Case):
    """The operator's wishes, wherever the message is."""

    def test_hold_and_release_on_disk(self) -> None:
        """A held message survives a restart as held, and is due at once when it is released (zone-mta#129)."""
        queue_id = self.parked()
        self.assertEqual(list(self.desk.hold(Filter(queue_id=queue_id), "admin", "look")), [queue_id])
        self.assertEqual(list(self.desk.hold(Filter(), "admin", "look")), [], "it is on hold already")
        self.assertIsNone(self.manager.claim(queue_id))
        self.run_on(1000)
        self.begin(self.spool.crash())
        self.assertEqual(self.manager.stats().held, 1)
        self.assertEqual(list(self.desk.release(Filter(held=True), "admin")), [queue_id])
        self.run_on()
        message = self.manager.claim(queue_id)
        assert message is not None
        self.assertEqual(message.progress.on_hold, 1000.0)
        self.assertEqual(message.due, int(self.clock.seconds()))

    def test_wishes_that_cross_end_as_the_last_one(self) -> None:
        """Hold, release and hold again while the first rename is under way leave the message on hold."""
        queue_id = self.parked()
        one = Filter(queue_id=queue_id)
        for _ in range(2):
            self.assertEqual(len(list(self.desk.hold(one, "admin", "look"))), 1)
            self.assertEqual(len(list(self.desk.release(one, "admin"))), 1)
        self.assertEqual(len(list(self.desk.hold(one, "admin", "look"))), 1)
        self.run_on()
        self.assertTrue(self.spool.stable[queue_id].schedule.held)
        self.assertEqual((self.manager.stats().held, self.difference()), (1, 0))
        list(self.desk.release(one, "admin"))
        list(self.desk.hold(one, "admin", "look"))
        list(self.desk.remove(one, "admin"))
        self.run_on()
        self.assertEqual((self.spool.stable, self.difference(), self.trouble), ({}, 0, []))

    def test_hold_while_it_is_being_put_on_disk(self) -> None:
        """A message that is held or released on its way to disk gets there as it should be."""
        message = self.accepted()
        self.manager.settle(message, [outcome(0, Fate.DEFERRED)])
        one = Filter(queue_id=message.queue_id)
        self.assertEqual(len(list(self.desk.hold(one, "admin", "look"))), 1)
        self.run_on()
        self.assertTrue(self.spool.stable[message.queue_id].schedule.held)
        self.assertEqual(self.manager.stats().held, 1)

    def test_remove_by_recipient_leaves_the_others(self) -> None:
        """Deleting the mail for one domain keeps the message for its other recipients, over a restart."""
        queue_id = self.parked(envelope("a.example", "b.example"))
        self.assertEqual(list(self.desk.remove(Filter(domain="A.example"), "admin")), [queue_id])
        self.assertEqual(list(self.desk.remove(Filter(domain="a.example"), "admin")), [])
        self.run_on()
        self.begin(self.spool.crash())
        message = self.manager.claim(queue_id)
        assert message is not None
        self.assertEqual(message.progress.pending, (1,))

    def test_remove_takes_the_message_off_the_shelf(self) -> None:
        """When its last recipient is removed a message leaves, counted."""
        queue_id = self.parked(envelope("a.example", "b.example"))
        list(self.desk.remove(Filter(recipient="bob@a.example"), "admin"))
        self.assertEqual(list(self.desk.remove(Filter(sender="alice@example.org"), "admin")), [queue_id])
        self.run_on()
        self.assertEqual((self.spool.stable, self.difference()), ({}, 0))
        self.assertEqual(self.manager.stats().fates["removed"], 2)

    def test_retry_makes_it_due_now(self) -> None:
        """A waiting message is due at once; one on hold is not touched."""
        waiting, held = self.parked(), self.parked()
        list(self.desk.hold(Filter(queue_id=held), "admin", "look"))
        self.assertEqual(list(self.desk.retry(Filter())), [waiting])
        self.assertEqual(self.manager.timeline.pop_due(self.clock.seconds(), 9), [(waiting, "smtp:x")])

    def test_filters_by_what_the_name_says_open_no_file(self) -> None:
        """Id, lane, hold and age are known from the tickets alone."""
        old = self.parked()
        self.clock.advance(1000)
        new = self.parked(envelope(at=NOW + 1000))
        list(self.desk.hold(Filter(queue_id=new), "admin", "look"))
        loads = self.spool.loads
        for wanted, expected in [
            (Filter(queue_id=old), [old]),
            (Filter(lane="smtp:x"), [old, new]),
            (Filter(lane="smtp:y"), []),
            (Filter(held=True), [new]),
            (Filter(held=False), [old]),
            (Filter(older=500.0), [old]),
            (Filter(younger=500.0), [new]),
        ]:
            self.assertEqual(sorted(row.queue_id for row in self.desk.select(wanted)), expected, wanted)
        self.assertEqual(self.spool.loads, loads)

    def test_filters_by_sender_and_recipient(self) -> None:
        """Mailboxes are compared without regard to case; the null sender is "<>"."""
        one = self.parked(envelope("a.example", sender="Alice"))
        two = self.parked(evolve(envelope("b.example"), sender=None))
        for wanted, expected in [
            (Filter(sender="alice@example.org"), [one]),
            (Filter(sender="<>"), [two]),
            (Filter(recipient="BOB@b.example"), [two]),
            (Filter(domain="a.example", sender="<>"), []),
        ]:
            self.assertEqual([row.queue_id for row in self.desk.select(wanted)], expected)
        (row,) = self.desk.select(Filter(queue_id=one), opened=True)
        assert row.message is not None
        self.assertEqual(row.accepted_at, row.message.envelope.accepted_at)

    def test_a_listing_is_lazy(self) -> None:
        """The first row of a long queue comes before the rest is looked at."""
        for _ in range(5):
            self.parked()
        loads = self.spool.loads
        next(iter(self.desk.select(Filter(sender="alice@example.org"))))
        self.assertEqual(self.spool.loads, loads + 1)

    def test_stranded_messages_obey_the_operator_too(self) -> None:
        """What could not be put on disk can be held, released and removed."""
        message = self.accepted()
        self.spool.refusal = "no space left"
        self.manager.settle(message, [outcome(0, Fate.DEFERRED)])
        self.run_on()
        one = Filter(queue_id=message.queue_id)
        self.assertEqual(len(list(self.desk.hold(one, "admin", "look"))), 1)
        self.assertIsNone(self.manager.claim(message.queue_id))
        self.assertEqual(len(list(self.desk.release(one, "admin"))), 1)
        self.assertEqual(len(list(self.desk.remove(one, "admin"))), 1)
        self.run_on()
        self.assertEqual((self.manager.memory, self.difference(), self.spool.stable), (0, 0, {}))

    def test_active_messages_are_listed(self) -> None:
        """A message that is being attempted is in the listing, too."""
        message = self.accepted()
        (row,) = self.desk.select(Filter(queue_id=message.queue_id))
        self.assertEqual((row.state, row.message), ("active", message))
        self.assertEqual(len(list(self.desk.select(Filter()))), 1)


@pytest.mark.parametrize(
    ("sender", "account", "key"),
    [
        (None, "", ""),
        (Address("news", "example.org"), "", "news@example.org"),
        (Address("news+4711", "example.org"), "", "news@example.org"),
        (Address("bounce-17-bob=example.net", "example.org"), "", "@example.org"),
        (Address("news", "example.org"), "alice", "alice"),
        (Address("x" * 64, "y" * 200), "", ("x" * 64)[:60]),
    ],
)
def test_fairness_counts_a_bulk_sender_as_one(sender: Address | None, account: str, key: str) -> None:
    """Tags and recipients in the reverse-path (VERP) make no new sender; an account counts before the sender."""
    taken = Envelope(sender, (Recipient(Address("bob", "example.net")),), NOW, Origin(account=account))
    assert fairness_key(taken) == key
