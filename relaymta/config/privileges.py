"""The user whom the daemon becomes after its start as root: what that user may read and write, and becoming it.

Only the kernel knows what modes, groups, access lists and mounts say together, so it is asked, as that user. Where
nobody can ask, since we are not root or there is no such user, nothing is held against a file: who does read it will
say so.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable


def become(user: str) -> None:
    """Give up root for `user`, whose groups come along. Raises OSError, and KeyError where there is no such user."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def may_read(file: str, user: str) -> bool:
    """Whether `user` may read the file; also true of a file that cannot be read for another reason."""
    return _as(user, lambda: _opens(file))


def may_write(folder: str, user: str) -> bool:
    """Whether `user` may make files in the folder."""
    return _as(user, lambda: os.access(folder, os.W_OK | os.X_OK, effective_ids=True))


def may_run(program: str, user: str) -> bool:
    """Whether `user` may execute the program."""
    return _as(user, lambda: os.access(program, os.X_OK, effective_ids=True))


def is_public(path: str) -> bool:
    """Whether everybody on this machine may read the file; not where it cannot be looked at."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def to_let_in(user: str, file: str) -> str:
    """The commands after which `user` may read the file, and nobody else than root."""
    return f"chgrp {_group_of(user)} {file}; chmod 640 {file}"


def _group_of(user: str) -> str:
    """The name of a user's own group; the user's where nobody knows it."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def _as(user: str, question: Callable[[], bool]) -> bool:
    """The answer to a question that `user` asks of the kernel; yes where it cannot be asked."""
    if os.geteuid() != 0 or not user:
        return True
    group, groups = os.getegid(), os.getgroups()
    try:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
    except (KeyError, PermissionError):  # told elsewhere; PermissionError: a root without its rights, in a container
        return True
    try:
        os.setegid(entry.pw_gid)
        os.seteuid(entry.pw_uid)
        return question()
    finally:  # where it is refused to be root again, nobody should go on
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _opens(file: str) -> bool:
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK))
    except PermissionError:
        return False
    except OSError:
        pass
    return True
