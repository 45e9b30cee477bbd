"""LMTP: LHLO, and a reply for each recipient at the end of data (RFC 2033)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from relaymta.mail.reply import Reply
from relaymta.smtp.settings import Profile
from tests.smtp.guests import STORED, House, Wire, codes, house
from tests.smtp.test_server import lose
from tests.smtp.test_session_properties import CUTS, cut, delayed, outcome, strict

TWO = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<no@d.test>\r\nRCPT TO:<e@d.test>\r\n"
TAKEN = ["250 2.1.0", "250 2.1.5", "550 5.1.1", "250 2.1.5"]


def lmtp(**options: Any) -> House:
    """A house that speaks LMTP and has no user "no"."""
    answers = {"no@d.test": Reply(550, "5.1.1", "no such user"), **options.pop("answers", {})}
    return house(answers=answers, profile=Profile.LMTP, **options)


def greeted(guests: House) -> Wire:
    """A client that has said LHLO."""
    wire = guests.connect()
    wire.say(b"LHLO client.test\r\n")
    return wire


def test_the_greeting_says_so_and_lhlo_offers_what_ehlo_would() -> None:
    """LHLO is EHLO by another name (RFC 2033 §4.1); PIPELINING and enhanced codes are a must (§5)."""
    wire = lmtp().connect()
    assert wire.read() == b"220 relay.test LMTP relaymta\r\n"
    said = wire.say(b"LHLO client.test\r\n")
    assert said.replace(b"LMTP", b"ESMTP") == house().connect().hello().say(b"EHLO client.test\r\n")
    assert b"PIPELINING" in said and b"ENHANCEDSTATUSCODES" in said
    assert wire.protocol.peer.esmtp and wire.protocol.peer.lmtp and wire.protocol.peer.helo == "client.test"


@pytest.mark.parametrize("command", [b"EHLO client.test", b"HELO client.test"])
def test_no_other_hello_is_taken(command: bytes) -> None:
    """EHLO and HELO are 500, so that no SMTP client sends mail by mistake (RFC 2033 §4.1)."""
    wire = lmtp().connect()
    wire.read()
    assert wire.codes(command + b"\r\nMAIL FROM:<a@b.test>\r\n") == ["500 5.5.1", "503 5.5.1"]


def test_lhlo_is_nothing_to_smtp() -> None:
    """An SMTP listener knows no LHLO."""
    wire = house().connect()
    wire.read()
    assert wire.codes(b"LHLO client.test\r\nMAIL FROM:<a@b.test>\r\n") == ["502 5.5.1", "503 5.5.1"]


@pytest.mark.parametrize("end", [b"DATA\r\nx\r\n.\r\n", b"BDAT 3 LAST\r\nx\r\n", b"BDAT 1\r\nxBDAT 2 LAST\r\n\r\n"])
def test_each_accepted_recipient_has_its_reply(end: bytes) -> None:
    """As many as RCPTs were accepted, the same forward-path twice being two (RFC 2033 §4.2); a chunk has one reply."""
    wire = greeted(lmtp())
    before = ["354"] if end.startswith(b"DATA") else ["250 2.0.0"] * (end.count(b"BDAT") - 1)
    assert wire.codes(TWO + end) == [*TAKEN, *before, "250 2.0.0", "250 2.0.0"]
    again = b"MAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<c@d.test>\r\n"
    assert wire.codes(again + end)[4 + len(before) :] == ["250 2.0.0"] * 3
    assert wire.codes(b"MAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\n" + end)[2 + len(before) :] == ["250 2.0.0"]


def test_a_late_answer_is_said_for_each() -> None:
    """Storing takes its time, and is then good for all."""
    slow: Deferred[Any] = Deferred()
    guests = lmtp(answers={"finish": slow})
    wire = greeted(guests)
    assert wire.codes(TWO + b"DATA\r\nx\r\n.\r\nNOOP\r\n") == [*TAKEN, "354"]
    slow.callback(STORED)
    assert wire.read() == b"250 2.0.0 stored\r\n" * 2 + b"250 2.0.0 ok\r\n"
    assert guests.notebook.messages[0][1] == ("c@d.test", "e@d.test")


@pytest.mark.parametrize("end", [b"DATA\r\nlong message\r\n.\r\n", b"BDAT 14 LAST\r\nlong message\r\n"])
def test_too_large_is_said_for_each(end: bytes) -> None:
    """A refusal by the dialogue itself is one for each recipient, and one error of the client."""
    guests = lmtp(max_message_size=10, limits={"errors": 3})
    wire = greeted(guests)
    said = wire.codes(TWO + end)
    assert said[-2:] == ["552 5.3.4", "552 5.3.4"] and said[-3] != "552 5.3.4"
    assert guests.notebook.names().count("refused") == 1
    assert wire.codes(b"NOOP\r\n") == ["250 2.0.0"]


def test_a_chunk_that_is_too_large_has_one_reply() -> None:
    """Only the last chunk ends the message (RFC 2033 §4.2); the transaction is gone after another that fails."""
    wire = greeted(lmtp(max_message_size=10))
    assert wire.codes(TWO + b"BDAT 12\r\n0123456789\r\n")[4:] == ["552 5.3.4"]
    assert wire.codes(b"BDAT 2 LAST\r\nxx") == ["503 5.5.1"]


@pytest.mark.parametrize("refusal", [Reply(554, "5.4.6", "loop"), Reply(451, "4.3.0", "cannot store")])
def test_what_reception_refuses_at_the_end_is_refused_for_each(refusal: Reply) -> None:
    """A loop, a full disk: each recipient has the reply."""
    wire = greeted(lmtp(answers={"finish": refusal}))
    assert wire.codes(TWO + b"DATA\r\nx\r\n.\r\n")[5:] == [f"{refusal.code} {refusal.enhanced}"] * 2


@pytest.mark.parametrize("end", [b"DATA\r\nx\ny\r\n.\r\n", b"BDAT 5 LAST\r\nx\ny\r\n", b"DATA\r\nx\0y\r\n.\r\n"])
def test_a_fault_that_closes_is_still_said_for_each(end: bytes) -> None:
    """No recipient is left without a reply, so that the client knows of each that it failed for good."""
    wire = greeted(lmtp())
    assert wire.codes(TWO + end)[-2:] == ["550 5.6.0", "550 5.6.0"] and wire.transport.closing


def test_content_that_is_not_wanted_at_all() -> None:
    """A refusal of DATA is one reply; of a BDAT that is the last too, one for each, after its octets."""
    refusal = Reply(451, "4.3.0", "not now")
    wire = greeted(lmtp(answers={"data": refusal}))
    assert wire.codes(TWO + b"DATA\r\nNOOP\r\n")[4:] == ["451 4.3.0", "250 2.0.0"]
    assert wire.codes(TWO + b"BDAT 1\r\nxNOOP\r\n")[4:] == ["451 4.3.0", "250 2.0.0"]
    assert wire.codes(TWO + b"BDAT 1 LAST\r\nxNOOP\r\n")[4:] == ["451 4.3.0", "451 4.3.0", "250 2.0.0"]


@pytest.mark.parametrize("end", [b"DATA\r\n", b"BDAT 1 LAST\r\nx"])
def test_without_a_recipient_data_is_503(end: bytes) -> None:
    """503 and not 354, when no RCPT was accepted (RFC 2033 §4.2)."""
    wire = greeted(lmtp())
    said = wire.codes(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<no@d.test>\r\n" + end + b"NOOP\r\n")
    assert said[2:] == ["503 5.5.1", "250 2.0.0"]


def test_a_lost_connection_is_no_reply_at_all() -> None:
    """Nothing is said to nobody, and the message that was stored stays stored."""
    slow: Deferred[Any] = Deferred()
    guests = lmtp(answers={"finish": slow})
    wire = greeted(guests)
    wire.say(TWO + b"DATA\r\nx\r\n.\r\n")
    lose(wire)
    slow.callback(STORED)
    assert codes(wire.read()) == [] and len(guests.notebook.messages) == 1


def test_a_timeout_in_the_content_is_one_421() -> None:
    """It is the end of the connection, and no reply to the message."""
    guests = lmtp()
    wire = greeted(guests)
    wire.say(TWO + b"DATA\r\nx\r\n")
    guests.clock.advance(301)
    assert codes(wire.read()) == ["421 4.4.2"]


# Any dialogue

WORDS = [
    b"LHLO x\r\n",
    b"EHLO x\r\n",
    b"MAIL FROM:<a@b.test>\r\n",
    b"RCPT TO:<c@d.test>\r\n",
    b"RCPT TO:<no@d.test>\r\n",
    b"DATA\r\n",
    b"DATA\r\nhello\r\n.\r\n",
    b"too long by far\r\n.\r\n",
    b"BDAT 3\r\nab\r",
    b"BDAT 5 LAST\r\nQUIT\n",
    b"BDAT 3 LAST\r\nx\r\n",
    b"BDAT 12\r\n0123456789\r\n",
    b"RSET\r\n",
    b"FOO\r\n",
]
DIALOGUE = st.lists(st.sampled_from(WORDS), max_size=25).map(lambda words: b"LHLO c.test\r\n" + b"".join(words))


@settings(max_examples=200, deadline=None)
@given(stream=DIALOGUE, places=CUTS)
def test_any_split_gives_the_same_dialogue(stream: bytes, places: list[int]) -> None:
    """Segments and late answers change nothing, in LMTP as in SMTP."""
    whole = outcome(strict(profile=Profile.LMTP), [stream])
    assert outcome(strict(profile=Profile.LMTP), cut(stream, places)) == whole
    assert outcome(delayed(strict(profile=Profile.LMTP)), cut(stream, places)) == whole


@given(accepted=st.lists(st.booleans(), min_size=1, max_size=8), chunked=st.booleans(), large=st.booleans())
def test_there_are_as_many_replies_as_accepted_recipients(accepted: list[bool], chunked: bool, large: bool) -> None:
    """Never one more or less, whatever becomes of the message; with none there is no message (RFC 2033 §4.2)."""
    wire = greeted(lmtp(max_message_size=10))
    content = b"too long by far\r\n" if large else b"x\r\n"
    wire.say(b"MAIL FROM:<a@b.test>\r\n")
    for one in accepted:
        wire.say(b"RCPT TO:<%s@d.test>\r\n" % (b"c" if one else b"no"))
    if chunked:
        said = wire.codes(b"BDAT %d LAST\r\n%s" % (len(content), content))
    elif any(accepted):
        said = wire.codes(b"DATA\r\n" + content + b".\r\n")[1:]
    else:
        said = wire.codes(b"DATA\r\n")
    if any(accepted):
        assert said == ["552 5.3.4" if large else "250 2.0.0"] * sum(accepted)
    else:
        assert said == ["503 5.5.1"]
    assert wire.codes(b"NOOP\r\n") == ["250 2.0.0"]
