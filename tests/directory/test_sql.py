"""Accounts in a database: SQLite, and a real PostgreSQL."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest
from twisted.cred.error import UnauthorizedLogin

from relaymta.directory.account import Account, Over, Quota
from relaymta.directory.credentials import Certificate, DirectoryUnavailableError
from relaymta.directory.hashes import show_keys
from relaymta.directory.settings import SqlSettings, UserSettings
from tests.directory.rig import AccountsCase, cheap_hash, entry
from tests.directory.servers import POSTGRES_MISSING, postgres

QUERY = "SELECT * FROM accounts WHERE name = :name"


class DatabaseCase(AccountsCase):
    """Accounts that a query finds."""

    def setUp(self) -> None:
        """A folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class TestSqlite(DatabaseCase):
    """The standard library's."""

    def fill(self, columns: str, *rows: tuple[object, ...]) -> None:
        """Make the table."""
        self.path = self.folder / "accounts?.db"  # a name that is not fit for a URI as it stands
        with sqlite3.connect(self.path) as connection:
            connection.execute(f"CREATE TABLE accounts ({columns})")
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO accounts VALUES ({marks})", rows)
        connection.close()

    def settings(self, query: str = QUERY, *, scram: bool = False) -> UserSettings:
        """Its settings."""
        return UserSettings(sql=SqlSettings(url=f"sqlite:{self.path}", query=query, scram=scram))

    async def test_a_row_is_an_account(self) -> None:
        """Its columns are called as the words of a line; NULL is nothing, 0 and 1 are no and yes."""
        self.fill(
            "name, password, senders, relay, disabled, recipients_per_hour, over",
            ("shop", cheap_hash("pencil"), "a.example .b.example", 0, None, 5, "refuse"),
            ("gone", cheap_hash("pencil"), None, 1, 1, None, None),
        )
        accounts = self.make(self.settings(), self.folder)
        self.assertEqual(accounts.mechanisms, {"PLAIN", "LOGIN"})
        self.assertEqual(
            await self.password(accounts, "Shop", "pencil"),
            Account("shop", ("a.example", ".b.example"), False, Quota(0, 0, 5, 10_000), Over.REFUSE),
        )
        for name, password in (("shop", "pen"), ("gone", "pencil"), ("nobody", "pencil")):
            await self.assertFailure(self.password(accounts, name, password), UnauthorizedLogin)

    async def test_a_name_is_a_parameter_and_never_text(self) -> None:
        """A quote in a name is a quote in a name."""
        self.fill("name, password", ("shop", cheap_hash("pencil")))
        accounts = self.make(self.settings(), self.folder)
        for name in ("'/**/OR/**/'1'='1", "shop';--", 'x"', ":name"):
            await self.assertFailure(self.password(accounts, name, "pencil"), UnauthorizedLogin)

    async def test_a_query_may_know_an_account_by_another_name(self) -> None:
        """An alias: the column says who it is."""
        self.fill("name, alias, password", ("shop", "shop@a.example", cheap_hash("pencil")))
        query = "SELECT name, password FROM accounts WHERE alias = :name"
        accounts = self.make(self.settings(query), self.folder)
        self.assertEqual((await self.password(accounts, "shop@a.example", "pencil")).name, "shop")

    async def test_scram_and_certificates_are_in_columns_too(self) -> None:
        """SCRAM where the settings say that all have keys; a certificate for whom it asks to be."""
        made = entry("shop", "pencil")
        assert made.scram is not None
        self.fill("name, scram, certificates", ("shop", show_keys(made.scram), "shop.example"))
        accounts = self.make(self.settings(scram=True), self.folder)
        self.assertIn("SCRAM-SHA-256", accounts.mechanisms)
        self.assertEqual(await accounts.keys("shop"), made.scram)
        self.assertEqual((await self.password(accounts, "shop", "pencil")).name, "shop")
        self.assertEqual((await self.enter(accounts, Certificate("shop", ("shop.example",), ""))).name, "shop")
        await self.assertFailure(
            self.enter(accounts, Certificate("", ("shop.example",), "")), UnauthorizedLogin
        )

    async def test_what_cannot_be_asked_or_read_is_no_answer(self) -> None:
        """A missing database, a wrong query, two rows, a column that nobody knows, a hash that is none."""
        hash_ = cheap_hash("pencil")
        self.fill("name, password, colour", ("shop", hash_, "red"), ("two", hash_, ""), ("two", hash_, ""))
        for query, said in (
            ("SELECT name FROM acounts WHERE name = :name", "no such table: acounts"),
            ("SELECT name, colour FROM accounts WHERE name = :name", 'no such thing "colour"'),
            ("SELECT name, colour AS password FROM accounts WHERE name = :name", "is no argon2id hash"),
            ("SELECT name FROM accounts WHERE 'two' = name AND :name <> ''", "more than one row"),
            ("DELETE FROM accounts WHERE name = :name", "readonly"),
        ):
            accounts = self.make(self.settings(query), self.folder)
            error = await self.assertFailure(self.password(accounts, "shop", "pencil"), DirectoryUnavailableError)
            self.assertIn(said, str(error))
        self.path = self.folder / "other"
        accounts = self.make(self.settings(), self.folder)
        error = await self.assertFailure(self.password(accounts, "shop", "pencil"), DirectoryUnavailableError)
        self.assertIn("unable to open", str(error))
        self.assertFalse(self.path.exists())

    async def test_a_database_that_does_not_answer_is_given_up(self) -> None:
        """After its time; the log-in is told to come later."""
        from relaymta.config import Duration

        self.fill("name, password", ("shop", cheap_hash("pencil")))
        forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000)"
        query = f"{forever} SELECT :name AS name FROM n WHERE i = -1"
        settings = SqlSettings(url=f"sqlite:{self.path}", query=query, timeout=Duration(0.1))
        accounts = self.make(UserSettings(sql=settings), self.folder)
        error = await self.assertFailure(self.password(accounts, "shop", "pencil"), DirectoryUnavailableError)
        self.assertEqual(str(error), "sql: no answer within 0.1 s")


@pytest.mark.skipif(bool(POSTGRES_MISSING), reason=POSTGRES_MISSING or "it is there")
class TestPostgresql(DatabaseCase):
    """By psycopg."""

    def setUp(self) -> None:
        """A cluster of its own, with accounts."""
        psycopg = pytest.importorskip("psycopg")
        super().setUp()
        running = postgres("s3cret")
        socket = running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)
        self.url = f"postgresql://relaymta@/postgres?host={socket}"
        (self.folder / "secret").write_text("s3cret\n")
        self.administrator = psycopg.connect(self.url, password="s3cret", autocommit=True)
        self.addCleanup(self.administrator.close)
        self.administrator.execute(
            "CREATE TABLE accounts (name text, password text, senders text[], relay boolean, messages_per_day int)"
        )
        self.administrator.execute(
            "INSERT INTO accounts VALUES (%s, %s, %s, %s, %s)",
            ("shop", cheap_hash("pencil"), ["a.example", "u@b.example"], False, 7),
        )

    def settings(self, query: str = QUERY, secret: str = "secret") -> UserSettings:
        """Its settings."""
        return UserSettings(
            sql=SqlSettings(url=self.url, query=query, password_file=str(self.folder / secret))
        )

    async def test_rows_arrays_booleans_and_a_lost_connection(self) -> None:
        """A row is an account; a connection that the server has ended is made anew; nothing can be written."""
        cast = "SELECT * FROM accounts WHERE name = :name::text AND name LIKE '%%' AND '%' <> ''"
        accounts = self.make(self.settings(cast), self.folder)
        shop = Account("shop", ("a.example", "u@b.example"), False, Quota(0, 7, 1000, 10_000))
        self.assertEqual(await self.password(accounts, "shop", "pencil"), shop)
        self.administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
        for name, password in (("shop", "pen"), ("nobody", "pencil"), ("';--", "pencil")):
            await self.assertFailure(self.password(accounts, name, password), UnauthorizedLogin)
        accounts.changed()  # forget what was right
        self.assertEqual(await self.password(accounts, "shop", "pencil"), shop)
        writing = self.make(self.settings("DELETE FROM accounts WHERE name = :name RETURNING name"), self.folder)
        error = await self.assertFailure(self.password(writing, "shop", "pencil"), DirectoryUnavailableError)
        self.assertIn("read-only transaction", str(error))

    async def test_a_wrong_secret_is_no_answer(self) -> None:
        """Ours is wrong, not the client's; and what is said does not tell it."""
        (self.folder / "other").write_text("wr0ng\n")
        accounts = self.make(self.settings(secret="other"), self.folder)
        error = await self.assertFailure(self.password(accounts, "shop", "pencil"), DirectoryUnavailableError)
        self.assertIn("password authentication failed", str(error))
        self.assertNotIn("wr0ng", str(error))


def test_a_database_elsewhere_is_asked_over_verified_tls() -> None:
    """libpq's own default would go on in clear; a socket or loopback need none, and what the URL says holds."""
    pytest.importorskip("psycopg")
    from relaymta.directory.sql import _Postgresql

    def options(url: str) -> dict[str, object]:
        return _Postgresql(SqlSettings(url=url, query=QUERY), "")._options

    made = options("postgresql://relaymta@db.example/accounts")
    assert (made["sslmode"], made["sslrootcert"]) == ("verify-full", "system")
    made = options("postgresql://relaymta@db.example/accounts?sslmode=verify-ca&sslrootcert=/ca.pem")
    assert (made["sslmode"], made["sslrootcert"]) == ("verify-ca", "/ca.pem")
    for local in ("postgresql:///accounts", "postgresql://127.0.0.1/a", "postgresql://localhost/a", "postgresql://[::1]/a"):
        assert "sslmode" not in options(local), local
