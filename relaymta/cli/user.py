"""relaymta user: accounts in the file that [users] names. The daemon need not run, and sees a change by itself.

No password is ever an argument, where everybody on the machine could read it.
"""

from __future__ import annotations

import getpass
import os
import pwd
import sys
from argparse import Namespace
from typing import Any

from attrs import evolve

from relaymta.cli.installation import Installation, look
from relaymta.cli.output import Column, CommandFailedError, clean, print_json, print_lines, print_table
from relaymta.directory.account import Over
from relaymta.directory.entry import LIMITS, Entry, certificate, sender
from relaymta.directory.hashes import make_hash, make_keys
from relaymta.directory.names import account_name, password_text
from relaymta.directory.secrets import read_secret
from relaymta.directory.usersfile import Editor, UsersFileError, read_users

COLUMNS = [Column("NAME"), Column("LOGS IN BY"), Column("SENDS AS"), Column("RELAY"), Column("LIMITS")]
ANYBODY = "may send as anybody; limit it with --sender"


def run(arguments: Namespace) -> int:
    """Do one of the actions."""
    here = look(arguments.config)
    if not here.users:
        raise CommandFailedError(
            f'{here.file} names no file of accounts; write file = "/etc/relaymta/users" in its table [users]'
        )
    try:
        return ACTIONS[arguments.action](here, arguments)
    except UsersFileError as error:
        raise CommandFailedError(str(error)) from None


def _add(here: Installation, arguments: Namespace) -> int:
    entry = _asked_for(arguments)
    if entry.name in _entries(here):  # said before a password is asked for
        raise CommandFailedError(f"{entry.name} is there already; `relaymta user passwd` changes its password")
    if not arguments.no_password:
        entry = _with_password(entry, _password(arguments.password_file))
    elif not entry.certificates:
        print(f"{entry.name} has neither password nor certificate: only a token lets it in", file=sys.stderr)
    with Editor(here.users, _owner(here)) as editor:
        if entry.name in editor.entries:
            raise CommandFailedError(f"{entry.name} is there already")
        editor.put(entry)
    senders = f"may send as {', '.join(entry.senders)}" if entry.senders else ANYBODY
    return _done(arguments, entry, f"{entry.name} is added: {senders}")


def _passwd(here: Installation, arguments: Namespace) -> int:
    name = _name(arguments.name)
    _known(_entries(here), name, here)
    password = _password(arguments.password_file)
    with Editor(here.users) as editor:
        entry = _with_password(_known(editor.entries, name, here), password)
        editor.put(entry)
    return _done(arguments, entry, f"the password of {name} is changed")


def _remove(here: Installation, arguments: Namespace) -> int:
    name = _name(arguments.name)
    with Editor(here.users) as editor:
        entry = _known(editor.entries, name, here)
        editor.remove(name)
    return _done(arguments, entry, f"{name} is removed")


def _list(here: Installation, arguments: Namespace) -> int:
    entries = _entries(here).values()
    if arguments.json:
        print_json(map(_row, entries))
    else:
        print_table(COLUMNS, map(_cells, entries))
    return 0


def _show(here: Installation, arguments: Namespace) -> int:
    entry = _known(_entries(here), _name(arguments.name), here)
    if arguments.json:
        print_json([_row(entry)])
        return 0
    print_lines(
        [
            clean(entry.name),
            f"  logs in by   {_ways(entry)}",
            f"  sends as     {clean(', '.join(entry.senders)) or 'anybody'}",
            f"  relays       {'anywhere' if entry.relay else 'nowhere: to relay.domains alone'}",
            f"  limits       {_limits(entry) or 'those of [users.quota]'}",
            f"  over them    {entry.over.value if entry.over else 'as [users.quota] says'}",
            f"  certificates {clean(', '.join(entry.certificates)) or 'none'}",
        ]
    )
    return 0


ACTIONS = {"add": _add, "passwd": _passwd, "remove": _remove, "list": _list, "show": _show}


def _asked_for(arguments: Namespace) -> Entry:
    """The account that the arguments of `add` describe, without its password."""
    try:
        return Entry(
            _name(arguments.name),
            senders=tuple(map(sender, arguments.sender)),
            relay=not arguments.no_relay,
            certificates=tuple(map(certificate, arguments.certificate)),
            limits=tuple((key, value) for key in LIMITS if (value := getattr(arguments, key)) is not None),
            over=Over(arguments.over) if arguments.over else None,
        )
    except ValueError as error:
        raise CommandFailedError(str(error)) from None


def _name(text: str) -> str:
    try:
        return account_name(text)
    except ValueError as error:
        raise CommandFailedError(f'"{clean(text)}": {error}') from None


def _known(entries: dict[str, Entry], name: str, here: Installation) -> Entry:
    if name not in entries:
        raise CommandFailedError(f"there is no {name} in {here.users}")
    return entries[name]


def _entries(here: Installation) -> dict[str, Entry]:
    """What is there; a file that is missing has nobody in it."""
    if not os.path.lexists(here.users):
        return {}
    return dict(read_users(here.users)[0].entries)


def _owner(here: Installation) -> tuple[int, int] | None:
    """Whose a new file is: root's, and the daemon's to read."""
    if os.geteuid() != 0 or not here.user:
        return None
    try:
        return 0, pwd.getpwnam(here.user).pw_gid
    except KeyError:
        return None


def _password(file: str | None) -> str:
    """From the file, from a terminal twice, or the first line of standard input; as it is hashed."""
    if file is not None:
        try:
            given = read_secret(file)
        except (OSError, ValueError) as error:
            raise CommandFailedError(str(error)) from None
    elif sys.stdin.isatty():
        given = getpass.getpass("Password: ")
        if given and getpass.getpass("Once more: ") != given:
            raise CommandFailedError("the two are not the same; nothing is changed")
    else:
        given = sys.stdin.readline().rstrip("\r\n")
    try:
        password = password_text(given.encode())
    except ValueError as error:
        raise CommandFailedError(f"not a password: {error}") from None
    if not password:
        raise CommandFailedError("an empty password is none; nothing is changed")
    return password


def _with_password(entry: Entry, password: str) -> Entry:
    return evolve(entry, password=make_hash(password), scram=make_keys(password))


def _done(arguments: Namespace, entry: Entry, said: str) -> int:
    if arguments.json:
        print_json([_row(entry)])
    else:
        print(clean(said))
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    """For programs; nothing in it is secret."""
    return {
        "name": entry.name,
        "password": bool(entry.password or entry.scram),
        "scram": entry.scram is not None,
        "senders": list(entry.senders),
        "relay": entry.relay,
        "certificates": list(entry.certificates),
        "limits": dict(entry.limits),
        "over": entry.over.value if entry.over else None,
        "disabled": entry.disabled,
    }


def _cells(entry: Entry) -> list[str]:
    relay = "yes" if entry.relay else "no"
    return [clean(entry.name), _ways(entry), clean(", ".join(entry.senders)) or "anybody", relay, _limits(entry)]


def _ways(entry: Entry) -> str:
    if entry.disabled:
        return "nothing: disabled"
    ways = ["password"] * bool(entry.password or entry.scram) + ["certificate"] * bool(entry.certificates)
    return ", ".join(ways) or "token"


def _limits(entry: Entry) -> str:
    return ", ".join(f"{number} {key.replace('_', ' ')}" for key, number in entry.limits)
