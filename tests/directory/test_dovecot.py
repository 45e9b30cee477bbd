"""Accounts that Dovecot knows: its own auth service, and services that misbehave."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from relaymta.config import Duration
from relaymta.directory.account import Account
from relaymta.directory.accounts import Accounts
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.dovecot import WAITING, AuthClient
from relaymta.directory.settings import DovecotSettings, UserSettings
from tests.directory.rig import AccountsCase
from tests.directory.servers import DOVECOT_MISSING, dovecot

USERS = "ann:{PLAIN}pencil::::::\nbob:{PLAIN}cr\u00e4yon::::::user=robert\ngone:{PLAIN}pencil::::::nologin reason=x\n"


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    """One service for the file."""
    with dovecot(USERS) as path:
        yield path


@pytest.mark.skipif(bool(DOVECOT_MISSING), reason=DOVECOT_MISSING or "it is there")
class TestDovecot(AccountsCase):
    """The real service."""

    @pytest.fixture(autouse=True)
    def _given(self, socket: str) -> None:
        self.socket = socket

    def directory(self) -> Accounts:
        """Accounts there."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        settings = DovecotSettings(socket=self.socket, senders=("{name}@example.org",), relay=False)
        return self.make(UserSettings(dovecot=settings), Path(folder.name))

    async def test_a_password_is_right_where_dovecot_says_so(self) -> None:
        """And the account is called what Dovecot calls it; questions at the same time have their own answers."""
        accounts = self.directory()
        ann, bob = await gatherResults(
            [self.password(accounts, "Ann", "pencil"), self.password(accounts, "bob", "cr\u00e4yon")]
        )
        self.assertEqual(ann, Account("ann", ("ann@example.org",), False))
        self.assertEqual(bob.name, "robert")
        wrong = [("ann", "pen"), ("nobody", "pencil"), ("ann\tuser=bob", "pencil"), ("ann", "")]
        await gatherResults([self.assertFailure(self.password(accounts, *one), UnauthorizedLogin) for one in wrong])


    async def test_two_connections_of_one_process_are_two_clients(self) -> None:
        """At a reload, and when several log in first: Dovecot is content with one process id for all of them."""
        accounts = [self.directory() for _ in range(2)]
        asked = [self.password(one, name, "pencil") for one in accounts for name in ("ann", "Ann", "ANN", "aNN")]
        self.assertEqual({account.name for account in await gatherResults(asked)}, {"ann"})


class TestTheProtocol(SynchronousTestCase):
    """A service whose every octet we choose."""

    def setUp(self) -> None:
        """A connection that is open."""
        self.transport = StringTransport()
        self.client = AuthClient("smtp")
        self.client.makeConnection(self.transport)
        self.ready: list[object] = []
        self.client.ready.addBoth(self.ready.append)

    def say(self, *lines: str) -> None:
        """What the service says."""
        self.client.dataReceived("".join(f"{line}\n" for line in lines).encode())

    def greet(self) -> None:
        """As Dovecot 2.3 does."""
        self.say("VERSION\t1\t2", "MECH\tPLAIN\tplaintext", "SPID\t1", "CUID\t2", "COOKIE\tab", "DONE")
        self.transport.clear()

    def test_the_dialogue_is_dovecots(self) -> None:
        """Version and process first; a question with its service, its number, and the response last."""
        self.assertRegex(self.transport.value(), rb"\AVERSION\t1\t1\nCPID\t\d+\n\Z")
        self.greet()
        self.assertEqual(self.ready, [self.client])
        asked = self.client.ask("ann", b"pencil")
        self.assertEqual(
            self.transport.value(), b"AUTH\t1\tPLAIN\tservice=smtp\tnologin\tsecured\tresp=AGFubgBwZW5jaWw=\n"
        )
        self.say("OK\t1\tuser=ann\toriginal_user=ANN")
        self.assertEqual(self.successResultOf(asked), b"ann")

    def test_answers_come_in_any_order(self) -> None:
        """By their number; one to a question that nobody asked is nothing."""
        self.greet()
        asked = [self.client.ask("ann", b"x") for _ in range(3)]
        self.say("FAIL\t3\tuser=ann", "OK\t9\tuser=bob", "FAIL\t2\tuser=ann\ttemp", "OK\t1\tuser=ann")
        self.assertEqual(self.successResultOf(asked[0]), b"ann")
        self.failureResultOf(asked[1], DirectoryUnavailableError)
        self.assertIsNone(self.successResultOf(asked[2]))

    def test_a_question_that_nobody_waits_for_is_forgotten(self) -> None:
        """Its answer may come all the same."""
        self.greet()
        asked = self.client.ask("ann", b"x")
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.say("OK\t1\tuser=ann")
        self.assertTrue(self.client.usable)

    def test_what_is_not_a_yes_or_a_no_is_no_answer(self) -> None:
        """A challenge, a yes without a name, the end of the connection; and then nothing more is asked."""
        self.greet()
        asked: list[Deferred[bytes | None]] = [self.client.ask("ann", b"x") for _ in range(3)]
        self.say("CONT\t1\tabc", "OK\t2")
        self.client.connectionLost()
        for one in (*asked, self.client.ask("ann", b"x")):
            self.failureResultOf(one, DirectoryUnavailableError)

    def test_a_service_of_another_kind_is_left(self) -> None:
        """Another protocol, no PLAIN, a line without end."""
        for lines in (["VERSION\t2\t0"], ["VERSION\t1\t2", "MECH\tGSSAPI", "DONE"], ["x" * 20_000]):
            self.setUp()
            self.say(*lines)
            self.assertFalse(self.client.usable)
            self.assertTrue(self.transport.disconnecting or self.transport.disconnected)
            [failure] = self.ready
            failure.trap(DirectoryUnavailableError)  # type: ignore[attr-defined]

    def test_too_many_questions_at_once_are_told_to_come_later(self) -> None:
        """The service is slow on purpose where passwords are wrong."""
        self.greet()
        for _ in range(WAITING):
            self.client.ask("ann", b"x")
        self.failureResultOf(self.client.ask("ann", b"x"), DirectoryUnavailableError)

    @given(st.lists(st.binary(max_size=40)))
    def test_whatever_it_says_is_an_answer_or_nothing(self, lines: list[bytes]) -> None:
        """No line of the service is an exception."""
        self.setUp()
        self.greet()
        asked = self.client.ask("ann", b"x")
        ends: list[object] = []
        asked.addBoth(ends.append)
        self.client.dataReceived(b"".join(line + b"\n" for line in lines))
        self.client.connectionLost()
        self.assertEqual(len(ends), 1)


class TestWithoutAService(AccountsCase):
    """Nobody listens there."""

    async def test_a_socket_that_is_not_there_is_no_answer(self) -> None:
        """It may come back; each question tries anew."""
        with tempfile.TemporaryDirectory() as folder:
            settings = UserSettings(dovecot=DovecotSettings(socket=f"{folder}/client"))
            accounts = self.make(settings, Path(folder))
            error = await self.assertFailure(self.password(accounts, "ann", "x"), DirectoryUnavailableError)
            self.assertIn(f"dovecot: {folder}/client", str(error))

    async def test_a_service_that_says_nothing_is_given_up(self) -> None:
        """After its time, and its connection is closed."""
        lost: Deferred[None] = Deferred()

        class Silent(Protocol):
            def connectionLost(self, reason: object = None) -> None:
                lost.callback(None)

        with tempfile.TemporaryDirectory() as folder:
            port = cast(Any, reactor).listenUNIX(f"{folder}/client", Factory.forProtocol(Silent))
            settings = DovecotSettings(socket=f"{folder}/client", timeout=Duration(0.2))
            accounts = self.make(UserSettings(dovecot=settings), Path(folder))
            error = await self.assertFailure(self.password(accounts, "ann", "x"), DirectoryUnavailableError)
            self.assertEqual(str(error), "dovecot: no answer within 0.2 s")
            await lost
            await port.stopListening()
