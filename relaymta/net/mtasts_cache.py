"""The MTA-STS policies on disk: they survive a restart, and all workers share them.

RFC 8461 §5.1 (a policy is in force until its max_age, whatever becomes of record and file). A row is a domain: its
policy, if it has one, and what is known of fetches that failed. Losing the file loses the protection of the first
message to each domain, so a database in trouble is told of; mail goes on as if nothing were known.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta.net.mtasts_policy import PolicyError, StsPolicy, parse_policy
from relaymta.store.state import State

ROWS_MAX: Final = 100_000  # policies kept, the least recently used go first; ours
UNUSED: Final = 30 * 86_400.0  # seconds without mail after which a policy is not refreshed any more; ours
REFRESH: Final = 86_400.0  # RFC 8461 §3.3: once a day, or at half of the lifetime where that is earlier
CLAIM: Final = 180.0  # seconds that one worker may take to fetch a policy: its minute, and waiting for room; ours
USED_GRAIN: Final = 43_200.0  # seconds; how exactly the last use is known

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS policies (
    domain TEXT PRIMARY KEY,
    id TEXT NOT NULL DEFAULT '',        -- of the record that the policy came with
    body TEXT NOT NULL DEFAULT '',      -- the policy file; '' for no policy
    fetched REAL NOT NULL DEFAULT 0,    -- POSIX times, seconds
    expires REAL NOT NULL DEFAULT 0,
    used REAL NOT NULL DEFAULT 0,
    failed_id TEXT NOT NULL DEFAULT '', -- of the record whose policy could not be fetched,
    retry REAL NOT NULL DEFAULT 0,      -- and when it may be tried again
    claimed REAL NOT NULL DEFAULT 0     -- until when one worker fetches it, unless it says before how that ended
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS policies_by_use ON policies (used);
"""

T = TypeVar("T")


@frozen(slots=True)
class Kept:
    """What is known of a domain. `expires` is when `policy` ends, `retry` when `failed_id` may be fetched again."""

    policy: StsPolicy | None = None
    expires: float = 0.0
    failed_id: str = ""
    retry: float = 0.0


NOTHING: Final = Kept()


class Cache:
    """The rows. What fails is told to `on_trouble` (one sentence), and is then as if it were not there."""

    def __init__(self, state: State, on_trouble: Callable[[str], None]) -> None:
        self._state = state
        self._on_trouble = on_trouble

    def close(self) -> None:
        """Let the database go."""
        self._state.close()

    async def read(self, domain: str, now: float, *, mail: bool = True) -> Kept:
        """What is known of the domain; `mail`: there is mail for it, which counts as use."""
        return await self._run(lambda connection: _read(connection, domain, now, mail), NOTHING)

    async def keep(self, domain: str, policy: StsPolicy, now: float, expires: float) -> None:
        """A policy was fetched: it replaces the one before, and what failed is forgotten."""
        row = (domain, policy.id, "\n".join(policy.text), now, expires, now)
        sql = (
            "INSERT INTO policies (domain, id, body, fetched, expires, used) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET id = excluded.id, body = excluded.body, fetched = excluded.fetched,"
            " expires = excluded.expires, failed_id = '', retry = 0, claimed = 0"
        )
        await self._run(lambda connection: _done(connection.execute(sql, row)), None)

    async def failed(self, domain: str, ident: str, now: float, retry: float) -> None:
        """A fetch failed; a policy that is there stays (RFC 8461 §3.3)."""
        row = (domain, now, ident, retry)
        sql = (
            "INSERT INTO policies (domain, used, failed_id, retry) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET failed_id = excluded.failed_id, retry = excluded.retry, claimed = 0"
        )
        await self._run(lambda connection: _done(connection.execute(sql, row)), None)

    async def claim(self, domain: str, now: float) -> bool:
        """Whether we are the worker that fetches the policy; False while another one is at it."""
        sql = (
            "INSERT INTO policies (domain, used, claimed) VALUES (:domain, :now, :until)"
            " ON CONFLICT DO UPDATE SET claimed = excluded.claimed WHERE claimed <= :now"
        )
        row = {"domain": domain, "now": now, "until": now + CLAIM}
        return await self._run(lambda connection: connection.execute(sql, row).rowcount == 1, True)

    async def claim_stale(self, now: float, limit: int) -> list[str]:
        """Domains whose policy is to be fetched again before it expires; no other worker gets them for a while."""
        return await self._run(lambda connection: _claim_stale(connection, now, limit), [])

    async def sweep(self, now: float) -> None:
        """Forget what has expired, and of too many what was used least recently."""
        await self._run(lambda connection: _sweep(connection, now), None)

    async def _run(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        running: Deferred[T] = self._state.run(work)
        try:
            return await running
        except (sqlite3.Error, OSError) as error:
            self._on_trouble(f"the policies on disk cannot be used: {error}")
            return otherwise


def _done(_: sqlite3.Cursor) -> None:
    return None


def _read(connection: sqlite3.Connection, domain: str, now: float, mail: bool) -> Kept:
    sql = "SELECT id, body, expires, failed_id, retry, used FROM policies WHERE domain = ?"
    row = connection.execute(sql, (domain,)).fetchone()
    if row is None:
        return NOTHING
    ident, body, expires, failed_id, retry, used = row
    if mail and now - used > USED_GRAIN:
        connection.execute("UPDATE policies SET used = ? WHERE domain = ?", (now, domain))
    policy = None
    if body and expires > now:
        try:
            policy = parse_policy(body.encode(), ident)
        except PolicyError:  # another version of this program took it, or the file was changed: fetch it again
            policy = None
    return Kept(policy, expires if policy else 0.0, failed_id, retry)


def _claim_stale(connection: sqlite3.Connection, now: float, limit: int) -> list[str]:
    rows = connection.execute(
        "SELECT domain FROM policies WHERE body <> '' AND expires > :now AND used > :unused AND claimed <= :now"
        " AND retry <= :now AND fetched + min(:refresh, (expires - fetched) / 2) <= :now ORDER BY expires LIMIT :limit",
        {"now": now, "unused": now - UNUSED, "refresh": REFRESH, "limit": limit},
    ).fetchall()
    connection.executemany("UPDATE policies SET claimed = ? WHERE domain = ?", [(now + CLAIM, row[0]) for row in rows])
    return [row[0] for row in rows]


def _sweep(connection: sqlite3.Connection, now: float) -> None:
    connection.execute("DELETE FROM policies WHERE max(expires, retry, claimed) <= ?", (now,))
    (count,) = connection.execute("SELECT count(*) FROM policies").fetchone()
    if count > ROWS_MAX:
        connection.execute(
            "DELETE FROM policies WHERE domain IN (SELECT domain FROM policies ORDER BY used LIMIT ?)",
            (count - ROWS_MAX,),
        )
