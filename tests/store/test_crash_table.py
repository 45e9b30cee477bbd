"""The table of store.spool, row by row: what a crash left, what it means, and who mends it."""

from __future__ import annotations

import errno
import zlib
from random import Random

import pytest

from relaymta.store import names, record
from relaymta.store.interfaces import Schedule, SpoolCorrupt
from relaymta.store.queuefile import encode_line
from relaymta.store.record import BLOCK, Kind, Standing
from relaymta.store.segment import parse_name
from tests.store.simdisk import Fate, SimDisk
from tests.store.world import SHARD, World, check, stored


def accepted(*queue_ids: str, size: int = 1000) -> World:
    """A world whose journal holds some messages, each synced in a batch of its own."""
    world = World(SimDisk())
    world.open()
    for queue_id in queue_ids:
        world.append(queue_id, size=size)
        world.pump()
    assert all(expected.acknowledged for expected in world.model.values())
    return world


def reborn(world: World, fate: Fate = Fate.NOTHING) -> World:
    """The world after a crash, not opened yet."""
    return World(world.disk.crash(fate), world.model)


def journal(world: World) -> list[str]:
    """Paths of the segments that hold records, oldest first."""
    paths = [f"{SHARD}/journal/{name}" for name in world.disk.names(f"{SHARD}/journal") if parse_name(name)]
    return [path for path in paths if any(world.disk.octets(path))]


def queue_files(world: World) -> list[str]:
    """Paths of the files in new/."""
    folders = [f"{SHARD}/new/{number:02x}" for number in range(2)]
    return [f"{folder}/{name}" for folder in folders for name in world.disk.names(folder)]


def forge(world: World, path: str, offset: int, standing: Standing, *queue_ids: str, number: int = 0) -> None:
    """Write a batch into a segment, as another life would have."""
    known = parse_name(path.rpartition("/")[2])
    assert known is not None
    records = [
        record.entry(Kind.MESSAGE, names.encode(queue_id, Schedule(5)).encode(), b"head", b"content", None)
        for queue_id in queue_ids
    ]
    buffers, total = record.frame(known[1], number or known[0], offset, standing, records)
    world.disk.octets(path)[offset : offset + total] = b"".join(buffers)


def test_record_torn_beyond_the_last_sync_was_never_acknowledged_and_replay_goes_on_behind_it() -> None:
    """Blocks of one unsynced batch may land in any order: every whole record is taken, the torn one is not told of."""
    world = accepted("A")
    for queue_id in "BCD":
        world.append(queue_id, size=3000)
    cut = []
    world.disk.before = lambda call: cut.append(reborn(world, Fate.EVERYTHING)) if call == "fdatasync" else None
    world.pump()  # one batch of three; the power goes before its sync
    (path, *_) = journal(world)
    (after,) = cut
    octets = after.disk.octets(path)
    hit = octets.index(world.model["C"].content[:100])
    octets[hit] ^= 1
    assert after.open().corrupt == ()
    assert sorted(stored(after)) == ["A", "B", "D"]


def test_batch_header_lost_beyond_the_last_sync_does_not_hide_its_whole_records() -> None:
    """Also when it is the first block of the unsynced batch that did not land."""
    world = accepted("A")
    (path, *_) = journal(world)
    end = 2 * BLOCK
    forge(world, path, end, Standing(end, 1), "X", "Y")
    world.disk.octets(path)[end : end + record.HEADER] = bytes(record.HEADER)
    after = reborn(world)
    assert after.open().corrupt == ()
    assert sorted(stored(after)) == ["A", "X", "Y"]


def test_record_of_an_older_number_is_not_taken() -> None:
    """A segment is used again over what it held: the rest of that, whole as it is, is of an older number."""
    world = accepted("A")
    (path, *_) = journal(world)
    forge(world, path, 2 * BLOCK, Standing(2 * BLOCK, 1), "OLD", number=77)
    after = reborn(world)
    assert after.open().corrupt == ()
    assert sorted(stored(after)) == ["A"]


def test_record_with_a_bad_checksum_is_not_taken() -> None:
    """One flipped bit beyond the last sync: not a message."""
    world = accepted("A")
    (path, *_) = journal(world)
    forge(world, path, 2 * BLOCK, Standing(2 * BLOCK, 1), "X")
    octets = world.disk.octets(path)
    octets[octets.index(b"content", 2 * BLOCK)] ^= 4
    after = reborn(world)
    assert after.open().corrupt == ()
    assert sorted(stored(after)) == ["A"]


def test_damage_before_the_last_synced_batch_keeps_the_segment_and_every_whole_record() -> None:
    """The disk lied: the segment goes to corrupt/, the operator is told, and all that is whole is recovered."""
    world = accepted("A", "B", "C", "D")
    (path, *_) = journal(world)
    octets = world.disk.octets(path)
    hit = octets.index(world.model["B"].content[:100])
    octets[hit : hit + 100] = bytes(100)
    after = reborn(world)
    ((kept, why),) = after.open().corrupt
    assert kept.startswith(f"{SHARD}/corrupt/") and "damaged" in why
    assert after.disk.octets(kept).startswith(octets[:100])
    assert sorted(stored(after)) == ["A", "C", "D"]
    assert reborn(after).open().corrupt == ()  # told once


def test_a_block_that_cannot_be_read_is_damage_and_not_the_end() -> None:
    """EIO in the middle of a segment costs the records in that block and none of the others."""
    world = accepted("A", "B", "C")
    (path, *_) = journal(world)
    hit = world.disk.octets(path).index(world.model["B"].content[:100])
    after = reborn(world)

    def pread(fd: int, size: int, offset: int) -> bytes:
        file = after.disk._file(fd)
        if len(file.data) == 32 * 1024 and offset <= hit < offset + size:
            raise OSError(errno.EIO, "bad sector")
        return bytes(file.data[offset : offset + size])

    after.disk.pread = pread  # type: ignore[method-assign]
    assert len(after.open().corrupt) == 1
    assert sorted(stored(after)) == ["A", "C"]


def test_whole_record_neither_done_nor_moved_is_ours_with_its_notes() -> None:
    """Accepted, ours: it goes on under the schedule it came with, and tells its whole story."""
    world = accepted("A")
    world.note_durably("A", b"attempt 1")
    world.pump()
    after = reborn(world)
    assert after.open().replayed == 1
    found = check(after, world.model)["A"]
    assert found.lines == (b"attempt 1",)
    assert found.schedule == Schedule(100, "smtp:example.org", "news")
    assert queue_files(after) == []  # a start takes no longer for what waits in the journal


def test_whole_record_done_is_nothing_to_do() -> None:
    """A message that was settled does not come back once something after it was acknowledged."""
    world = accepted("A")
    world.finish("A")
    world.append("B")
    world.pump()
    after = reborn(world)
    assert after.open().replayed == 1
    assert sorted(check(after, world.model)) == ["B"]


def test_whole_record_moved_and_no_file_is_nothing_to_do() -> None:
    """The file settled and was removed: the record in the journal does not bring it back."""
    world = accepted("A")
    world.park("A", due=300)
    world.pump()
    world.finish("A")
    world.append("B")
    world.pump()
    after = reborn(world, Fate.EVERYTHING)
    assert after.open().replayed == 1
    assert sorted(stored(after)) == ["B"]


def test_record_without_moved_and_a_file_with_the_same_id_the_file_wins() -> None:
    """A crash between the two leaves one message, with the schedule and the notes of its file."""
    world = accepted("A")
    world.park("A", due=300, lane="later")
    world.pump()
    world.note_durably("A", b"noted in the file")
    world.pump()
    after = reborn(world)
    assert after.open().replayed == 0
    found = check(after, world.model)["A"]
    assert found.lines == (b"noted in the file",)
    assert found.schedule.due == 300


def test_record_without_moved_and_a_file_of_a_failed_parking_the_file_gets_the_later_notes() -> None:
    """A file that was refused and yet survived lacks what the journal noted since: it gets it."""
    world = accepted("A")
    world.note_durably("A", b"first")
    world.pump()
    failed = iter([errno.EIO, errno.EIO])

    def fail(call: str, number: int) -> int | None:
        renamed = "rename" in world.disk.calls[before:]
        return next(failed, None) if call == "fsync" and renamed else None

    before = len(world.disk.calls)
    world.disk.failing = fail
    world.park("A", due=300)
    world.pump()
    assert next(failed, None) is None
    for line in (b"second", b"first", b"third"):
        world.note_durably("A", line)
    world.pump()
    for seed in range(20):
        after = World(world.disk.crash(Fate.SOME, seed), world.model)
        after.open()
        assert check(after, world.model)["A"].lines == (b"first", b"second", b"first", b"third")


def test_a_message_with_two_names_keeps_one() -> None:
    """Two parkings of which the first could not be synced: after the crash there is one file."""
    world = accepted("A")
    world.park("A", due=300)
    world.pump()
    (path,) = queue_files(world)
    twin = path.replace(",300,", ",400,")
    after = reborn(world)
    folder = after.disk.root
    for part in twin.strip("/").split("/")[:-1]:
        folder = folder.entries[part]  # type: ignore[assignment]
    folder.entries[twin.rpartition("/")[2]] = folder.entries[path.rpartition("/")[2]]
    after.open()
    assert list(check(after, world.model)) == ["A"]


def test_a_second_file_of_a_message_that_waits_goes_to_corrupt_and_is_told() -> None:
    """A hand has copied it: one is delivered, the other is kept and told of, whichever is listed first."""
    world = accepted("A")
    world.park("A", due=300)
    world.pump()
    world.fired(world.spool.close())
    (path,) = queue_files(world)
    copy = world.disk.open(path.replace(",300,", ",400,"), 0o101)
    world.disk.write(copy, bytes(world.disk.octets(path)))
    after = reborn(world, Fate.EVERYTHING)
    after.open()
    (ticket,) = after.spool.waiting()
    ((kept, why),) = after.corrupt
    assert "another file" in why and kept.startswith(f"{SHARD}/corrupt/A,")
    assert ticket.queue_id == "A" and len(queue_files(after)) == 1


def test_file_in_tmp_is_swept_when_older_than_a_day() -> None:
    """It was never acknowledged; a younger one is left alone."""
    world = accepted("A")
    incoming = world.receive("L")
    world.pump()
    after = reborn(world, Fate.EVERYTHING)
    left = [name for name in after.disk.names(f"{SHARD}/tmp") if name.startswith("L.")]
    assert len(left) == 1 and incoming.size == 20_000
    after.open()
    assert left[0] in after.disk.names(f"{SHARD}/tmp")
    again = reborn(after)
    again.clock.advance(86_401)
    again.open()
    assert left[0] not in again.disk.names(f"{SHARD}/tmp")
    assert sorted(check(again, world.model)) == ["A"]


@pytest.mark.parametrize("torn", [2, 5, 9, 18, 99])
def test_file_in_new_whose_last_line_is_torn_loses_that_line_and_the_rest_stands(torn: int) -> None:
    """A crash during an append: the line is cut off, and what is appended afterwards is not spoiled by it."""
    world = accepted("A")
    world.park("A", due=300)
    world.note("A", b"attempt 1")
    world.pump()
    world.fired(world.spool.close())
    (path,) = queue_files(world)
    whole = encode_line(b"attempt 2")
    world.disk.octets(path).extend(whole[: len(whole) - torn] if torn < 99 else bytes(40))
    after = reborn(world)
    after.open()
    assert stored(after)["A"].lines == (b"attempt 1",)
    after.spool.note("A", b"attempt 3")
    after.pump()
    assert after.spool.load("A").lines == (b"attempt 1", b"attempt 3")
    assert after.corrupt == []


def test_file_in_new_all_of_whose_recipients_are_final_is_finished_by_its_owner() -> None:
    """A crash before the unlink: the file is listed with its story, and the queue that reads it finishes it."""
    world = accepted("A")
    world.park("A", due=300)
    world.pump()
    world.note_durably("A", b"delivered")
    world.pump()
    world.spool.finish("A")
    world.pump()
    after = reborn(world)  # the unlink was not synced
    after.open()
    assert stored(after)["A"].lines[-1] == b"delivered"
    after.spool.finish("A")
    after.pump()
    assert queue_files(after) == []


@pytest.mark.parametrize("damage", ["first line", "head", "shorter", "not ours", "folder"])
def test_unreadable_file_goes_to_corrupt_and_is_told_and_the_rest_goes_on(damage: str) -> None:
    """One corrupt envelope must not kill the daemon at every start: to corrupt/, told, never dropped."""
    world = accepted("A", "B")
    for queue_id in "AB":
        world.park(queue_id, due=300)
    world.pump()
    world.fired(world.spool.close())
    path = next(path for path in queue_files(world) if "/A," in path)
    octets = world.disk.octets(path)
    if damage == "first line":
        octets[20] ^= 1
    elif damage == "head":
        octets[70] ^= 1
    elif damage == "shorter":
        del octets[-5:]
    elif damage == "not ours":
        octets[:] = b"Received: a message that somebody put here"
    after = reborn(world)
    if damage == "folder":
        after.disk.unlink(path)
        after.disk.mkdir(path)
    after.open()
    tickets = {ticket.queue_id for ticket in after.spool.waiting()}
    assert tickets == {"A", "B"}
    with pytest.raises(SpoolCorrupt):
        after.spool.load("A")
    ((kept, why),) = after.corrupt
    assert kept == f"{SHARD}/corrupt/{path.rpartition('/')[2]}" and why
    assert kept.rpartition("/")[2] in after.disk.names(f"{SHARD}/corrupt")
    assert after.spool.load("B").queue_id == "B"
    with pytest.raises(KeyError):
        after.spool.load("A")


def test_file_with_a_name_that_is_not_ours_goes_to_corrupt_and_is_told() -> None:
    """A hand has put something into new/ or journal/: it is set aside, and the rest goes on."""
    world = accepted("A")
    for name in (f"{SHARD}/new/00/README", f"{SHARD}/new/01/A,007,w,,", f"{SHARD}/journal/000002.old"):
        world.disk.close(world.disk.open(name, 0o101))
    after = reborn(world, Fate.EVERYTHING)
    report = after.open()
    assert [file for file, _ in report.corrupt] == [f"{SHARD}/corrupt/000002.old"]
    assert [ticket.queue_id for ticket in after.spool.waiting()] == ["A"]
    assert {file for file, _ in after.corrupt} == {f"{SHARD}/corrupt/README", f"{SHARD}/corrupt/A,007,w,,"}


def test_what_was_replayed_does_not_come_back() -> None:
    """What goes on from where it lies is settled there: what is finished later stays finished."""
    world = accepted("A", "B")
    after = reborn(world)
    assert after.open().replayed == 2
    for ticket in list(after.spool.waiting()):
        after.spool.finish(ticket.queue_id)
    after.wait(2)
    again = reborn(after, Fate.EVERYTHING)
    assert again.open().replayed == 0
    assert stored(again) == {}


def test_what_has_a_file_is_declared_so_when_the_rest_of_its_segment_stays() -> None:
    """A file wins over its record; when it is gone later, the record must not bring the message back."""
    world = accepted("A", "B")
    world.park("A", due=300)
    cut = []
    world.disk.before = lambda call: cut.append(reborn(world, Fate.EVERYTHING)) if call == "pwritev" else None
    world.pump()
    world.wait(2)  # its file is there, the record that says so is not
    after = cut[0]
    assert after.open().replayed == 1 and len(queue_files(after)) == 1
    assert sorted(stored(after)) == ["A", "B"]
    after.wait(2)
    after.spool.finish("A")
    after.wait(2)
    again = reborn(after, Fate.EVERYTHING)
    again.open()
    assert sorted(stored(again)) == ["B"]


def test_a_damaged_segment_takes_no_settlement_with_it() -> None:
    """What is whole becomes files before a damaged segment goes to corrupt/, so that nothing settled comes back."""
    world = accepted("A", "B", "C", size=5000)
    world.finish("B")
    for number in range(12):
        world.append(f"D{number}", size=5000)
        world.pump()
    path = journal(world)[-2]
    octets = world.disk.octets(path)
    at = octets.index(b"D", BLOCK)
    octets[at : at + 40] = bytes(40)
    after = reborn(world, Fate.EVERYTHING)
    assert len(after.open().corrupt) == 1
    assert "B" not in stored(after)
    again = reborn(after, Fate.EVERYTHING)
    assert again.open() is not None
    assert "B" not in stored(again)


def test_a_message_cannot_forge_a_record() -> None:
    """What lies in a message is not found as a record, not even behind damage: the mark cannot be guessed."""
    world = World(SimDisk())
    world.open()
    evil, _ = record.frame(
        b"\0" * 8, 1, 0, Standing(), [record.entry(Kind.MESSAGE, b"EVIL,1,w,,", b"head", b"spam", None)]
    )
    octets = bytes(BLOCK) + b"".join(evil) + bytes(500)
    answer = world.spool.append("A", b"head", octets, Schedule(1))
    world.fired(answer)
    (path, *_) = journal(world)
    damaged = world.disk.octets(path)
    at = damaged.index(b"A,1,w,,")
    damaged[at] ^= 1
    after = reborn(world)
    after.open()
    assert stored(after) == {}


def test_marks_are_drawn_anew_for_every_segment() -> None:
    """Two segments never share a mark, also when one is the other used again."""
    world = World(SimDisk())
    world.open()
    marks = set()
    for number in range(40):
        world.append(f"A{number}", size=5000)
        world.pump()
        world.finish(f"A{number}")
        for name in world.disk.names(f"{SHARD}/journal"):
            known = parse_name(name)
            if known is not None:
                marks.add(known)
    assert len(marks) > 5
    assert len({mark for _, mark in marks}) == len({number for number, _ in marks}) == len(marks)


def test_what_settles_a_message_never_vanishes_before_it() -> None:
    """Segments are used again oldest first, although a later one is free before."""
    world = World(SimDisk(), segments_max=10)
    world.open()
    world.append("STAYS", size=100)
    world.append("GOES", size=100)
    world.pump()
    for number in range(20):
        world.append(f"A{number}", size=5000)
        if number == 6:
            world.finish("GOES")
        world.pump()
        world.finish(f"A{number}")
    world.append("LAST")
    world.pump()
    after = reborn(world)
    after.open()
    assert sorted(check(after, world.model)) == ["LAST", "STAYS"]


def test_every_batch_starts_on_a_block_of_its_own() -> None:
    """What was once synced is never written again while its segment is in use."""
    world = World(SimDisk(block=BLOCK))
    world.open()
    written: dict[int, set[int]] = {}
    random = Random(4)
    original = world.disk.pwritev

    def pwritev(fd: int, buffers: list[bytes], offset: int) -> int:
        blocks = set(range(offset // BLOCK, -(-(offset + sum(map(len, buffers))) // BLOCK)))
        assert not blocks & written.setdefault(fd, set())
        written[fd] |= blocks
        return original(fd, buffers, offset)

    world.disk.pwritev = pwritev  # type: ignore[method-assign,assignment]
    for number in range(50):
        world.append(f"A{number}", size=random.randrange(3000))
        world.pump()
        world.finish(f"A{number}")
    assert max(map(len, written.values())) > 4


def test_the_checksum_of_a_record_covers_all_of_it() -> None:
    """CRC-32 (zlib) over name, head, body, then mark, number, kind and lengths."""
    entry = record.entry(Kind.MESSAGE, b"name", b"head", b"body", None)
    buffers, total = record.frame(b"markmark", 7, 0, Standing(), [entry])
    framed = b"".join(buffers[1:])
    assert total == len(buffers[0]) + len(framed)
    prefix, crc = framed[: record.PREFIX], framed[record.PREFIX : record.HEADER]
    assert zlib.crc32(b"namehead" + b"body" + prefix) == int.from_bytes(crc, "little")
