"""The results of TLS sessions on disk, for the whole host: counted by day and domain, then waiting as reports.

RFC 8460 §4.1 (a day of UTC), §5.5 (retries). What a crash leaves:

    days      a domain has results of a day; `due` is when one worker makes a report of them
    tallies   sessions under one policy; details: its failures
    outbox    a report on its way to one URI; its results are gone from the other tables in the same transaction

A row that a worker claims is not due for others until LEASE has passed; a worker that dies leaves it to them then.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta.reports.tlsrpt import DAY, Detail, Tally
from relaymta.store.state import State

LEASE: Final = 900.0  # seconds that a worker may take over what it claimed; ours
DETAILS_MAX: Final = 1000  # of one policy and day on disk; further ones are counted by their result alone; ours
TALLIES_MAX: Final = 50  # policies of one domain and day; further ones are counted as one without terms; ours
DOMAINS_MAX: Final = 200_000  # of one day; ours
KEPT: Final = 2 * DAY  # seconds after the end of a day; RFC 8460 §5.5 speaks of 24 hours of trying

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS days (
    day INTEGER NOT NULL, domain TEXT NOT NULL, due REAL NOT NULL,
    PRIMARY KEY (day, domain)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS days_by_due ON days (due);
CREATE TABLE IF NOT EXISTS tallies (
    number INTEGER PRIMARY KEY,
    day INTEGER NOT NULL, domain TEXT NOT NULL, type TEXT NOT NULL, of TEXT NOT NULL DEFAULT '',
    terms TEXT NOT NULL, patterns TEXT NOT NULL,
    successes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (day, domain, type, of, terms, patterns)
);
CREATE TABLE IF NOT EXISTS details (
    tally INTEGER NOT NULL,
    result TEXT NOT NULL, source TEXT NOT NULL, mx TEXT NOT NULL, address TEXT NOT NULL, reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (tally, result, source, mx, address, reason)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    day INTEGER NOT NULL, domain TEXT NOT NULL, uri TEXT NOT NULL, ident TEXT NOT NULL,
    successes INTEGER NOT NULL, failures INTEGER NOT NULL, octets BLOB NOT NULL,
    due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (ident, uri)
);
CREATE INDEX IF NOT EXISTS outbox_by_due ON outbox (due);
"""

# day, domain, policy type, its own domain ("": that one), terms, MX patterns
Key = tuple[int, str, str, str, tuple[str, ...], tuple[str, ...]]
Failure = tuple[str, str, str, str, str]  # result type, our address, MX host, its address, reason


@frozen(slots=True)
class Outgoing:
    """A packed report on its way to one URI; `tries` were made before."""

    day: int
    domain: str
    uri: str
    ident: str
    successes: int
    failures: int
    octets: bytes
    tries: int = 0


class Shelf:
    """The rows. What fails, fails with sqlite3.Error."""

    def __init__(self, state: State) -> None:
        self._state = state

    def close(self) -> None:
        """Write what was given, and let the database go."""
        self._state.close()

    def add(
        self,
        successes: Mapping[Key, int],
        failures: Mapping[tuple[Key, Failure], int],
        due: Callable[[int], float],
    ) -> Deferred[None]:
        """Count sessions; `due` says when a report of a day is due, for a domain that is new in it."""
        return self._state.run(lambda connection: _add(connection, successes, failures, due))

    def claim_days(self, now: float, limit: int) -> Deferred[list[tuple[int, str]]]:
        """Days and domains whose report is due; nobody else gets them for LEASE seconds."""
        return self._state.run(lambda connection: _claim_days(connection, now, limit))

    def postpone(self, day: int, domain: str, due: float) -> Deferred[None]:
        """A report cannot be made yet."""
        sql = "UPDATE days SET due = ? WHERE day = ? AND domain = ?"
        return self._state.run(lambda connection: _done(connection.execute(sql, (due, day, domain))))

    def tallies(self, day: int, domain: str) -> Deferred[list[Tally]]:
        """What was counted."""
        return self._state.run(lambda connection: list(_tallies(connection, day, domain)))

    def domains(self, day: int, limit: int) -> Deferred[list[str]]:
        """The domains with results of that day."""
        sql = "SELECT domain FROM days WHERE day = ? ORDER BY domain LIMIT ?"
        return self._state.run(lambda connection: [row[0] for row in connection.execute(sql, (day, limit))])

    def move(self, day: int, domain: str, outgoing: Iterable[Outgoing], due: float) -> Deferred[bool]:
        """Put reports into the outbox and take the results that they tell away; False where these were gone."""
        return self._state.run(lambda connection: _move(connection, day, domain, outgoing, due))

    def claim_outgoing(self, now: float, limit: int) -> Deferred[list[Outgoing]]:
        """Reports to be sent now; nobody else gets them for LEASE seconds."""
        return self._state.run(lambda connection: _claim_outgoing(connection, now, limit))

    def done(self, one: Outgoing) -> Deferred[None]:
        """A report was sent, or given up."""
        sql = "DELETE FROM outbox WHERE ident = ? AND uri = ?"
        return self._state.run(lambda connection: _done(connection.execute(sql, (one.ident, one.uri))))

    def again(self, one: Outgoing, due: float) -> Deferred[None]:
        """A report was not taken: once more, then."""
        sql = "UPDATE outbox SET due = ?, tries = tries + 1 WHERE ident = ? AND uri = ?"
        return self._state.run(lambda connection: _done(connection.execute(sql, (due, one.ident, one.uri))))

    def drop_old(self, now: float) -> Deferred[list[tuple[int, str]]]:
        """Drop results that nobody made a report of in time; the days and domains that were dropped."""
        return self._state.run(lambda connection: _drop_old(connection, now))


def _done(_: sqlite3.Cursor) -> None:
    return None


def _add(
    connection: sqlite3.Connection,
    successes: Mapping[Key, int],
    failures: Mapping[tuple[Key, Failure], int],
    due: Callable[[int], float],
) -> None:
    numbers: dict[Key, int | None] = {}
    domains: dict[int, int] = {}

    def number_of(key: Key) -> int | None:
        if key not in numbers:
            numbers[key] = _tally(connection, key, due, domains)
        return numbers[key]

    for key, count in successes.items():
        connection.execute("UPDATE tallies SET successes = successes + ? WHERE number = ?", (count, number_of(key)))
    for (key, failure), count in failures.items():
        number = number_of(key)
        if number is not None:
            _add_detail(connection, number, failure, count)


def _tally(
    connection: sqlite3.Connection, key: Key, due: Callable[[int], float], domains: dict[int, int]
) -> int | None:
    """The number of a tally, made where it is new; None where there is no room for the domain.

    `domains`: how many there are, by day; counted once in a transaction.
    """
    day, domain, kind, of, terms, patterns = key
    if connection.execute("SELECT 1 FROM days WHERE day = ? AND domain = ?", (day, domain)).fetchone() is None:
        if day not in domains:
            (domains[day],) = connection.execute("SELECT count(*) FROM days WHERE day = ?", (day,)).fetchone()
        if domains[day] >= DOMAINS_MAX:
            return None
        domains[day] += 1
        connection.execute("INSERT INTO days VALUES (?, ?, ?)", (day, domain, due(day)))
    row = (day, domain, kind, of, json.dumps(terms), json.dumps(patterns))
    where = "day = ? AND domain = ? AND type = ? AND of = ? AND terms = ? AND patterns = ?"
    known = connection.execute(f"SELECT number FROM tallies WHERE {where}", row).fetchone()
    if known is None:
        (count,) = connection.execute("SELECT count(*) FROM tallies WHERE day = ? AND domain = ?", row[:2]).fetchone()
        if count >= TALLIES_MAX and (of or terms or patterns):
            return _tally(connection, (day, domain, kind, "", (), ()), due, domains)
        sql = "INSERT INTO tallies (day, domain, type, of, terms, patterns) VALUES (?, ?, ?, ?, ?, ?)"
        return connection.execute(sql, row).lastrowid
    number: int = known[0]
    return number


def _add_detail(connection: sqlite3.Connection, number: int, failure: Failure, count: int) -> None:
    changed = connection.execute(
        "UPDATE details SET count = count + ?"
        " WHERE tally = ? AND result = ? AND source = ? AND mx = ? AND address = ? AND reason = ?",
        (count, number, *failure),
    ).rowcount
    if changed:
        return
    (known,) = connection.execute("SELECT count(*) FROM details WHERE tally = ?", (number,)).fetchone()
    if known >= DETAILS_MAX:
        failure = (failure[0], "", "", "", "")
    connection.execute(
        "INSERT INTO details VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        (number, *failure, count),
    )


def _claim_days(connection: sqlite3.Connection, now: float, limit: int) -> list[tuple[int, str]]:
    rows = connection.execute(
        "SELECT day, domain FROM days WHERE due <= ? AND (day + 1) * ? <= ? ORDER BY due LIMIT ?",
        (now, DAY, now, limit),
    ).fetchall()
    sql = "UPDATE days SET due = ? WHERE day = ? AND domain = ?"
    connection.executemany(sql, [(now + LEASE, *row) for row in rows])
    return [(row[0], row[1]) for row in rows]


def _tallies(connection: sqlite3.Connection, day: int, domain: str) -> Iterable[Tally]:
    sql = "SELECT number, type, of, terms, patterns, successes FROM tallies WHERE day = ? AND domain = ?"
    for number, kind, of, terms, patterns, successes in connection.execute(sql, (day, domain)).fetchall():
        details = connection.execute(
            "SELECT result, source, mx, address, reason, count FROM details WHERE tally = ?", (number,)
        )
        found = tuple(Detail(*row) for row in details)
        yield Tally(kind, tuple(json.loads(terms)), tuple(json.loads(patterns)), successes, found, of)


def _move(
    connection: sqlite3.Connection, day: int, domain: str, outgoing: Iterable[Outgoing], due: float
) -> bool:
    if not connection.execute("DELETE FROM days WHERE day = ? AND domain = ?", (day, domain)).rowcount:
        return False
    _forget(connection, day, domain)
    for one in outgoing:
        row = (one.day, one.domain, one.uri, one.ident, one.successes, one.failures, one.octets, due)
        connection.execute(
            "INSERT INTO outbox (day, domain, uri, ident, successes, failures, octets, due)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    return True


def _forget(connection: sqlite3.Connection, day: int, domain: str) -> None:
    which = (day, domain)
    connection.execute(
        "DELETE FROM details WHERE tally IN (SELECT number FROM tallies WHERE day = ? AND domain = ?)", which
    )
    connection.execute("DELETE FROM tallies WHERE day = ? AND domain = ?", which)


def _claim_outgoing(connection: sqlite3.Connection, now: float, limit: int) -> list[Outgoing]:
    rows = connection.execute(
        "SELECT day, domain, uri, ident, successes, failures, octets, tries FROM outbox WHERE due <= ?"
        " ORDER BY due LIMIT ?",
        (now, limit),
    ).fetchall()
    found = [Outgoing(*row) for row in rows]
    connection.executemany(
        "UPDATE outbox SET due = ? WHERE ident = ? AND uri = ?", [(now + LEASE, one.ident, one.uri) for one in found]
    )
    return found


def _drop_old(connection: sqlite3.Connection, now: float) -> list[tuple[int, str]]:
    before = int((now - KEPT) // DAY) - 1  # the last day whose end is so long ago
    rows = connection.execute("SELECT day, domain FROM days WHERE day <= ? ORDER BY day", (before,)).fetchall()
    for day, domain in rows:
        _forget(connection, day, domain)
    connection.execute("DELETE FROM days WHERE day <= ?", (before,))
    return [(row[0], row[1]) for row in rows]
