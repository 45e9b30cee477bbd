"""The watcher of the drop directory: everything is taken, at least once, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relaymta.admin.drop import (
    RETRY_SECONDS,
    RUNNING_MAX,
    SCAN_SECONDS,
    SWEEP_AGE,
    DropRefusedError,
    DropWatcher,
    prepare,
)
from relaymta.admin.dropfile import DIRECTORY_MODE, Submission, leave
from relaymta.events import BugCaught, Event, SpoolCorrupt
from relaymta.mail.address import Address
from relaymta.mail.envelope import Envelope
from relaymta.store.interfaces import SpoolError

PLAIN = Submission(Address("a", "example.org"), (Address("b", "example.com"),))


class Reactor(Clock):
    """A clock that can pretend to listen for datagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.listening: list[Any] = []

    def listenUNIXDatagram(self, path: str, protocol: Any, mode: int = 0o666, **_: Any) -> Any:
        assert mode == 0o622
        self.listening.append(protocol)
        return self

    def stopListening(self) -> None:
        self.listening.clear()


class Watch:
    """A watcher over a directory, and what it did. `answer` says what becomes of a message."""

    def __init__(self, directory: Path, answer: Any = lambda number: succeed(None)) -> None:
        self.directory = directory
        self.reactor = Reactor()
        self.reactor.advance(1_000_000_000)
        self.answer = answer
        self.accepted: list[tuple[Envelope, bytes]] = []
        self.told: list[Event] = []
        self.watcher = DropWatcher(
            self.reactor, str(directory), self.accept, self.told.append, self.reactor.seconds, 1000
        )

    def accept(self, envelope: Envelope, octets: bytes) -> Deferred[None]:
        self.accepted.append((envelope, octets))
        answered: Deferred[None] = self.answer(len(self.accepted))
        return answered

    def tick(self, seconds: float = SCAN_SECONDS) -> None:
        self.reactor.advance(seconds)

    @property
    def bodies(self) -> list[bytes]:
        return [octets for _, octets in self.accepted]

    def files(self) -> list[str]:
        return sorted(name for name in os.listdir(self.directory) if not name.startswith((".", "bad")))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A prepared drop directory."""
    prepare(str(tmp_path / "drop"))
    return tmp_path / "drop"


def test_the_directory_is_made_for_all_to_write_and_nobody_to_list(tmp_path: Path) -> None:
    """Mode 1733: anyone leaves mail, and the sticky bit lets nobody remove another's."""
    path = tmp_path / "spool" / "drop"
    prepare(str(path))
    assert path.stat().st_mode & 0o7777 == DIRECTORY_MODE
    assert (path / "bad").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_somebody_made_private_is_opened(tmp_path: Path) -> None:
    """Whoever made it first, users must be able to leave mail."""
    path = tmp_path / "drop"
    path.mkdir(mode=0o700)
    prepare(str(path))
    assert path.stat().st_mode & 0o7777 == DIRECTORY_MODE


def test_a_directory_of_a_group_keeps_its_mode(tmp_path: Path) -> None:
    """The operator may have given it to a group."""
    path = tmp_path / "drop"
    path.mkdir(mode=0o730)
    path.chmod(0o1730)
    prepare(str(path))
    assert path.stat().st_mode & 0o7777 == 0o1730


def test_what_was_left_while_the_daemon_was_down_is_taken_at_the_start(directory: Path) -> None:
    """Oldest first, and each file goes when its message is durable."""
    for number in range(3):
        leave(str(directory), PLAIN, b"%d" % number)
    watch = Watch(directory)
    watch.watcher.start()
    assert watch.bodies == [b"0", b"1", b"2"] and watch.files() == []
    envelope = watch.accepted[0][0]
    assert envelope.accepted_at == 1_000_000_000 and envelope.origin.account.startswith("local:")


def test_what_comes_later_is_taken_within_a_second(directory: Path) -> None:
    """The safety net: a look every second, whether or not somebody pokes."""
    watch = Watch(directory)
    watch.watcher.start()
    leave(str(directory), PLAIN, b"later")
    watch.tick()
    assert watch.bodies == [b"later"]


def test_a_poke_lets_it_look_at_once(directory: Path) -> None:
    """However many pokes come, it is one look."""
    watch = Watch(directory)
    watch.watcher.start()
    leave(str(directory), PLAIN, b"now")
    for _ in range(100):
        watch.reactor.listening[0].datagramReceived(b"x", None)
    watch.tick(0)
    assert watch.bodies == [b"now"] and len(watch.reactor.getDelayedCalls()) == 1


def test_a_crash_before_the_answer_takes_the_message_again(directory: Path) -> None:
    """The file stays until the queue has the message: after a crash it is taken twice, never lost."""
    leave(str(directory), PLAIN, b"x")
    crashed = Watch(directory, lambda _: Deferred())
    crashed.watcher.start()
    assert crashed.bodies == [b"x"] and len(crashed.files()) == 1
    again = Watch(directory)
    again.watcher.start()
    assert again.bodies == [b"x"] and again.files() == []


def test_a_message_under_way_is_not_taken_twice(directory: Path) -> None:
    """Looks go on while the queue writes, and leave alone what is being written."""
    waiting: Deferred[None] = Deferred()
    leave(str(directory), PLAIN, b"x")
    watch = Watch(directory, lambda _: waiting)
    watch.watcher.start()
    leave(str(directory), PLAIN, b"y")
    watch.answer = lambda _: succeed(None)
    watch.tick()
    watch.tick()
    assert watch.bodies == [b"x", b"y"]
    waiting.callback(None)
    assert watch.files() == []


def test_a_thousand_files_are_taken_a_few_at_a_time(directory: Path) -> None:
    """No more than RUNNING_MAX are in memory, and the next one starts when one is durable."""
    waiting: list[Deferred[None]] = []

    def answer(_: int) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    for number in range(RUNNING_MAX + 5):
        leave(str(directory), PLAIN, b"%d" % number)
    watch = Watch(directory, answer)
    watch.watcher.start()
    assert len(watch.accepted) == RUNNING_MAX
    waiting[0].callback(None)
    assert len(watch.accepted) == RUNNING_MAX + 1


def test_many_files_taken_at_once_do_not_pile_up_on_the_stack(directory: Path) -> None:
    """A queue that answers at once is asked in a loop and not in a thousand nested calls."""
    for number in range(400):
        (directory / f"{number:016x}.mail").write_bytes(
            (directory / leave(str(directory), PLAIN, b"x")).read_bytes() if number == 0 else b"not a message"
        )
    watch = Watch(directory)
    watch.watcher.start()
    assert watch.files() == [] and len(os.listdir(directory / "bad")) == 399


def test_a_full_spool_keeps_the_files_and_tries_again(directory: Path) -> None:
    """A temporary refusal is no loss and no noise: the file waits half a minute."""
    leave(str(directory), PLAIN, b"x")
    watch = Watch(directory, lambda number: fail(SpoolError("full")) if number == 1 else succeed(None))
    watch.watcher.start()
    watch.tick()
    assert len(watch.accepted) == 1 and len(watch.files()) == 1 and watch.told == []
    watch.tick(RETRY_SECONDS)
    assert len(watch.accepted) == 2 and watch.files() == []


@pytest.mark.parametrize("at_once", [True, False])
def test_a_bug_keeps_the_file_and_is_told(directory: Path, at_once: bool) -> None:
    """An exception that no rule foresaw defers the message; it never loses it."""

    def answer(number: int) -> Any:
        if number > 1:
            return succeed(None)
        if at_once:
            raise ZeroDivisionError
        return fail(ZeroDivisionError())

    leave(str(directory), PLAIN, b"x")
    watch = Watch(directory, answer)
    watch.watcher.start()
    assert len(watch.files()) == 1
    assert [type(event) for event in watch.told] == [BugCaught]
    watch.tick(RETRY_SECONDS)
    assert watch.files() == []


def test_a_message_that_is_never_taken_goes_to_bad(directory: Path) -> None:
    """A refusal for good is put aside and told; nothing is dropped."""
    name = leave(str(directory), PLAIN, b"x")
    watch = Watch(directory, lambda _: fail(DropRefusedError("loops")))
    watch.watcher.start()
    assert watch.files() == [] and os.listdir(directory / "bad") == [name]
    assert watch.told == [SpoolCorrupt(file=str(directory / "bad" / name), reason="loops")]


def test_what_is_no_message_goes_to_bad_and_the_rest_goes_on(directory: Path) -> None:
    """One corrupt file must not stop the daemon (OpenSMTPD#373): links, directories and garbage are put aside."""
    (directory / "0garbage.mail").write_bytes(b"hello")
    (directory / "0link.mail").symlink_to("/etc/passwd")
    (directory / "0directory.mail").mkdir()
    leave(str(directory), PLAIN, b"good")
    leave(str(directory), PLAIN, b"x" * 1001)
    watch = Watch(directory)
    watch.watcher.start()
    assert watch.bodies == [b"good"] and watch.files() == []
    assert len(os.listdir(directory / "bad")) == 4 == len(watch.told)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM])
def test_a_message_that_cannot_be_read_now_waits(directory: Path, error: int) -> None:
    """No descriptor left, or a failing disk: mail for which sendmail had exited with 0 was put aside as no message."""
    leave(str(directory), PLAIN, b"kept")
    watch = Watch(directory)
    with patch("relaymta.admin.drop.read", side_effect=OSError(error, os.strerror(error))):
        watch.watcher.start()
    assert len(watch.files()) == 1 and not watch.accepted and isinstance(watch.told[0], SpoolCorrupt)
    watch.tick(RETRY_SECONDS)
    watch.tick()
    assert watch.bodies == [b"kept"] and watch.files() == []


def test_whatever_stands_in_the_place_of_the_poke_stops_nothing(directory: Path) -> None:
    """A directory of any user's called .poke, made while the daemon was down, kept it from ever starting again."""
    (directory / ".poke" / "inside").mkdir(parents=True)
    leave(str(directory), PLAIN, b"first")
    watch = Watch(directory)
    watch.watcher.start()
    leave(str(directory), PLAIN, b"second")
    watch.tick()
    assert watch.bodies == [b"first", b"second"] and "in the way" in str(watch.told[0])
    assert watch.watcher.stop().called


def test_nobody_else_can_make_the_directory_of_what_is_bad(tmp_path: Path) -> None:
    """It is there before others may write beside it, whatever the umask."""
    modes = []

    def chmod(path: str, mode: int) -> None:
        modes.append((os.path.isdir(os.path.join(path, "bad")), os.stat(path).st_mode & 0o7777, mode))

    before = os.umask(0)
    try:
        with patch("os.chmod", chmod):
            prepare(str(tmp_path / "drop"))
    finally:
        os.umask(before)
    assert modes == [(True, 0o700, DIRECTORY_MODE)]


def test_other_names_are_left_alone(directory: Path) -> None:
    """A file that is being written, or somebody's own, is no message yet."""
    (directory / ".tmp-1").write_bytes(b"half")
    (directory / "note.txt").write_bytes(b"hello")
    watch = Watch(directory)
    watch.watcher.start()
    assert watch.accepted == [] and watch.told == [] and (directory / "note.txt").exists()


def test_what_a_dead_sendmail_left_is_swept_after_a_day(directory: Path) -> None:
    """Its caller was never told that it is sent; a young one may still be written."""
    for name, age in ((".tmp-old", SWEEP_AGE + 1), (".tmp-young", SWEEP_AGE - 1)):
        (directory / name).write_bytes(b"half")
        os.utime(directory / name, (1_000_000_000 - age,) * 2)
    Watch(directory).watcher.start()
    assert not (directory / ".tmp-old").exists() and (directory / ".tmp-young").exists()


def test_a_directory_that_did_not_change_is_not_listed(directory: Path) -> None:
    """A look costs one stat while nothing comes."""
    os.utime(directory, (999_999_000,) * 2)
    watch = Watch(directory)
    watch.watcher.start()
    os.utime(directory, (999_999_000,) * 2)
    watch.tick()
    os.chmod(directory, 0o000)
    if os.getuid():
        watch.tick()
    os.chmod(directory, DIRECTORY_MODE)
    assert watch.told == []


def test_a_directory_that_takes_long_to_list_is_listed_less_often(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who fills it and pokes without end has a tenth of the time, and does not stop the mail of others."""
    watch = Watch(directory)
    clock, listings = watch.reactor, []

    def slow(watcher: DropWatcher) -> tuple[list[str], bool]:
        listings.append(clock.seconds())
        clock.rightNow += 0.3  # reads a million names
        (directory / f"junk-{len(listings)}").touch()
        return [], True

    monkeypatch.setattr(DropWatcher, "_names", slow)
    watch.watcher.start()
    for _ in range(600):
        watch.watcher._look_soon()
        watch.tick(0.1)
    assert len(listings) >= 12
    assert all(later - earlier > 2.9 for earlier, later in pairwise(listings))
    watch.watcher._rest_until = clock.seconds() + 1_000_000.0  # the clock was set back
    before = len(listings)
    watch.tick(4.0)
    assert len(listings) == before + 1
    watch.watcher.stop()


def test_a_directory_that_is_gone_is_told_and_the_watch_goes_on(directory: Path) -> None:
    """Somebody removed it: said, and looked for again."""
    watch = Watch(directory)
    watch.watcher.start()
    (directory / "bad").rmdir()
    directory.rmdir()
    watch.tick()
    assert isinstance(watch.told[0], SpoolCorrupt)
    prepare(str(directory))
    leave(str(directory), PLAIN, b"x")
    watch.tick()
    assert watch.bodies == [b"x"]


def test_a_file_that_goes_by_itself_is_no_fault(directory: Path) -> None:
    """Between the listing and the reading anybody may remove what is theirs."""
    leave(str(directory), PLAIN, b"x")
    second = leave(str(directory), PLAIN, b"y")

    def answer(_: int) -> Deferred[None]:
        (directory / second).unlink(missing_ok=True)
        return succeed(None)

    watch = Watch(directory, answer)
    watch.watcher.start()
    assert watch.bodies == [b"x"] and watch.told == []


def test_a_stop_waits_for_what_is_under_way_and_takes_nothing_more(directory: Path) -> None:
    """What was handed over becomes durable; the rest stays a file."""
    waiting: list[Deferred[None]] = []

    def answer(_: int) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    for number in range(RUNNING_MAX + 1):
        leave(str(directory), PLAIN, b"%d" % number)
    watch = Watch(directory, answer)
    watch.watcher.start()
    stopped = watch.watcher.stop()
    assert watch.reactor.getDelayedCalls() == []
    for durable in waiting[1:]:
        durable.callback(None)
    assert not stopped.called
    waiting[0].callback(None)
    assert stopped.called and len(watch.accepted) == RUNNING_MAX and len(watch.files()) == 1


class ForReal(TestCase):
    """Over the real reactor."""

    async def test_a_real_poke_brings_the_message_in(self) -> None:
        """sendmail's datagram is heard, and a socket that a crash left is no hindrance."""
        from relaymta.cli.sendmail import _poke

        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        directory = Path(folder, "drop")
        prepare(str(directory))
        (directory / ".poke").write_bytes(b"left by a former daemon")
        arrived: Deferred[bytes] = Deferred()

        def accept(envelope: Envelope, octets: bytes) -> Deferred[None]:
            arrived.callback(octets)
            return succeed(None)

        watcher = DropWatcher(reactor, str(directory), accept, lambda event: None, reactor.seconds, 1000)
        watcher.start()
        self.addCleanup(watcher.stop)
        before = reactor.seconds()
        leave(str(directory), PLAIN, b"poked")
        _poke(str(directory / ".poke"))
        assert await arrived == b"poked"
        assert reactor.seconds() - before < SCAN_SECONDS
