"""Who has failed to log in too often: counted for the whole host, kept over a restart.

An offence is one wrong password: (client address, account, mark of the password), so that a device which repeats the
same wrong password for ever has made one, while who guesses makes one with each guess. Too many within a time, and the
pair of address and account, or the address as a whole, is refused for a while. An IPv6 client is its /64 (RFC 4291
§2.5.1: an interface takes the other half), of which one host has the whole.

Of a password nothing is kept but 16 bits of a keyed hash: enough to tell a repetition, too few to find a password by
them, even for who has stolen the key with the database. What is said to the client, and what it costs it, is left to
policy.logins.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from sqlite3 import Connection
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta.policy.settings import AuthSettings
from relaymta.store.state import State

MARK_OCTETS = 2  # ours: one in 65,536 passwords is taken for another
KEY_OCTETS = 32
KEPT = 100_000  # offences, and refusals; ours: about 10 MB; the oldest are forgotten first
LEAP = 86_400.0  # seconds ahead of which nothing is believed, for the clock was wrong when it was written; ours
LOCAL = "local"  # the address of a client on a UNIX socket

SCHEMA = """
CREATE TABLE IF NOT EXISTS key (one INTEGER PRIMARY KEY CHECK (one = 1), octets BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS offence (
    address TEXT NOT NULL, account TEXT NOT NULL, mark BLOB NOT NULL, at REAL NOT NULL, times INTEGER NOT NULL,
    PRIMARY KEY (address, account, mark)
);
CREATE INDEX IF NOT EXISTS offence_at ON offence (at);
CREATE TABLE IF NOT EXISTS refusal (
    address TEXT NOT NULL, account TEXT NOT NULL, whole INTEGER NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (address, account, whole)
);
"""


@frozen(slots=True)
class Refused:
    """Until when (POSIX time) nobody may try; `whole`: at no account from this address."""

    until: float
    whole: bool


@frozen(slots=True)
class Tally:
    """After one more failure: `attempts` of the pair, `offences` of the address, both within the time that counts."""

    attempts: int
    offences: int


@frozen(slots=True)
class Row:
    """What is known of a pair, or of an address as a whole (`account` None). `until` 0.0: it is not refused."""

    address: str
    account: str | None
    offences: int
    attempts: int
    last: float
    until: float


class BruteForce:
    """The counts. `seconds` gives POSIX time; `settings` may be changed at any time.

    All Deferreds fail with sqlite3.Error where the database cannot be had.
    """

    def __init__(self, state: State, settings: AuthSettings, seconds: Callable[[], float]) -> None:
        self.settings = settings
        self._state = state
        self._seconds = seconds

    def refusal(self, client: str, account: str) -> Deferred[Refused | None]:
        """Whether this client may not try at this account now."""
        address, account, now = address_of(client), key_of(account), self._seconds()
        latest = now + self.settings.refuse + LEAP

        def work(connection: Connection) -> Refused | None:
            found = connection.execute(
                "SELECT until, whole FROM refusal WHERE address = ? AND (whole = 1 OR account = ?)"
                " AND until > ? AND until <= ? ORDER BY whole DESC LIMIT 1",
                (address, account, now, latest),
            ).fetchone()
            return None if found is None else Refused(found[0], bool(found[1]))

        return self._state.run(work)

    def failed(self, client: str, account: str, secret: bytes | None, *, exempt: bool) -> Deferred[Tally]:
        """Count a failure. `secret` None: it cannot be told from others (SCRAM), so that each is an offence.

        `exempt`: the address as a whole is never refused, since many may be behind it.
        """
        address, account, now, rules = address_of(client), key_of(account), self._seconds(), self.settings

        def work(connection: Connection) -> Tally:
            connection.execute("DELETE FROM offence WHERE at <= ? OR at > ?", (now - rules.within, now + LEAP))
            connection.execute("DELETE FROM refusal WHERE until <= ? OR until > ?", (now, now + rules.refuse + LEAP))
            connection.execute(
                "INSERT INTO offence VALUES (?, ?, ?, ?, 1)"
                " ON CONFLICT DO UPDATE SET at = excluded.at, times = times + 1",
                (address, account, _mark(connection, account, secret), now),
            )
            of_pair, attempts = connection.execute(
                "SELECT COUNT(*), SUM(times) FROM offence WHERE address = ? AND account = ?", (address, account)
            ).fetchone()
            [of_address] = connection.execute("SELECT COUNT(*) FROM offence WHERE address = ?", (address,)).fetchone()
            until = now + rules.refuse
            if 0 < rules.offences_per_account <= of_pair:
                connection.execute("INSERT OR REPLACE INTO refusal VALUES (?, ?, 0, ?)", (address, account, until))
            if not exempt and 0 < rules.offences <= of_address:
                connection.execute("INSERT OR REPLACE INTO refusal VALUES (?, '', 1, ?)", (address, until))
            for table in ("offence", "refusal"):
                connection.execute(f"DELETE FROM {table} WHERE rowid <= (SELECT MAX(rowid) FROM {table}) - ?", (KEPT,))
            return Tally(attempts, of_address)

        return self._state.run(work)

    def succeeded(self, client: str, account: str) -> Deferred[None]:
        """Forget what this client has done at this account; what it has done at others stays."""
        address, account = address_of(client), key_of(account)

        def work(connection: Connection) -> None:
            connection.execute("DELETE FROM offence WHERE address = ? AND account = ?", (address, account))

        return self._state.run(work)

    # The operator's hand

    def rows(self) -> Deferred[list[Row]]:
        """All that count now: who is refused, and who may be soon."""
        now, within = self._seconds(), self.settings.within

        def work(connection: Connection) -> list[Row]:
            return list(_rows(connection, now, now - within))

        return self._state.run(work)

    def unlock(self, what: str) -> Deferred[tuple[int, int]]:
        """Forget refusals and offences of an address (of its /64) or of an account; how many of each there were."""
        address, account = address_of(what), key_of(what)

        def work(connection: Connection) -> tuple[int, int]:
            refusals, offences = (
                connection.execute(f"DELETE FROM {table} WHERE address = ? OR {pair}account = ?", (address, account))
                for table, pair in (("refusal", "whole = 0 AND "), ("offence", ""))
            )
            return refusals.rowcount, offences.rowcount

        return self._state.run(work)


def _rows(connection: Connection, now: float, since: float) -> Any:
    refused = {
        (address, account, whole): until
        for address, account, whole, until in connection.execute("SELECT * FROM refusal WHERE until > ?", (now,))
    }
    counted = connection.execute(
        "SELECT address, account, COUNT(*), SUM(times), MAX(at) FROM offence WHERE at > ? GROUP BY address, account",
        (since,),
    )
    for address, account, offences, attempts, last in counted:
        yield Row(address, account, offences, attempts, last, refused.pop((address, account, 0), 0.0))
    for (address, account, whole), until in refused.items():
        yield Row(address, None if whole else account, 0, 0, 0.0, until)


def _mark(connection: Connection, account: str, secret: bytes | None) -> bytes:
    """What stands for a password: a few bits of its hash, by a key that is drawn once for this database."""
    if secret is None:
        return secrets.token_bytes(8)
    connection.execute("INSERT OR IGNORE INTO key VALUES (1, ?)", (secrets.token_bytes(KEY_OCTETS),))
    [key] = connection.execute("SELECT octets FROM key").fetchone()
    return hmac.digest(key, account.encode("utf-8", "surrogatepass") + b"\0" + secret, "sha256")[:MARK_OCTETS]


def address_of(client: str) -> str:
    """What stands for a client: an IPv4 address, or the /64 of an IPv6 one, as text; other text as it is."""
    if not client:
        return LOCAL
    try:
        address: IPv4Address | IPv6Address = ip_address(client.partition("%")[0].removesuffix("/64"))
    except ValueError:
        return client
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def key_of(account: str) -> str:
    """What stands for an account, however its name is written."""
    return account.casefold()
