"""The server's machine under any dialogue: what must hold however octets, answers and segments come."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from relaymta.mail.reply import Reply
from relaymta.smtp.settings import BareNewlines
from tests.smtp.guests import House, house

WORDS = [
    b"EHLO x\r\n",
    b"HELO x\r\n",
    b"EHLO\r\n",
    b"MAIL FROM:<a@b.test>\r\n",
    b"MAIL FROM:<a@b.test> SIZE=5\r\n",
    b"MAIL FROM:<refused@b.test>\r\n",
    b"mail from: <>\r\n",
    b"RCPT TO:<c@d.test>\r\n",
    b"RCPT TO:<no@d.test>\r\n",
    b"RCPT TO:<later@d.test>\r\n",
    b"DATA\r\n",
    b"DATA\r\nhello\r\n.\r\n",
    b"a\r\n..\r\n.b\r\n.\r\n",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r.\r\n",
    b"BDAT 7\r\nab\r\n.\r\n",
    b"BDAT 3\r\nab\rBDAT 1\r\n\n",
    b"BDAT 5 LAST\r\nQUIT\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 12\r\n0123456789\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"FOO\r\n",
    b"NOOP\nNOOP\r\n",
    b"NO\0OP\r\n",
    b"x" * 2100 + b"\r\n",
    b"x" * 2048 + b"\r\n",
    b"\r",
    b"\n",
    b".",
    b"\r\n",
]
DIALOGUE = st.lists(st.sampled_from(WORDS), max_size=25).map(lambda words: b"EHLO c.test\r\n" + b"".join(words))
FULL = [
    b"MAIL FROM:<a@b.test>\r\n",
    b"RCPT TO:<c@d.test>\r\n",
    b"DATA\r\n",
    b"x\r\n.\r\n",
    b"BDAT 2\r\nxy",
    b"RSET\r\n",
]
MAILING = st.lists(st.sampled_from(FULL), max_size=30).map(lambda words: b"EHLO c.test\r\n" + b"".join(words))
CUTS = st.lists(st.integers(0, 3000), max_size=15)

ANSWERS: dict[str, Any] = {
    "no@d.test": Reply(550, "5.1.1", "no such user"),
    "later@d.test": Reply(450, "4.7.1", "later"),
}


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """`octets` in pieces, cut at `places`."""
    edges = sorted({0, len(octets), *(place for place in places if place < len(octets))})
    return [octets[start:end] for start, end in pairwise(edges)]


def strict(**options: Any) -> House:
    """A house with low limits, so that they are met."""
    limits = {"errors": 8, "idle_commands": 12}
    return house(answers=dict(ANSWERS), limits=limits, max_message_size=10, **options)


def outcome(guests: House, pieces: list[bytes], patient: bool = True) -> tuple[bytes, list[Any], bool]:
    """All that was said, all that the handler saw, and whether we closed. `patient`: each piece awaits the answers."""
    wire = guests.connect()
    settle(guests)
    for piece in pieces:
        wire.protocol.dataReceived(piece)
        if patient:
            settle(guests)
    settle(guests)
    return wire.read(), guests.notebook.log, wire.transport.closing


def settle(guests: House) -> None:
    """Let every answer come that is on its way."""
    clock = guests.clock
    while any(call.getTime() <= clock.seconds() + 1 for call in clock.getDelayedCalls()):
        clock.advance(1)


def delayed(guests: House) -> House:
    """The same house, whose every answer comes a second later."""

    def later(answer: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        guests.clock.callLater(1, deferred.callback, answer)
        return deferred

    guests.later = later
    return guests


@settings(max_examples=300, deadline=None)
@given(stream=DIALOGUE | MAILING, places=CUTS, normalize=st.booleans())
def test_any_split_gives_the_same_dialogue(stream: bytes, places: list[int], normalize: bool) -> None:
    """Replies, events and messages do not depend on segments; so a pipelined dialogue is the lockstep one."""
    newlines = BareNewlines.NORMALIZE if normalize else BareNewlines.REJECT
    whole = outcome(strict(bare_newlines=newlines), [stream])
    assert outcome(strict(bare_newlines=newlines), cut(stream, places)) == whole
    assert outcome(strict(bare_newlines=newlines), [stream[i : i + 1] for i in range(len(stream))]) == whole


@settings(max_examples=300, deadline=None)
@given(stream=DIALOGUE | MAILING, places=CUTS, patient=st.booleans())
def test_delayed_answers_give_the_same_dialogue(stream: bytes, places: list[int], patient: bool) -> None:
    """CRIT rows 5 to 7: an asynchronous handler changes the time of the replies and nothing else."""
    pieces = cut(stream, places)
    assert outcome(delayed(strict()), pieces, patient) == outcome(strict(), pieces)


@given(stream=MAILING)
def test_every_message_has_its_own_recipients(stream: bytes) -> None:
    """Against an oracle that reads line by line: the same messages, to the same recipients."""
    guests = house(limits={"errors": 0, "idle_commands": 0, "unrecognized": 0})
    wire = guests.connect()
    wire.protocol.dataReceived(stream)
    assert guests.notebook.messages == oracle(stream)


def oracle(stream: bytes) -> list[tuple[str, tuple[str, ...], bytes]]:
    """The messages of a dialogue of MAILING, by a naive reading of RFC 5321 and RFC 3030."""
    messages: list[tuple[str, tuple[str, ...], bytes]] = []
    mail, recipients, chunks = False, 0, False
    while stream:
        line, found, stream = stream.partition(b"\r\n")
        verb = line[:4]
        if not found:
            break
        if verb == b"RSET" or verb == b"EHLO":
            mail, recipients, chunks = False, 0, False
        elif verb == b"MAIL":
            mail = True
        elif verb == b"RCPT" and mail and not chunks:
            recipients += 1
        elif verb == b"BDAT":
            stream = stream[2:]
            chunks = chunks or recipients > 0
        elif verb == b"DATA" and recipients and not chunks:
            content, end, rest = (b"\r\n" + stream).partition(b"\r\n.\r\n")
            if not end:
                break
            stream = rest
            body = (content + b"\r\n")[2:].replace(b"\r\n.", b"\r\n")
            messages.append(("a@b.test", ("c@d.test",) * recipients, body))
            mail, recipients = False, 0
    return messages
