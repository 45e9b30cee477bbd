"""The file of accounts: read whole, changed one line at a time, never half written.

A line is an account (entry.py), is empty, or is a comment; a name stands once. A change leaves all other lines as
they are and goes to a new file beside it, which is synced and then takes the old one's name, owner and mode: a crash
leaves the old file or the new one, and at worst `.NAME.new`, which the next change writes over. Changes wait for each
other by a lock on the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from relaymta.directory.entry import Entry, parse_line
from relaymta.directory.hashes import DUMMY, ITERATIONS, dummy_like

HEADER = "# Accounts of relaymta, changed with `relaymta user`; relaymta(1) says what the words mean.\n"
PRIVATE = 0o600
SHARED = 0o640  # where the daemon reads it by its group
_BLANKS = re.compile(r"\s*(#.*)?")
_PARAMETERS = re.compile(r"\$argon2id\$v=\d+\$m=\d+,t=\d+,p=\d+")

Stamp = tuple[int, int, int, int]  # what changes when a file does


class UsersFileError(Exception):
    """The file cannot be used or changed; the text begins with its name and says why."""


@frozen(slots=True)
class Users:
    """All accounts of one file, by name and by certificate, and what most of them look like.

    `dummy`: a hash that costs what most of theirs do, and is nobody's. `iterations`: what most SCRAM keys have.
    """

    entries: Mapping[str, Entry] = field(factory=dict)
    by_certificate: Mapping[str, tuple[Entry, ...]] = field(factory=dict)
    dummy: str = DUMMY
    iterations: int = ITERATIONS
    has_scram: bool = True

    @classmethod
    def of(cls, entries: Mapping[str, Entry]) -> Users:
        """Look at the accounts once."""
        by_certificate: dict[str, tuple[Entry, ...]] = {}
        for entry in entries.values():
            for one in entry.certificates:
                by_certificate[one] = (*by_certificate.get(one, ()), entry)
        with_password = [entry for entry in entries.values() if entry.password]
        hashes = Counter(match[0] for entry in with_password if (match := _PARAMETERS.match(entry.password)))
        rounds = Counter(entry.scram.iterations for entry in entries.values() if entry.scram)
        return cls(
            entries,
            by_certificate,
            dummy_like(hashes.most_common(1)[0][0] + "$$") if hashes else DUMMY,
            rounds.most_common(1)[0][0] if rounds else ITERATIONS,
            # a client takes SCRAM where it is offered, and then has nothing else: offered where all can
            all(entry.scram for entry in with_password),
        )


def read_users(path: str) -> tuple[Users, Stamp]:
    """Every account of the file, and the stamp of what was read. Raises UsersFileError."""
    try:
        with open(path, "rb") as stream:
            facts = os.fstat(stream.fileno())
            octets = stream.read()
    except OSError as error:
        raise UsersFileError(f"{path}: cannot be read: {error.strerror}") from None
    return Users.of({entry.name: entry for _, entry in _parse(path, octets)}), _stamp(facts)


def stamp_of(path: str) -> Stamp | None:
    """What will be another one when the file has changed; None when it is not there."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _stamp(facts: os.stat_result) -> Stamp:
    return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino


def _parse(path: str, octets: bytes) -> Iterator[tuple[int, Entry]]:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise UsersFileError(f"{path}: is not UTF-8 text") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if _BLANKS.fullmatch(line):
            continue
        try:
            entry = parse_line(line)
            if entry.name in seen:
                raise ValueError(f"{entry.name} stands in line {seen[entry.name]} too")
        except ValueError as error:
            raise UsersFileError(f"{path}:{number}: {error}") from None
        seen[entry.name] = number
        yield number, entry


class Editor:
    """One change of the file, to be used as a context: nobody else changes it meanwhile.

    `owner`: user and group ids of a file that is made anew, None for ours. Raises UsersFileError.
    """

    def __init__(self, path: str, owner: tuple[int, int] | None = None) -> None:
        self._path = os.path.realpath(path)  # a link stays one
        self._owner = owner
        self._lines: list[str] = []
        self._numbers: dict[str, int] = {}
        self._lock = -1
        self._old: os.stat_result | None = None
        self.entries: dict[str, Entry] = {}

    def __enter__(self) -> Editor:
        try:
            self._lock = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsersFileError(f"{os.path.dirname(self._path)}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._read()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _read(self) -> None:
        octets = HEADER.encode()
        try:
            with open(self._path, "rb") as stream:
                self._old = os.fstat(stream.fileno())
                octets = stream.read()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UsersFileError(f"{self._path}: cannot be read: {error.strerror}") from None
        for number, entry in _parse(self._path, octets):
            self.entries[entry.name] = entry
            self._numbers[entry.name] = number - 1
        text = octets.decode()
        # as they are numbered: str.splitlines() knows ends of lines that are none here, such as U+2028 in a comment
        self._lines = [f"{line}\n" for line in text.removesuffix("\n").split("\n")] if text else []

    def put(self, entry: Entry) -> None:
        """Write this account, in the place of the one with its name or behind all others."""
        line = f"{entry}\n"
        at = self._numbers.get(entry.name)
        self._write([*self._lines, line] if at is None else [*self._lines[:at], line, *self._lines[at + 1 :]])

    def remove(self, name: str) -> None:
        """Leave this account out; KeyError when it is not there."""
        at = self._numbers[name]
        self._write(self._lines[:at] + self._lines[at + 1 :])

    def _write(self, lines: list[str]) -> None:
        folder, leaf = os.path.split(self._path)
        fresh = os.path.join(folder, f".{leaf}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)  # a crash left it
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
            with os.fdopen(descriptor, "wb") as stream:
                self._set_rights(descriptor)
                stream.write("".join(lines).encode())
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(fresh, self._path)
            os.fsync(self._lock)  # the directory: the name is on disk too
        except OSError as error:
            raise UsersFileError(f"{self._path}: cannot be written: {error.strerror}") from None

    def _set_rights(self, descriptor: int) -> None:
        """Owner before mode, since a change of owner may take rights away."""
        old = self._old
        if old is not None:
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, old.st_uid, old.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        elif self._owner is not None:
            os.fchown(descriptor, *self._owner)
            os.fchmod(descriptor, SHARED)
