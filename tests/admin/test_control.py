"""The control socket: one command in, rows out as fast as they are read and no faster."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaymta.admin.control import (
    CHUNK,
    LINE_MAX,
    PIPELINE_MAX,
    CommandError,
    ControlFactory,
    ControlSession,
    ControlSocket,
)
from relaymta.events import BugCaught, Event


class Talk:
    """A session over a transport in memory."""

    def __init__(self, **commands: Any) -> None:
        self.clock = Clock()
        self.told: list[Event] = []
        self.transport = StringTransport()
        session = ControlFactory(self.clock, commands, self.told.append).buildProtocol(None)
        assert isinstance(session, ControlSession)
        self.session = session
        self.session.makeConnection(self.transport)

    def say(self, command: str, **arguments: Any) -> None:
        """One request."""
        self.session.dataReceived(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")

    def pump(self, times: int = 1000) -> None:
        """Ask for more, as a transport does whenever it has sent what it had."""
        for _ in range(times):
            if self.transport.producer is None:
                return
            self.transport.producer.resumeProducing()

    def lines(self) -> list[Any]:
        """What was said."""
        return [json.loads(line) for line in self.transport.value().splitlines()]


class Answers(SynchronousTestCase):
    """What a request is answered."""

    def test_rows_and_then_the_end(self) -> None:
        """Each row is a line of its own, and the last line says that it was the last."""
        talk = Talk(count=lambda arguments: [{"n": n} for n in range(arguments["to"])])
        talk.say("count", to=2)
        talk.pump()
        assert talk.lines() == [{"row": {"n": 0}}, {"row": {"n": 1}}, {"end": True}]
        assert talk.transport.producer is None

    def test_a_row_that_says_end_is_a_row(self) -> None:
        """Rows are wrapped, so that no row can be taken for the end or an error."""
        talk = Talk(odd=lambda _: [{"end": True}, {"error": "x"}])
        talk.say("odd")
        talk.pump()
        assert talk.lines() == [{"row": {"end": True}}, {"row": {"error": "x"}}, {"end": True}]

    def test_requests_are_answered_in_their_order(self) -> None:
        """A second request waits while the first is answered, also when that takes its time."""
        waiting: Deferred[list[str]] = Deferred()
        talk = Talk(slow=lambda _: waiting, quick=lambda _: ["quick"])
        talk.say("slow")
        talk.say("quick")
        assert talk.lines() == []
        waiting.callback(["slow"])
        talk.pump()
        assert [line.get("row", "end") for line in talk.lines()] == ["slow", "end", "quick", "end"]

    def test_a_coroutine_is_a_command_too(self) -> None:
        """Whatever can be awaited is."""

        async def rows() -> list[int]:
            return [1]

        talk = Talk(later=lambda _: rows())
        talk.say("later")
        talk.pump()
        assert talk.lines() == [{"row": 1}, {"end": True}]

    def test_what_cannot_be_done_is_one_error_line(self) -> None:
        """A CommandError's text is the answer, whether it comes at once, later, or in the midst of rows."""

        def midst(_: Any) -> Iterator[int]:
            yield 1
            raise CommandError("no more")

        failing: Deferred[list[str]] = Deferred()

        def refuse(_: Any) -> list[str]:
            raise CommandError("no")

        talk = Talk(refuse=refuse, later=lambda _: failing, midst=midst)
        for command in ("refuse", "later", "midst"):
            talk.say(command)
        failing.errback(CommandError("not now"))
        talk.pump()
        assert talk.lines() == [{"error": "no"}, {"error": "not now"}, {"row": 1}, {"error": "no more"}]
        assert talk.told == []

    def test_a_bug_is_told_and_the_socket_lives_on(self) -> None:
        """An exception that no rule foresaw is an event with its traceback, and an answer without it."""
        talk = Talk(bug=lambda _: 1 / 0, rows=lambda _: iter([object()]), fine=lambda _: [])
        for command in ("bug", "rows", "fine"):
            talk.say(command)
        talk.pump()
        assert talk.lines() == [
            {"error": "internal error, see the log: ZeroDivisionError"},
            {"error": "internal error, see the log: TypeError"},
            {"end": True},
        ]
        assert all(isinstance(event, BugCaught) and "Traceback" in event.trace for event in talk.told)
        assert len(talk.told) == 2

    def test_nonsense_is_answered(self) -> None:
        """What is no request gets a line that says what one is."""
        talk = Talk(stats=lambda _: [])
        talk.session.dataReceived(b"[" * 100_000 + b"\n")
        assert [line["error"] for line in talk.lines()] == ["a request is one line of JSON"]
        talk = Talk(stats=lambda _: [])
        for line in (b"hello", b"[1]", b'{"command": 7}', b'{"command": "stats", "arguments": 1}', b"\xff\xfe",
                     b'{"command": "stts"}', b'{"relaymta": 9, "command": "stats"}'):  # fmt: skip
            talk.session.dataReceived(line + b"\n")
        assert [line["error"] for line in talk.lines()] == [
            "a request is one line of JSON",
            'a request is a JSON object with a "command"',
            'a request is a JSON object with a "command"',
            "arguments are a JSON object",
            "a request is one line of JSON",
            'there is no command "stts"; did you mean "stats"?',
            "this daemon speaks version 1 of the control protocol",
        ]

    def test_a_request_without_an_end_is_cut_off(self) -> None:
        """Memory for a request is bounded."""
        talk = Talk()
        talk.session.dataReceived(b"x" * (LINE_MAX + 1))
        assert "at most" in talk.lines()[0]["error"] and talk.transport.disconnecting

    def test_a_flood_of_requests_is_cut_off(self) -> None:
        """So is memory for requests that wait."""
        never: Deferred[list[str]] = Deferred()
        talk = Talk(never=lambda _: never)
        for _ in range(PIPELINE_MAX + 2):
            talk.say("never")
        assert talk.transport.disconnecting


class Backpressure(SynchronousTestCase):
    """A listing of a million messages costs no memory."""

    def test_rows_are_made_only_when_they_are_asked_for(self) -> None:
        """Each time the transport asks, at most about CHUNK octets of rows are made."""
        made = itertools.count()
        talk = Talk(list=lambda _: ({"id": f"{next(made):012}"} for _ in itertools.count()))
        talk.say("list")
        for asked in range(1, 4):
            talk.pump(1)
            assert len(talk.transport.value()) <= asked * (CHUNK + 100)
        assert next(made) < 4 * CHUNK / 20
        assert talk.transport.streaming is False

    def test_a_peer_that_goes_ends_the_rows(self) -> None:
        """The generator is closed, so that what it holds is let go, and nothing is written any more."""
        closed: list[bool] = []

        def rows() -> Iterator[int]:
            try:
                yield from itertools.count()
            finally:
                closed.append(True)

        talk = Talk(list=lambda _: rows())
        talk.say("list")
        talk.pump(1)
        talk.session.connectionLost()
        assert closed == [True]

    def test_a_peer_that_goes_ends_the_wait(self) -> None:
        """What was to answer later is cancelled, and not told as a bug."""
        cancelled: list[bool] = []
        talk = Talk(slow=lambda _: Deferred(lambda _: cancelled.append(True)))
        talk.say("slow")
        talk.session.connected = 0
        talk.session.connectionLost()
        assert cancelled == [True] and talk.told == []

    def test_a_search_that_finds_nothing_lets_others_run(self) -> None:
        """A row that is None is a breath: nothing is written, and the next look comes in another turn."""
        looked = itertools.count()

        def search() -> Iterator[object]:
            for _ in range(5):
                next(looked)
                yield None
            yield {"id": "found"}

        talk = Talk(search=lambda _: search())
        talk.say("search")
        assert talk.transport.producer is not None
        talk.transport.producer.resumeProducing()
        talk.transport.producer.resumeProducing()  # a transport that asks meanwhile does not hurry it
        assert next(looked) == 1
        talk.clock.advance(0)
        assert talk.lines() == [{"row": {"id": "found"}}, {"end": True}]

    def test_a_peer_that_goes_ends_the_search(self) -> None:
        """No call is left behind for a breath."""
        talk = Talk(search=lambda _: itertools.repeat(None))
        talk.say("search")
        talk.pump(1)
        talk.session.connectionLost()
        assert talk.clock.getDelayedCalls() == []


class OnTheSocket(TestCase):
    """The socket itself."""

    def setUp(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = os.path.join(folder, "run", "control.sock")
        self.told: list[Event] = []

    def control(self, group: str = "", path: str = "", **commands: Any) -> ControlSocket:
        """A socket that is closed at the end."""
        control = ControlSocket(reactor, path or self.path, commands, self.told.append, group)
        control.open()
        self.addCleanup(control.close)
        return control

    def test_only_the_daemons_user_may_connect(self) -> None:
        """Mode 0600, in a directory that is made if missing; never wider for a moment."""
        self.control()
        assert stat.S_IMODE(os.stat(self.path).st_mode) == 0o600

    def test_a_group_may_be_let_in(self) -> None:
        """Mode 0660 and the group's id."""
        gid = os.getgid()
        import grp

        self.control(group=grp.getgrgid(gid).gr_name)
        facts = os.stat(self.path)
        assert stat.S_IMODE(facts.st_mode) == 0o660 and facts.st_gid == gid

    def test_a_dead_daemons_socket_is_replaced(self) -> None:
        """What a crash left is no reason not to start."""
        os.makedirs(os.path.dirname(self.path))
        left = socket.socket(socket.AF_UNIX)
        left.bind(self.path)
        left.close()
        self.control()

    def test_the_path_may_be_relative(self) -> None:
        """A checkout's quick start has its socket under var/."""
        self.control(path=os.path.relpath(self.path))
        assert os.path.exists(self.path)

    def test_a_living_daemons_socket_is_not_touched(self) -> None:
        """A second daemon is refused, and the first goes on answering."""
        self.control()
        with self.assertRaisesRegex(FileExistsError, "another relaymta answers at"):
            self.control()
        assert os.path.exists(self.path)

    def test_closing_takes_the_socket_away(self) -> Deferred[None]:
        """Afterwards nobody answers there."""
        control = self.control()
        return control.close().addCallback(lambda _: self.assertFalse(os.path.exists(self.path)))

    async def test_a_command_knows_who_asked(self) -> None:
        """The kernel says who is at the other end; what the peer claims does not count."""
        asked: list[Any] = []

        def hold(arguments: Any) -> list[Any]:
            asked.append(arguments["by"])
            return []

        self.control(hold=hold)
        talk = Reader()
        await connect(self.path, talk)
        talk.transport.write(b'{"command": "hold", "arguments": {"by": "somebody"}}\n')
        await talk.line
        assert asked == [pwd.getpwuid(os.getuid()).pw_name]
        await talk.leave()

    async def test_our_own_parent_says_for_whom_it_asks(self) -> None:
        """What is asked with "for" by the daemon's own user is told as that person's."""
        asked: list[Any] = []
        self.control(hold=lambda arguments: [asked.append(arguments["by"])])
        talk = Reader()
        await connect(self.path, talk)
        talk.transport.write(b'{"command": "hold", "arguments": {"for": "ann"}}\n')
        await talk.line
        assert asked == ["ann"]
        await talk.leave()

    async def test_a_reader_that_stops_stops_the_rows(self) -> None:
        """Over a real socket: a peer that does not read lets only what the kernel buffers be made."""
        made = itertools.count()
        self.control(list=lambda _: ({"id": next(made), "x": "y" * 1000} for _ in itertools.count()))
        talk = Reader()
        await connect(self.path, talk)
        talk.transport.write(b'{"command": "list"}\n')
        await talk.line
        talk.transport.pauseProducing()
        before = -1
        for _ in range(2000):  # turns of the reactor, until no more rows are made
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn
            now = next(made)
            if now == before + 1 and _ > 500:
                break
            before = now
        assert before < 5000
        await talk.leave()


class Reader(Protocol):
    """A client that keeps nothing."""

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self.transport: Any

    def dataReceived(self, data: bytes) -> None:
        if not self.line.called:
            self.line.callback(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.gone.callback(None)

    def leave(self) -> Deferred[None]:
        """Hang up."""
        self.transport.abortConnection()
        return self.gone


def connect(path: str, reader: Reader) -> Deferred[Any]:
    """Connect a reader."""
    from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol

    return connectProtocol(UNIXClientEndpoint(reactor, path), reader)
