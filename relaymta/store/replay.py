"""Replay: what a journal holds after a crash is found again, and stays where it is until it is done or moved.

Segments are read from the newest to the oldest that still matters. A message that is neither done nor moved goes on
from its record, with its notes: nothing is written for it, so that a start takes no longer for a full journal than
reading it does. Where a file of it is there already, the file wins and gets the notes that it lacks. A segment stays
in use as long as it, or an older one, holds such a message: what settles the messages of a segment lies in it or in
later ones. Where the disk has lied, all that is whole becomes files at once, for the damaged segment is taken away;
where more segments would stay than one life may use, as after one crash upon the other, what the oldest hold does.
The table of store.spool says which state means what.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from functools import partial

from attrs import define, field

from relaymta.store import names
from relaymta.store.disk import Disk, explain, sync_folder
from relaymta.store.files import UNREADABLE, read_file
from relaymta.store.ledger import Live
from relaymta.store.lying import Lying
from relaymta.store.record import BLOCK, Found, Kind, Reading, Scan
from relaymta.store.segment import Segment, parse_name
from relaymta.store.shelf import Parking, Placement, Shelf

_TOGETHER = 128  # files put in place at once


@define(slots=True, eq=False)
class Old:
    """A segment of an earlier life. `end` is where it ended, if all of it was whole up to there, else 0."""

    number: int
    mark: bytes
    path: str
    size: int
    end: int = 0


@define(slots=True, eq=False)
class Survivor:
    """A message found in the journal, not settled there."""

    segment: Old
    found: Found
    lines: list[tuple[Old, Found]] = field(factory=list)


@define(slots=True)
class Replay:
    """What replay leaves.

    `replayed`: how many messages were found; `corrupt` what cannot be read. `kept`: the segments that stay in use,
    oldest first, each with its survivors; `free` the others. `damaged`: those that the disk lied about, to be kept in
    corrupt/ once the journal has begun anew. `moved`: ids of messages that have a file, which no record says yet.
    """

    replayed: int = 0
    corrupt: list[tuple[str, str]] = field(factory=list)
    number: int = 0
    segments: list[Old] = field(factory=list)
    kept: list[tuple[Old, list[Survivor]]] = field(factory=list)
    free: list[Old] = field(factory=list)
    damaged: dict[Old, str] = field(factory=dict)
    moved: list[str] = field(factory=list)


def replay(disk: Disk, shelf: Shelf, result: Replay, most: int) -> None:
    """Find what is in the journal, and keep at most so many segments of it. Raises OSError; may be begun again then."""
    _find_segments(disk, shelf, result)
    folders: dict[str, list[Survivor]] = {}
    for survivor in _survivors(disk, result):
        folders.setdefault(shelf.folder(_queue_id(survivor.found)), []).append(survivor)
    missing: list[Survivor] = []
    for folder, inside in folders.items():
        missing += _without_file(disk, shelf, folder, inside, result)
    result.replayed = len(missing)
    if result.damaged:
        failures = [failure for failure in _place(disk, shelf, missing) if failure is not None]
        if failures:
            raise failures[0]
        missing = []
    else:
        missing = _relieved(disk, shelf, result, missing, most)
    _keep(result, missing)


def _relieved(disk: Disk, shelf: Shelf, result: Replay, survivors: list[Survivor], most: int) -> list[Survivor]:
    # Those that stay in the journal when no more than `most` segments do. What fails stays there too.
    oldest = min((survivor.segment.number for survivor in survivors), default=0)
    numbers = [old.number for old in result.segments if old.number >= oldest]
    first = numbers[-most] if len(numbers) > most else 0
    leaving = [survivor for survivor in survivors if survivor.segment.number < first]
    staying = [survivor for survivor in survivors if survivor.segment.number >= first]
    for survivor, failure in zip(leaving, _place(disk, shelf, leaving), strict=True):
        if failure is None:
            result.moved.append(_queue_id(survivor.found))
        else:
            staying.append(survivor)
    return staying


def _keep(result: Replay, survivors: list[Survivor]) -> None:
    oldest = min((survivor.segment.number for survivor in survivors), default=result.number + 1)
    inside: dict[int, list[Survivor]] = {}
    for survivor in survivors:
        inside.setdefault(survivor.segment.number, []).append(survivor)
    for old in result.segments:
        if old.number < oldest:
            result.free.append(old)
        else:
            result.kept.append((old, inside.get(old.number, [])))


def revive(disk: Disk, old: Old, survivors: list[Survivor], size: int) -> Segment:
    """A segment that stays in use, with its messages; `size` is that of segments now. Raises OSError."""
    segment = Segment(old.number, old.mark, old.path, -1, old.size, old.size, fits=old.size == size)
    for survivor in survivors:
        found = survivor.found
        ticket = names.decode(found.name.decode("ascii"))
        assert ticket is not None, "a whole record with a name that nobody gave"
        lying = Lying(old.path, found.at, len(found.name), found.head, found.body, found.crc)
        live = Live(ticket.queue_id, b"", b"", ticket.schedule, None, segment, lying, tuple(_noted(disk, survivor)))
        segment.live[ticket.queue_id] = live
    return segment


def sealed(disk: Disk, old: Old) -> tuple[tuple[int, int], ...]:
    """Sync the last segment of an earlier life, and tell where it ends; nothing where that cannot be known.

    Who wrote it may have been killed before the sync. From then on damage there is damage, and not what was never
    acknowledged.
    """
    if not old.end:
        return ()
    try:
        fd = disk.open(old.path, os.O_RDONLY)
        try:
            disk.fdatasync(fd)
        finally:
            disk.close(fd)
    except OSError:
        return ()
    return ((old.number, old.end),)


def _find_segments(disk: Disk, shelf: Shelf, result: Replay) -> None:
    # The segments in journal/, oldest first; what is not one goes (half-made ones) or is told (anything else).
    for name in list(disk.listdir(shelf.folders.journal)):
        path = f"{shelf.folders.journal}/{name}"
        known = parse_name(name)
        if known is not None:
            result.segments.append(Old(*known, path, _size(disk, path)))
        elif name.startswith("fresh-"):
            disk.unlink(path)
        else:
            result.corrupt.append((shelf.set_aside(path), "its name is not that of a journal segment"))
    result.segments.sort(key=lambda old: old.number)
    result.number = max((old.number for old in result.segments), default=0)


def _survivors(disk: Disk, result: Replay) -> list[Survivor]:
    # From the newest on: each tells where the one before it ended, and which is the oldest that matters.
    readings: list[tuple[Old, Reading, int]] = []
    floor = 0
    ends: dict[int, int] = {}
    for old in reversed(result.segments):
        if old.number < floor:
            break
        told = ends.get(old.number)
        reading = _read(disk, old, told or 0)
        old.end = 0 if reading.damaged else reading.end
        readings.append((old, reading, old.size if told is None else told))
        floor = max(floor, reading.floor)
        ends.update(reading.ends)
        synced = reading.synced if told is None else told
        if any(offset < synced for offset in reading.damaged):
            result.damaged[old] = f"damaged before octet {synced}, up to which it was synced"
    found: dict[str, Survivor] = {}
    settled: set[str] = set()
    for old, reading, end in reversed(readings):
        _follow(old, reading.upto(end), found, settled)
    return [survivor for queue_id, survivor in found.items() if queue_id not in settled]


def _follow(old: Old, records: Iterable[Found], found: dict[str, Survivor], settled: set[str]) -> None:
    for record in records:
        queue_id = _queue_id(record)
        if record.kind is Kind.MESSAGE:
            found[queue_id] = Survivor(old, record)
        elif record.kind is Kind.LINE:
            if queue_id in found:
                found[queue_id].lines.append((old, record))
        else:
            settled.add(queue_id)


def _read(disk: Disk, old: Old, known: int) -> Reading:
    fd = disk.open(old.path, os.O_RDONLY)
    try:
        read = partial(_readable, disk, fd)
        return Scan(read, old.size, old.mark, old.number, known).reading()
    finally:
        disk.close(fd)


def _readable(disk: Disk, fd: int, size: int, offset: int) -> bytes:
    # Octets of a segment, with zeros for blocks that the disk cannot read: damage, which the scan sees and tells.
    try:
        return disk.pread(fd, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        if size <= BLOCK:
            return bytes(size)
    return b"".join(_readable(disk, fd, min(BLOCK, size - at), offset + at) for at in range(0, size, BLOCK))


def _without_file(
    disk: Disk, shelf: Shelf, folder: str, survivors: list[Survivor], result: Replay
) -> list[Survivor]:
    # Those of a folder that have no file yet. A file wins, but notes that only the journal has go into it.
    wanted = {_queue_id(survivor.found) for survivor in survivors}
    files = shelf.find_all(folder, wanted)
    missing = []
    for survivor in survivors:
        queue_id = _queue_id(survivor.found)
        whole: list[tuple[str, tuple[bytes, ...]]] = []
        for name in files.get(queue_id, ()):
            path = f"{folder}/{name}"
            try:
                whole.append((path, _lines(disk, path)))
            except ValueError as error:
                result.corrupt.append((shelf.set_aside(path), str(error)))
        if not whole:
            missing.append(survivor)
            continue
        result.moved.append(queue_id)
        whole.sort(key=lambda file: len(file[1]))
        path, lines = whole.pop()
        for other, _ in whole:  # a name that could not be synced, then another for the same message
            disk.unlink(other)
        _complete(disk, shelf, path, lines, _noted(disk, survivor))
    if len(missing) < len(survivors):
        sync_folder(disk, folder)  # who gave a name may have died before its sync, and the record goes for it
    return missing


def _complete(disk: Disk, shelf: Shelf, path: str, has: tuple[bytes, ...], noted: list[bytes]) -> None:
    had = Counter(has)
    lacking = []
    for line in noted:
        if had[line]:
            had[line] -= 1
        else:
            lacking.append(line)
    if not lacking:
        return
    fd = disk.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        for line in lacking:
            shelf.append(fd, line)
        disk.fsync(fd)
    finally:
        disk.close(fd)


def _place(disk: Disk, shelf: Shelf, survivors: list[Survivor]) -> list[OSError | None]:
    failures: list[OSError | None] = []
    for start in range(0, len(survivors), _TOGETHER):
        placements: list[Placement] = []
        for survivor in survivors[start : start + _TOGETHER]:
            name, head, content = _parts(disk, survivor.segment, survivor.found)
            lines = _noted(disk, survivor)
            placements.append(Parking(_queue_id(survivor.found), name.decode("ascii"), head, content, lines))
        failures += shelf.place(placements)
    return failures


def _noted(disk: Disk, survivor: Survivor) -> list[bytes]:
    return [_parts(disk, old, found)[2] for old, found in survivor.lines]


def _parts(disk: Disk, old: Old, found: Found) -> tuple[bytes, bytes, bytes]:
    size = len(found.name) + found.head + found.body
    fd = disk.open(old.path, os.O_RDONLY)
    try:
        payload = disk.pread(fd, size, found.at)
    finally:
        disk.close(fd)
    if len(payload) != size:
        raise OSError(errno.EIO, "the segment became shorter", old.path)
    behind = len(found.name) + found.head
    return payload[: len(found.name)], payload[len(found.name) : behind], payload[behind:]


def _lines(disk: Disk, path: str) -> tuple[bytes, ...]:
    # Raises ValueError for a file that cannot be read.
    try:
        fd = disk.open(path, os.O_RDONLY)
        try:
            return read_file(disk, fd)[2]
        finally:
            disk.close(fd)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        raise ValueError(explain(error)) from error


def _size(disk: Disk, path: str) -> int:
    fd = disk.open(path, os.O_RDONLY)
    try:
        return disk.size(fd)
    finally:
        disk.close(fd)


def _queue_id(found: Found) -> str:
    return str(found.name.partition(b",")[0], "ascii")


