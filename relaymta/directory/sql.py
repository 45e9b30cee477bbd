"""Accounts in a database: SQLite, or PostgreSQL by psycopg.

The operator's query is asked on threads, with the name as a parameter and never as text. A row's columns are called as
the words of an account (entry.py), and `name` says under which name it is to be known. Nothing is ever written.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from twisted.internet.defer import Deferred, succeed

from relaymta.config.hosts import is_loopback
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.entry import Entry, entry_of
from relaymta.directory.patience import within
from relaymta.directory.settings import SQL_NAME, SqlSettings
from relaymta.directory.sources import Keeper
from relaymta.directory.threads import Pool

if TYPE_CHECKING:
    import psycopg

THREADS = 2  # connections of each process; ours
WAITING = 100
LONGEST_REASON = 200  # characters of what a database says, for the log; ours
LISTS = ("senders", "certificates")
SWITCHES = ("relay", "disabled")

Row = Mapping[str, object]
Ask = Callable[[str], list[Row]]


class FromSql(Keeper):
    """A keeper over the database of `settings`; `password` is that of its user, "" for none."""

    def __init__(self, settings: SqlSettings, password: str, reactor: Any) -> None:
        self._reactor = reactor
        self._timeout = settings.timeout
        self._pool = Pool("sql", THREADS, WAITING, reactor.callFromThread)
        self._ask: Ask = _Sqlite(settings) if settings.sqlite else _Postgresql(settings, password)
        self.has_scram = settings.scram

    def find(self, name: str) -> Deferred[Entry | None]:
        """What the database has of a prepared name."""
        return within(self._timeout, self._pool.run(self._find, name), self._reactor, "sql")

    def by_certificate(self, certificate: str) -> Deferred[tuple[Entry, ...]]:
        """Nobody: a query finds names alone. Who says a name may have a certificate all the same."""
        return succeed(())

    def close(self) -> None:
        """Connections end with their threads."""
        self._pool.close()

    def _find(self, name: str) -> Entry | None:
        """On a thread."""
        rows = self._ask(name)
        if not rows:
            return None
        if len(rows) > 1:
            raise DirectoryUnavailableError("sql: the query gives more than one row for a name")
        values = {key: _text(key, value) for key, value in rows[0].items()}
        known = values.pop("name", "") or name
        try:
            return entry_of(known, values)
        except ValueError as error:
            raise DirectoryUnavailableError(f"sql: a row cannot be used: {error}") from None


def _text(key: str, value: object) -> str:
    """A column's value as the word of a line would have it."""
    if value is None:
        return ""
    if key in SWITCHES and isinstance(value, (bool, int)):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return ",".join(str(value).split()) if key in LISTS else str(value)


class _Sqlite:
    """Opened anew for each question, which costs little: the file may have been replaced."""

    def __init__(self, settings: SqlSettings) -> None:
        self._place = f"file:{quote(settings.sqlite)}?mode=ro"
        self._query = settings.query
        self._timeout = settings.timeout

    def __call__(self, name: str) -> list[Row]:
        try:
            connection = sqlite3.connect(self._place, timeout=self._timeout, uri=True)
            try:
                cursor = connection.execute(self._query, {"name": name})
                columns = [column[0] for column in cursor.description or ()]
                return [dict(zip(columns, row, strict=True)) for row in cursor.fetchmany(2)]
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise DirectoryUnavailableError(f"sql: {_reason(error)}") from None


class _Postgresql:
    """One connection for each thread, kept; one that broke meanwhile is made anew once."""

    def __init__(self, settings: SqlSettings, password: str) -> None:
        from psycopg.conninfo import conninfo_to_dict

        self._options: dict[str, Any] = conninfo_to_dict(settings.url)
        if not _is_local(str(self._options.get("host") or "")) and "sslmode" not in self._options:
            self._options["sslmode"] = "verify-full"  # libpq's own default would do without TLS
            self._options.setdefault("sslrootcert", "system")
        milliseconds = int(settings.timeout * 1000)
        self._options.setdefault("connect_timeout", max(2, int(settings.timeout)))
        self._options.setdefault("tcp_user_timeout", milliseconds)
        self._options.setdefault("options", f"-c statement_timeout={milliseconds} -c default_transaction_read_only=on")
        if password:
            self._options["password"] = password
        self._query = SQL_NAME.sub("%(name)s", settings.query.replace("%", "%%"))
        self._local = threading.local()

    def __call__(self, name: str) -> list[Row]:
        import psycopg

        kept = getattr(self._local, "connection", None)
        try:
            if kept is not None:
                try:
                    return self._execute(kept, name)
                except psycopg.OperationalError:
                    kept.close()
            self._local.connection = psycopg.connect(autocommit=True, **self._options)
            return self._execute(self._local.connection, name)
        except psycopg.Error as error:
            raise DirectoryUnavailableError(f"sql: {_reason(error)}") from None

    def _execute(self, connection: psycopg.Connection[Any], name: str) -> list[Row]:
        with connection.cursor() as cursor:
            cursor.execute(self._query, {"name": name})
            columns = [column.name for column in cursor.description or ()]
            return [dict(zip(columns, row, strict=True)) for row in cursor.fetchmany(2)]


def _is_local(host: str) -> bool:
    """Whether libpq would not leave this machine: no host or a path is a UNIX socket."""
    return not host or host.startswith("/") or is_loopback(host)


def _reason(error: Exception) -> str:
    """The first line of what a database says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST_REASON]
