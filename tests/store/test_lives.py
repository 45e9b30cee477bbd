"""One life after the other: what is kept of earlier ones is never given away too early, nor for ever."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest

from relaymta.store.interfaces import Schedule, SpoolCorrupt, SpoolError
from tests.store.simdisk import Fate, SimDisk
from tests.store.test_crash import FATES, Lost, cut_everywhere, day, survive
from tests.store.world import SHARD, World, check, stored


def logs(disk: SimDisk) -> list[str]:
    """The segments of the journal, in use or free, oldest first."""
    return [f"{SHARD}/journal/{name}" for name in disk.names(f"{SHARD}/journal") if name.endswith(".log")]


def files(disk: SimDisk) -> list[str]:
    """The names of the queue files."""
    return [name for folder in disk.names(f"{SHARD}/new") for name in disk.names(f"{SHARD}/new/{folder}")]


def killed(world: World, **options: Any) -> World:
    """Another owner on the same disk, after the process was killed."""
    world.disk.kill()
    return World(world.disk, world.model, **options)


def fill(world: World, prefix: str, count: int = 8, size: int = 5000) -> None:
    """Accept messages; eight of them fill a segment and a half."""
    for number in range(count):
        world.append(f"{prefix}{number}", size=size)
        world.pump()


def broken(world: World, *paths: str) -> Callable[[], None]:
    """The disk cannot read these files any more; until what is returned is called."""
    original = world.disk.pread
    inodes = [world.disk._file(world.disk.open(path, 0)) for path in paths]

    def pread(fd: int, size: int, offset: int) -> bytes:
        if world.disk._file(fd) in inodes:
            raise OSError(errno.EIO, "bad sector")
        return original(fd, size, offset)

    def mend() -> None:
        world.disk.pread = original  # type: ignore[method-assign]

    world.disk.pread = pread  # type: ignore[method-assign]
    return mend


@pytest.mark.parametrize("seed", range(4))
def test_three_lives_and_a_cut_at_every_call_of_the_third(seed: int) -> None:
    """Segments of two earlier lives, one of them poisoned, one of another size: whenever power goes, all is there."""
    first = World(SimDisk())
    first.open()
    fill(first, "A")
    failing = iter([errno.EIO])
    first.disk.failing = lambda call, number: next(failing, None) if call == "fdatasync" else None
    first.append("VOID")
    first.pump()
    assert first.model["VOID"].refused
    fill(first, "B", 3)
    first.finish("A1")
    first.pump()
    disk = first.disk.crash(Fate.SOME, seed) if seed % 2 else first.disk
    second = World(disk, first.model, segment_size=48 * 1024) if seed % 2 else killed(first)
    second.open()
    stored(second)
    second.note_durably("A2", b"deferred")
    fill(second, "C", 3)
    second.finish("A3")
    second.park("A4", due=400)
    second.pump()
    second.note("A4", b"in its file")
    second.append("LAST")
    second.pump()
    disk = second.disk.crash(Fate.SOME, seed) if seed > 1 else second.disk
    if disk is second.disk:
        disk.kill()
    third = World(disk, second.model, segments_max=4)
    cuts = cut_everywhere(third, FATES[:3], 0, 1)
    assert third.open().corrupt == ()
    check(third, third.model)
    third.finish("A0")
    third.note_durably("B0", b"deferred")
    third.park("B1", due=500)
    fill(third, "D", 10)
    third.finish("C0")
    third.wait(2)
    third.append("END")
    third.pump()
    third.close()
    third.disk.before("the end")
    assert cuts.total() > 50 and third.failures == []


@pytest.mark.parametrize("part", range(6))
def test_killed_at_every_call_started_and_then_the_power_goes(part: int) -> None:
    """What a start finds in the page cache alone costs no record that was synced, whenever the kill came."""
    world = World(SimDisk())
    kills = 0

    def kill(call: str) -> None:
        nonlocal kills
        kills += 1
        if kills % 6 != part:
            return
        before, world.disk.before = world.disk.before, lambda call: None
        again = World(deepcopy(world.disk), world.known(), segments_max=99)  # no relief syncs by accident
        world.disk.before = before
        model = again.known()
        again.disk.kill()
        try:
            assert again.open().corrupt == ()
            check(again, model)
            for number in range(16):  # what is free is used again
                again.append(f"K{number}", size=5000)
                again.pump()
                again.finish(f"K{number}")
        except Exception as error:
            raise Lost(f"killed at {kills}, {call}: {error!r}") from error
        for number in range(16):
            again.model[f"K{number}"].settled = False
        for fate in (Fate.NOTHING, Fate.SOME):
            survive(again, again.model, fate, kills)

    world.disk.before = kill
    world.open()
    day(world)
    assert kills > 200 and world.failures == []


def test_a_file_whose_name_was_never_synced_does_not_cost_its_record() -> None:
    """Killed between a rename and the sync of its folder, started, and power cut: the message is there (rename(2))."""
    world = World(SimDisk())
    world.open()
    fill(world, "A", 2)
    world.park("A0", due=300)
    seen: list[str] = []

    def die(call: str) -> None:
        seen.append(call)
        if call == "fsync" and "rename" in seen:
            raise Lost

    world.disk.before = die
    with pytest.raises(Lost):
        world.pump()
    again = killed(world)
    again.open()
    assert len(files(again.disk)) == 1
    again.finish("A1")  # nothing is left in its segment, which is used again
    for number in range(16):
        again.append(f"B{number}", size=5000)
        again.pump()
        again.finish(f"B{number}")
    after = World(again.disk.crash(Fate.NOTHING))
    after.open()
    assert "A0" in check(after, again.model)


@pytest.mark.parametrize("ending", ["killed", "cut"])
def test_one_crash_upon_the_other_does_not_fill_the_disk(ending: str) -> None:
    """A daemon that dies at every start, with mail that it never comes to: its journal does not grow for ever."""
    world = World(SimDisk())
    world.open()
    fill(world, "A", 3)
    for life in range(20):
        world = killed(world) if ending == "killed" else World(world.disk.crash(Fate.NOTHING), world.model)
        world.spool._ledger.relieve = lambda: None  # type: ignore[method-assign] # it dies before it comes to that
        world.open()
        assert len(logs(world.disk)) <= 2 * 3 + 4, f"life {life}"
        world.append(f"L{life}", size=100)
        world.note_durably("A0", b"attempt %d" % life)
        world.pump()
    after = World(world.disk.crash(Fate.NOTHING), world.model)
    after.open()
    assert len(check(after, world.model)) == 23


def test_too_many_kept_segments_are_relieved_after_the_start() -> None:
    """What one life would not keep, the next does not either: the oldest become files without being asked for."""
    world = World(SimDisk(), segments_max=9)
    world.open()
    fill(world, "A", 18)
    before = len(logs(world.disk))
    after = killed(world, segments_max=3)
    after.open()
    tickets = [ticket.queue_id for ticket in after.spool.waiting()]  # while files are being made of them
    assert sorted(tickets) == sorted(world.model)
    after.finish("A0")
    after.park("A1", due=700)
    after.wait(1)
    assert before >= 5 and len(after.spool._ledger._segments) <= 3
    again = World(after.disk.crash(Fate.EVERYTHING), after.model)
    again.open()
    assert check(again, after.model)["A1"].schedule.due == 700


def test_a_full_disk_does_not_keep_a_shard_from_opening_with_too_many_segments() -> None:
    """What cannot become files at the start stays in the journal, as safe as before."""
    world = World(SimDisk(), segments_max=20)
    world.open()
    fill(world, "A", 40)
    world.disk.kill()
    after = World(world.disk, world.model)
    made = len(logs(world.disk))
    world.disk.failing = lambda call, number: errno.ENOSPC if call in ("create", "write") else None
    try:
        after.open()
    except SpoolError:  # not even a segment can be had: no spare was left
        world.disk.failing = lambda call, number: None
        after = killed(world)
        after.open()
    world.disk.failing = lambda call, number: None
    assert made > 6 and sorted(check(after, world.model)) == sorted(world.model)


def cut_at_sync(call: str) -> None:
    """For SimDisk.before: it ends there."""
    if call == "fdatasync":
        raise Lost


def reopened(count: int = 3, size: int = 2000) -> World:
    """A second life, whose first segment has that many messages of an earlier one; not listed yet."""
    world = World(SimDisk())
    world.open()
    fill(world, "A", count, size)
    after = killed(world)
    after.open()
    return after


def test_a_record_that_cannot_be_read_any_more_is_told_and_does_not_hold_up_the_journal() -> None:
    """EIO where a message lies: told, not dropped in silence; its segment goes to corrupt/ when the rest is settled."""
    world = reopened()
    (path, *_) = logs(world.disk)
    assert [ticket.queue_id for ticket in world.spool.waiting()] == ["A0", "A1", "A2"]
    mend = broken(world, path)
    with pytest.raises(SpoolCorrupt):
        world.spool.load("A0")
    with pytest.raises(KeyError):
        world.spool.load("A0")
    mend()
    ((file, why),) = world.corrupt
    assert file == path and "A0" in why and "bad sector" in why
    world.finish("A1")
    assert path in logs(world.disk)
    world.finish("A2")
    assert path not in logs(world.disk)
    kept = f"{SHARD}/corrupt/{path.rpartition('/')[2]}"
    assert [file for file, _ in world.corrupt] == [path, kept]
    assert world.model["A0"].content in bytes(world.disk.octets(kept))


def test_a_record_that_can_be_read_again_after_the_next_start_is_back() -> None:
    """The journal is not told that a message is settled because it could not be read for a while."""
    world = reopened()
    mend = broken(world, logs(world.disk)[0])
    with pytest.raises(SpoolCorrupt):
        world.spool.load("A0")
    mend()
    world.append("B")
    world.wait(2)
    after = killed(world)
    after.open()
    assert sorted(stored(after)) == ["A0", "A1", "A2", "B"]


def test_a_record_that_changed_under_us_is_not_delivered() -> None:
    """The disk gives other octets than when the segment was searched: nobody gets what lay there before."""
    world = reopened()
    (path, *_) = logs(world.disk)
    octets = world.disk.octets(path)
    at = octets.index(world.model["A1"].content[:50])
    octets[at : at + 10] = b"0123456789"
    with pytest.raises(SpoolCorrupt):
        world.spool.load("A1")
    assert world.spool.load("A2").head == world.model["A2"].head
    after = killed(world)
    ((file, why),) = after.open().corrupt
    assert "damaged" in why and file.startswith(f"{SHARD}/corrupt/")
    assert sorted(stored(after)) == ["A0", "A2"]


def test_damage_at_the_end_of_an_earlier_life_is_damage() -> None:
    """The last message of a life is known to be synced once the next has begun: losing it is not passed over."""
    world = reopened()
    (path, *_) = logs(world.disk)
    octets = world.disk.octets(path)
    at = octets.index(world.model["A2"].content[:50])
    octets[at : at + 10] = b"0123456789"
    after = killed(world)
    assert len(after.open().corrupt) == 1
    assert sorted(stored(after)) == ["A0", "A1"]


def test_a_torn_end_is_no_damage_in_any_later_life() -> None:
    """What was torn because it was never acknowledged is not told as damage by the second start nor by the third."""
    for seed in range(30):
        world = World(SimDisk())
        world.open()
        fill(world, "A", 2, 1500)
        for number in range(4):
            world.append(f"T{number}", size=1500)
        world.disk.before = cut_at_sync
        with pytest.raises(Lost):
            world.pump()
        disk = world.disk.crash(Fate.SOME, seed)
        for again in range(3):
            after = World(disk, world.model)
            assert after.open().corrupt == (), f"seed {seed}, start {again}"
            assert {"A0", "A1"} <= set(stored(after))
            disk = after.disk.crash(Fate.NOTHING)


def test_relief_that_cannot_read_a_record_does_not_try_for_ever() -> None:
    """The unreadable is told and left, the others become files, and the journal goes on."""
    world = reopened()
    (path, *_) = logs(world.disk)
    octets = world.disk.octets(path)
    at = octets.index(world.model["A1"].content[:50])
    octets[at : at + 10] = b"0123456789"
    for number in range(40):
        world.append(f"B{number}", size=5000)
        world.pump()
        world.finish(f"B{number}")
        world.wait(1)
    assert sorted(name.partition(",")[0] for name in files(world.disk)) == ["A0", "A2"]
    assert len(world.spool._ledger._segments) <= 4 and len(logs(world.disk)) <= 8
    assert [file for file, _ in world.corrupt] == [path, f"{SHARD}/corrupt/{path.rpartition('/')[2]}"]
    assert sorted(ticket.queue_id for ticket in world.spool.waiting()) == ["A0", "A2"]


def test_what_its_owner_has_in_memory_is_not_given_up_because_its_record_is_lost() -> None:
    """Parking says why it fails and the message stays the owner's, who delivers it from memory and says so."""
    world = reopened()
    (path, *_) = logs(world.disk)
    loaded = world.spool.load("A0")
    mend = broken(world, path)
    with pytest.raises(SpoolError, match="bad sector"):
        world.fired(world.spool.park("A0", Schedule(900)))
    mend()
    assert b"".join(loaded.content.chunks()) == world.model["A0"].content
    assert world.corrupt == []
    world.spool.note("A0", b"deferred")
    world.finish("A0")
    world.append("B")
    world.pump()
    after = killed(world)
    after.open()
    assert "A0" not in stored(after)


@pytest.mark.parametrize("calls", [("create",), ("write",), ("fsync", "syncfs"), ("rename",)])
def test_relief_of_kept_segments_on_a_failing_disk_loses_nothing(calls: Sequence[str]) -> None:
    """Files cannot be made for a while: the journal holds on to everything, and lets go when they can."""
    world = reopened(6, 5000)
    world.disk.failing = lambda call, number: errno.EIO if call in calls and world.spool._ledger._relieving else None
    fill(world, "B", 20)
    world.wait(1)
    assert any("could not make a file" in why for why in world.failures) and files(world.disk) == []
    for fate in (Fate.NOTHING, Fate.SOME, Fate.EVERYTHING):
        after = World(world.disk.crash(fate))
        after.open()
        check(after, world.model)
    world.disk.failing = lambda call, number: None
    for number in range(20):
        world.append(f"C{number}", size=5000)
        world.wait(6)
    assert len(world.spool._ledger._segments) <= 4 and {name[0] for name in files(world.disk)} >= {"A", "B"}
    assert len(stored(world)) <= len(world.model)
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    check(after, world.model)


@pytest.mark.parametrize("large", [True, False])
def test_a_file_that_appears_while_the_shard_is_listed_is_not_listed_beside_its_owner(large: bool) -> None:
    """Its name is there before the clerk has said so: listed then, it would be attempted twice."""
    world = World(SimDisk())
    world.open()
    listing = world.spool.waiting()
    if large:
        world.commit("L0", world.receive("L0"))
    else:
        world.append("L0")
        world.pump()
        world.park("L0", due=300)
    seen: list[str] = []
    world.disk.before = lambda call: seen.extend(one.queue_id for one in listing) if files(world.disk) else None
    world.pump()
    assert seen == [] and list(listing) == [] and len(files(world.disk)) == 1
    assert world.model["L0"].acknowledged and not world.spool.empty
    world.finish("L0")
    world.pump()
    assert world.spool.empty
