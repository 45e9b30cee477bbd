"""The power is cut at every system call: nothing that was acknowledged is missing, changed, or there twice."""

from __future__ import annotations

import errno
from collections import Counter
from random import Random

import pytest

from tests.store.simdisk import WRITING, Fate, SimDisk
from tests.store.world import SHARD, Expected, World, check, stored

FATES = [(Fate.NOTHING, 0), (Fate.EVERYTHING, 0), (Fate.SOME, 0), (Fate.SOME, 1), (Fate.ORDERED, 0)]


class Lost(BaseException):
    """A promise was broken."""


def day(world: World) -> None:
    """A day of a spool's life: everything that can become of a message, in one go."""
    for number in range(6):
        world.append(f"A{number}", size=400 * number)
    world.pump()
    world.note("A0", b"attempt 1: deferred")
    world.note_durably("A1", b"held")
    world.append("B0", size=5000)
    world.pump()
    world.finish("A2")
    world.park("A0", due=500)
    world.note("A0", b"noted while its file is written")
    world.note_durably("A0", b"noted durably while its file is written")
    large = world.receive("L0")
    given_up = world.receive("L1")
    world.pump()
    world.note_durably("A0", b"attempt 2: deferred")
    world.commit("L0", large)
    given_up.abort()
    world.model["L1"].refused = True
    world.pump()
    world.park("A0", due=900)
    world.note("L0", b"attempt 1: deferred")
    world.park("L0", due=901)
    world.pump()
    world.finish("A0")
    world.wait(2)
    for number in range(30):  # segments are filled, freed and used again; the oldest messages become files
        world.append(f"C{number}", size=5000)
        world.pump()
        if number % 3:
            world.finish(f"C{number}")
        else:
            world.note(f"C{number}", b"attempt")
    for number in range(10):  # many at once: one syncfs
        world.append(f"D{number}", size=300)
    world.pump()
    for number in range(10):
        world.park(f"D{number}", due=1000 + number)
    world.pump()
    for number in range(12):  # and in as many folders
        world.append(f"F{number}", size=300)
    world.pump()
    for number in range(12):
        world.park(f"F{number}", due=1000 + number)
    world.pump()
    world.note_durably("D3", b"removed by the operator")
    world.finish("D4")
    world.pump()
    world.close()


def trouble(world: World, seed: int) -> None:
    """From now on the disk fails one writing call in twenty-five, each in one of the ways it can fail."""
    random = Random(seed)

    def fail(call: str, number: int) -> int | str | None:
        # Not unlink: a file whose sync failed and that cannot be removed either is two failures for one message,
        # and stays. That it fails alone is among the failing calls.
        if call not in WRITING - {"unlink"} or random.random() > 0.04:
            return None
        ways: list[int | str] = [errno.EIO, errno.ENOSPC]
        return random.choice([*ways, "short"] if call in ("write", "pwritev") else ways)

    world.disk.failing = fail


def survive(world: World, model: dict[str, Expected], fate: Fate, seed: int) -> SimDisk:
    """Cut the power now, start again, and see that all is well; the disk after that start."""
    try:
        after = World(world.disk.crash(fate, seed))
        assert after.open().corrupt == ()
        check(after, model)
    except Exception as error:
        # Past whatever the spool would catch: this is the test's own.
        raise Lost(f"{fate}, seed {seed}, after {len(world.disk.calls)} calls: {error!r}") from error
    return after.disk


def cut_everywhere(
    world: World, fates: list[tuple[Fate, int]], part: int, parts: int, failing: bool = False
) -> Counter[str]:
    """Have the power cut before each call that writes, in a copy of the world; the calls, counted as they come.

    Of `parts` tests that share the cuts between them, this is number `part`.
    """
    cuts: Counter[str] = Counter()

    def cut(call: str) -> None:
        cuts[call] += 1
        if cuts.total() % parts != part:
            return
        model = world.known()
        for queue_id, expected in model.items():
            if failing:  # a `done` may be lost: delivered twice, never lost
                expected.settled = False
            if world.spool.refusing or queue_id == "L0":  # it failed twice in a row: nobody can undo it any more
                expected.refused = False
        for fate, seed in fates:
            survive(world, model, fate, seed + 17 * cuts.total())

    world.disk.before = cut
    return cuts


@pytest.mark.parametrize("part", range(8))
def test_a_cut_at_every_system_call_loses_nothing(part: int) -> None:
    """At whatever call the power is cut, each acknowledged message is there once, byte for byte, with its notes."""
    world = World(SimDisk(block=4096 if part % 2 else 512), folders=2 if part < 4 else 24)
    cuts = cut_everywhere(world, FATES, part, 8)
    world.open()
    day(world)
    world.disk.before("the end")
    assert world.failures == []
    assert set(cuts) == {*WRITING, "the end"}


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(n, marks=pytest.mark.long) for n in range(8, 100))])
@pytest.mark.parametrize("part", range(2))
def test_a_cut_at_every_system_call_of_a_failing_disk_loses_nothing(seed: int, part: int) -> None:
    """The same on a disk that fails now and then: nobody is told that a message is safe when it is not."""
    world = World(SimDisk())
    world.open()
    trouble(world, seed)
    cut_everywhere(world, [(Fate.NOTHING, 0), (Fate.EVERYTHING, 0), (Fate.SOME, 0)], part, 2, failing=True)
    day(world)
    world.disk.before("the end")


@pytest.mark.parametrize("fate", [Fate.NOTHING, Fate.EVERYTHING])
def test_a_cut_at_every_system_call_of_a_replay_loses_nothing(fate: Fate) -> None:
    """A crash while a crash is being mended, at whatever call, is mended as well."""
    before = World(SimDisk())
    before.open()
    for number in range(12):
        before.append(f"E{number}", size=2000)
    before.pump()
    before.park("E3", due=5)
    before.note_durably("E4", b"held")
    before.pump()
    model = before.known()
    second = World(before.disk.crash(fate))
    number = 0

    def cut(call: str) -> None:
        nonlocal number
        number += 1
        for again, seed in FATES:
            survive(second, model, again, seed + 31 * number)

    second.disk.before = cut
    second.open()
    check(second, model)
    assert number > 3


@pytest.mark.parametrize("part", range(4))
def test_a_cut_at_every_system_call_after_a_replay_loses_nothing(part: int) -> None:
    """Messages of an earlier life are noted, parked, finished and relieved from where they lie, whenever power goes."""
    before = World(SimDisk())
    before.open()
    for number in range(18):
        before.append(f"E{number}", size=2000)
        before.pump()
    before.note_durably("E4", b"held")
    before.pump()
    world = World(before.disk.crash(Fate.EVERYTHING), before.known())
    cuts = cut_everywhere(world, FATES, part, 4)
    assert world.open().replayed == 18
    assert sorted(stored(world)) == sorted(world.model)
    world.note_durably("E1", b"attempt 1")
    world.finish("E2")
    world.park("E3", due=500)
    world.note("E3", b"noted while its file is written")
    world.pump()
    world.finish("E3")
    world.park("E5", due=600)
    world.pump()
    for number in range(30):  # the segments of the earlier life become too many: what is left in them becomes files
        world.append(f"C{number}", size=5000)
        world.pump()
        world.finish(f"C{number}")
    world.wait(2)
    world.note_durably("E16", b"attempt 1")
    world.finish("E17")
    world.pump()
    world.close()
    world.disk.before("the end")
    assert world.failures == [] and cuts.total() > 100
    names = [name for name in world.disk.names(f"{SHARD}/journal") if name.endswith(".log")]
    assert len(names) <= 8
