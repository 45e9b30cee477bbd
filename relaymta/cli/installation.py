"""Where the daemon's things are, as far as a command needs to know: read from the file without judging it.

An operator in the midst of an edit must still be able to ask the daemon: what is wrong with the file is told by
`relaymta check`, and here a value that cannot be used is its default. Names and defaults are relaymta.toml(5)'s.
"""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path
from typing import Any

from attrs import frozen

from relaymta.config.units import parse_size

ENVIRONMENT = "RELAYMTA_CONFIG"
DEFAULT = "/etc/relaymta/relaymta.toml"
QUICKSTART = "etc/relaymta/quickstart.toml"  # in a checkout, where nothing is installed
MESSAGE_MAX = 25_000_000  # octets
CHECKOUT = str(Path(__file__).resolve().parents[2])


@frozen(slots=True)
class Installation:
    """What one configuration file says of places.

    `listeners`: the addresses of those that take mail as it is, by SMTP, in clear and without a log-in.
    `user` is who the daemon becomes, `users` the file of accounts, "" for none. `message_max`: octets of the largest
    message that is taken, 0 for no limit.
    """

    file: str
    socket: str
    spool: str
    hostname: str
    listeners: tuple[str, ...]
    user: str = ""
    users: str = ""
    message_max: int = 0

    @property
    def drop(self) -> str:
        """Where sendmail(1) leaves messages."""
        return os.path.join(self.spool, "drop")


def find_file(named: str = "") -> str:
    """The configuration file: as named, by the environment, the system's, or a checkout's quick start."""
    if named:
        return named
    if os.environ.get(ENVIRONMENT):
        return os.environ[ENVIRONMENT]
    if not os.path.exists(DEFAULT) and os.path.exists(QUICKSTART) and os.getcwd() == CHECKOUT:
        return QUICKSTART  # ours, and not one that somebody left in a folder where root happens to be
    return DEFAULT


def look(file: str) -> Installation:
    """Read what can be read of the places in `file`; a file that cannot be read has the defaults."""
    try:
        with open(file, "rb") as stream:
            raw = tomllib.load(stream)
    except (OSError, ValueError):
        raw = {}
    listeners = tuple(_text(one, "address", "") for one in _tables(raw, "listener") if _is_plain(one))
    return Installation(
        file=file,
        socket=_text(_table(raw, "admin"), "socket", "/run/relaymta/control.sock"),
        spool=_text(raw, "spool", "/var/spool/relaymta"),
        hostname=_text(raw, "hostname", "") or socket.getfqdn().lower(),
        listeners=listeners if _tables(raw, "listener") else ("0.0.0.0:25",),
        user=raw["user"] if isinstance(raw.get("user"), str) else "relaymta",
        users=_text(_table(raw, "users"), "file", ""),
        message_max=_message_max(_tables(raw, "listener")) if raw else 0,
    )


def connectable(address: str) -> tuple[str, int] | str:
    """Where to connect to reach what listens at `address`: (host, port), or the path of a UNIX socket.

    Raises ValueError for what is no address.
    """
    if address.startswith("unix:"):
        return address[5:]
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        raise ValueError(f'"{address}" is not an address; write it as "127.0.0.1:25" or "unix:/run/x.sock"')
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)


def _message_max(listeners: list[dict[str, Any]]) -> int:
    """What the most generous listener takes (settings.Settings.message_max)."""
    found = []
    for listener in listeners or [{}]:
        size = _text(listener, "max_message_size", "")
        try:
            found.append(parse_size(size) if size else MESSAGE_MAX)
        except ValueError:
            found.append(MESSAGE_MAX)
    return max(found) if all(found) else 0


def _is_plain(listener: dict[str, Any]) -> bool:
    return (
        bool(_text(listener, "address", ""))
        and _text(listener, "profile", "mx") == "mx"
        and _text(listener, "tls", "none") in ("none", "starttls")
        and _text(listener, "auth", "none") != "required"
        and not listener.get("proxy")
    )


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, dict) else {}


def _tables(raw: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = raw.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _text(raw: dict[str, Any], key: str, default: str) -> str:
    found = raw.get(key)
    return found if isinstance(found, str) and found else default
