"""Shards, their owners, and what they lie on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relaymta.store.disk import RealDisk, reports_syncfs
from relaymta.store.interfaces import SpoolError, SpoolLocked
from relaymta.store.shards import adopt, claim, file_system, is_ephemeral, shard_path, shards
from tests.store.simdisk import SimDisk
from tests.store.world import World


def test_shards_are_listed_by_number(tmp_path: Path) -> None:
    """Ten comes after two, and what is no shard is not one."""
    for name in ("shard-10", "shard-2", "shard-x", "drop", "shard-"):
        (tmp_path / name).mkdir()
    spool = str(tmp_path)
    assert shards(RealDisk(), spool) == [shard_path(spool, 2), shard_path(spool, 10)]
    assert shards(RealDisk(), f"{spool}/nowhere") == []


@pytest.mark.parametrize("disk", [SimDisk(), RealDisk()])
def test_a_shard_has_one_owner_at_a_time(disk: SimDisk | RealDisk, tmp_path: Path) -> None:
    """The second is refused until the first lets go; a claim ends with its owner."""
    path = f"{tmp_path}/shard-0" if isinstance(disk, RealDisk) else "/spool/shard-0"
    first = claim(disk, path)
    with pytest.raises(SpoolLocked):
        claim(disk, path)
    first.release()
    first.release()
    claim(disk, path).release()


def test_nobody_else_may_open_what_is_in_the_spool(tmp_path: Path) -> None:
    """Its own folder may be passed through by all: who could open its lock could take it, and we would never start."""
    before = os.umask(0)
    try:
        claim(RealDisk(), f"{tmp_path}/spool").release()
    finally:
        os.umask(before)
    assert os.stat(f"{tmp_path}/spool/lock").st_mode & 0o777 == 0o600


def test_ownerless_shards_are_adopted_and_others_left_alone() -> None:
    """What a worker that is no more has left is taken by whoever comes first."""
    disk = SimDisk()
    claims = [claim(disk, f"/spool/shard-{number}") for number in range(3)]
    claims[1].release()
    assert [taken.path for taken in adopt(disk, "/spool")] == ["/spool/shard-1"]
    assert list(adopt(disk, "/spool")) == []


def test_a_spool_opens_a_shard_that_was_claimed_before() -> None:
    """Adoption hands the lock over without letting go of it."""
    disk = SimDisk()
    world = World(disk, owned=claim(disk, "/spool/shard-0"))
    world.open()
    with pytest.raises(SpoolLocked):
        claim(disk, "/spool/shard-0")
    world.close()
    claim(disk, "/spool/shard-0").release()


def test_a_shard_of_another_version_is_refused() -> None:
    """The format is versioned; what cannot be read is not touched."""
    world = World(SimDisk())
    world.open()
    world.close()
    world.disk.octets("/spool/shard-0/format")[:] = b"relaymta-spool 99\nfolders 64\n"
    with pytest.raises(SpoolError, match="version 99"):
        World(world.disk).open()
    world.disk.octets("/spool/shard-0/format")[:] = b"\0\0\0"
    with pytest.raises(SpoolError, match="which version"):
        World(world.disk).open()


def test_a_shard_keeps_the_number_of_folders_it_has() -> None:
    """Another number in a new configuration would hide every message."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    world.park("A", due=1)
    world.pump()
    world.close()
    again = World(world.disk, world.model, folders=7)
    again.open()
    assert again.spool.load("A").head == world.model["A"].head
    assert len(world.disk.names("/spool/shard-0/new")) == 2


def test_a_message_in_the_wrong_folder_is_put_right() -> None:
    """A hand may have moved it."""
    world = World(SimDisk())
    world.open()
    world.append("A")
    world.pump()
    world.park("A", due=1)
    world.pump()
    world.close()
    (at,) = [number for number in range(2) if world.disk.names(f"/spool/shard-0/new/{number:02x}")]
    (name,) = world.disk.names(f"/spool/shard-0/new/{at:02x}")
    world.disk.rename(f"/spool/shard-0/new/{at:02x}/{name}", f"/spool/shard-0/new/{1 - at:02x}/{name}")
    again = World(world.disk, world.model)
    again.open()
    assert [ticket.queue_id for ticket in again.spool.waiting()] == ["A"]
    assert again.spool.load("A").head == world.model["A"].head


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:20 / /dev/shm rw,nosuid - tmpfs tmpfs rw
24 22 0:21 / /var/spool/my\\040mail rw master:1 shared:2 - overlay overlay rw
25 22 0:22 / /var/spool rw - xfs /dev/vdb rw
26 22 0:23 / /tmp rw - ext4 /dev/vdc rw
27 26 0:24 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "ephemeral"),
    [
        ("/srv/spool", "ext4", False),
        ("/dev/shm/spool", "tmpfs", True),
        ("/dev/shmoo", "ext4", False),
        ("/var/spool/my mail/relaymta", "overlay", True),
        ("/var/spool/relaymta", "xfs", False),
        ("/tmp/spool", "tmpfs", True),
    ],
)
def test_a_container_made_anew_lost_the_queue(path: str, kind: str, ephemeral: bool, tmp_path: Path) -> None:
    """Memory and the writable layer of a container are ephemeral; the mount that counts is the nearest, the last."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system(path, str(mounts)) == kind
    assert is_ephemeral(path, str(mounts)) is ephemeral


def test_where_it_cannot_be_known_nothing_is_said(tmp_path: Path) -> None:
    """Not every system has /proc."""
    assert is_ephemeral("/", str(tmp_path / "none")) is False
    assert file_system("/") != "" or not Path("/proc/self/mountinfo").exists()


@pytest.mark.parametrize(
    ("system", "release", "said"),
    [
        ("Linux", "6.18.44-fc", True),
        ("Linux", "5.8.0", True),
        ("Linux", "5.7.19-generic", False),
        ("Linux", "4.19", False),
        ("Linux", "strange", False),
        ("FreeBSD", "14.1-RELEASE", False),
    ],
)
def test_syncfs_is_trusted_where_it_tells_of_failures(system: str, release: str, said: bool) -> None:
    """syncfs(2): errors are reported since Linux 5.8; before that it always said "done"."""
    assert reports_syncfs(system, release) is said
