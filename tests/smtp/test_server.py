"""The server's shell: asynchronous answers, timeouts, limits at the door, drain, errors of ours."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.mail import smtp
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relaymta.mail.reply import Reply
from relaymta.smtp.door import client_key
from relaymta.smtp.server import WAITING_MAX
from relaymta.smtp.settings import ListenerSettings, TlsMode
from relaymta.smtp.stream import LINE_MAX
from tests.smtp.guests import STORED, House, NotingSink, Wire, codes, house

ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
MESSAGE = ENVELOPE + b"DATA\r\nhello\r\n.\r\n"
OPEN = ["250 2.1.0", "250 2.1.5"]


def lose(wire: Wire, reason: Exception | None = None) -> None:
    """The connection is gone."""
    wire.protocol.connectionLost(Failure(reason or ConnectionDone()))


# CRIT rows of the stock class, by number


def test_crit_3_a_long_line_in_data_is_content() -> None:
    """CRIT 3: a line of 17,000 octets made the rest of the body commands."""
    guests = house()
    wire = guests.connect().hello()
    body = b"x" * 17000 + b"\r\nMAIL FROM:<smug@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nevil\r\n"
    assert wire.codes(ENVELOPE + b"DATA\r\n" + body + b".\r\n") == [*OPEN, "354", "250 2.0.0"]
    assert [content for _, _, content in guests.notebook.messages] == [body]


def test_crit_4_an_endless_line_is_neither_gathered_nor_costly() -> None:
    """CRIT 4: 20 MB without CRLF took 25 MB and quadratic time, with one reply to each segment."""
    wire = house().connect().hello()
    segment = b"x" * 65536
    wire.say(segment)
    tracemalloc.start()
    said = b"".join(wire.say(segment) for _ in range(320))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said == b"" and peak < 1_000_000
    assert wire.codes(b"\r\nNOOP\r\n") == ["250 2.0.0"]


def test_crit_5_a_slow_rcpt_is_delivered_to() -> None:
    """CRIT 5: a RCPT whose answer came behind DATA got 250 and no mail."""
    slow: Deferred[Any] = Deferred()
    guests = house(answers={"c@d.test": slow})
    wire = guests.connect().hello()
    assert wire.codes(MESSAGE) == ["250 2.1.0"]
    slow.callback(None)
    assert codes(wire.read()) == ["250 2.1.5", "354", "250 2.0.0"]
    assert [entry[0] for entry in guests.notebook.log[-5:]] == ["mail", "rcpt", "data", "finish", "reset"]


def test_crit_6_a_slow_rcpt_never_joins_the_next_message() -> None:
    """CRIT 6: the recipient of one message was added to the next one, which it then received."""
    slow: Deferred[Any] = Deferred()
    guests = house(answers={"slow@d.test": slow})
    wire = guests.connect().hello()
    wire.say(
        b"MAIL FROM:<one@b.test>\r\nRCPT TO:<slow@d.test>\r\nRSET\r\nMAIL FROM:<two@b.test>\r\nRCPT TO:<c@d.test>\r\n"
    )
    wire.say(b"DATA\r\nSECRET\r\n.\r\n")
    slow.callback(None)
    assert [(sender, to) for sender, to, _ in guests.notebook.messages] == [("two@b.test", ("c@d.test",))]


def test_crit_7_replies_keep_their_order() -> None:
    """CRIT 7: replies overtook a slow MAIL and a slow end of data, and QUIT closed before it was answered."""
    mail, finish = Deferred[Any](), Deferred[Any]()
    guests = house(answers={"mail": mail, "finish": finish})
    wire = guests.connect().hello()
    assert wire.codes(MESSAGE + b"NOOP\r\nQUIT\r\n") == []
    mail.callback(None)
    assert codes(wire.read()) == [*OPEN, "354"] and not wire.transport.closing
    finish.callback(STORED)
    assert codes(wire.read()) == ["250 2.0.0", "250 2.0.0", "221 2.0.0"] and wire.transport.closing


def test_crit_8_and_9_evil_commands_are_cheap() -> None:
    """CRIT 8 and 9: one command of 16 KB cost 1.3 s; here it costs no more than any long line."""
    evil = [
        b"MAIL FROM:<a@b.test>" + b" \t" * 8000,
        b"MAIL FROM:<" + b"a." * 8000 + b"@b.test>",
        b"RCPT TO:<" + b"@a.test," * 2000 + b"c@d.test>",
        b'MAIL FROM:<"' + b'\\"' * 8000,
        b"MAIL FROM:<a@b.test>" + b" \n" * 8000,
    ]
    best = [1.0] * len(evil)
    for _ in range(5):
        for number, line in enumerate(evil):
            wire = house().connect().hello()
            start = time.perf_counter()
            wire.say(line + b"\r\n")
            best[number] = min(best[number], time.perf_counter() - start)
    assert max(best) < 0.005


def test_crit_10_a_client_that_does_not_close_is_aborted() -> None:
    """CRIT 10: a peer that did not read or close was never got rid of."""
    guests = house()
    wire = guests.connect().hello()
    guests.clock.advance(301)
    assert codes(wire.read()) == ["421 4.4.2"] and wire.transport.half_closed
    assert not wire.transport.aborted
    guests.clock.advance(6)
    assert wire.transport.aborted
    lose(wire)
    assert guests.notebook.log[-1] == ("closed", "timed out")
    assert guests.clock.getDelayedCalls() == []


def test_it_is_still_twisted_mails() -> None:
    """The frame of twisted.mail is kept."""
    wire = house().connect()
    assert isinstance(wire.protocol, smtp.ESMTP) and isinstance(wire.protocol.factory, smtp.SMTPFactory)


# Asynchronous answers


class Asynchronous(SynchronousTestCase):
    """Deferreds and coroutines from the handler."""

    def test_a_coroutine_may_answer(self) -> None:
        """Any awaitable will do."""

        async def no() -> Reply:
            return Reply(550, "5.7.1", "no")

        wire = house(answers={"mail": lambda: no()}).connect().hello()
        self.assertEqual(wire.codes(b"MAIL FROM:<a@b.test>\r\n"), ["550 5.7.1"])

    def test_the_sink_may_come_late(self) -> None:
        """Content that came with DATA waits for the sink."""
        opened: Deferred[Any] = Deferred()
        guests = house(answers={"data": opened})
        wire = guests.connect().hello()
        self.assertEqual(wire.codes(MESSAGE), OPEN)
        opened.callback(NotingSink(wire.protocol._handler))  # type: ignore[arg-type]
        self.assertEqual(codes(wire.read()), ["354", "250 2.0.0"])

    def test_an_answer_after_the_connection_is_lost_is_nobodys(self) -> None:
        """The decision is cancelled; a sink that comes all the same is given up."""
        cancelled: list[Any] = []
        opened: Deferred[Any] = Deferred(cancelled.append)
        guests = house(answers={"data": opened})
        wire = guests.connect().hello()
        wire.say(ENVELOPE + b"DATA\r\n")
        handler = wire.protocol._handler
        lose(wire)
        self.assertEqual(len(cancelled), 1)
        late: Deferred[Any] = Deferred(lambda deferred: deferred.callback(NotingSink(handler)))  # type: ignore[arg-type]
        guests.answers["data"] = late
        wire = guests.connect().hello()
        wire.say(ENVELOPE + b"DATA\r\n")
        lose(wire)
        self.assertEqual(guests.notebook.names()[-3:], ["abort", "reset", "closed"])
        self.assertEqual(guests.notebook.bugs, [])

    def test_a_whole_message_is_decided_to_its_end(self) -> None:
        """When the client goes before its 250, the message is not undone half-way."""
        finish: Deferred[Any] = Deferred()
        guests = house(answers={"finish": finish})
        wire = guests.connect().hello()
        wire.say(MESSAGE)
        lose(wire, ConnectionLost())
        self.assertFalse(finish.called)
        finish.callback(STORED)
        self.assertEqual(guests.notebook.bugs, [])
        self.assertEqual(guests.notebook.names()[-2:], ["reset", "closed"])

    def test_a_slow_decision_is_no_timeout_of_the_client(self) -> None:
        """While we decide, the client may be silent; its time begins with our reply."""
        finish: Deferred[Any] = Deferred()
        guests = house(answers={"finish": finish})
        wire = guests.connect().hello()
        wire.say(MESSAGE)
        guests.clock.pump([100] * 20)
        finish.callback(STORED)
        self.assertEqual(codes(wire.read()), ["250 2.0.0"])
        guests.clock.advance(299)
        self.assertEqual(wire.read(), b"")
        guests.clock.advance(2)
        self.assertEqual(codes(wire.read()), ["421 4.4.2"])

    def test_a_client_that_talks_first_is_shown_the_door(self) -> None:
        """Octets before the greeting are no SMTP (RFC 5321 §3.1)."""
        greeting: Deferred[Any] = Deferred(lambda deferred: None)
        guests = house(answers={"connect": greeting})
        wire = guests.connect()
        self.assertEqual(wire.codes(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\n"), ["554 5.5.1"])
        self.assertTrue(wire.transport.closing)
        self.assertNotIn("helo", guests.notebook.names())

    def test_a_greeting_may_be_refused(self) -> None:
        """What connect() says is said instead of 220, and closes (RFC 5321 §3.1)."""
        wire = house(answers={"connect": Reply(554, "5.7.1", "no mail from you")}).connect()
        self.assertEqual(wire.read(), b"554 5.7.1 no mail from you\r\n")
        self.assertTrue(wire.transport.closing)


# Errors of ours


@pytest.mark.parametrize("stage", ["helo", "mail", "c@d.test", "data", "finish", "write"])
def test_an_exception_is_451_and_told(stage: str) -> None:
    """A bug of ours tempfails one command and never loses a message in silence (RFC 5321 §4.2.1)."""
    guests = house(answers={stage: RuntimeError("bug")})
    wire = guests.connect()
    wire.read()
    said = wire.codes(b"EHLO x\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n")
    assert "451 4.3.0" in said and "250 2.0.0" not in said and len(guests.notebook.bugs) == 1
    guests.answers.clear()
    assert wire.codes(b"RSET\r\nEHLO x\r\n" + MESSAGE)[-1] == "250 2.0.0"


@pytest.mark.parametrize("stage", ["mail", "c@d.test", "data", "finish"])
def test_a_failed_deferred_is_451_and_told(stage: str) -> None:
    """The same for what comes later."""
    answer: Deferred[Any] = Deferred()
    guests = house(answers={stage: answer})
    wire = guests.connect().hello()
    wire.say(MESSAGE)
    answer.errback(RuntimeError("bug"))
    assert "451 4.3.0" in codes(wire.read()) and len(guests.notebook.bugs) == 1


@pytest.mark.parametrize("stage", ["handler", "connect"])
def test_nobody_to_decide_is_421(stage: str) -> None:
    """When not even the greeting can be decided, the client is to come again later."""
    guests = house(answers={stage: RuntimeError("bug")})
    wire = guests.connect()
    assert codes(wire.read()) == ["421 4.3.0"] and wire.transport.closing and len(guests.notebook.bugs) == 1


def test_a_sink_that_breaks_is_given_up() -> None:
    """The rest of the content is eaten, the reply at its end is 451."""
    guests = house(answers={"write": OSError("disk")})
    wire = guests.connect().hello()
    wire.say(ENVELOPE + b"DATA\r\nab")
    assert guests.notebook.log[-1] == ("abort",)
    assert wire.codes(b"cd\r\nRSET\r\n.\r\nNOOP\r\n") == ["451 4.3.0", "250 2.0.0"]


def test_tls_that_cannot_begin_is_told_and_cut() -> None:
    """After 220 the client speaks TLS, so there is no reply that it could read."""
    guests = house(tls=TlsMode.STARTTLS, context=object())
    wire = guests.connect().hello()
    assert wire.codes(b"STARTTLS\r\n") == ["220 2.0.0"]
    assert wire.transport.aborted and guests.notebook.bugs == ["smtp.server tls"]


def test_the_end_is_told_whatever_breaks() -> None:
    """A handler that breaks while its transaction is cleared away still hears that the session is closed."""
    guests = house()
    wire = guests.connect().hello()
    wire.say(ENVELOPE)

    def broken() -> None:
        raise RuntimeError("bug")

    assert wire.protocol._handler is not None
    wire.protocol._handler.reset = broken  # type: ignore[method-assign]
    lose(wire)
    assert guests.notebook.log[-1] == ("closed", "closed by the client") and len(guests.notebook.bugs) == 1


def test_a_handler_that_breaks_outside_a_decision_ends_the_session() -> None:
    """When the state of a session is not to be trusted any more, 421 and close."""
    guests = house()
    wire = guests.connect().hello()
    wire.say(ENVELOPE)

    def broken() -> None:
        raise RuntimeError("bug")

    assert wire.protocol._handler is not None
    wire.protocol._handler.reset = broken  # type: ignore[method-assign]
    assert wire.codes(b"RSET\r\nNOOP\r\n")[-1] == "421 4.3.0" and wire.transport.closing


# Timeouts


def test_silence_between_commands() -> None:
    """Five minutes, then 421 (RFC 5321 §4.5.3.2.7); any octet begins them anew."""
    guests = house()
    wire = guests.connect().hello()
    guests.clock.advance(299)
    assert wire.codes(b"NOOP\r\n") == ["250 2.0.0"]
    guests.clock.advance(299)
    assert wire.read() == b""
    guests.clock.advance(2)
    assert codes(wire.read()) == ["421 4.4.2"]


def test_silence_in_content() -> None:
    """Content has a time of its own; the sink is told."""
    guests = house(timeouts={"content": 60})
    wire = guests.connect().hello()
    wire.say(ENVELOPE)
    guests.clock.advance(250)
    wire.say(b"DATA\r\nhalf")
    guests.clock.advance(59)
    assert wire.read() == b""
    guests.clock.advance(2)
    assert wire.read().startswith(b"421 4.4.2 timed out")
    assert guests.notebook.names()[-2:] == ["abort", "reset"]


def test_content_that_trickles() -> None:
    """CRIT table §1.3: an octet now and then keeps no session alive."""
    guests = house(timeouts={"content": 60, "min_rate": 100})
    wire = guests.connect().hello()
    wire.say(ENVELOPE + b"DATA\r\n")
    said = b""
    for _ in range(12):
        guests.clock.advance(10)
        said += wire.say(b"x")
    assert said.startswith(b"421 4.4.2 content comes too slowly")


def test_content_that_comes_well_is_not_hurried() -> None:
    """The lowest rate counts over the whole of the content."""
    guests = house(timeouts={"content": 60, "min_rate": 100})
    wire = guests.connect().hello()
    wire.say(ENVELOPE + b"DATA\r\n")
    for _ in range(30):
        guests.clock.advance(10)
        assert wire.say(b"x" * 1000) == b""


@pytest.mark.parametrize(
    ("begin", "end", "code"),
    [
        (ENVELOPE + b"DATA\r\nbare\n", b"\r\n.\r\n", "550 5.6.0"),
        (ENVELOPE + b"BDAT 30006 LAST\r\nbare\n", b"x", "550 5.6.0"),
        (b"BDAT 30001 LAST\r\n", b"x", "503 5.5.1"),
    ],
)
def test_content_that_is_refused_is_not_hurried_either(begin: bytes, end: bytes, code: str) -> None:
    """Its octets were not counted, so that a slow line was told 421 for days in place of what was wrong."""
    guests = house(timeouts={"content": 60, "min_rate": 50})
    wire = guests.connect().hello()
    wire.say(begin)
    for _ in range(30):
        guests.clock.advance(10)
        assert wire.say(b"x" * 1000) == b""
    assert wire.codes(end) == [code]


@pytest.mark.parametrize("size", [1, 50])
@pytest.mark.parametrize(
    "begin",
    [b"", b"N", b"x" * 5000, ENVELOPE + b"BDAT 9\r\n", ENVELOPE + b"DATA\r\nbare\n", b"BDAT 99999\r\n"],
    ids=["", "half a command", "a line that is too long", "a chunk", "refused content", "a chunk out of turn"],
)
def test_nothing_that_trickles_keeps_a_session(begin: bytes, size: int) -> None:
    """Whatever a client is in the middle of, it has an hour at the most, and we hold no more of it than a line."""
    guests = house(timeouts={"message": 600})
    wire = guests.connect().hello()
    wire.say(begin)
    said = b""
    for _ in range(70):
        guests.clock.advance(10)
        said += wire.say(b"x" * size)
        assert wire.protocol._session.waiting <= 2 * LINE_MAX
    assert b"421 4.4.2 " in said and wire.transport.closing


def test_a_session_without_mail_ends() -> None:
    """CRIT table §1.3: RSET each minute lived for ever."""
    guests = house(timeouts={"message": 600}, limits={"idle_commands": 0})
    wire = guests.connect().hello()
    said = b""
    for _ in range(11):
        guests.clock.advance(60)
        said = wire.say(b"RSET\r\n") or said
    assert said.endswith(b"421 4.4.2 too long without a message\r\n")


def test_a_session_with_mail_goes_on() -> None:
    """Each accepted message begins the time anew."""
    guests = house(timeouts={"message": 600})
    wire = guests.connect().hello()
    for _ in range(20):
        guests.clock.advance(100)
        assert wire.codes(MESSAGE)[-1] == "250 2.0.0"


# Backpressure


def test_a_client_faster_than_our_answers_is_made_to_wait() -> None:
    """While a decision is owed, no more than 64 KiB are taken, and reading goes on afterwards."""
    slow: Deferred[Any] = Deferred()
    guests = house(answers={"mail": slow})
    wire = guests.connect().hello()
    wire.say(ENVELOPE + b"DATA\r\n")
    wire.say(b"x" * WAITING_MAX)
    assert wire.transport.producerState == "paused"
    slow.callback(None)
    assert wire.transport.producerState == "producing"
    assert codes(wire.read()) == [*OPEN, "354"]


def test_a_client_that_does_not_read_is_not_heard() -> None:
    """When our replies pile up, no more commands are read."""
    wire = house().connect().hello()
    assert wire.transport.producer is wire.protocol
    wire.protocol.pauseProducing()
    assert wire.transport.producerState == "paused"
    wire.protocol.resumeProducing()
    assert wire.transport.producerState == "producing"


# The door


def test_connections_in_all() -> None:
    """One too many gets 421, and room when another has gone."""
    guests = house(limits={"connections": 2})
    first, _ = guests.connect("192.0.2.1"), guests.connect("192.0.2.2")
    third = guests.connect("192.0.2.3")
    assert codes(third.read()) == ["421 4.7.0"] and third.transport.disconnecting
    assert third.codes(b"EHLO x\r\n") == []
    lose(third)
    lose(first)
    assert guests.connect("192.0.2.3").codes(b"EHLO x\r\n") == ["220", "250"]
    assert guests.notebook.turned_away == [421]


def test_connections_of_one_client() -> None:
    """Counted by address, IPv6 by its /64, loopback not at all."""
    guests = house(limits={"connections_per_client": 1})
    guests.connect("2001:db8::1")
    assert codes(guests.connect("2001:db8::2").read()) == ["421 4.7.0"]
    assert codes(guests.connect("2001:db8:0:1::1").read()) == ["220"]
    guests.connect("127.0.0.1")
    assert codes(guests.connect("127.0.0.1").read()) == ["220"]


def test_client_keys() -> None:
    """An IPv6 client is its /64, a zone does not matter."""
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:1") != client_key("2001:db8:1::1")
    assert client_key("fe80::1%eth0") == client_key("fe80::2")
    assert client_key("192.0.2.1") != client_key("192.0.2.2")


def test_a_mapped_client_is_an_ipv4_client() -> None:
    """::ffff:192.0.2.1 is 192.0.2.1, for limits, policy and log alike."""
    assert house().connect("::ffff:192.0.2.1").protocol.peer.client == "192.0.2.1"


def test_the_facts_of_a_session() -> None:
    """The handler reads who is there."""
    wire = house().connect("192.0.2.7").hello()
    peer = wire.protocol.peer
    assert (peer.session, peer.listener, peer.client, peer.port) == ("S0", "mx", "192.0.2.7", 1025)
    assert (peer.local, peer.helo, peer.esmtp, peer.tls) == ("198.51.100.1", "client.test", True, "")
    lose(wire)
    assert peer.commands == 1


def test_tls_without_a_certificate_is_refused_early() -> None:
    """A listener that asks for TLS without a certificate is a mistake, told when it is made."""
    with pytest.raises(ValueError, match="certificate"):
        house(tls=TlsMode.STARTTLS)


def test_contradictions_of_a_listener() -> None:
    """`relaymta check` tells of an address that is missing and of too few recipients (RFC 5321 §4.5.3.1.8)."""
    assert [key for key, _ in ListenerSettings(max_recipients=10).check()] == ["address", "max_recipients"]


# Drain


class Drain(SynchronousTestCase):
    """Stopping without losing a message."""

    def drain(self, guests: House) -> Deferred[None]:
        return guests.factory.drain(30)

    def test_an_empty_house_is_drained_at_once(self) -> None:
        """Nobody there: done."""
        self.successResultOf(self.drain(house()))

    def test_idle_sessions_go_at_once(self) -> None:
        """421 4.3.2 to those between transactions, also before EHLO (RFC 5321 §3.8)."""
        guests = house()
        idle, fresh = guests.connect().hello(), guests.connect()
        fresh.read()
        drained = self.drain(guests)
        self.assertEqual(codes(idle.read()) + codes(fresh.read()), ["421 4.3.2", "421 4.3.2"])
        lose(idle)
        self.assertNoResult(drained)
        lose(fresh)
        self.successResultOf(drained)
        self.assertEqual(guests.clock.getDelayedCalls(), [])

    def test_a_transaction_ends_first(self) -> None:
        """The message under way is taken, the one behind it is not."""
        finish: Deferred[Any] = Deferred()
        guests = house(answers={"finish": finish})
        wire = guests.connect().hello()
        wire.say(ENVELOPE)
        drained = self.drain(guests)
        self.assertEqual(wire.codes(b"DATA\r\nx\r\n.\r\n" + MESSAGE), ["354"])
        finish.callback(STORED)
        self.assertEqual(codes(wire.read()), ["250 2.0.0", "421 4.3.2"])
        lose(wire)
        self.successResultOf(drained)
        self.assertEqual(len(guests.notebook.messages), 1)

    def test_the_rest_is_aborted_in_the_end(self) -> None:
        """A transaction that does not end within the limit is cut."""
        guests = house()
        wire = guests.connect().hello()
        wire.say(ENVELOPE)
        self.drain(guests)
        guests.clock.advance(31)
        self.assertTrue(wire.transport.aborted)

    def test_who_comes_now_is_turned_away(self) -> None:
        """A connection that was still in the backlog gets 421 4.3.2."""
        guests = house()
        guests.connect().hello()
        self.drain(guests)
        self.assertEqual(codes(guests.connect().read()), ["421 4.3.2"])
