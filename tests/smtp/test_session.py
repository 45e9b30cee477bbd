"""The server's machine, seen from the client's side of the wire."""

from __future__ import annotations

import pytest

from relaymta.mail.reply import Reply
from relaymta.smtp.settings import BareNewlines, TlsMode
from tests.smtp.guests import STORED, codes, house

ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
OPEN = ["250 2.1.0", "250 2.1.5"]


# The greeting and EHLO


def test_the_greeting_names_the_host() -> None:
    """The first word after 220 is our name (RFC 5321 §4.2)."""
    assert house().connect().read() == b"220 relay.test ESMTP relaymta\r\n"


def test_ehlo_lists_the_extensions() -> None:
    """One keyword a line, our name first (RFC 5321 §4.1.1.1); BINARYMIME is not among them."""
    lines = (
        house(max_message_size=1000, max_recipients=200).connect().hello().say(b"EHLO client.test\r\n").split(b"\r\n")
    )
    assert lines == [
        b"250-relay.test",
        b"250-PIPELINING",
        b"250-SIZE 1000",
        b"250-8BITMIME",
        b"250-SMTPUTF8",
        b"250-CHUNKING",
        b"250-DSN",
        b"250-ENHANCEDSTATUSCODES",
        b"250 LIMITS MAILMAX=100000 RCPTMAX=200",
        b"",
    ]


def test_helo_gets_one_line_and_no_extensions() -> None:
    """After HELO a parameter is 555 (RFC 5321 §4.1.1.11)."""
    wire = house().connect()
    wire.read()
    assert wire.say(b"HELO client.test\r\n") == b"250 relay.test\r\n"
    assert wire.codes(b"MAIL FROM:<a@b.test> SIZE=1\r\nMAIL FROM:<a@b.test>\r\n") == ["555 5.5.4", "250 2.1.0"]


@pytest.mark.parametrize("line", [b"EHLO", b"HELO", b"EHLO ", b"EHLO a b", b"HELO \xff"])
def test_hello_needs_a_name(line: bytes) -> None:
    """CRIT table §1.3: EHLO without a name, or with an unprintable one, is 501."""
    wire = house().connect()
    wire.read()
    assert wire.codes(line + b"\r\n") == ["501 5.5.4"]


def test_ehlo_ends_the_transaction() -> None:
    """EHLO in a transaction is a RSET (RFC 5321 §4.1.4)."""
    guests = house()
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"EHLO x\r\nDATA\r\n") == [*OPEN, "250", "503 5.5.1"]
    assert "reset" in guests.notebook.names()


def test_a_refused_ehlo_changes_nothing() -> None:
    """After a refused EHLO the state is what it was (RFC 5321 §4.1.4)."""
    guests = house()
    wire = guests.connect().hello()
    wire.say(ENVELOPE)
    guests.answers["helo"] = Reply(550, "5.7.1", "not you")
    assert wire.codes(b"EHLO other.test\r\n") == ["550 5.7.1"]
    assert wire.protocol.peer.helo == "client.test" and wire.protocol.peer.esmtp
    assert wire.codes(b"DATA\r\n") == ["354"]


# Order


@pytest.mark.parametrize("command", [b"MAIL FROM:<a@b.test>", b"RCPT TO:<a@b.test>", b"DATA", b"BDAT 0", b"STARTTLS"])
def test_nothing_but_talk_before_ehlo(command: bytes) -> None:
    """A transaction needs EHLO or HELO first (RFC 5321 §4.1.4)."""
    wire = house().connect()
    wire.read()
    assert wire.codes(command + b"\r\n") == ["503 5.5.1"]


@pytest.mark.parametrize("command", [b"NOOP", b"HELP", b"VRFY a", b"RSET", b"NOOP x y", b"noop"])
def test_talk_is_free_before_ehlo(command: bytes) -> None:
    """NOOP, HELP, VRFY and RSET may come at any time (RFC 5321 §4.1.4)."""
    wire = house().connect()
    wire.read()
    assert wire.codes(command + b"\r\n")[0][0] == "2"


def test_out_of_turn() -> None:
    """RCPT, DATA and BDAT need what comes before them, MAIL does not nest (RFC 5321 §4.1.4)."""
    wire = house().connect().hello()
    assert wire.codes(b"RCPT TO:<c@d.test>\r\nDATA\r\n") == ["503 5.5.1", "503 5.5.1"]
    assert wire.codes(b"MAIL FROM:<>\r\nMAIL FROM:<>\r\n") == ["250 2.1.0", "503 5.5.1"]
    assert wire.codes(b"DATA\r\nRCPT TO:<c@d.test>\r\nMAIL FROM:<>\r\n") == ["554 5.5.1", "250 2.1.5", "503 5.5.1"]


def test_data_without_a_valid_recipient() -> None:
    """When every RCPT was refused, DATA is 554 no valid recipients (RFC 5321 §3.3)."""
    wire = house(answers={"c@d.test": Reply(550, "5.1.1", "no such user")}).connect().hello()
    assert wire.codes(ENVELOPE + b"DATA\r\n") == ["250 2.1.0", "550 5.1.1", "554 5.5.1"]


# One message


def test_a_message() -> None:
    """MAIL, RCPT, DATA, and the content reaches the handler unstuffed (RFC 5321 §3.3, §4.5.2)."""
    guests = house()
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"RCPT TO:<e@f.test>\r\nDATA\r\n") == [*OPEN, "250 2.1.5", "354"]
    assert wire.say(b"Subject: x\r\n\r\n..dot\r\n.\r\n") == b"250 2.0.0 stored\r\n"
    assert guests.notebook.messages == [("a@b.test", ("c@d.test", "e@f.test"), b"Subject: x\r\n\r\n.dot\r\n")]
    assert guests.notebook.names() == ["connect", "helo", "mail", "rcpt", "rcpt", "data", "finish", "reset"]


def test_messages_follow_each_other_in_one_segment() -> None:
    """A pipelined client is answered in order (RFC 2920 §3.2)."""
    guests = house()
    wire = guests.connect().hello()
    one = ENVELOPE + b"DATA\r\n.\r\n"
    assert wire.codes(one + one + b"QUIT\r\n") == [*OPEN, "354", "250 2.0.0"] * 2 + ["221 2.0.0"]
    assert [content for _, _, content in guests.notebook.messages] == [b"", b""]


def test_one_segment_is_answered_by_one_write() -> None:
    """Replies to pipelined commands leave together."""
    wire = house().connect().hello()
    writes: list[bytes] = []
    wire.transport.write = writes.append  # type: ignore[method-assign]
    wire.protocol.dataReceived(ENVELOPE + b"DATA\r\n")
    assert len(writes) == 1


def test_every_reply_has_an_enhanced_code() -> None:
    """All but the greeting, the answer to EHLO, and 354 (RFC 2034 §4)."""
    wire = house().connect().hello()
    said = wire.codes(b"NOOP\r\nHELP\r\nVRFY x\r\nEXPN x\r\nAUTH PLAIN AA==\r\nFOO\r\nRSET\r\nQUIT\r\n")
    assert said == [
        "250 2.0.0",
        "214 2.0.0",
        "252 2.0.0",
        "502 5.5.1",
        "502 5.5.1",
        "500 5.5.1",
        "250 2.0.0",
        "221 2.0.0",
    ]


def test_trailing_blanks_are_tolerated() -> None:
    """Blanks before CRLF are no argument (RFC 5321 §4.1.1)."""
    wire = house().connect().hello()
    assert wire.codes(b"RSET \r\nMAIL FROM:<a@b.test>  \r\nquit\t\r\n")[:2] == ["250 2.0.0", "250 2.1.0"]


@pytest.mark.parametrize("line", [b"RSET x", b"DATA x", b"QUIT x", b"STARTTLS x", b"VRFY"])
def test_arguments_where_none_belong(line: bytes) -> None:
    """501 for an argument too many or one missing (RFC 5321 §4.3.2)."""
    wire = house().connect().hello()
    wire.say(ENVELOPE)
    assert wire.codes(line + b"\r\n") == ["501 5.5.4"]


def test_the_handler_may_refuse_at_each_stage() -> None:
    """Its reply is said, and the dialogue stays in step."""
    refusal = Reply(450, "4.7.1", "later\nreally")
    guests = house(answers={"mail": refusal})
    wire = guests.connect().hello()
    assert wire.say(b"MAIL FROM:<a@b.test>\r\n") == b"450-4.7.1 later\r\n450 4.7.1 really\r\n"
    guests.answers.clear()
    guests.answers["data"] = refusal
    assert wire.codes(ENVELOPE + b"DATA\r\nDATA\r\n") == [*OPEN, "450 4.7.1", "503 5.5.1"]
    guests.answers.clear()
    guests.answers["finish"] = Reply(554, "5.7.1", "spam")
    assert wire.codes(ENVELOPE + b"DATA\r\nx\r\n.\r\nRSET\r\n") == [*OPEN, "354", "554 5.7.1", "250 2.0.0"]


def test_a_421_of_the_handler_closes() -> None:
    """After 421 nothing is read (RFC 5321 §3.8)."""
    wire = house(answers={"mail": Reply(421, "4.7.0", "enough")}).connect().hello()
    assert wire.codes(b"MAIL FROM:<a@b.test>\r\nNOOP\r\n") == ["421 4.7.0"]
    assert wire.transport.closing


# BDAT


def test_chunks() -> None:
    """Content by count: dots and ends of data mean nothing in it (RFC 3030 §2)."""
    guests = house()
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"BDAT 8\r\nab\r\n.\r\n.BDAT 4 LAST\r\n.\r\nx") == [*OPEN, "250 2.0.0", "250 2.0.0"]
    assert guests.notebook.messages[0][2] == b"ab\r\n.\r\n..\r\nx\r\n"  # the last line got its CRLF


def test_bdat_0_last_ends_a_message() -> None:
    """An empty last chunk is the usual end (RFC 3030 §4.2)."""
    guests = house()
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\n") == [*OPEN, "250 2.0.0", "250 2.0.0"]
    assert guests.notebook.messages[0][2] == b"x\r\n"


def test_a_crlf_may_be_cut_by_chunks() -> None:
    """A CR at the end of one chunk and its LF in the next are a line end."""
    guests = house()
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"BDAT 2\r\na\rBDAT 2 LAST\r\n\nb")[2:] == ["250 2.0.0", "250 2.0.0"]
    assert guests.notebook.messages[0][2] == b"a\r\nb\r\n"


@pytest.mark.parametrize("before", [b"", b"MAIL FROM:<a@b.test>\r\n"])
def test_a_chunk_out_of_turn_is_eaten(before: bytes) -> None:
    """The content of a refused BDAT is never read as commands (RFC 3030 §2)."""
    guests = house()
    wire = guests.connect().hello()
    said = wire.codes(before + b"BDAT 22 LAST\r\nMAIL FROM:<x@y.test>\r\nNOOP\r\n")
    assert said[-2][:3] in ("503", "554") and said[-1] == "250 2.0.0"
    assert guests.notebook.messages == []


def test_a_chunk_refused_by_the_handler_is_eaten() -> None:
    """One reply to each BDAT, when its content is through; the next ones are out of turn."""
    guests = house(answers={"data": Reply(452, "4.3.1", "full")})
    wire = guests.connect().hello()
    said = wire.codes(ENVELOPE + b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<>\r\n")
    assert said == [*OPEN, "452 4.3.1", "503 5.5.1", "250 2.1.0"]
    assert "refused" in guests.notebook.names() and guests.notebook.names().count("reset") == 1


def test_data_after_bdat() -> None:
    """A message is either DATA or BDAT (RFC 3030 §2)."""
    wire = house().connect().hello()
    said = wire.codes(ENVELOPE + b"BDAT 1\r\nxDATA\r\nRCPT TO:<e@f.test>\r\nMAIL FROM:<>\r\nBDAT 0 LAST\r\n")
    assert said == [*OPEN, "250 2.0.0", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0"]


def test_rset_between_chunks() -> None:
    """RSET gives up the chunks so far (RFC 3030 §2)."""
    guests = house()
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"BDAT 1\r\nxRSET\r\nBDAT 1 LAST\r\ny") == [
        *OPEN,
        "250 2.0.0",
        "250 2.0.0",
        "503 5.5.1",
    ]
    assert guests.notebook.names()[-4:] == ["data", "abort", "reset", "refused"]
    assert guests.notebook.messages == []


@pytest.mark.parametrize("line", [b"BDAT", b"BDAT x", b"BDAT -1", b"BDAT 5 LAST x", b"BDAT 5\0"])
def test_a_malformed_bdat_closes(line: bytes) -> None:
    """Where its content would end is unknown, so nothing behind it is read."""
    guests = house()
    wire = guests.connect().hello()
    said = wire.codes(ENVELOPE + line + b"\r\nMAIL FROM:<evil@b.test>\r\n")
    assert said[:2] == OPEN and said[2][:2] == "50" and len(said) == 3
    assert wire.transport.closing


# Lines


@pytest.mark.parametrize("line", [b"NOOP\nQUIT\r\n", b"NOOP \r \r\n", b"NOOP \0\r\n", b"MAIL FROM:<a@b\n.test>\r\n"])
def test_bare_newlines_and_nul_in_a_command(line: bytes) -> None:
    """A command with a bare CR, bare LF or NUL is one bad command, not two (RFC 5321 §2.3.8)."""
    wire = house().connect().hello()
    assert wire.codes(line + b"NOOP\r\n") == ["500 5.5.2", "250 2.0.0"]


def test_a_line_that_ends_in_lf_alone_is_refused_at_once() -> None:
    """A client that ends its lines in LF is told so and not left waiting; the rest of its line is skipped."""
    wire = house().connect().hello()
    assert wire.codes(b"NOOP\n") == ["500 5.5.2"]
    assert wire.codes(b"DATA\nQUIT\n") == []
    assert wire.codes(b"x\r\nNOOP\r\n") == ["250 2.0.0"]


def test_a_command_may_have_2048_octets() -> None:
    """512 and what the extensions add are taken (RFC 5321 §4.5.3.1.4); more is 500."""
    wire = house().connect().hello()
    assert wire.codes(b"NOOP " + b"x" * 2043 + b"\r\n") == ["250 2.0.0"]
    assert wire.codes(b"NOOP " + b"x" * 2044 + b"\r\nNOOP\r\n") == ["500 5.5.2", "250 2.0.0"]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"", b" NOOP", b"MAIL\tFROM:<a@b.test>"])
def test_unrecognized_commands(line: bytes) -> None:
    """CRIT table §1.3: octets that are no verb get 500, not an exception."""
    wire = house().connect().hello()
    assert wire.codes(line + b"\r\n") == ["500 5.5.1"]


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"CONNECT a:25 HTTP/1.1"])
def test_http_is_shown_the_door(line: bytes) -> None:
    """A browser made to speak to us gets one reply and no chance to smuggle a command."""
    guests = house()
    wire = guests.connect()
    wire.read()
    said = wire.codes(line + b"\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.test>\r\n")
    assert said == ["421 4.7.0"] and wire.transport.closing
    assert "mail" not in guests.notebook.names()


# Bad content


@pytest.mark.parametrize("bad", [b"a\nb", b"a\rb", b"a\0b", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r\n\0.\r\n"])
def test_bad_content_is_refused_and_nothing_behind_it_is_read(bad: bytes) -> None:
    """CRIT §1.2: refused at its end, and closed, so that what was smuggled behind it is no message."""
    guests = house()
    wire = guests.connect().hello()
    smuggled = b"MAIL FROM:<ceo@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nevil\r\n.\r\n"
    said = wire.codes(ENVELOPE + b"DATA\r\nx" + bad + b"\r\n.\r\n" + smuggled)
    assert said == [*OPEN, "354", "550 5.6.0"]
    assert wire.transport.closing and guests.notebook.messages == []
    assert guests.notebook.names()[-3:] == ["abort", "reset", "refused"]
    assert wire.codes(smuggled) == []


def test_bad_content_in_chunks() -> None:
    """The same rules hold for BDAT, whose content is lines as well."""
    guests = house()
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"BDAT 3\r\na\nbBDAT 0 LAST\r\n") == [*OPEN, "550 5.6.0"]
    assert wire.transport.closing and guests.notebook.messages == []


def test_normalized_content_is_one_message() -> None:
    """`bare_newlines = "normalize"` makes line ends of them, and still no end of data."""
    guests = house(bare_newlines=BareNewlines.NORMALIZE)
    wire = guests.connect().hello()
    said = wire.codes(ENVELOPE + b"DATA\r\na\n.\nMAIL FROM:<ceo@b.test>\r\n.\r\n")
    assert said == [*OPEN, "354", "250 2.0.0"]
    assert [content for _, _, content in guests.notebook.messages] == [b"a\r\n.\r\nMAIL FROM:<ceo@b.test>\r\n"]


def test_normalized_chunks() -> None:
    """BDAT content is normalised as DATA content is."""
    guests = house(bare_newlines=BareNewlines.NORMALIZE)
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"BDAT 4 LAST\r\na\n\rb") == [*OPEN, "250 2.0.0"]
    assert guests.notebook.messages[0][2] == b"a\r\n\r\nb\r\n"


def test_starttls_that_is_not_offered() -> None:
    """502 where there is no certificate."""
    assert house().connect().hello().codes(b"STARTTLS\r\n") == ["502 5.5.1"]


@pytest.mark.parametrize(
    "command", [b"MAIL FROM:<a@b.test>", b"RCPT TO:<c@d.test>", b"DATA", b"AUTH PLAIN AGEAYg==", b"VRFY a", b"HELP"]
)
def test_nothing_is_done_before_tls_where_it_is_required(command: bytes) -> None:
    """530 5.7.0 to every command but EHLO, HELO, NOOP, RSET, QUIT and STARTTLS, whether EHLO was said (RFC 3207 §4)."""
    guests = house(tls=TlsMode.REQUIRED, context=object())
    wire = guests.connect()
    assert wire.codes(command + b"\r\n") == ["220", "530 5.7.0"]
    assert wire.say(command + b"\r\n") == b"530 5.7.0 Must issue a STARTTLS command first\r\n"
    wire.hello()
    assert wire.codes(command + b"\r\nNOOP\r\nRSET\r\nHELO x\r\n") == ["530 5.7.0", "250 2.0.0", "250 2.0.0", "250"]
    assert {"mail", "rcpt", "data"}.isdisjoint(guests.notebook.names())
    assert wire.codes(b"QUIT\r\n") == ["221 2.0.0"]


def test_a_chunk_before_required_tls_is_eaten() -> None:
    """The content of a BDAT that is refused is never read as commands."""
    wire = house(tls=TlsMode.REQUIRED, context=object()).connect().hello()
    assert wire.codes(b"BDAT 6\r\nQUIT\r\nNOOP\r\n") == ["530 5.7.0", "250 2.0.0"]


def test_required_tls_is_offered_and_counted() -> None:
    """EHLO offers STARTTLS; a client that goes on without is told 421 in the end."""
    wire = house(tls=TlsMode.REQUIRED, context=object(), limits={"errors": 3}).connect()
    assert b"STARTTLS" in wire.say(b"EHLO x\r\n")
    assert wire.codes(b"DATA\r\n" * 4)[-2:] == ["530 5.7.0", "421 4.7.0"]


# Limits


def test_a_size_declared_too_large() -> None:
    """SIZE above the limit is refused at MAIL (RFC 1870 §6.1)."""
    guests = house(max_message_size=100)
    wire = guests.connect().hello()
    assert wire.codes(b"MAIL FROM:<a@b.test> SIZE=101\r\nMAIL FROM:<a@b.test> SIZE=100\r\n") == [
        "552 5.3.4",
        "250 2.1.0",
    ]
    assert guests.notebook.names().count("mail") == 1


def test_content_too_large() -> None:
    """Too much content is eaten and refused at its end; the sink is told at once (RFC 1870 §6.3)."""
    guests = house(max_message_size=10)
    wire = guests.connect().hello()
    assert wire.codes(ENVELOPE + b"DATA\r\n12345678\r\n.\r\n")[-1] == "250 2.0.0"
    wire.say(ENVELOPE + b"DATA\r\n12345678\r\n")
    wire.say(b"9")
    assert wire.codes(b"\r\nQUIT\r\n.x\r\n") == []
    assert guests.notebook.names()[-2:] == ["abort", "reset"]
    assert wire.codes(b".\r\nNOOP\r\n") == ["552 5.3.4", "250 2.0.0"]
    assert len(guests.notebook.messages) == 1


def test_content_too_large_in_chunks() -> None:
    """Each chunk is eaten; the one that was too much gets 552, those behind it are out of turn."""
    guests = house(max_message_size=10)
    wire = guests.connect().hello()
    said = wire.codes(ENVELOPE + b"BDAT 8\r\n12345678BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
    assert said == [*OPEN, "250 2.0.0", "552 5.3.4", "503 5.5.1", "250 2.0.0"]
    assert guests.notebook.messages == []


def test_bad_content_closes_even_when_it_was_too_large() -> None:
    """A message that is too large may smuggle as well as any other."""
    wire = house(max_message_size=10).connect().hello()
    wire.say(ENVELOPE + b"DATA\r\n123456789012\r\n")
    assert wire.codes(b"a\n.\n\r\n.\r\nNOOP\r\n") == ["550 5.6.0"]


def test_too_many_recipients() -> None:
    """Those above the limit get 452, the others get the mail (RFC 5321 §4.5.3.1.10); it is no error of the client."""
    guests = house(max_recipients=100, limits={"errors": 3})
    wire = guests.connect().hello()
    lines = b"".join(b"RCPT TO:<u%d@d.test>\r\n" % number for number in range(120))
    said = wire.codes(b"MAIL FROM:<a@b.test>\r\n" + lines + b"DATA\r\n.\r\n")
    assert said.count("250 2.1.5") == 100 and said.count("452 4.5.3") == 20 and said[-1] == "250 2.0.0"
    assert len(guests.notebook.messages[0][1]) == 100


def test_too_many_errors() -> None:
    """CRIT table §1.3: after so many errors the session ends with 421."""
    wire = house(limits={"errors": 3}).connect().hello()
    assert wire.codes(b"DATA\r\n" * 10) == ["503 5.5.1"] * 3 + ["421 4.7.0"]
    assert wire.transport.closing


def test_an_accepted_message_forgives_errors() -> None:
    """Errors are counted from one accepted message to the next."""
    wire = house(limits={"errors": 3}).connect().hello()
    for _ in range(3):
        assert wire.codes(b"DATA\r\nDATA\r\n" + ENVELOPE + b"DATA\r\n.\r\n")[-1] == "250 2.0.0"


def test_too_many_commands_without_mail() -> None:
    """NOOP for ever is not what a session is for."""
    wire = house(limits={"idle_commands": 5}).connect().hello()
    assert wire.codes(b"NOOP\r\nRSET\r\n" * 5) == ["250 2.0.0"] * 4 + ["421 4.7.0"]


def test_too_many_unrecognized_commands() -> None:
    """Who speaks another protocol is soon shown the door."""
    wire = house(limits={"unrecognized": 2}).connect()
    wire.read()
    assert wire.codes(b"A\r\nB\r\nC\r\nD\r\n") == ["500 5.5.1", "500 5.5.1", "421 4.7.0"]


def test_too_many_transactions() -> None:
    """MAILMAX is what EHLO said it is (RFC 9422 §4.1)."""
    wire = house(limits={"transactions": 2}).connect().hello()
    assert wire.codes(b"MAIL FROM:<>\r\nRSET\r\n" * 3) == ["250 2.1.0", "250 2.0.0"] * 2 + ["421 4.7.0"]


# What is told


def test_refusals_of_the_dialogue_are_told() -> None:
    """The handler hears what was refused without it, fit for a log and without secrets."""
    guests = house()
    guests.connect().hello().say(b"FOO \x1b[0m\r\nAUTH PLAIN c2VjcmV0\r\n" + b"x" * 5000 + b"\r\n")
    told = [entry for entry in guests.notebook.log if entry[0] == "refused"]
    assert told == [("refused", "FOO \\x1b[0m", 500), ("refused", "AUTH", 502), ("refused", "(not shown)", 500)]


def test_auth_of_a_stranger_is_as_if_empty() -> None:
    """AUTH= of a client that did not authenticate counts as AUTH=<> (RFC 4954 §5)."""
    guests = house()
    guests.connect().hello().say(b"MAIL FROM:<a@b.test> AUTH=ceo@b.test\r\n")
    assert guests.notebook.log[-1][1].auth == ""


def test_a_positive_reply_of_the_handler_is_said() -> None:
    """A handler may word a 250 itself."""
    wire = house(answers={"mail": Reply(250, "2.1.0", "welcome"), "finish": STORED}).connect().hello()
    assert wire.say(b"MAIL FROM:<a@b.test>\r\n") == b"250 2.1.0 welcome\r\n"
    assert codes(wire.say(b"RCPT TO:<c@d.test>\r\nDATA\r\n.\r\n")) == ["250 2.1.5", "354", "250 2.0.0"]
