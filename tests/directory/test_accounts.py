"""All accounts behind one door: who gets in, by what, and what a stranger learns."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from relaymta.directory import accounts as module
from relaymta.directory.account import Account, Over, Quota
from relaymta.directory.accounts import BEAT, THREADS, WAITING
from relaymta.directory.credentials import Certificate, DirectoryUnavailableError, ScramKeys, ScramProof
from relaymta.directory.hashes import fits_hash
from relaymta.directory.maker import make_directory
from relaymta.directory.settings import QuotaSettings, UserSettings
from tests.directory.rig import AccountsCase, entry, write

PRINT = "ab" * 32


def prove(name: str, password: str, keys: ScramKeys, message: bytes = b"n=a,r=b,s=c") -> ScramProof:
    """What a client of SCRAM shows (RFC 5802 §3)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), keys.salt, keys.iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    return ScramProof(name, message, bytes(a ^ b for a, b in zip(client_key, signature, strict=True)), keys)


class FileCase(AccountsCase):
    """Accounts in a file."""

    def setUp(self) -> None:
        """An empty folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.folder / "users"
        self.settings = UserSettings(file=str(self.file))

    async def wait_for(self, events: int) -> None:
        """Until so much was told of the file."""
        while len(self.told) < events:
            await deferLater(reactor, 0.02, lambda: None)


class TestPasswords(FileCase):
    """PLAIN and LOGIN."""

    async def test_the_right_password_is_the_account(self) -> None:
        """With what it may do; the name in whatever case, the password as RFC 4013 has it."""
        rights = {"senders": "a.example", "relay": "no", "messages_per_day": "5", "over": "refuse"}
        write(self.file, entry("shop", "pencil IX", **rights))
        quota = QuotaSettings(recipients_per_hour=7, recipients_per_day=70)
        accounts = self.make(UserSettings(file=str(self.file), quota=quota), self.folder)
        found = await self.password(accounts, "SHOP", "pencil\u00a0\u2168")
        self.assertEqual(found, Account("shop", ("a.example",), False, Quota(0, 5, 7, 70), Over.REFUSE))

    async def test_whatever_is_not_right_is_one_answer(self) -> None:
        """A wrong password, an unknown name, a disabled account, no password, what cannot be either."""
        write(self.file, entry("shop", "pencil"), entry("gone", "pencil", disabled="yes"), entry("card"))
        accounts = self.make(self.settings, self.folder)
        wrong: list[tuple[str, str | bytes]] = [
            ("shop", "Pencil"), ("other", "pencil"), ("gone", "pencil"), ("card", "pencil"), ("card", ""),
            ("shop", ""), ("shop", "pencil\0"), ("", "pencil"), ("a b", "pencil"), ("shop", b"\xff"),
            ("shop", "\u00ad"),
        ]  # fmt: skip
        asked = [self.assertFailure(self.password(accounts, *one), UnauthorizedLogin) for one in wrong]
        await gatherResults(asked)

    async def test_an_unknown_name_costs_a_hash_and_no_more_time_than_a_known_one(self) -> None:
        """Each no compares one hash of the same parameters, and is told on a beat."""
        compared: list[str] = []

        def watched(text: str, password: str) -> bool:
            compared.append(text.rpartition("$")[0].rpartition("$")[0])
            return fits_hash(text, password)

        self.patch(module, "fits_hash", watched)
        self.beat = BEAT
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(self.settings, self.folder)
        for name in ("shop", "nobody", "a b"):
            began = time.monotonic()
            await self.assertFailure(self.password(accounts, name, "wrong"), UnauthorizedLogin)
            self.assertGreater(time.monotonic() - began, BEAT * 0.99)
        self.assertEqual(compared, ["$argon2id$v=19$m=64,t=1,p=1"] * 3)

    async def test_a_password_that_was_right_is_right_again_without_a_hash(self) -> None:
        """An application that logs in for each message; a wrong one is compared each time."""
        compared: list[str] = []

        def watched(text: str, password: str) -> bool:
            compared.append(password)
            return fits_hash(text, password)

        self.patch(module, "fits_hash", watched)
        write(self.file, entry("shop", "pencil"), entry("bob", "pencil"))
        accounts = self.make(self.settings, self.folder)
        for _ in range(3):
            self.assertEqual((await self.password(accounts, "shop", "pencil")).name, "shop")
        await self.assertFailure(self.password(accounts, "shop", "pen"), UnauthorizedLogin)
        self.assertEqual((await self.password(accounts, "bob", "pencil")).name, "bob")
        self.assertEqual(compared, ["pencil", "pen", "pencil"])

    async def test_nothing_is_remembered_where_that_is_not_wanted(self) -> None:
        """cache = "0s"."""
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(UserSettings(file=str(self.file), cache=0.0), self.folder)  # type: ignore[arg-type]
        await self.password(accounts, "shop", "pencil")
        self.assertFalse(accounts._right._found)

    async def test_more_checks_than_there_is_room_for_are_told_to_come_later(self) -> None:
        """Not queued for ever, and not a no."""
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(self.settings, self.folder)
        asked = [self.password(accounts, "shop", "pencil") for _ in range(THREADS + WAITING + 3)]
        ends: dict[str, int] = {}

        def count(result: object) -> None:
            kind = type(getattr(result, "value", result)).__name__
            ends[kind] = ends.get(kind, 0) + 1

        for one in asked:
            one.addBoth(count)
        await gatherResults(asked)
        self.assertEqual(ends, {"Account": THREADS + WAITING, "DirectoryUnavailableError": 3})

    async def test_a_client_that_goes_away_is_forgotten(self) -> None:
        """Its check ends by itself, and its place is free again."""
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(self.settings, self.folder)
        gone = self.password(accounts, "shop", "pencil")
        gone.cancel()
        await self.assertFailure(gone, CancelledError)
        self.assertEqual((await self.password(accounts, "shop", "pencil")).name, "shop")
        while accounts._pool._under_way:
            await deferLater(reactor, 0.01, lambda: None)

    async def test_no_hash_is_compared_on_the_reactors_thread(self) -> None:
        """Right, wrong and unknown alike: nothing holds up the sessions of others."""
        threads: set[threading.Thread] = set()

        def watched(text: str, password: str) -> bool:
            threads.add(threading.current_thread())
            return fits_hash(text, password)

        self.patch(module, "fits_hash", watched)
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(self.settings, self.folder)
        await self.password(accounts, "shop", "pencil")
        for name in ("shop", "nobody"):
            await self.assertFailure(self.password(accounts, name, "pen"), UnauthorizedLogin)
        self.assertTrue(1 <= len(threads) <= THREADS)
        self.assertNotIn(threading.current_thread(), threads)

    async def test_an_account_that_has_only_scram_keys_may_show_its_password(self) -> None:
        """As a database that was made for SCRAM alone has it."""
        from attrs import evolve

        write(self.file, evolve(entry("shop", "pencil"), password=""))
        accounts = self.make(self.settings, self.folder)
        self.assertEqual((await self.password(accounts, "shop", "pencil")).name, "shop")
        await self.assertFailure(self.password(accounts, "shop", "pen"), UnauthorizedLogin)


class TestTheFile(FileCase):
    """A file that changes under a running daemon."""

    async def test_a_change_is_seen_without_a_reload_and_forgets_what_was_right(self) -> None:
        """Another password: the old one is wrong from the moment the file is read."""
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(self.settings, self.folder)
        await self.password(accounts, "shop", "pencil")
        write(self.file, entry("shop", "crayon"), entry("bob", "x", certificates="bob.example"))
        await self.wait_for(1)
        self.assertEqual(self.told, [(str(self.file), 2)])
        await self.assertFailure(self.password(accounts, "shop", "pencil"), UnauthorizedLogin)
        self.assertEqual((await self.password(accounts, "shop", "crayon")).name, "shop")
        self.assertIn("EXTERNAL", accounts.mechanisms)

    async def test_who_has_changed_is_known(self) -> None:
        """By name: who is gone, disabled, or has another password or other rights; and nobody else."""
        same, names = entry("same", "x"), ("gone", "off", "word", "right", "same", "new")
        write(self.file, *(entry(name, "x") for name in names[:4]), same)
        accounts = self.make(self.settings, self.folder)
        self.assertEqual([accounts.changes(name) for name in names], [0] * 6)
        write(self.file, entry("off", "x", disabled="yes"), entry("word", "y"), entry("right", "x", relay="no"), same,
              entry("new", "x"))  # fmt: skip
        await self.wait_for(1)
        changes = [accounts.changes(name) for name in names]
        self.assertEqual([bool(one) for one in changes], [True, True, True, True, False, False])
        write(self.file, entry("off", "x"), same)
        await self.wait_for(2)
        self.assertNotEqual(accounts.changes("off"), changes[1])
        self.assertEqual((accounts.changes("gone"), accounts.changes("same")), (changes[0], 0))

    async def test_a_broken_file_is_told_once_and_the_accounts_before_it_stay(self) -> None:
        """A slip of an editor locks nobody out."""
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(self.settings, self.folder)
        self.file.write_text("shop pasword=x\n")
        await self.wait_for(1)
        await deferLater(reactor, 1.1, lambda: None)
        [(place, said)] = self.told
        self.assertEqual(place, str(self.file))
        self.assertIn(f"{self.file}:1: there is no such thing", str(said))
        self.assertIn("the accounts before it stay", str(said))
        self.assertEqual((await self.password(accounts, "shop", "pencil")).name, "shop")

    async def test_without_a_file_nobody_could_be_asked(self) -> None:
        """Not a no: a client may come again, and when the file is there it is right."""
        accounts = self.make(self.settings, self.folder)
        self.assertIn("cannot be read: No such file", str(self.told[0][1]))
        await self.assertFailure(self.password(accounts, "shop", "pencil"), DirectoryUnavailableError)
        await self.assertFailure(accounts.keys("shop"), DirectoryUnavailableError)
        write(self.file, entry("shop", "pencil"))
        await self.wait_for(2)
        self.assertEqual((await self.password(accounts, "shop", "pencil")).name, "shop")


class TestTheEnd(FileCase):
    """A reload puts other accounts in the place of these; a stop closes them."""

    async def test_what_was_begun_is_answered_and_the_file_is_looked_at_no_more(self) -> None:
        """Of two that know one file only the later one tells of it."""
        write(self.file, entry("shop", "pencil"))
        tell = lambda place, what: told.append((place, what))  # noqa: E731
        told: list[object] = []
        old = make_directory(self.settings, reactor, str(self.folder / "state"), on_read=tell, on_broken=tell)
        assert old is not None
        asked = [self.password(old, "shop", "pencil") for _ in range(5)]
        old.retire(0.0)
        self.assertEqual([account.name for account in await gatherResults(asked)], ["shop"] * 5)
        new = self.make(self.settings, self.folder)
        write(self.file, entry("shop", "crayon"))
        await self.wait_for(1)
        self.assertEqual(told, [])
        self.assertEqual((await self.password(new, "shop", "crayon")).name, "shop")
        await self.assertFailure(self.password(old, "shop", "crayon"), DirectoryUnavailableError)


class TestScram(FileCase):
    """SCRAM-SHA-256."""

    async def test_who_knows_the_password_proves_it(self) -> None:
        """RFC 5802 §3; the password itself is never shown."""
        write(self.file, entry("shop", "pencil"))
        accounts = self.make(self.settings, self.folder)
        keys = await accounts.keys("Shop")
        self.assertEqual((await self.enter(accounts, prove("shop", "pencil", keys))).name, "shop")
        await self.assertFailure(self.enter(accounts, prove("shop", "pen", keys)), UnauthorizedLogin)

    async def test_keys_of_ones_own_making_prove_nothing(self) -> None:
        """The keys in force count: not a client's, not those of before a change, not a stranger's fake."""
        write(self.file, entry("shop", "pencil"), entry("gone", "pencil", disabled="yes"))
        accounts = self.make(self.settings, self.folder)
        other = entry("shop", "pencil").scram
        assert other is not None
        for name, keys in (("shop", other), ("nobody", other), ("nobody", await accounts.keys("nobody"))):
            await self.assertFailure(self.enter(accounts, prove(name, "pencil", keys)), UnauthorizedLogin)
        gone = prove("gone", "pencil", await accounts.keys("gone"))
        await self.assertFailure(self.enter(accounts, gone), UnauthorizedLogin)

    async def test_a_stranger_has_keys_like_everybody_for_all_workers_and_after_a_restart(self) -> None:
        """The secret they are made of is a file of ours, mode 0600."""
        write(self.file, entry("shop", "pencil"))
        one, other = self.make(self.settings, self.folder), self.make(self.settings, self.folder)
        fake = await one.keys("nobody")
        self.assertEqual(fake, await other.keys("nobody"))
        self.assertEqual(fake.iterations, (await one.keys("shop")).iterations)
        self.assertEqual(fake, await one.keys("NOBODY"))
        self.assertEqual(len((await one.keys("no body")).salt), len(fake.salt))
        secret = self.folder / "state" / "scram.secret"
        self.assertEqual(stat.S_IMODE(secret.stat().st_mode), 0o600)
        self.assertEqual(os.listdir(secret.parent), ["scram.secret"])

    def test_scram_is_offered_where_every_account_has_keys(self) -> None:
        """A client that takes it where it is offered must not find that its account cannot."""
        write(self.file, entry("shop", "pencil"))
        offered = self.make(self.settings, self.folder).mechanisms
        self.assertEqual(offered, {"PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"})
        write(self.file, entry("shop", "pencil"), entry("bob", "pencil", scram=False))
        self.assertEqual(self.make(self.settings, self.folder).mechanisms, {"PLAIN", "LOGIN"})


class TestCertificates(FileCase):
    """EXTERNAL."""

    async def test_a_certificate_is_its_account(self) -> None:
        """By fingerprint or by name; a name that is asked for must be one that it has."""
        write(self.file, entry("shop", certificates=f"sha256:{PRINT}"), entry("bob", certificates="bob.example"))
        accounts = self.make(self.settings, self.folder)
        self.assertIn("EXTERNAL", accounts.mechanisms)
        for shown, name in (
            (Certificate("", (), PRINT.upper()), "shop"),
            (Certificate("", ("x.example", "Bob.example"), "00"), "bob"),
            (Certificate("bob", ("bob.example",), PRINT), "bob"),
        ):
            self.assertEqual((await self.enter(accounts, shown)).name, name)

    async def test_a_certificate_that_is_nobodys_is_a_no(self) -> None:
        """Unknown, of a disabled account, of another than asked for, of two at once."""
        write(
            self.file,
            entry("shop", certificates="shop.example,both.example"),
            entry("bob", certificates="both.example"),
            entry("gone", certificates="gone.example", disabled="yes"),
        )
        accounts = self.make(self.settings, self.folder)
        for shown in (
            Certificate("", (), PRINT),
            Certificate("", ("gone.example",), PRINT),
            Certificate("bob", ("shop.example",), PRINT),
            Certificate("nobody", ("shop.example",), PRINT),
            Certificate("a b", ("shop.example",), PRINT),
            Certificate("", ("both.example",), PRINT),
        ):
            await self.assertFailure(self.enter(accounts, shown), UnauthorizedLogin)


class TestMadeFromNothing(AccountsCase):
    """What is not configured, or cannot be."""

    def test_without_users_there_is_no_directory(self) -> None:
        """And nothing of it is opened."""
        from relaymta.directory.maker import make_directory

        self.assertIsNone(make_directory(UserSettings(), reactor, "/nonexistent", on_read=print, on_broken=print))

    def test_a_file_alone_is_not_asked_about_tokens(self) -> None:
        """The checker is there, since the portal is the same; it says no."""
        from relaymta.directory.credentials import BearerToken

        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / "users", entry("shop"))
            accounts = self.make(UserSettings(file=folder + "/users"), Path(folder))
            failed: Deferred[Account] = self.enter(accounts, BearerToken("", "t"))
            self.failureResultOf(failed, UnauthorizedLogin)
