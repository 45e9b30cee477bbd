"""A drop file: how sendmail(1) leaves a message for the daemon, also while the daemon is down.

The first line is JSON (version, sender, recipients and what was asked), the rest is the content with CRLF line ends.
The directory is written by everybody and listed by the daemon alone (mode 1733), so names are unguessable and files
are readable (0644): who cannot list cannot read.

| state found | meaning | who mends it |
|---|---|---|
| `.tmp-*` | sendmail was interrupted, its exit was not 0 | swept when older than a day |
| `*.mail` | durable, ours | picked up; removed when the queue has it |
| `*.mail` that is also in the queue | crash between the two | taken again: twice rather than never |
| in `bad/` | not a drop file, or refused | told; the operator decides |

Watching the directory is left to admin.drop. Who wrote a file is its owner, which the kernel says.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import stat
import time
from typing import Any

from attrs import frozen

from relaymta.mail.address import Address, AddressError, parse_mailbox
from relaymta.mail.envelope import Body, Envelope, Notify, Origin, Recipient, Ret

VERSION = 1
SUFFIX = ".mail"
TEMPORARY = ".tmp-"
BAD = "bad"
POKE = ".poke"  # a datagram socket of the daemon: "look now"
MODE = 0o644  # see the module's docstring
DIRECTORY_MODE = 0o1733
HEAD_MAX = 4 * 1024 * 1024  # octets of the first line; ours, 50,000 recipients fit
ENVID_MAX = 100  # characters, RFC 3461 §4.4

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DropError(ValueError):
    """A file in the drop directory that is no message of ours; the text says why."""


@frozen(slots=True)
class Submission:
    """What sendmail was asked to send: everything but who asked, which the file's owner says."""

    sender: Address | None
    recipients: tuple[Address, ...]
    notify: Notify = Notify.UNSET
    ret: Ret | None = None
    envid: str = ""
    body: Body = Body.SEVENBIT
    smtputf8: bool = False

    def envelope(self, at: float, account: str) -> Envelope:
        """The envelope as accepted at POSIX time `at` from the local user `account`."""
        return Envelope(
            sender=self.sender,
            recipients=tuple(Recipient(address, self.notify) for address in self.recipients),
            accepted_at=at,
            origin=Origin(listener="sendmail", protocol="local", account=f"local:{account}"),
            body=self.body,
            smtputf8=self.smtputf8,
            ret=self.ret,
            envid=self.envid,
        )


def leave(directory: str, submission: Submission, octets: bytes) -> str:
    """Write a drop file and make it durable; the result is its name. Raises OSError, then nothing was left."""
    unique = f"{time.time_ns():016x}{secrets.token_hex(12)}"
    temporary = os.path.join(directory, TEMPORARY + unique)
    final = os.path.join(directory, unique + SUFFIX)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        try:
            os.fchmod(fd, MODE)  # whatever the umask
            view = memoryview(_head(submission, octets) + octets)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            os.rename(temporary, final)
        except OSError:
            os.unlink(temporary)
            raise
        try:
            _sync_directory(directory, fd)
        except OSError:
            os.unlink(final)  # the caller is told that it failed, and will come again
            raise
    finally:
        os.close(fd)
    return unique + SUFFIX


def read(path: str, size_max: int) -> tuple[Submission, bytes, int]:
    """A drop file's message, its content and its owner's uid. Raises DropError, or OSError."""
    # the directory is everybody's: no link, no FIFO, no device is followed or waited for
    fd = os.open(path, _READ)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise DropError("not a regular file")
        if facts.st_size > size_max + HEAD_MAX:
            raise DropError(f"larger than {size_max} octets")
        with open(fd, "rb", closefd=False) as stream:
            head = stream.readline(HEAD_MAX)
            octets = stream.read(min(size_max, facts.st_size) + 1)  # room is made for all that is asked for
    finally:
        os.close(fd)
    if len(octets) > size_max:
        raise DropError(f"larger than {size_max} octets")
    if not octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r") or b"\0" in octets:
        raise DropError("the content has a bare CR or LF, or a NUL")  # RFC 5321 §2.3.8: it would smuggle what follows
    return _submission(head, len(octets)), octets, facts.st_uid


def _head(submission: Submission, octets: bytes) -> bytes:
    head = {
        "relaymta-drop": VERSION,
        "sender": str(submission.sender) if submission.sender is not None else "",
        "recipients": [str(address) for address in submission.recipients],
        "notify": submission.notify.value,
        "ret": submission.ret.value if submission.ret is not None else "",
        "envid": submission.envid,
        "body": submission.body.value,
        "smtputf8": submission.smtputf8,
        "size": len(octets),
    }
    return json.dumps(head).encode() + b"\n"


def _submission(line: bytes, size: int) -> Submission:
    """Read the first line as if an enemy had written it: everybody may."""
    try:
        head = json.loads(line)
        if not isinstance(head, dict) or head.get("relaymta-drop") != VERSION:
            raise DropError("not a drop file of this version")
        if head["size"] != size:
            raise DropError(f"{size} octets of content where {head['size']} were written")
        recipients = tuple(parse_mailbox(_text(one)) for one in head["recipients"])
        if not recipients:
            raise DropError("no recipients")
        return Submission(
            sender=parse_mailbox(_text(head["sender"])) if head["sender"] else None,
            recipients=recipients,
            notify=_notify(head["notify"]),
            ret=Ret(head["ret"]) if head["ret"] else None,
            envid=_text(head["envid"])[:ENVID_MAX],
            body=Body(head["body"]),
            smtputf8=head["smtputf8"] is True,
        )
    except AddressError as error:
        raise DropError(f"bad address: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, DropError):
            raise
        raise DropError("the first line is not the head of a drop file") from None


def _notify(value: Any) -> Notify:
    asked = Notify.SUCCESS | Notify.FAILURE | Notify.DELAY
    if value != Notify.NEVER and (not isinstance(value, int) or value & ~asked):  # RFC 3461 §4.1
        raise DropError("the first line is not the head of a drop file")
    return Notify(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise DropError("the first line is not the head of a drop file")
    return value


def _sync_directory(directory: str, fd: int) -> None:
    """Make a rename durable. Who may not read the directory cannot sync it, and syncs its file system instead."""
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error)) from None
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
