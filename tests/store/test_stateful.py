"""Any order of what an owner may do, crashes included: every promise holds at every start."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from relaymta.store.interfaces import Incoming
from tests.store.simdisk import Fate, SimDisk
from tests.store.world import World, check

SIZES = st.one_of(st.integers(0, 600), st.integers(3000, 9000))  # the largest are too large for the journal
FATES = st.sampled_from(list(Fate))


class Owner(RuleBasedStateMachine):
    """One shard through several lives."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.lines = 0
        self.incoming: dict[str, Incoming] = {}
        self.world = World(SimDisk())
        self.world.open()

    def names(self) -> list[str]:
        """Ids of the messages that the owner may act on."""
        return [
            queue_id
            for queue_id, known in self.world.model.items()
            if known.acknowledged and not known.finished and not known.refused
        ]

    def some(self, data: st.DataObject) -> str:
        """One of them."""
        return data.draw(st.sampled_from(self.names()))

    @rule(size=SIZES)
    def append(self, size: int) -> None:
        """Take a small message."""
        self.count += 1
        self.world.append(f"A{self.count}", size=size, due=self.count)

    @rule(size=st.integers(0, 80_000))
    def receive(self, size: int) -> None:
        """Begin to take a large one."""
        self.count += 1
        self.incoming[f"L{self.count}"] = self.world.receive(f"L{self.count}", size=max(size, 1))

    @precondition(lambda self: self.incoming)
    @rule(data=st.data(), commit=st.booleans())
    def end(self, data: st.DataObject, commit: bool) -> None:
        """Commit it, or give it up."""
        queue_id = data.draw(st.sampled_from(sorted(self.incoming)))
        incoming = self.incoming.pop(queue_id)
        if commit:
            self.world.commit(queue_id, incoming)
        else:
            incoming.abort()
            self.world.model[queue_id].refused = True

    @precondition(lambda self: self.names())
    @rule(data=st.data(), durably=st.booleans())
    def note(self, data: st.DataObject, durably: bool) -> None:
        """Note a line."""
        self.lines += 1
        line = b"line %d" % self.lines
        (self.world.note_durably if durably else self.world.note)(self.some(data), line)

    @precondition(lambda self: self.names())
    @rule(data=st.data(), due=st.integers(0, 5))
    def park(self, data: st.DataObject, due: int) -> None:
        """Park or reschedule."""
        self.world.park(self.some(data), due=due)

    @precondition(lambda self: self.names())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Finish."""
        self.world.finish(self.some(data))

    @precondition(lambda self: self.names())
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        """What is loaded is what was given, with every line noted in this life, whatever is under way."""
        queue_id = self.some(data)
        known = self.world.model[queue_id]
        stored = self.world.spool.load(queue_id)
        assert stored.head == known.head
        assert b"".join(stored.content.chunks()) == known.content
        assert list(stored.lines) == known.noted

    @rule()
    def turn(self) -> None:
        """Let the reactor turn."""
        self.world.pump()

    @rule()
    def idle(self) -> None:
        """Let two seconds pass."""
        self.world.wait(2)

    @rule(fate=FATES, seed=st.integers(0, 1000))
    def crash(self, fate: Fate, seed: int) -> None:
        """Cut the power and start again."""
        self.start(self.world.disk.crash(fate, seed))

    @rule()
    def kill(self) -> None:
        """Kill the process and start again: what was written is there, whether or not it was synced."""
        self.world.disk.kill()
        self.start(self.world.disk, killed=True)

    @rule()
    def restart(self) -> None:
        """Stop in good order and start again."""
        self.world.close()
        self.start(self.world.disk)

    def start(self, disk: SimDisk, killed: bool = False) -> None:
        """Open the shard again and see what is there; from then on that is what was promised.

        Who was only `killed` may have left what was never promised, and another crash may take it.
        """
        self.incoming.clear()
        self.world = World(disk, self.world.model)
        assert self.world.open().corrupt == ()
        found = check(self.world, self.world.model)
        model = self.world.model
        for queue_id in list(model):
            known = model[queue_id]
            if queue_id not in found:
                known.acknowledged = False  # an unlink that was not synced may still bring it back
                continue
            known.acknowledged = known.acknowledged or not killed
            known.finished, known.parked = False, True
            known.noted = list(found[queue_id].lines)

    @invariant()
    def nothing_fails(self) -> None:
        """A sound disk gives no reason to complain."""
        assert self.world.failures == [] and self.world.corrupt == []
        assert self.world.spool.refusing == ""


TestOwner = Owner.TestCase
TestOwner.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.long
def test_any_order_searched_for_minutes() -> None:
    """The same, with many more and longer lives."""
    run_state_machine_as_test(Owner, settings=settings(max_examples=3000, stateful_step_count=80, deadline=None))
