"""The spool on the real file system with real threads and the real reactor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from relaymta.store.disk import RealDisk
from relaymta.store.incoming import PIECES_MAX
from relaymta.store.interfaces import Schedule, Spool, SpoolLocked, Stored
from relaymta.store.spool import DiskSpool


def make(path: str, commit: Literal["thread", "inline"] = "thread", **options: Any) -> DiskSpool:
    """A spool on the real disk; segments small enough to be used again."""
    return DiskSpool(
        path,
        seconds=time.time,
        call_later=reactor.callLater,
        call_from_thread=reactor.callFromThread,  # type: ignore[attr-defined]
        commit=commit,
        **{"segment_size": 256 * 1024, "segments_max": 3, **options},
    )


def content(number: int) -> bytes:
    """The content of message `number`."""
    return b"Subject: %d\r\n\r\n" % number + bytes([number % 256]) * (number * 37 % 9000)


class Life(TestCase):
    """Messages through journal, files and restarts, as a daemon would have it."""

    commit: Literal["thread", "inline"] = "thread"

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = f"{folder.name}/spool/shard-0"

    async def _stored(self, spool: Spool) -> dict[str, Stored]:
        return {ticket.queue_id: spool.load(ticket.queue_id) for ticket in spool.waiting()}

    async def test_messages_survive_a_restart_byte_for_byte(self) -> None:
        """What was accepted and not finished is found again, in whatever form it lay on the disk."""
        spool = make(self.path, self.commit)
        await spool.open()
        ids = [f"M{number:03}" for number in range(300)]
        await gatherResults(
            [
                spool.append(queue_id, b"head", content(number), Schedule(number))
                for number, queue_id in enumerate(ids)
            ]
        )
        large = spool.receive("LARGE", b"large head", Schedule(7))
        for piece in range(40):
            large.write(bytes([piece]) * 10_000)
        got = await large.commit()
        assert got.size == 400_000 and got.eightbit is False
        assert b"".join(got.chunks()) == b"".join(bytes([piece]) * 10_000 for piece in range(40))
        for queue_id in ids[:100]:
            spool.finish(queue_id)
        await gatherResults([spool.park(queue_id, Schedule(5000)) for queue_id in ids[100:150]])
        await spool.note_durably("M100", b"in a file")
        await spool.note_durably("M200", b"in the journal, or in a file by now")
        spool.note("M120", b"not waited for")
        await spool.park("M110", Schedule(6000, "lane"))
        spool.finish("M111")
        await spool.close()

        again = make(self.path, self.commit)
        report = await again.open()
        assert report.corrupt == () and report.seconds < 2
        found = await self._stored(again)
        assert sorted(found) == sorted([*(set(ids[100:]) - {"M111"}), "LARGE"])
        for number, queue_id in enumerate(ids):
            if queue_id in found:
                assert b"".join(found[queue_id].content.chunks()) == content(number)
                assert found[queue_id].head == b"head"
        assert found["M100"].lines == (b"in a file",)
        assert found["M120"].lines == (b"not waited for",)
        assert found["M200"].lines == (b"in the journal, or in a file by now",)
        assert found["M110"].schedule == Schedule(6000, "lane")
        await again.close()

    async def test_a_second_owner_is_refused_and_a_first_that_ended_is_not_in_the_way(self) -> None:
        """One shard, one owner: the second is told whose it is."""
        first, second = make(self.path, self.commit), make(self.path, self.commit)
        await first.open()
        with pytest.raises(SpoolLocked, match=str(os.getpid())):
            await second.open()
        await second.close()
        await first.close()
        third = make(self.path, self.commit)
        await third.open()
        await third.close()

    async def test_no_thread_and_no_timer_is_left_by_a_close(self) -> None:
        """Also right after work that nobody waits for."""
        spool = make(self.path, self.commit)
        await spool.open()
        await spool.append("A", b"head", b"content", Schedule(1))
        spool.note("A", b"line")
        spool.finish("A")
        parked: Deferred[None] = spool.append("B", b"head", b"content", Schedule(1))
        waits = spool.park("B", Schedule(2))
        incoming = spool.receive("C", b"head", Schedule(1))
        incoming.write(b"octets")
        committed = incoming.commit()
        spool.receive("D", b"head", Schedule(1))
        await spool.close()
        for answer in (parked, waits, committed):
            assert answer.called
        await spool.close()
        assert os.listdir(f"{self.path}/tmp") == []

    async def test_tiny_pieces_of_a_large_message_are_not_gathered_for_long(self) -> None:
        """An octet or two at a time are objects of thirty times their size: a client must not fill memory with them."""
        spool = make(self.path, self.commit)
        await spool.open()
        incoming: Any = spool.receive("L", b"head", Schedule(1))
        for number in range(3000):
            incoming.write(b"%02d" % (number % 100))
            assert len(incoming._pieces) < PIECES_MAX
        got = await incoming.commit()
        assert b"".join(got.chunks()) == b"".join(b"%02d" % (number % 100) for number in range(3000))
        await spool.close()

    async def test_a_steady_load_uses_its_segments_again(self) -> None:
        """The journal does not grow: what is done frees its segment."""
        spool = make(self.path, self.commit)
        await spool.open()
        for number in range(60):
            ids = [f"M{number:03}x{at}" for at in range(10)]
            await gatherResults([spool.append(queue_id, b"head", bytes(3000), Schedule(1)) for queue_id in ids])
            for queue_id in ids:
                spool.finish(queue_id)
        assert len(os.listdir(f"{self.path}/journal")) <= 8
        await spool.close()

    async def test_memory_is_bounded_by_making_files_of_the_oldest(self) -> None:
        """Messages that nobody finishes leave memory by themselves, and stay messages all the same."""
        spool = make(self.path, self.commit, memory=200_000)
        await spool.open()
        for number in range(30):
            await gatherResults(
                [spool.append(f"M{number:03}x{at}", b"head", bytes(3000), Schedule(1)) for at in range(10)]
            )
        spool.finish("M000x0")
        await spool.note_durably("M000x1", b"line")
        await spool.park("M000x2", Schedule(9))
        assert spool.load("M000x1").lines == (b"line",)
        assert spool.load("M000x2").schedule.due == 9
        with pytest.raises(KeyError):
            spool.load("M000x0")
        await spool.close()
        assert sum(len(files) for _, _, files in os.walk(f"{self.path}/new")) > 200


class LifeInline(Life):
    """The same with commits at the end of the reactor's turn."""

    commit = "inline"


def test_syncfs_is_used_where_it_tells_of_failures(tmp_path: Path) -> None:
    """The real disk says whether it can, and then it does."""
    disk = RealDisk()
    fd = disk.open(str(tmp_path / "file"), os.O_WRONLY | os.O_CREAT)
    if disk.has_syncfs:
        disk.syncfs(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            disk.syncfs(9999)
    disk.close(fd)
    assert disk.free(str(tmp_path)) > 0
    assert disk.modified(str(tmp_path / "file")) > 0


def test_listing_is_lazy(tmp_path: Path) -> None:
    """A folder of a million names is not read at once."""
    (tmp_path / "a").touch()
    names = RealDisk().listdir(str(tmp_path))
    assert isinstance(names, Iterator)
    assert list(names) == ["a"]
