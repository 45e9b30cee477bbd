"""What a peer offers, and the commands that it then gets."""

from __future__ import annotations

import pytest

from relaymta.mail.address import Address, parse_mailbox
from relaymta.mail.content import MemoryContent
from relaymta.mail.envelope import Notify, Recipient
from relaymta.smtp.offers import NOTHING, mail_command, offers_of, rcpt_command
from tests.smtp.scripted import envelope


def test_limits_that_make_no_sense_are_no_limits() -> None:
    """Malformed and zero values of LIMITS and SIZE are left alone (RFC 9422 §3)."""
    offers = offers_of([b"x", b"LIMITS RCPTMAX=0 MAILMAX=x RCPTDOMAINMAX=-1", b"SIZE 12x"])
    assert (offers.rcpt_max, offers.mail_max, offers.domain_max, offers.size) == (0, 0, 0, 0)
    assert offers_of([b"x"]).size is None


def test_old_auth_is_read() -> None:
    """AUTH=LOGIN, as servers before RFC 4954 wrote it, is AUTH with LOGIN."""
    assert offers_of([b"x", b"AUTH=LOGIN PLAIN"]).keywords == {"AUTH": "LOGIN PLAIN"}


def test_the_newer_form_of_auth_wins_wherever_it_stands() -> None:
    """Servers that write both mean the one of RFC 4954 §3 for us."""
    for lines in ([b"AUTH=LOGIN", b"AUTH PLAIN SCRAM-SHA-256"], [b"AUTH PLAIN SCRAM-SHA-256", b"AUTH=LOGIN"]):
        assert offers_of([b"x", *lines]).keywords == {"AUTH": "PLAIN SCRAM-SHA-256"}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('"a,b"@x.test', b'<"a,b"@x.test>'),
        ('"a;b"@x.test', b'<"a;b"@x.test>'),
        ('"a@b"@c.test', b'<"a@b"@c.test>'),
        ('"u(c)"@x.test', b'<"u(c)"@x.test>'),
        ('"<x>"@x.test', b'<"<x>"@x.test>'),
        ("u@[127.0.0.1]", b"<u@[127.0.0.1]>"),
    ],
)
def test_crit_4_addresses_are_written_as_they_are(text: str, path: bytes) -> None:
    """No local part is cut or quoted away: `a,b@x` once became `<a>`, and somebody else had the mail."""
    command = rcpt_command(NOTHING, Recipient(parse_mailbox(text)), utf8=False)
    assert command == b"RCPT TO:" + path + b"\r\n"


def test_the_bare_postmaster_has_no_domain() -> None:
    """RFC 5321 §4.1.1.3: `<postmaster>`."""
    assert rcpt_command(NOTHING, Recipient(Address("postmaster", "")), utf8=False) == b"RCPT TO:<postmaster>\r\n"


def test_notify_is_never_alone_or_the_others() -> None:
    """NOTIFY values in their order (RFC 3461 §4.1)."""
    offers = offers_of([b"x", b"DSN"])
    every = Notify.SUCCESS | Notify.FAILURE | Notify.DELAY
    assert b" NOTIFY=SUCCESS,FAILURE,DELAY\r\n" in rcpt_command(
        offers, Recipient(parse_mailbox("a@b.test"), every), utf8=False
    )


def test_mail_says_the_size_of_what_is_sent() -> None:
    """SIZE= is the content with CRLF as two octets, before dots are stuffed (RFC 1870 §3)."""
    offers = offers_of([b"x", b"SIZE"])
    assert mail_command(offers, envelope("a@b.test"), MemoryContent(b".\r\n"), utf8=False).endswith(b" SIZE=3\r\n")


def test_requiretls_is_passed_on_where_it_can_be_meant() -> None:
    """RFC 8689 §2: offered over TLS, asked for by the message; a peer that offers it in clear cannot mean it."""
    asks = envelope("a@b.test", requiretls=True)
    for lines, secure, said in (
        ([b"x", b"requiretls"], True, b" REQUIRETLS\r\n"),
        ([b"x", b"REQUIRETLS"], False, b">\r\n"),
        ([b"x"], True, b">\r\n"),
    ):
        offers = offers_of(lines, secure=secure)
        assert mail_command(offers, asks, MemoryContent(b""), utf8=False).endswith(said)
    offers = offers_of([b"x", b"REQUIRETLS"], secure=True)
    assert b"REQUIRETLS" not in mail_command(offers, envelope("a@b.test"), MemoryContent(b""), utf8=False)
