"""Drop files: durable before sendmail exits 0, and read as if an enemy had written them."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.admin.dropfile import DropError, Submission, leave, read
from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Notify, Ret

MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
PLAIN = Submission(Address("a", "example.org"), (Address("b", "example.com"),))


def taken(directory: Path) -> list[str]:
    """What lies in the directory."""
    return sorted(os.listdir(directory))


def test_what_is_left_is_read_as_it_was(tmp_path: Path) -> None:
    """Envelope, parameters and every octet come back, with the uid of who wrote them."""
    asked = Submission(
        None,
        (Address("пример", "xn--e1afmkfd.example"), Address('odd "name', "example.org")),
        Notify.SUCCESS | Notify.DELAY, Ret.HDRS, "env-7", Body.EIGHTBIT, smtputf8=True,
    )  # fmt: skip
    octets = b"\r\n" + bytes(range(256)).translate(None, b"\r\n\0") * 10
    name = leave(str(tmp_path), asked, octets)
    assert taken(tmp_path) == [name] and name.endswith(".mail")
    assert read(str(tmp_path / name), 10_000) == (asked, octets, os.getuid())


def test_the_envelope_says_that_it_came_from_this_host() -> None:
    """Reception and routes see a local message and its user."""
    envelope = PLAIN.envelope(7.0, "www-data")
    assert (envelope.accepted_at, envelope.origin.protocol, envelope.origin.account) == (7.0, "local", "local:www-data")
    assert [str(one.address) for one in envelope.recipients] == ["b@example.com"]


def test_a_file_is_readable_whatever_the_umask(tmp_path: Path) -> None:
    """The daemon is another user: without reading rights it could not take the file."""
    before = os.umask(0o077)
    try:
        name = leave(str(tmp_path), PLAIN, MESSAGE)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_names_cannot_be_guessed(tmp_path: Path) -> None:
    """Files are readable and the directory is not: 96 random bits in the name keep others out."""
    names = {leave(str(tmp_path), PLAIN, MESSAGE) for _ in range(20)}
    assert len({name[16:40] for name in names}) == 20 and all(len(name) == 45 for name in names)


def test_the_order_is_write_sync_rename_sync(tmp_path: Path) -> None:
    """The content is on the disk before its name is, and the name before we say so."""
    calls: list[str] = []

    def watched(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            calls.append(name)
            return real(*arguments, **more)

        return patch.object(os, name, call)

    with watched("write"), watched("fsync"), watched("rename"):
        leave(str(tmp_path), PLAIN, MESSAGE)
    assert calls == ["write", "fsync", "rename", "fsync"]


@pytest.mark.parametrize("call", ["open", "fchmod", "write", "fsync", "rename"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_call_that_fails_leaves_nothing_and_is_told(tmp_path: Path, call: str, nth: int) -> None:
    """No result is ignored: whichever system call fails, OSError is raised and no message is left behind."""
    real = getattr(os, call)
    count = 0

    def failing(*arguments: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **more)

    with patch.object(os, call, failing):
        try:
            leave(str(tmp_path), PLAIN, MESSAGE)
        except OSError:
            assert taken(tmp_path) == []
            return
    assert count < nth  # this call is made once


@pytest.mark.parametrize("cut", range(4))
def test_a_crash_at_any_step_leaves_a_whole_message_or_none(tmp_path: Path, cut: int) -> None:
    """Killed before any of its steps, sendmail leaves a temporary file, or a whole message; never half of one."""

    class Killed(BaseException):
        pass

    count = 0

    def step(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            if count == cut:
                raise Killed
            count += 1
            return real(*arguments, **more)

        return patch.object(os, name, call)

    with step("write"), step("fsync"), step("rename"), pytest.raises(Killed):
        leave(str(tmp_path), PLAIN, MESSAGE)
    [name] = taken(tmp_path)
    if name.endswith(".mail"):
        assert read(str(tmp_path / name), 1000)[1] == MESSAGE
    else:
        assert name.startswith(".tmp-")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_may_not_list_the_directory_can_still_leave_mail_durably(tmp_path: Path) -> None:
    """In a directory of mode 1733 its name cannot be synced by fsync; the file system is synced instead."""
    tmp_path.chmod(0o1733)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o111)
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
            leave(str(tmp_path), PLAIN, MESSAGE)
            os.listdir(tmp_path)
        except PermissionError:
            os._exit(7)  # the listing was refused, and nothing before
        except BaseException:
            os._exit(1)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    [name] = taken(tmp_path)
    assert read(str(tmp_path / name), 1000) == (PLAIN, MESSAGE, 65534)


def head(**changes: Any) -> bytes:
    """A first line, with changes."""
    good = {
        "relaymta-drop": 1, "sender": "a@example.org", "recipients": ["b@example.com"], "notify": 0, "ret": "",
        "envid": "", "body": "7BIT", "smtputf8": False, "size": len(MESSAGE),
    }  # fmt: skip
    return json.dumps({**good, **changes}).encode() + b"\n"


def test_the_sample_head_is_good(tmp_path: Path) -> None:
    """The samples below are bad for the one reason that they show."""
    path = tmp_path / "x.mail"
    path.write_bytes(head() + MESSAGE)
    assert read(str(path), 1000)[0] == PLAIN


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "not the head"),
        (b"hello\n", "not the head"),
        (b"\xff\xfe\n", "not the head"),
        (b"[1]\n", "not a drop file of this version"),
        (b"null\n", "not a drop file of this version"),
        (b"{}\n", "not a drop file of this version"),
        (b"[" * 100_000 + b"\n", "not the head"),
        (head(**{"relaymta-drop": 2}), "not a drop file of this version"),
        (head(size=7), "where 7 were written"),
        (head(sender="nobody"), "bad address"),
        (head(sender="a@b\r\nRCPT TO:<c@d>"), "not the head"),
        (head(sender=7), "not the head"),
        (head(recipients=[]), "no recipients"),
        (head(recipients="b@example.com"), "bad address"),
        (head(recipients=["b@example.com", "c d@example.org"]), "bad address"),
        (head(recipients=7), "not the head"),
        (head(notify=99), "not the head"),
        (head(notify=3), "not the head"),
        (head(notify="x"), "not the head"),
        (head(ret="SOME"), "not the head"),
        (head(envid="a\r\nb"), "not the head"),
        (head(envid=7), "not the head"),
        (head(body="BINARYMIME"), "not the head"),
    ],
)
def test_a_file_that_sendmail_did_not_write_is_refused(tmp_path: Path, line: bytes, said: str) -> None:
    """Everybody may write there: nothing of a file is believed before it was looked at."""
    path = tmp_path / "x.mail"
    path.write_bytes(line + MESSAGE if line else b"")
    with pytest.raises(DropError, match=said):
        read(str(path), 1000)


def test_a_message_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    """Memory for a file is bounded, before it is read and after."""
    name = leave(str(tmp_path), PLAIN, b"x" * 2000)
    with pytest.raises(DropError, match="larger than 1000"):
        read(str(tmp_path / name), 1000)
    sparse = tmp_path / "y.mail"
    with sparse.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DropError, match="larger than"):
        read(str(sparse), 1000)


@pytest.mark.parametrize("piece", [b"\n.\r\nMAIL FROM:<ceo@x.example>\r\n", b"a\nb\r\n", b"a\rb\r\n", b"\r\r\n", b"\0"])
def test_content_that_would_smuggle_is_refused(tmp_path: Path, piece: bytes) -> None:
    """Bare CR and LF (RFC 5321 §2.3.8) went on to next hops that take them for ends of lines; sendmail writes none."""
    (tmp_path / "odd.mail").write_bytes(head(size=len(MESSAGE + piece)) + MESSAGE + piece)
    with pytest.raises(DropError, match="bare CR or LF"):
        read(str(tmp_path / "odd.mail"), 1000)


def test_nothing_but_a_file_is_read(tmp_path: Path) -> None:
    """A link to a secret, a FIFO that never answers, a directory, a socket: none is opened as a message."""
    secret = tmp_path / "secret"
    secret.write_bytes(head() + MESSAGE)
    (tmp_path / "link.mail").symlink_to(secret)
    os.mkfifo(tmp_path / "fifo.mail")
    (tmp_path / "directory.mail").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.mail"))
        for name in ("link", "fifo", "directory", "socket"):
            with pytest.raises((DropError, OSError)):
                read(str(tmp_path / f"{name}.mail"), 1000)


@given(st.binary(max_size=200))
def test_no_octets_break_the_reader(tmp_path_factory: pytest.TempPathFactory, octets: bytes) -> None:
    """Whatever lies there is a message or a DropError."""
    path = tmp_path_factory.getbasetemp() / "any.mail"
    path.write_bytes(octets)
    with pytest.raises(DropError):
        read(str(path), 1000)
