"""Every call to the disk is made to fail: no result is ignored, nothing is acknowledged that is not safe."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta.store.interfaces import Schedule, SpoolError
from tests.store.simdisk import Fate, SimDisk
from tests.store.test_crash import day
from tests.store.world import SHARD, World, check


@pytest.mark.parametrize("way", [errno.EIO, errno.ENOSPC, "short"])
@pytest.mark.parametrize("part", range(6))
def test_each_call_fails_once_and_nothing_acknowledged_is_lost(way: int | str, part: int) -> None:
    """Whichever call fails, a message is refused or kept, in this life and after a crash right behind it."""
    hit = True
    at = part - 5
    while hit:
        world = World(SimDisk())
        world.open()
        at += 6
        hit = False
        first = len(world.disk.calls)

        def fail(call: str, number: int, at: int = first + at) -> int | str | None:
            nonlocal hit
            if number < at or hit or (way == "short" and call not in ("write", "pwritev")):
                return None
            hit = True
            return way

        world.disk.failing = fail
        day(world)
        for expected in world.model.values():
            expected.settled = False
        for fate in (Fate.NOTHING, Fate.EVERYTHING):
            after = World(world.disk.crash(fate))
            assert after.open().corrupt == ()
            check(after, world.model)


def fails_at(at: int, call: str, number: int) -> int | None:
    """EIO at one call."""
    return errno.EIO if number == at else None


def test_each_call_of_an_opening_fails_once_and_the_next_opening_finds_everything() -> None:
    """A shard that cannot be opened says so, gives up its lock, and is whole when the disk is."""
    before = World(SimDisk())
    before.open()
    for number in range(5):
        before.append(f"A{number}")
    before.pump()
    left = before.disk.crash(Fate.NOTHING)
    failed = 0
    for at in range(1, 400):
        disk = left.crash(Fate.EVERYTHING)
        disk.failing = partial(fails_at, at)
        world = World(disk)
        try:
            world.open()
        except SpoolError:
            failed += 1
        else:
            world.close()
        if len(disk.calls) < at:
            break
        disk.failing = lambda call, number: None
        again = World(disk)
        again.open()
        check(again, before.model)
    assert failed > 20


def answered(world: World, answer: Deferred[Any]) -> object:
    """What a Deferred gave by now: a result, or an exception."""
    results: list[object] = []
    answer.addBoth(results.append)
    world.pump()
    (result,) = results
    return result.value if isinstance(result, Failure) else result


def test_failed_sync_poisons_the_segment_and_the_next_message_goes_into_a_new_one() -> None:
    """Nobody in the batch is acknowledged, the same pages are never synced again, and the shard goes on."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    synced: list[int] = []
    original = world.disk.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(fd)
        original(fd)

    world.disk.fdatasync = fdatasync  # type: ignore[method-assign]
    failing = iter([errno.EIO])
    world.disk.failing = lambda call, number: next(failing, None) if call == "fdatasync" else None
    world.append("B")
    world.append("C")
    world.pump()
    assert world.model["B"].refused and world.model["C"].refused
    world.append("D")
    world.pump()
    assert world.model["D"].acknowledged
    assert synced[0] not in synced[1:]
    assert world.spool.refusing == "" and world.failures == []
    for fate in (Fate.NOTHING, Fate.EVERYTHING):
        after = World(world.disk.crash(fate))
        after.open()
        assert sorted(check(after, world.model)) == ["A", "D"]


def test_sync_that_fails_again_in_a_new_segment_refuses_mail_and_says_why() -> None:
    """After the second failure every message is refused at once, with the reason; what was accepted is still there."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    world.disk.failing = lambda call, number: errno.EIO if call == "fdatasync" else None
    failed = answered(world, world.spool.append("B", b"head", b"content", Schedule(1)))
    assert isinstance(failed, SpoolError) and "Input/output error" in str(failed)
    world.disk.failing = lambda call, number: None
    assert "Input/output error" in world.spool.refusing
    assert world.failures == [world.spool.refusing]
    calls = len(world.disk.calls)
    assert isinstance(answered(world, world.spool.append("C", b"head", b"content", Schedule(1))), SpoolError)
    incoming = world.spool.receive("L", b"head", Schedule(1))
    incoming.write(b"content")
    assert isinstance(answered(world, incoming.commit()), SpoolError)
    assert len(world.disk.calls) == calls
    assert world.spool.load("A").head == world.model["A"].head
    assert answered(world, world.spool.park("A", Schedule(7))) is None  # files can still be made
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    assert [ticket.queue_id for ticket in after.spool.waiting()] == ["A"]


def test_no_room_for_a_new_segment_refuses_for_the_moment_only() -> None:
    """A full disk is no broken disk: when there is room again, mail is taken again, and nothing noted is lost."""
    world = World(SimDisk())
    world.open()
    full = True
    world.disk.failing = lambda call, number: errno.ENOSPC if full and call == "create" else None
    number = 0
    while not any(expected.refused for expected in world.model.values()):
        number += 1
        world.append(f"A{number}", size=5000)
        world.pump()
    world.note("A1", b"deferred")
    world.wait(2)
    assert world.spool.refusing == ""
    full = False
    world.append("B")
    world.pump()
    assert world.model["B"].acknowledged
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    assert check(after, world.model)["A1"].lines == (b"deferred",)


def test_parking_that_fails_leaves_the_message_in_the_journal() -> None:
    """park() says why, and the message is as safe as before, its notes of the meantime too."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    world.disk.failing = lambda call, number: errno.ENOSPC if call == "write" else None
    answer = world.spool.park("A", Schedule(300))
    world.note_durably("A", b"meanwhile")
    failed = answered(world, answer)
    assert isinstance(failed, SpoolError) and "No space" in str(failed)
    world.disk.failing = lambda call, number: None
    assert world.disk.names(f"{SHARD}/tmp") == []
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    assert check(after, world.model)["A"].lines == (b"meanwhile",)
    assert answered(world, world.spool.park("A", Schedule(300))) is None


def test_finish_during_a_parking_that_fails_is_done_all_the_same() -> None:
    """The message is settled, whether or not its file came to be."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    world.disk.failing = lambda call, number: errno.ENOSPC if call == "write" else None
    answer = world.spool.park("A", Schedule(300))
    world.spool.finish("A")
    assert isinstance(answered(world, answer), SpoolError)
    with pytest.raises(KeyError):
        world.spool.load("A")
    world.append("B")
    world.pump()
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    assert [ticket.queue_id for ticket in after.spool.waiting()] == ["B"]


def test_a_note_that_cannot_be_written_now_is_written_with_the_next() -> None:
    """Progress is not forgotten because the disk was full for a while: it is read from memory, then from the file."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    world.park("A", due=300)
    world.pump()
    world.disk.failing = lambda call, number: errno.ENOSPC if call == "write" else None
    world.note("A", b"attempt 1")
    world.pump()
    assert len(world.failures) == 1 and "A" in world.failures[0]
    assert world.spool.load("A").lines == (b"attempt 1",)
    world.disk.failing = lambda call, number: None
    world.note_durably("A", b"attempt 2")
    world.pump()
    assert world.spool.load("A").lines == (b"attempt 1", b"attempt 2")
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    assert check(after, world.model)["A"].lines == (b"attempt 1", b"attempt 2")


def test_a_commit_that_failed_leaves_nothing_behind() -> None:
    """A large message whose folder could not be synced is undone before anybody says so (no floods of duplicates)."""
    world = World(SimDisk())
    world.open()
    incoming = world.receive("L")
    world.pump()
    renamed = len(world.disk.calls)
    failing = iter([errno.EIO])

    def fail(call: str, number: int) -> int | None:
        return next(failing, None) if call == "fsync" and "rename" in world.disk.calls[renamed:] else None

    world.disk.failing = fail
    world.commit("L", incoming)
    world.pump()
    assert world.model["L"].refused
    for fate in Fate:
        after = World(world.disk.crash(fate))
        after.open()
        assert check(after, world.model) == {}


def test_a_bug_in_the_writer_answers_everyone_and_refuses_mail() -> None:
    """Nobody waits for an answer for ever, and nobody hears that a message is safe."""
    world = World(SimDisk())
    world.open()

    def broken(entries: object) -> None:
        raise TypeError("not even wrong")

    world.spool._hand._work = broken
    failed = answered(world, world.spool.append("A", b"head", b"content", Schedule(1)))
    assert isinstance(failed, SpoolError) and "bug" in str(failed)
    assert "bug" in world.spool.refusing


def test_a_bug_in_the_clerk_answers_everyone() -> None:
    """The same for the work on files."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()

    def broken(batch: object) -> list[OSError | None]:
        raise TypeError("not even wrong")

    world.spool._shelf.place = broken  # type: ignore[method-assign]
    failed = answered(world, world.spool.park("A", Schedule(1)))
    assert isinstance(failed, SpoolError) and "bug" in str(failed)
    assert world.spool.load("A").head == world.model["A"].head


def test_what_nobody_waits_for_is_carried_out_of_a_poisoned_segment() -> None:
    """Lines and settlements that were written and never synced are not lost with the segment that they lay in."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.append("B")
    world.pump()
    world.note("A", b"deferred")
    world.finish("B")
    world.wait(2)  # written, not synced
    failing = iter([errno.EIO])
    world.disk.failing = lambda call, number: next(failing, None) if call == "fdatasync" else None
    world.append("C")
    world.pump()
    assert world.model["C"].refused
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    found = check(after, world.model)
    assert sorted(found) == ["A"] and found["A"].lines == (b"deferred",)


def test_what_nobody_waits_for_is_carried_into_the_next_segment_when_it_cannot_be_synced() -> None:
    """The same when the failure comes with the change to a new segment: then nobody has to be refused."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    for number in range(6):  # a block each: the segment is full then
        world.note("A", b"deferred %d" % number)
        world.wait(2)
    assert len(journal_names(world)) == 1
    failing = iter([errno.EIO])
    world.disk.failing = lambda call, number: next(failing, None) if call == "fdatasync" else None
    world.append("B")
    world.pump()
    assert world.model["B"].acknowledged and next(failing, None) is None
    after = World(world.disk.crash(Fate.NOTHING))
    after.open()
    assert list(check(after, world.model)["A"].lines) == world.model["A"].noted


def journal_names(world: World) -> list[str]:
    """The segments in use or free."""
    return [name for name in world.disk.names(f"{SHARD}/journal") if name.endswith(".log")]


def test_a_segment_that_cannot_be_had_is_not_used_up() -> None:
    """A spare stays a spare when its new name cannot be synced, and is tried again."""
    world = World(SimDisk())
    world.open()
    failing = True
    world.disk.failing = lambda call, number: errno.EIO if failing and call == "fsync" else None
    number = 0
    while not any(expected.refused for expected in world.model.values()):
        number += 1
        world.append(f"A{number}", size=5000)
        world.pump()
    for again in range(5):
        world.append(f"B{again}", size=5000)
        world.pump()
    files = world.disk.names(f"{SHARD}/journal")
    assert len(files) == 2
    failing = False
    world.append("C", size=5000)
    world.pump()
    assert world.model["C"].acknowledged
    assert len([name for name in world.disk.names(f"{SHARD}/journal") if name.endswith(".log")]) == 2


def test_a_commit_that_was_given_up_is_undone_before_anybody_hears_of_it() -> None:
    """Client told 4xx while delivery went on: floods of duplicates. The file is gone, durably, before the 4xx."""
    world = World(SimDisk())
    world.open()
    incoming = world.receive("L")
    world.commit("L", incoming)
    incoming.abort()
    incoming.abort()
    world.pump()
    assert world.model["L"].refused
    with pytest.raises(KeyError):
        world.spool.load("L")
    for fate in Fate:
        after = World(world.disk.crash(fate))
        after.open()
        assert check(after, world.model) == {}
