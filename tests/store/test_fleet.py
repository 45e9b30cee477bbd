"""Several shards as one spool: what is adopted stays as long as something is in it, and is given up when nothing is."""

from __future__ import annotations

import errno
from random import Random

import pytest
from attrs import define, field

from relaymta.store.fleet import Fleet
from relaymta.store.interfaces import Schedule, SpoolLocked
from relaymta.store.shards import claim
from relaymta.store.spool import DiskSpool
from tests.store.simdisk import SimDisk
from tests.store.world import SHARD, SMALL, World


@define
class Rig:
    """A fleet whose own shard is number 1, on the disk of a world; an id says its shard by its first letter."""

    world: World
    told: list[str] = field(factory=list)
    fleet: Fleet = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.fleet = Fleet(1, self.shard(1), lambda queue_id: 0 if queue_id.startswith("A") else 1)
        self.fleet.on_failure = self.told.append
        self.world.fired(self.fleet.open())

    def shard(self, number: int) -> DiskSpool:
        """One on the disk, not opened yet."""
        world = self.world
        return DiskSpool(
            f"/spool/shard-{number}",
            seconds=lambda: 1_764_000_000.0 + world.clock.seconds(),
            call_later=world.clock.callLater,
            call_from_thread=lambda call, *args: call(*args),
            disk=world.disk,
            commit="inline",
            files="inline",
            draw=Random(world.disk._next).randbytes,
            **SMALL,  # type: ignore[arg-type]
        )

    def adopt(self) -> list[str]:
        """Adopt shard 0; what waits there."""
        _, tickets = self.world.fired(self.fleet.adopt(0, self.shard(0)))
        return sorted(ticket.queue_id for ticket in tickets)

    def release(self) -> list[int]:
        """Give up what is empty."""
        released: list[int] = self.world.fired(self.fleet.release())
        return released


@pytest.fixture
def rig() -> Rig:
    """A fleet beside a shard that was left: with two messages in its journal, and one as a file."""
    world = World(SimDisk())
    world.open()
    for number in range(3):
        world.append(f"A{number}")
    world.pump()
    world.park("A2", due=300)
    world.pump()
    world.disk.kill()
    return Rig(World(world.disk, world.model))


def test_a_shard_is_kept_while_anything_is_in_it(rig: Rig) -> None:
    """In the journal, as a file, or on its way from the one to the other: it is ours until the last is gone."""
    assert rig.adopt() == ["A0", "A1", "A2"]
    fleet = rig.fleet
    assert rig.release() == []
    fleet.finish("A0")
    fleet.park("A1", Schedule(500))
    assert rig.release() == []
    fleet.finish("A2")
    fleet.note("A1", b"attempt 1")
    assert rig.release() == []
    assert fleet.load("A1").lines == (b"attempt 1",)
    with pytest.raises(SpoolLocked):
        claim(rig.world.disk, SHARD)
    fleet.finish("A1")
    assert not fleet.empty
    rig.world.pump()
    assert rig.release() == [0] and fleet.numbers == (1,)
    claim(rig.world.disk, SHARD).release()
    assert rig.told == []


def test_a_shard_that_was_given_up_is_adopted_again_and_nothing_comes_back(rig: Rig) -> None:
    """What was finished is known to be, also when the power goes after that; what comes later is found."""
    rig.adopt()
    for number in range(3):
        rig.fleet.finish(f"A{number}")
    rig.world.wait(1)
    assert rig.release() == [0]
    again = World(rig.world.disk, {})
    again.open()
    assert list(again.spool.waiting()) == []
    again.append("A9")
    again.pump()
    again.close()
    assert rig.adopt() == ["A9"]
    assert rig.fleet.load("A9").head == again.model["A9"].head


def test_a_last_sync_that_fails_is_told_and_the_shard_given_up_all_the_same(rig: Rig) -> None:
    """It is empty: its number is free, and whoever asked for that is told so."""
    rig.adopt()
    for number in range(3):
        rig.fleet.finish(f"A{number}")
    rig.world.wait(2)
    rig.world.disk.failing = lambda call, number: errno.EIO if call == "fdatasync" else None
    assert rig.release() == [0] and rig.fleet.numbers == (1,)
    assert len(rig.told) == 1 and "the last sync failed" in rig.told[0]
    rig.world.disk.failing = lambda call, number: None
    claim(rig.world.disk, SHARD).release()


def test_the_own_shard_is_never_given_up(rig: Rig) -> None:
    """However empty it is."""
    assert rig.release() == [] and rig.fleet.numbers == (1,)
