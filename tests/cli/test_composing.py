"""What sendmail(1) does to a message before it leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.cli.composing import Arranged, MessageError, addresses, arrange, qualified
from relaymta.mail.message import fields, section_end

WHOLE = b"From: x@example.org\nDate: now\nMessage-ID: <1@x>\n"


def arranged(octets: bytes, *, recipients: bool = False, dots: bool = False) -> Arranged:
    """Arrange as user@host.example."""
    return arrange(octets, "user@host.example", "A User", "host.example", recipients=recipients, dots=dots)


def header(octets: bytes) -> dict[bytes, bytes]:
    """The fields of an arranged message by name."""
    return {one.name: one.value for one in fields(octets)}


def test_line_ends_become_crlf() -> None:
    """LF, CRLF, CR CR LF and a lone CR are line ends (RFC 5321 §2.3.8)."""
    assert arranged(WHOLE + b"\na\nb\r\nc\r\r\nd\re").octets.endswith(b"\r\n\r\na\r\nb\r\nc\r\nd\r\ne\r\n")


def test_missing_fields_are_added_and_others_stay_as_they_are() -> None:
    """Date, From and Message-ID where missing (RFC 6409 §8); every other octet of the header is kept."""
    made = arranged(b"Subject:  odd   spacing\n folded\nX-Y:z\n\nbody\n").octets
    assert made.endswith(b"Subject:  odd   spacing\r\n folded\r\nX-Y:z\r\n\r\nbody\r\n")
    found = header(made)
    assert found[b"from"] == b"A User <user@host.example>"
    assert b"@host.example>" in found[b"message-id"] and found[b"date"]


def test_fields_that_are_there_are_not_added() -> None:
    """A program's own From, Date and Message-ID count, in any case of letters."""
    made = arranged(WHOLE.lower() + b"\nbody\n").octets
    assert made == WHOLE.lower().replace(b"\n", b"\r\n") + b"\r\nbody\r\n"


def test_a_full_name_that_is_not_ascii_is_encoded() -> None:
    """A header stays ASCII unless the program wrote otherwise (RFC 2047)."""
    made = arrange(b"\nx\n", "u@h.example", "Ünï", "h.example", recipients=False, dots=False)
    assert made.octets.isascii() and b"=?utf-8?" in made.octets and not made.utf8


@pytest.mark.parametrize(
    ("octets", "body"),
    [
        (b"hello\nworld\n", b"hello\r\nworld\r\n"),
        (b"hello: world is no field name with blanks\n", b""),
        (b"hello world: x\n", b"hello world: x\r\n"),
        (b"\nbody\n", b"body\r\n"),
        (b"", b""),
        (b"A: 1\nbody without a blank line\n", b"body without a blank line\r\n"),
        (b" indented first line\n", b" indented first line\r\n"),
        (b"A: 1", b""),
        (b"From me@x Mon Jan  1\nA: 1\n\nbody\n", b"body\r\n"),
    ],
)
def test_where_the_body_begins(octets: bytes, body: bytes) -> None:
    """Behind the first empty line, or at the first line that is no field; mbox's From line is left out."""
    made = arranged(octets).octets
    assert made[section_end(made) + 2 :] == body


def test_a_lone_dot_ends_the_message_only_where_dots_count() -> None:
    """Without -i a line with a single dot is the end, as programs from before SMTP libraries expect."""
    text = WHOLE + b"\none\n.\ntwo\n"
    assert arranged(text, dots=True).octets.endswith(b"\r\n\r\none\r\n")
    assert arranged(text, dots=False).octets.endswith(b"one\r\n.\r\ntwo\r\n")
    assert arranged(b".\nx\n", dots=True).octets.endswith(b"\r\n\r\n")
    assert arranged(WHOLE + b"\n..\n.x\n x.\n", dots=True).octets.endswith(b"..\r\n.x\r\n x.\r\n")


def test_a_nul_is_refused() -> None:
    """No mail may hold one (RFC 5322 §3.5); the caller is told rather than the octet dropped."""
    with pytest.raises(MessageError, match="NUL"):
        arranged(b"a\0b")


def test_recipients_come_out_of_the_header_and_bcc_with_them() -> None:
    """To, Cc and Bcc in every form of RFC 5322 §3.4; Bcc itself leaves the message (§3.6.3)."""
    made = arranged(
        WHOLE + b'To: a@x.example, "B, C" <b@x.example>\nCC: group: c@x.example,\n d@x.example;\n'
        b"Bcc: (secret) e@x.example\nBCC: f@x.example\n\nbody\n",
        recipients=True,
    )
    assert made.recipients == tuple(f"{name}@x.example" for name in "abcdef")
    assert b"bcc" not in header(made.octets) and b"to" in header(made.octets)


def test_without_t_the_header_names_nobody() -> None:
    """Recipients are those of the command line."""
    made = arranged(WHOLE + b"To: a@x.example\nBcc: b@x.example\n\n")
    assert made.recipients == () and b"to" in header(made.octets)


def test_bcc_is_taken_out_where_the_command_line_names_the_recipients() -> None:
    """Mutt leaves the field in what it gives us without -t: everybody read whom nobody should see (RFC 5322 §3.6.3)."""
    made = arranged(WHOLE + b"To: a@x.example\nBcc: b@x.example,\n c@x.example\nbCC : d@x.example\nResent-Bcc: e\n\n")
    assert b"@x.example" not in made.octets.replace(b"a@x.example", b"") and b"bcc" not in made.octets.lower()


@pytest.mark.parametrize("name", ["A\nBcc: x@y\n\nb", "A\r\nX: y", "A\rB", "A\0B", "A\x1b[2J", "caf\udce9", "ü\nX: y"])
def test_a_full_name_makes_no_field_of_its_own(name: str) -> None:
    """-F, or the name of the user in passwd(5), with an end of line in it wrote header fields, and bare LFs."""
    made = arrange(b"To: a@x.example\n\nbody\n", "u@h.example", name, "h.example", recipients=True, dots=False).octets
    assert made.count(b"\n") == made.count(b"\r\n") == made.count(b"\r") == 6 and b"\0" not in made
    assert set(header(made)) == {b"from", b"date", b"message-id", b"to"} and b"u@h.example" in header(made)[b"from"]


def test_a_message_that_is_sent_again_goes_to_whom_it_is_sent_again() -> None:
    """Resent-To, -Cc and -Bcc count and not the first sending's (RFC 5322 §3.6.6)."""
    made = arranged(WHOLE + b"To: a@x.example\nResent-To: b@x.example\nResent-Bcc: c@x.example\n\n", recipients=True)
    assert made.recipients == ("b@x.example", "c@x.example")
    assert b"resent-bcc" not in header(made.octets)


def test_a_header_in_utf8_needs_smtputf8_and_one_in_latin1_does_not() -> None:
    """RFC 6532 §3.2; an old character set is broken, and goes on as it came."""
    assert arranged(WHOLE + "Subject: ü\n\n".encode()).utf8
    assert not arranged(WHOLE + "Subject: ü\n\n".encode("latin-1")).utf8
    assert not arranged(WHOLE + "\nü\n".encode()).utf8


def test_a_recipient_field_in_latin1_is_refused() -> None:
    """An address is never guessed."""
    with pytest.raises(MessageError, match="the to field is not UTF-8"):
        arranged(b"To: \xfc@x.example\n\n", recipients=True)


def test_addresses_are_read_as_people_write_them() -> None:
    """Lists, names, comments and groups; a name alone is at this host."""
    found = addresses(["a@x.example, B <b@x.example>", "root", "g: c@x.example;"], "host.example")
    assert [str(one) for one in found] == ["a@x.example", "b@x.example", "root@host.example", "c@x.example"]


@pytest.mark.parametrize("text", ["a@b c", "@x.example", "a@", "a@x..example", "<a@x.example> b@y.example trailing"])
def test_what_is_no_address_is_said(text: str) -> None:
    """A slip in an address is an error, and never another address."""
    with pytest.raises(MessageError, match="is not an address"):
        addresses([text], "host.example")


def test_an_idn_domain_becomes_a_labels() -> None:
    """RFC 5891: on the wire the domain is ASCII."""
    assert str(qualified("a@bücher.example", "h")) == "a@xn--bcher-kva.example"


@given(st.binary(max_size=300).filter(lambda octets: b"\0" not in octets), st.booleans(), st.booleans())
def test_whatever_comes_in_goes_out_as_a_message(octets: bytes, recipients: bool, dots: bool) -> None:
    """CRLF line ends alone, a header section with the three fields, and no line that starts one twice."""
    try:
        made = arranged(octets, recipients=recipients, dots=dots).octets
    except MessageError:
        return
    assert b"\r" not in made.replace(b"\r\n", b"") and b"\n" not in made.replace(b"\r\n", b"")
    found = [one.name for one in fields(made)]
    assert found.count(b"from") >= 1 and b"date" in found and b"message-id" in found and b"" not in found
    assert made[section_end(made) :].startswith(b"\r\n")
