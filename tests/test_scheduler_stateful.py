"""Under any order of events every accepted recipient ends in exactly one fate, and nothing is ever stuck."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relaymta import events
from relaymta.config import Duration, Size
from relaymta.delivery.batch import Batch
from relaymta.mail.envelope import Notify
from relaymta.mail.outcome import Outcome
from relaymta.queue.desk import Filter
from relaymta.queue.lanes import SUSPENSIONS
from relaymta.queue.settings import LaneLimits, LaneSettings, Settings
from relaymta.queue.timeline import State
from relaymta.store.spool import DiskSpool
from tests.queue.rig import Rig, dead, deferred, failed, relayed

ANSWERS = {"relayed": relayed, "deferred": deferred, "failed": failed, "dead": dead}
DOMAINS = st.lists(st.sampled_from(["a.example", "b.example", "c.example"]), min_size=1, max_size=3)
PLACE = st.integers(0, 30)


def mixed(batch: Batch, at: float) -> list[Outcome]:
    """Each recipient gets another answer."""
    found = [relayed(batch, at), failed(batch, at), deferred(batch, at)]
    return [found[place % 3][place] for place in range(len(batch.recipients))]


ANSWERS["mixed"] = mixed


class RelayMachine(RuleBasedStateMachine):
    """Submissions, answers, crashes and an operator, in any order."""

    def begin_on_shelf(self) -> None:
        """The relay begins on the shelf in memory."""

    @initialize(memory=st.sampled_from([4_000, 1 << 25]), concurrency=st.integers(1, 3), attempts=st.integers(1, 6))
    def begin(self, memory: int, concurrency: int, attempts: int) -> None:
        """A relay with small limits."""
        self.rig = Rig(
            queue=Settings(
                retry=(Duration(60.0), Duration(600.0)),
                expire=Duration(7200.0),
                warn_after=Duration(1000.0),
                memory=Size(memory),
            ),
            lanes=LaneSettings(attempts, LaneLimits(concurrency)),
        )
        self.rig.peers.script = lambda batch, at: None
        self.crashed = False
        self.begin_on_shelf()

    @rule(domains=DOMAINS, sender=st.sampled_from(["alice", "bulk", None]), notify=st.sampled_from([0, 1, 2, 4]))
    def submit(self, domains: list[str], sender: str | None, notify: int) -> None:
        """A message comes."""
        self.rig.submit(*domains, sender=sender, notify=Notify(notify))

    @rule(seconds=st.sampled_from([0.0, 1.0, 61.0, 700.0, 2000.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.rig.wait(seconds)

    @precondition(lambda self: self.rig.peers.open)
    @rule(how=st.sampled_from(sorted(ANSWERS)), place=PLACE)
    def answer(self, how: str, place: int) -> None:
        """An attempt ends."""
        self.rig.peers.answer(ANSWERS[how], place % len(self.rig.peers.open))

    @rule(surviving=st.integers(0, 5))
    def crash(self, surviving: int) -> None:
        """The power is cut, and comes back."""
        self.crashed = True
        self.cut(surviving)

    def cut(self, surviving: int) -> None:
        """Only what was synced is left, and the first `surviving` changes after that."""
        self.rig.crash(surviving)

    @rule(refusal=st.sampled_from(["", "no space left"]))
    def disk(self, refusal: str) -> None:
        """The disk is full, or no more."""
        self.refuse(refusal)

    def refuse(self, refusal: str) -> None:
        """Nothing can be made durable, unless `refusal` is empty."""
        self.rig.spool.refusal = refusal

    def left(self) -> int:
        """How many messages are on the shelf."""
        return len(self.rig.spool.stable)

    @rule(place=PLACE, domain=st.sampled_from(["", "a.example"]))
    def remove(self, place: int, domain: str) -> None:
        """The operator deletes a message, or some of its recipients."""
        list(self.rig.desk.remove(Filter(queue_id=self._some(place), domain=domain), "admin"))

    @rule(place=PLACE)
    def hold(self, place: int) -> None:
        """The operator holds a message."""
        list(self.rig.desk.hold(Filter(queue_id=self._some(place)), "admin", "look"))

    @rule(place=PLACE, every=st.booleans())
    def release(self, place: int, every: bool) -> None:
        """The operator releases a message, or all."""
        list(self.rig.desk.release(Filter(queue_id="" if every else self._some(place)), "admin"))

    @rule(place=PLACE, every=st.booleans())
    def retry(self, place: int, every: bool) -> None:
        """The operator wants a message tried now, or all."""
        list(self.rig.desk.retry(Filter(queue_id="" if every else self._some(place))))

    @rule(retry=st.sampled_from([30.0, 900.0]), attempts=st.integers(1, 6))
    def reload(self, retry: float, attempts: int) -> None:
        """The configuration changes."""
        queue = Settings(retry=(Duration(retry),), expire=Duration(7200.0), warn_after=Duration(1000.0))
        self.rig.reload(queue=queue, lanes=LaneSettings(attempts, LaneLimits(2)))

    def _some(self, place: int) -> str:
        known = list(self.rig.accepted) or [""]
        return known[place % len(known)] or "none"

    @invariant()
    def ledger_is_straight(self) -> None:
        """No bug, no mismatch, and nobody is forgotten, at any moment."""
        self.rig.check()

    @invariant()
    def every_waiting_message_has_a_bounded_next_step(self) -> None:
        """A ticket is due within the longest delay or suspension, or its lane knows of it."""
        horizon = self.rig.clock.seconds() + max(1000.0, SUSPENSIONS[-1]) + 1
        for entry in self.rig.manager.timeline.entries():
            assert entry.state is not State.WAITING or entry.due <= horizon

    def teardown(self) -> None:
        """When peers answer and nobody interferes, everything ends, and each recipient in exactly one fate."""
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        self.refuse("")
        for _ in range(40):
            rig.settle_down()
            list(rig.desk.release(Filter(), "admin"))
            while rig.peers.open:
                rig.peers.answer(relayed)
                rig.settle_down()
            rig.wait(601)
        rig.check()
        assert rig.manager.stats().queued == 0 and self.left() == 0
        assert rig.lanes.running == rig.lanes.fresh == 0
        fates: dict[str, Counter[str]] = {}
        for event in rig.of(events.RecipientSettled):
            fates.setdefault(event.id, Counter())[event.recipient] += 1
        for queue_id, envelope in rig.accepted.items():
            wanted = Counter(str(recipient.address) for recipient in envelope.recipients)
            if self.crashed:  # a crash may repeat what was not yet written, and never loses anything
                assert set(fates.get(queue_id, {})) == set(wanted)
                assert all(fates[queue_id][address] >= count for address, count in wanted.items())
            else:
                assert fates.get(queue_id) == wanted


TestRelay = RelayMachine.TestCase
TestRelay.settings = settings(max_examples=60, stateful_step_count=30)


class DiskMachine(RelayMachine):
    """The same on the shelf that the daemon uses; a process that dies leaves what it has written."""

    def begin_on_shelf(self) -> None:
        """The relay begins on an empty folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="relaymta-"))
        self.rig.kill()
        self.rig.begin(self._open())

    def _open(self) -> DiskSpool:
        clock = self.rig.clock
        return DiskSpool(
            str(self.folder / "shard-0"),
            seconds=clock.seconds,
            call_later=clock.callLater,
            call_from_thread=lambda call, *args: clock.callLater(0, call, *args),
            commit="inline",
            files="inline",
            segment_size=1 << 18,
            folders=2,
        )

    def cut(self, surviving: int) -> None:
        """The process is killed: its timers and its lock are gone."""
        self.rig.kill()
        self.rig.spool._give_up()
        self.rig.clock.advance(0.1)
        self.rig.begin(self._open())

    def refuse(self, refusal: str) -> None:
        """This disk is never full."""

    def left(self) -> int:
        """How many queue files there are."""
        return sum(path.is_file() for path in (self.folder / "shard-0" / "new").rglob("*"))

    def teardown(self) -> None:
        """As above, and the folder goes."""
        try:
            super().teardown()
        finally:
            if hasattr(self, "rig"):
                self.rig.kill()
                self.rig.spool._give_up()
                shutil.rmtree(self.folder)


TestRelayOnDisk = DiskMachine.TestCase
TestRelayOnDisk.settings = settings(max_examples=15, stateful_step_count=25)
