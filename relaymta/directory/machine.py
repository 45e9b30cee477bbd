"""What this machine says of the [users] table: files that are missing, open to everybody or broken, libraries that are
not installed. Each is (key, what is wrong), for `relaymta check` and the start of the daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from relaymta.config.openness import is_changeable
from relaymta.config.privileges import is_public, may_read, to_let_in
from relaymta.directory.secrets import read_secret
from relaymta.directory.settings import UserSettings
from relaymta.directory.sources import NAME
from relaymta.directory.usersfile import UsersFileError, read_users


def refusals(users: UserSettings) -> Iterator[tuple[str, str]]:
    """Why the accounts cannot be used as configured."""
    if users.file and os.path.exists(users.file):
        try:
            read_users(users.file)
        except UsersFileError as error:
            yield "users.file", str(error)
    for key, library, extra, wanted in (
        ("users.sql.url", "psycopg", "postgresql", users.sql.url.startswith("postgresql:")),
        ("users.ldap.url", "ldap3", "ldap", bool(users.ldap.url)),
    ):
        if wanted and find_spec(library) is None:
            yield key, f"{library} is not installed; pip install 'relaymta[{extra}]'"
    if users.sql.url.startswith("postgresql:") and find_spec("psycopg") is not None:
        yield from _refused_by_libpq(users.sql.url)
    for key, file in _secrets(users):
        try:
            read_secret(file)
        except (OSError, ValueError) as error:
            yield key, str(error)
    for key, file in (("users.ldap.ca_file", users.ldap.ca_file), ("users.oauth.ca_file", users.oauth.ca_file)):
        if file and not os.access(file, os.R_OK):
            yield key, f"{file} cannot be read"
    program = users.checkpassword.program
    if program and not os.access(program[0], os.X_OK):
        yield "users.checkpassword.program", f"{program[0]} is no program that may be run"


def doubts(users: UserSettings, user: str = "") -> Iterator[tuple[str, str]]:
    """What will probably be regretted; `user` is who the daemon becomes, "" for nobody else."""
    if users.file and not os.path.exists(users.file):
        yield "users.file", f"there is no {users.file} yet; `relaymta user add` makes it"
    if users.dovecot.socket and not os.path.exists(users.dovecot.socket):
        yield "users.dovecot.socket", f"there is no {users.dovecot.socket} now; does Dovecot run, and listen there?"
    for key, file in (("users.file", users.file), *_secrets(users)):
        if not file:
            continue
        if is_public(file):
            yield key, f"everybody on this machine may read {file}; chmod o-rwx"
        elif is_changeable(file):
            yield key, f"everybody on this machine may change {file}; chmod o-rwx"
        elif not may_read(file, user):
            yield key, f"{user}, who the daemon becomes, may not read {file}: {to_let_in(user, file)}"
    if users.ldap.base and users.ldap.filter.count(NAME) > 1 and not users.ldap.name_attribute:
        said = 'finds an account by several names, each with a quota of its own; write name_attribute = "uid"'
        yield "users.ldap.filter", said
    program = users.checkpassword.program
    if program and is_changeable(program[0]):
        yield "users.checkpassword.program", f"everybody on this machine may change {program[0]}; chmod o-w"


def _refused_by_libpq(url: str) -> Iterator[tuple[str, str]]:
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(url)
    except Error as error:
        yield "users.sql.url", " ".join(str(error).split())


def _secrets(users: UserSettings) -> Iterator[tuple[str, str]]:
    for key, file in (
        ("users.sql.password_file", users.sql.password_file),
        ("users.ldap.password_file", users.ldap.password_file),
        ("users.oauth.client_secret_file", users.oauth.client_secret_file),
    ):
        if file:
            yield key, file
