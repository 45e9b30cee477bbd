"""A relay put together with accounts: who logs in is in, failures outlive a reload, the operator unlocks."""

from __future__ import annotations

import shutil
import smtplib
import socket
import tempfile
from typing import Any

from attrs import evolve
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relaymta import events
from relaymta.assembly import Relay
from relaymta.config import Duration, Size
from relaymta.config.socketaddress import SocketAddress
from relaymta.policy.settings import AuthSettings
from relaymta.queue.settings import Settings as QueueSettings
from relaymta.settings import Settings
from relaymta.smtp.settings import AuthMode, ListenerSettings
from tests.smtp.accounts import Accounts, accounts, plain

reactor: Any = installed_reactor
NAME, PASSWORD = "carol@example.org", "carols-own"


class WithAccounts(TestCase):
    """One relay in this process, on a socket of the kernel's choice."""

    timeout = 60

    async def open(self, directory: Accounts | None) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.patch(Relay, "_make_directory", lambda relay, settings: directory)
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        listener = ListenerSettings(
            name="in", address=SocketAddress("127.0.0.1", self.port), auth=AuthMode.OPTIONAL, auth_in_clear=True
        )
        quick = AuthSettings(offences_per_account=2, delay=Duration(0.01), delay_max=Duration(0.01))
        self.settings = Settings(
            hostname="relay.test",
            spool=folder,
            listeners=(listener,),
            auth=quick,
            queue=QueueSettings(min_free=Size(0)),
        )
        self.told: list[events.Event] = []
        ears = events.Ears()
        ears.add(self.told.append)
        self.relay = Relay(reactor, self.settings, ears, pid=1)
        await self.relay.open()
        self.relay.listen({"in": sock})
        self.addCleanup(self.relay.stop)

    async def say(self, *lines: str) -> list[int]:
        """The codes of the replies, in a session of its own."""

        def visit() -> list[int]:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as client:
                client.ehlo()
                return [client.docmd(line)[0] for line in lines]

        codes: list[int] = await deferToThread(visit)
        return codes

    async def ask(self, command: str, **arguments: str) -> list[Any]:
        answer: Any = self.relay.commands()[command](arguments)
        return list(await answer if isinstance(answer, Deferred) else answer)

    async def test_failures_outlive_a_reload_and_are_unlocked(self) -> None:
        """Two guesses, a reload, a refusal; `auth unlock` ends it, and a reload changes the terms."""
        await self.open(accounts(passwords={NAME: PASSWORD}))
        guess = [f"AUTH PLAIN {plain(NAME, word).decode()}" for word in ("x", "y")]
        right = f"AUTH PLAIN {plain(NAME, PASSWORD).decode()}"
        self.assertEqual(await self.say(*guess), [535, 535])
        self.relay.reload(self.settings)
        self.assertEqual(await self.say(right), [454])
        [row] = await self.ask("auth.list")
        self.assertEqual((row["address"], row["account"], row["offences"]), ("127.0.0.1", NAME, 2))
        self.assertEqual((await self.ask("auth.unlock", what=NAME))[0]["refusals"], 1)
        self.assertEqual(await self.say(right, f"MAIL FROM:<{NAME}>", "RCPT TO:<a@b.example>"), [235, 250, 250])
        self.relay.reload(evolve(self.settings, auth=evolve(self.settings.auth, offences_per_account=0)))
        self.assertEqual(await self.say(*guess, right), [535, 535, 235])
        self.assertEqual([event for event in self.told if isinstance(event, events.BugCaught)], [])

    async def test_who_has_logged_in_to_an_account_that_changes_is_sent_away(self) -> None:
        """An account whose password was stolen was removed, and the thief's session went on sending as before."""
        directory = accounts(passwords={NAME: PASSWORD, "dave": "x"})
        await self.open(directory)
        told: list[list[int]] = []

        def visit(name: str, password: str, change: dict[str, int]) -> None:
            letter = ("MAIL FROM:<a@b.example>", "RSET")
            with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as client:
                client.ehlo()
                codes = [client.docmd(f"AUTH PLAIN {plain(name, password).decode()}")[0]]
                codes += [client.docmd(line)[0] for line in letter]
                directory.changed = change
                codes += [client.docmd(line)[0] for line in letter[: 1 if change.get(name) else 2]]
                told.append(codes)

        await deferToThread(visit, "dave", "x", {NAME: 1})
        await deferToThread(visit, NAME, PASSWORD, {NAME: 2})
        self.assertEqual(told[0], [235, 250, 250, 250, 250])
        self.assertEqual(told[1], [235, 250, 250, 421])
        self.assertEqual([event.reply for event in self.told if isinstance(event, events.CommandRefused)],
                         ["421 4.7.0 this account has been changed, log in again"])  # fmt: skip

    async def test_without_accounts_nothing_is_opened(self) -> None:
        """No accounts: AUTH is not there, no database, and the operator is told so."""
        await self.open(None)
        self.assertEqual(await self.say("AUTH PLAIN AA=="), [502])
        self.assertEqual(await self.ask("auth.list"), [])
