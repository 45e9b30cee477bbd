"""The Twisted shell of the client: writes, producers, timers and ends; and the faults of the stock class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.mail import smtp
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from relaymta.mail.content import CHUNK, Content, MemoryContent
from relaymta.smtp.actions import Answer, Stage, Trouble
from relaymta.smtp.client import CLOSE_LIMIT, SMALL, TIMEOUTS, RelaySender, RelaySenderFactory, SessionError
from relaymta.smtp.data import Decoder
from relaymta.smtp.dialogue import Dialogue
from tests.smtp.scripted import parcel, told


class Transport(StringTransport):
    """A transport that counts writes and knows TCP_NODELAY."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.nodelay = False
        self.producer: Any = None
        self.aborted = False
        directlyProvides(self, ITCPTransport)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.nodelay = enabled

    def abortConnection(self) -> None:
        self.aborted = True


class Failing:
    """Content whose second chunk cannot be read."""

    size = SMALL + 1
    eightbit = False

    def chunks(self) -> Iterator[bytes]:
        yield b"x" * 1000 + b"\r\n"
        raise OSError(5, "Input/output error")

    def header(self) -> bytes:
        return b"\r\n"


class SenderTests(SynchronousTestCase):
    """One connection in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.factory = RelaySenderFactory(Dialogue(b"us.test"), self.clock)
        self.sender: RelaySender = self.factory.buildProtocol(None)
        self.transport = Transport()
        self.sender.makeConnection(self.transport)
        self.answers: list[list[Answer | None]] = []

    def stand(self, offers: bytes = b"PIPELINING") -> None:
        """Bring the session up."""
        self.sender.dataReceived(b"220 hi\r\n")
        self.sender.dataReceived(b"250-x\r\n250 " + offers + b"\r\n")
        assert self.successResultOf(self.factory.opened) is self.sender
        self.transport.clear()
        self.transport.writes.clear()

    def send(self, content: bytes | Content) -> None:
        """Send one message up to the 354."""
        self.sender.send(parcel("a@b.test", content=content), self.answers.append)
        self.sender.dataReceived(b"250 a\r\n250 b\r\n354 c\r\n")

    def drain(self) -> bytes:
        """Let the producer run to its end; all that was written behind DATA."""
        while self.transport.producer is not None:
            self.transport.producer.resumeProducing()
        return bytes(self.transport.value().partition(b"DATA\r\n")[2])

    def lose(self, reason: Exception | None = None) -> None:
        """The connection ends."""
        self.sender.connectionLost(Failure(reason or ConnectionDone()))

    # The nine faults of the stock class that would lose, change or leak mail

    def test_crit_1_dots_are_stuffed_across_chunks(self) -> None:
        """A line that begins with a dot at the edge of two chunks is stuffed: no second message can be smuggled in."""
        evil = b".\r\nMAIL FROM:<ceo@victim.test>\r\nRCPT TO:<x@y.test>\r\nDATA\r\n\r\nsmuggled\r\n.\r\n"
        for edge in range(-2, 3):
            prefix = b"x" * (CHUNK - 2 + edge) + b"\r\n"
            content = prefix + evil + b"y" * SMALL + b"\r\n"
            self.setUp()
            self.stand()
            self.send(content)
            decoder = Decoder()
            assert decoder.feed(self.drain()) == content
            assert decoder.ended and decoder.rest == b"" and decoder.fault is None

    def test_crit_2_a_dot_on_the_first_line_is_stuffed(self) -> None:
        """Content that begins with a dot arrives whole."""
        for content in (b".\r\nhello\r\n", b".x\r\n", b"..\r\n", b"." + b"z" * SMALL + b"\r\n"):
            self.setUp()
            self.stand()
            self.send(content)
            decoder = Decoder()
            assert decoder.feed(self.drain()) == content and decoder.ended

    def test_crit_3_line_ends_stay_crlf(self) -> None:
        """CRLF is not made CRCRLF, and a bare CR or LF does not leave as such."""
        self.stand()
        self.send(b"a\r\nb\nc\rd\r\n")
        assert self.drain() == b"a\r\nb\r\nc\r\nd\r\n.\r\n"

    def test_crit_5_no_nagle_and_the_dot_goes_with_the_content(self) -> None:
        """TCP_NODELAY is set, the envelope is one write and content with its end of data is one."""
        assert self.transport.nodelay
        self.stand()
        self.send(b"hello\r\n")
        assert self.transport.writes == [
            b"MAIL FROM:<s@from.test>\r\nRCPT TO:<a@b.test>\r\nDATA\r\n",
            b"hello\r\n.\r\n",
        ]

    def test_crit_6_starttls_response_injection(self) -> None:
        """Replies in clear behind the 220 to STARTTLS never count: no handshake, no session."""
        self.sender.dataReceived(b"220 hi\r\n")
        self.sender.dataReceived(b"250-x\r\n250 STARTTLS\r\n")
        self.sender.dataReceived(b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n235 ok\r\n")
        error = self.failureResultOf(self.factory.opened, SessionError).value
        assert error.answer.trouble is Trouble.GARBLED and self.transport.disconnecting
        assert b"MAIL" not in self.transport.value()

    def test_crit_7_nothing_is_kept_of_what_was_said(self) -> None:
        """The stock log of the dialogue, which would hold passwords, stays empty."""
        assert not RelaySender.debug and issubclass(RelaySender, smtp.ESMTPSender)
        self.stand()
        self.send(b"secret\r\n")
        assert self.sender.log.str() == b""

    def test_crit_8_an_end_before_the_greeting_is_told(self) -> None:
        """A peer that hangs up before or while it talks ends the waiting at once."""
        self.lose(ConnectionLost())
        error = self.failureResultOf(self.factory.opened, SessionError).value
        assert error.answer.stage is Stage.BANNER and error.answer.trouble is Trouble.LOST

    def test_crit_9_chatter_does_not_move_the_timer(self) -> None:
        """A reply that never ends neither resets the time limit nor fills the memory."""
        self.sender.dataReceived(b"220 hi\r\n")
        for _ in range(100):
            self.clock.advance(TIMEOUTS[Stage.HELLO] / 101)
            self.sender.dataReceived(b"250-x\r\n")
        self.assertNoResult(self.factory.opened)
        self.clock.advance(TIMEOUTS[Stage.HELLO] / 101)
        error = self.failureResultOf(self.factory.opened, SessionError).value
        assert error.answer == Answer(Stage.HELLO, trouble=Trouble.TIMEOUT, text="timed out after EHLO")
        assert self.transport.aborted

    def test_crit_9_a_flood_is_cut_off(self) -> None:
        """Forty thousand lines of one reply end the session."""
        self.sender.dataReceived(b"220 hi\r\n")
        self.sender.dataReceived(b"250-x\r\n" * 40_000)
        assert self.failureResultOf(self.factory.opened, SessionError).value.answer.trouble is Trouble.GARBLED

    # Messages

    def test_several_messages_on_one_connection(self) -> None:
        """Each message has its own answers; the next may be sent from within `done`."""
        self.stand()
        for _ in range(3):
            self.send(b"x\r\n")
            self.sender.dataReceived(b"250 ok\r\n")
        assert [told(one) for one in self.answers] == [[("DOT", 250)]] * 3 and self.sender.messages == 3

    def test_the_next_message_from_within_done(self) -> None:
        """`done` may send at once: the sender is free when it is called."""
        self.stand()
        again = parcel("b@b.test", content=b"two\r\n")

        def done(answers: list[Answer | None]) -> None:
            self.answers.append(answers)
            self.sender.send(again, self.answers.append)

        self.sender.send(parcel("a@b.test", content=b"one\r\n"), done)
        for _ in range(2):
            self.sender.dataReceived(b"250 a\r\n250 b\r\n354 c\r\n")
            self.sender.dataReceived(b"250 ok\r\n")
        assert len(self.answers) == 2 and b"one" in self.transport.value() and b"two" in self.transport.value()

    def test_large_content_is_streamed_in_bounded_pieces(self) -> None:
        """Above SMALL one chunk at a time is written, each when the transport has room."""
        self.stand()
        content = (b"x" * 78 + b"\r\n") * 20_000
        self.send(content)
        assert self.transport.producer is not None and not self.transport.streaming
        assert len(self.transport.value()) < 100
        decoder = Decoder()
        assert decoder.feed(self.drain()) == content
        assert max(map(len, self.transport.writes)) <= CHUNK + 2
        assert self.sender.dialogue.stage is Stage.DOT
        self.sender.dataReceived(b"250 ok\r\n")
        assert told(self.answers[0]) == [("DOT", 250)]

    def test_content_that_cannot_be_read_cuts_the_connection(self) -> None:
        """A disk error in the midst of content sends no dot: half a message must not be taken for the whole."""
        self.stand()
        self.send(Failing())
        assert b"\r\n.\r\n" not in self.drain()
        assert self.transport.aborted and told(self.answers[0]) == [("CONTENT", "UNREADABLE")]

    def test_a_refusal_in_the_midst_of_content_cuts_the_connection(self) -> None:
        """A reply before the dot stops the producer; nothing is written after it."""
        self.stand()
        self.send(b"x" * (SMALL * 2))
        self.transport.producer.resumeProducing()
        written = len(self.transport.value())
        self.sender.dataReceived(b"552 5.3.4 enough\r\n")
        assert self.transport.aborted and self.transport.producer is None
        assert told(self.answers[0]) == [("CONTENT", 552)] and len(self.transport.value()) == written

    def test_a_connection_lost_in_the_midst_of_content_is_not_unknown(self) -> None:
        """Before the dot was written the message has certainly not been taken."""
        self.stand()
        self.send(b"x" * (SMALL * 2))
        self.transport.producer.resumeProducing()
        self.lose(ConnectionLost())
        assert told(self.answers[0]) == [("CONTENT", "LOST")]

    # Time

    def test_each_stage_has_its_time(self) -> None:
        """Time runs per stage: 300 s for MAIL, 180 s a block of content, 600 s for the dot (RFC 5321 §4.5.3.2)."""
        self.stand()
        self.send(b"x\r\n")
        self.clock.advance(599.0)
        assert not self.answers and not self.transport.aborted
        self.clock.advance(1.0)
        assert told(self.answers[0]) == [("DOT", "TIMEOUT")] and self.transport.aborted

    def test_a_shorter_limit_than_the_one_before_holds(self) -> None:
        """DATA's 120 s hold although the timer was set for MAIL's 300 s."""
        self.stand(b"SIZE")
        self.sender.send(parcel("a@b.test"), self.answers.append)
        self.sender.dataReceived(b"250 ok\r\n")
        self.sender.dataReceived(b"250 ok\r\n")
        self.clock.advance(119.0)
        assert not self.answers
        self.clock.advance(1.0)
        assert told(self.answers[0]) == [("DATA", "TIMEOUT")]

    def test_every_block_of_content_begins_its_time_anew(self) -> None:
        """A slow but moving transfer goes on; one that stands still for 180 s ends (RFC 5321 §4.5.3.2.5)."""
        self.stand()
        self.send(b"x" * (SMALL * 2))
        for _ in range(3):
            self.clock.advance(179.0)
            self.transport.producer.resumeProducing()
        assert not self.answers
        self.clock.advance(180.0)
        assert told(self.answers[0]) == [("CONTENT", "TIMEOUT")] and self.transport.aborted

    def test_an_idle_session_has_no_limit_of_its_own(self) -> None:
        """How long an idle connection is kept is the pool's to say."""
        self.stand()
        self.clock.advance(10_000.0)
        assert not self.transport.disconnecting and not self.transport.aborted and not self.clock.getDelayedCalls()

    def test_one_timer_a_connection(self) -> None:
        """However many messages pass, one delayed call stands."""
        self.stand()
        for _ in range(10):
            self.send(b"x\r\n")
            assert len(self.clock.getDelayedCalls()) == 1
            self.sender.dataReceived(b"250 ok\r\n")
            self.clock.advance(1.0)

    # Ends

    def test_quit_and_its_limit(self) -> None:
        """QUIT is said; a peer that does not answer it is cut off after a few seconds."""
        self.stand()
        self.sender.quit()
        assert self.transport.value() == b"QUIT\r\n" and not self.transport.disconnecting
        self.clock.advance(CLOSE_LIMIT)
        assert self.transport.aborted

    def test_the_answer_to_quit_closes(self) -> None:
        """221 closes; a peer that then keeps the connection open is cut off (twisted issue 7926)."""
        self.stand()
        self.sender.quit()
        self.sender.dataReceived(b"221 bye\r\n")
        assert self.transport.disconnecting and not self.transport.aborted
        self.clock.advance(CLOSE_LIMIT)
        assert self.transport.aborted

    def test_a_peer_that_chatters_after_the_end_is_cut_off_all_the_same(self) -> None:
        """What comes after our end (over TLS it still arrives) does not move the time limit: no connection for ever."""
        for stand, said in ((True, b"221 bye\r\n"), (False, b"no such protocol\r\n")):
            self.setUp()
            if stand:
                self.stand()
                self.sender.quit()
            else:
                self.factory.opened.addErrback(lambda _: None)
            self.sender.dataReceived(said)
            for _ in range(8):
                assert self.transport.disconnecting and not self.transport.aborted
                self.clock.advance(CLOSE_LIMIT / 8)
                self.sender.dataReceived(b"x")
            assert self.transport.aborted

    def test_the_owner_hears_of_the_end(self) -> None:
        """`on_gone` is called once, after the answers."""
        self.stand()
        heard: list[int] = []
        self.sender.on_gone = lambda: heard.append(len(self.answers))
        self.send(b"x\r\n")
        self.lose()
        assert heard == [1] and told(self.answers[0]) == [("DOT", "LOST")] and not self.clock.getDelayedCalls()

    def test_abort_answers_and_cuts(self) -> None:
        """What runs is answered, the connection is cut."""
        self.stand()
        self.send(b"x\r\n")
        self.sender.abort()
        assert told(self.answers[0]) == [("DOT", "LOST")] and self.transport.aborted

    def test_a_failed_connection_is_told(self) -> None:
        """No connection is an answer too, with the system's words."""
        factory = RelaySenderFactory(Dialogue(b"us.test"), self.clock)
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))  # type: ignore[arg-type]
        answer = self.failureResultOf(factory.opened, SessionError).value.answer
        assert answer.stage is Stage.CONNECT and answer.trouble is Trouble.UNREACHABLE and "refused" in answer.text

    def test_a_command_that_cannot_be_written_changes_nothing(self) -> None:
        """A bug in an address is told to the caller, and the session goes on with the next message."""
        self.stand(b"DSN")
        with self.assertRaises(ValueError):
            self.sender.send(parcel("a@b.test", envid="x\r\ny"), self.answers.append)
        assert self.sender.usable and not self.answers and not self.transport.value()

    def test_small_content_is_read_as_it_is(self) -> None:
        """MemoryContent up to SMALL is one write, above it several."""
        self.stand()
        self.send(MemoryContent(b"x" * (SMALL - 2) + b"\r\n"))
        assert len(self.transport.writes) == 2
