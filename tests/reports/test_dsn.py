"""Notices say to the right people, in the right form, what became of a message."""

from __future__ import annotations

import email
import email.policy
import email.utils
from email.message import EmailMessage, Message
from typing import Any

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from relaymta.config import Size
from relaymta.mail.address import Address, parse_mailbox
from relaymta.mail.content import MemoryContent
from relaymta.mail.downgrade import to_seven_bit
from relaymta.mail.envelope import Body, Envelope, Notify, Origin, Recipient, Ret
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.reply import Reply
from relaymta.reports.dsn import DOUBLE, Kind, Notice, Told, compose, owed
from relaymta.reports.settings import Settings
from tests.mail.strategies import domains, local_parts

NOW = 1_700_000_000.0
ALICE = parse_mailbox("alice@example.org")
BOB = Recipient(parse_mailbox("bob@example.net"))
CAROL = Recipient(parse_mailbox("carol@example.net"))
ORIGIN = Origin(client="192.0.2.9", helo="pc.example.org", protocol="ESMTP")
ENVELOPE = Envelope(ALICE, (BOB, CAROL), NOW - 60, ORIGIN)
CONTENT = MemoryContent(
    b"From: alice@example.org\r\nMessage-ID: <1@example.org>\r\nSubject: hello\r\n\r\nThe text.\r\n.\r\n"
)
REFUSED = Reply.of(550, ["5.1.1 No such user", "5.1.1 See https://example.net/why"])
FATES = {
    Kind.FAILED: Fate.FAILED,
    Kind.DELAYED: Fate.DEFERRED,
    Kind.DELIVERED: Fate.DELIVERED,
    Kind.RELAYED: Fate.RELAYED,
}


def outcome(index: int = 0, fate: Fate = Fate.FAILED, **more: Any) -> Outcome:
    """An outcome at mx.example.net."""
    facts: dict[str, Any] = {
        "status": {"4": "4.2.1", "5": "5.1.1", "2": "2.0.0"}[
            "4" if fate is Fate.DEFERRED else "5" if fate in (Fate.FAILED, Fate.EXPIRED) else "2"
        ],
        "text": "said no",
        "at": NOW - 5,
        "host": "mx.example.net",
        "address": "192.0.2.25",
        "scope": Scope.RECIPIENT,
    }
    return Outcome(recipient=index, fate=fate, **{**facts, **more})


def noticed(
    kind: Kind = Kind.FAILED,
    envelope: Envelope = ENVELOPE,
    outcomes: list[Outcome] | None = None,
    content: MemoryContent = CONTENT,
    **more: Any,
) -> Notice:
    """A notice that is owed for sure, checked for what holds of every notice."""
    told = owed(kind, envelope, outcomes or [outcome(fate=FATES[kind])])
    facts: dict[str, Any] = {"hostname": "relay.example.org", "settings": Settings(), "now": NOW, "notice_id": "0NEW"}
    notice = compose(kind, "0OLD", envelope, told, content, **{**facts, **more})
    assert notice is not None
    assert notice.kind is kind
    octets = notice.octets
    assert octets.endswith(b"\r\n")
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n") and b"\0" not in octets
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))
    assert notice.envelope.sender is None
    assert [r.notify for r in notice.envelope.recipients] == [Notify.NEVER]
    assert notice.envelope.body is (Body.SEVENBIT if octets.isascii() else Body.EIGHTBIT)
    assert notice.envelope.origin.protocol == "notice"
    return notice


def read(notice: Notice) -> EmailMessage:
    """The notice as Python's email package sees it."""
    message = email.message_from_bytes(notice.octets, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects, part.defects
    return message


def subparts(message: Message) -> list[EmailMessage]:
    """The parts of a multipart, typed."""
    found = message.get_payload()
    assert isinstance(found, list)
    assert all(isinstance(part, EmailMessage) for part in found)
    return [part for part in found if isinstance(part, EmailMessage)]


def parts(notice: Notice) -> tuple[str, list[EmailMessage], EmailMessage]:
    """The text for people, the groups of fields for programs, what came back."""
    message = read(notice)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    text, status, back = subparts(message)
    groups: list[EmailMessage]
    if status.get_content_subtype() == "global-delivery-status":  # the package does not know it
        octets = notice.octets.decode().split("\r\n--=_0NEW")[2]
        groups = [email.message_from_string(group, EmailMessage) for group in octets.split("\r\n\r\n")[1:]]
    else:
        groups = subparts(status)
    return text.get_content(), [group for group in groups if group.keys()], back


# Who is told (RFC 3461 §4.1, §5.2)


@pytest.mark.parametrize("notify", [Notify.UNSET, *map(Notify, range(1, 16))])
@pytest.mark.parametrize("fate", Fate)
def test_notify_decides_who_is_told(notify: Notify, fate: Fate) -> None:
    """Each fate is told by the one kind that fits it, to those who asked; not given means FAILURE and DELAY."""
    envelope = evolve(ENVELOPE, recipients=(evolve(BOB, notify=notify),))
    wanted = Notify.FAILURE | Notify.DELAY if notify is Notify.UNSET else notify
    expected = {
        Fate.FAILED: (Kind.FAILED, Notify.FAILURE),
        Fate.EXPIRED: (Kind.FAILED, Notify.FAILURE),
        Fate.DEFERRED: (Kind.DELAYED, Notify.DELAY),
        Fate.DELIVERED: (Kind.DELIVERED, Notify.SUCCESS),
        Fate.RELAYED: (Kind.RELAYED, Notify.SUCCESS),
    }.get(fate)
    kinds = [kind for kind in Kind if owed(kind, envelope, [outcome(fate=fate)])]
    assert kinds == ([expected[0]] if expected and wanted & expected[1] else [])


def test_a_next_hop_that_took_the_duty_tells_itself() -> None:
    """RFC 3461 §5.2.2: no relayed notice where the next hop speaks DSN."""
    envelope = evolve(ENVELOPE, recipients=(evolve(BOB, notify=Notify.SUCCESS),))
    assert owed(Kind.RELAYED, envelope, [outcome(fate=Fate.RELAYED, dsn=True)]) == ()
    assert len(owed(Kind.RELAYED, envelope, [outcome(fate=Fate.RELAYED)])) == 1


def test_recipients_and_outcomes_are_matched_by_index() -> None:
    """One notice tells all its recipients, in order."""
    told = owed(Kind.FAILED, ENVELOPE, [outcome(1), outcome(0, Fate.DEFERRED)])
    assert told == (Told(CAROL, outcome(1)),)


def test_nothing_owed_is_no_notice() -> None:
    """Without anybody to tell of there is nothing to compose."""
    facts: dict[str, Any] = {"hostname": "relay.example.org", "settings": Settings(), "now": NOW, "notice_id": "0NEW"}
    assert compose(Kind.FAILED, "0OLD", ENVELOPE, (), CONTENT, **facts) is None


# Messages without sender


NULL = evolve(ENVELOPE, sender=None)


def double(envelope: Envelope, kind: Kind = Kind.FAILED, postmaster: str = "root@example.org") -> Notice | None:
    """What is composed for a message without sender."""
    told = owed(kind, envelope, [outcome(fate=FATES[kind])])
    return compose(
        kind, "0OLD", envelope, told, CONTENT,
        hostname="relay.example.org", settings=Settings(postmaster=postmaster), now=NOW, notice_id="0NEW",
    )  # fmt: skip


def test_there_is_no_bounce_of_a_bounce() -> None:
    """RFC 5321 §6.1: a message with the null reverse-path is told to no sender."""
    assert double(NULL, postmaster="") is None
    for kind in (Kind.DELAYED, Kind.DELIVERED, Kind.RELAYED):
        asked = evolve(NULL, recipients=(evolve(BOB, notify=Notify.SUCCESS | Notify.DELAY),))
        assert double(asked, kind) is None


def test_a_double_bounce_goes_to_the_postmaster_once() -> None:
    """The postmaster hears of it although our notices carry NOTIFY=NEVER; what fails of that goes to nobody."""
    bounce = noticed()
    notice = double(bounce.envelope)
    assert notice is not None
    assert [str(r.address) for r in notice.envelope.recipients] == ["root@example.org"]
    assert notice.envelope.origin.listener == DOUBLE
    text, groups, _ = parts(notice)
    assert "This is for the postmaster." in text
    assert groups[1]["Final-Recipient"] == "rfc822; alice@example.org"
    assert double(notice.envelope) is None


def test_a_notice_that_cannot_reach_the_postmaster_does_not_go_round() -> None:
    """Whoever sent it, a failure at the postmaster's own address is not told to the postmaster."""
    assert double(evolve(NULL, recipients=(Recipient(parse_mailbox("root@example.org")),))) is None


def test_the_postmaster_must_be_a_mailbox() -> None:
    """A wrong setting is seen when it is read, not when a bounce is lost."""
    with pytest.raises(ValueError, match="postmaster"):
        Settings(postmaster="root@")


# The header


def test_the_header_says_what_it_is() -> None:
    """RFC 3464 §2, RFC 3834 §5: from us, to the sender, automatic, threaded with the original."""
    notice = noticed()
    message = read(notice)
    assert b'\r\nFrom: "Mail Delivery System" <mailer-daemon@relay.example.org>\r\n' in notice.octets
    assert message["To"] == "alice@example.org"
    assert message["Subject"] == "Your message could not be delivered"
    assert message["Message-ID"] == "<0NEW@relay.example.org>"
    assert message["References"] == "<1@example.org>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["MIME-Version"] == "1.0"
    assert email.utils.parsedate_to_datetime(message["Date"]).timestamp() == NOW


@pytest.mark.parametrize("value", [b"<a b@c>", b"none", b"<\xff@x>", b"<" + b"x" * 400 + b">", b"<a@b> <c@d>"])
def test_a_strange_message_id_is_not_repeated(value: bytes) -> None:
    """References holds one well-formed id or is not there (RFC 5322 §3.6.4)."""
    content = MemoryContent(b"Message-ID: " + value + b"\r\n\r\n\r\n")
    assert read(noticed(content=content))["References"] is None


# The part for programs (RFC 3464 §2)


def test_the_fields_of_a_failure() -> None:
    """Every fact of envelope and outcome stands in its field (RFC 3464 §2.2, §2.3; RFC 3461 §6.3)."""
    bob = evolve(BOB, orcpt="rfc822;bob@old.example")
    envelope = evolve(ENVELOPE, recipients=(bob, CAROL), envid="QQ 314159")
    outcomes = [
        outcome(0, reply=REFUSED),
        outcome(1, Fate.EXPIRED, status="4.4.1", host="", address="2001:db8::25", text="connection timed out"),
    ]
    text, (message, first, second), _ = parts(noticed(envelope=envelope, outcomes=outcomes))
    assert dict(message) == {
        "Original-Envelope-Id": "QQ 314159",
        "Reporting-MTA": "dns; relay.example.org",
        "Received-From-MTA": "dns; pc.example.org",
        "Arrival-Date": "Tue, 14 Nov 2023 22:12:20 +0000",
        "X-Relaymta-Queue-ID": "0OLD",
    }
    assert dict(first) == {
        "Original-Recipient": "rfc822; bob@old.example",
        "Final-Recipient": "rfc822; bob@example.net",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user See https://example.net/why",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:13:15 +0000",
    }
    assert dict(second) == {
        "Final-Recipient": "rfc822; carol@example.net",
        "Action": "failed",
        "Status": "4.4.1",
        "Remote-MTA": "dns; [IPv6:2001:db8::25]",
        "Diagnostic-Code": "x-relaymta; connection timed out",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:13:15 +0000",
    }
    assert "(you wrote to bob@old.example)" in text
    said = "mx.example.net [192.0.2.25] said:\r\n      550 5.1.1 No such user\r\n      See https://example.net/why\r\n"
    assert said in text
    assert "The time for delivery ran out" in text


def test_a_future_release_is_told_as_it_was_asked() -> None:
    """RFC 4865 §5.1.2: Future-Release-Request beside Arrival-Date, in notices of such messages alone."""
    asked = evolve(ENVELOPE, release_at=NOW, release_request="until;2023-11-14T22:13:20Z")
    said = noticed(envelope=asked).octets
    assert b"\r\nFuture-Release-Request: until;2023-11-14T22:13:20Z\r\n" in said and b"\r\nArrival-Date: " in said
    assert b"Future-Release-Request" not in noticed().octets


def test_an_end_of_data_without_reply_is_told_as_what_it_is() -> None:
    """The recipient may have the message: the sender learns that it is not known (RFC 5321 §4.5.3.2.6)."""
    text, _, _ = parts(noticed(outcomes=[outcome(fate=Fate.EXPIRED, status="4.4.2", unknown=True)]))
    assert "may have arrived all the" in text


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_its_action(kind: Kind) -> None:
    """RFC 3464 §2.3.3 and §2.3.4: the action is the kind, and the status' class fits it; retries are told of delays."""
    envelope = evolve(ENVELOPE, recipients=(evolve(BOB, notify=Notify(14)),))
    notice = noticed(kind, envelope, retry_until=NOW + 3600)
    text, (_, group), back = parts(notice)
    assert group["Action"] == kind.value
    assert group["Status"][0] == {"failed": "5", "delayed": "4", "delivered": "2", "relayed": "2"}[kind.value]
    expected = "Tue, 14 Nov 2023 23:13:20 +0000" if kind is Kind.DELAYED else None
    assert group["Will-Retry-Until"] == expected
    assert (expected or "attached") in text
    assert back.get_content_type() == ("message/rfc822" if kind is Kind.FAILED else "text/rfc822-headers")


@pytest.mark.parametrize(
    ("kind", "status"), [(Kind.FAILED, "5.0.0"), (Kind.DELAYED, "4.0.0"), (Kind.DELIVERED, "2.0.0")]
)
def test_a_missing_status_is_the_plainest_of_its_class(kind: Kind, status: str) -> None:
    """RFC 3464 §2.3.4: Status is never missing."""
    envelope = evolve(ENVELOPE, recipients=(evolve(BOB, notify=Notify(14)),))
    _, (_, group), _ = parts(noticed(kind, envelope, [outcome(fate=FATES[kind], status="")]))
    assert group["Status"] == status


# What comes back (RFC 3461 §4.3)


@pytest.mark.parametrize(
    ("kind", "ret", "size", "media"),
    [
        (Kind.FAILED, None, 100, "message/rfc822"),
        (Kind.FAILED, Ret.FULL, 100, "message/rfc822"),
        (Kind.FAILED, Ret.HDRS, 100, "text/rfc822-headers"),
        (Kind.FAILED, Ret.FULL, 100_000, "text/rfc822-headers"),
        (Kind.DELAYED, Ret.FULL, 100, "text/rfc822-headers"),
    ],
)
def test_ret_and_size_decide_what_comes_back(kind: Kind, ret: Ret | None, size: int, media: str) -> None:
    """RFC 3461 §4.3: FULL of failures alone, and only up to our limit."""
    content = MemoryContent(CONTENT.octets + b"x" * 70 + (b"\r\n" + b"y" * 70) * (size // 72) + b"\r\n")
    text, _, back = parts(noticed(kind, evolve(ENVELOPE, ret=ret), content=content))
    assert back.get_content_type() == media
    assert ("The message itself is attached" in text) is (media == "message/rfc822")
    if media == "message/rfc822":
        assert content.octets in noticed(kind, evolve(ENVELOPE, ret=ret), content=content).octets
    else:
        octets = back.get_payload(decode=True)
        assert isinstance(octets, bytes)
        assert octets.strip() == CONTENT.header().strip()


def test_a_message_that_was_for_tls_alone_does_not_come_back() -> None:
    """RFC 8689 §5: its header alone, and the notice asks for TLS all the way as the message did."""
    notice = noticed(envelope=evolve(ENVELOPE, ret=Ret.FULL, requiretls=True))
    assert parts(notice)[2].get_content_type() == "text/rfc822-headers" and b"The text." not in notice.octets
    assert notice.envelope.requiretls and not noticed().envelope.requiretls


def test_the_limit_is_a_setting() -> None:
    """return_max = 0 gives headers always."""
    _, _, back = parts(noticed(settings=Settings(return_max=Size(0))))
    assert back.get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize(
    "octets",
    [
        CONTENT.octets + b"x" * 999 + b"\r\n",
        CONTENT.octets + b"bare\rcr\r\n",
        CONTENT.octets + b"bare\nlf\r\n",
        CONTENT.octets + b"nul\0\r\n",
        b"Subject: " + b"x" * 2000 + b"\r\n\r\n",
        b"Subject: bare\rcr\nlf\0 \r\nTo: x\r\n\r\n",
        b"Subject: \xff\xfe broken\r\n\r\n",
    ],
)
def test_lines_that_cannot_travel_do_not_come_back(octets: bytes) -> None:
    """Too long lines, bare CR, LF and NUL: headers alone, encoded where they are the fault (RFC 6522 §4)."""
    content = MemoryContent(octets)
    notice = noticed(content=content)
    if octets.endswith(b"broken\r\n\r\n"):
        notice = noticed(envelope=evolve(ENVELOPE, ret=Ret.HDRS), content=content)
    back = subparts(read(notice))[2]
    assert back.get_content_type() == "text/rfc822-headers"
    returned = back.get_payload(decode=True)
    assert isinstance(returned, bytes)
    assert returned.removesuffix(b"\r\n") == content.header().removesuffix(b"\r\n\r\n")


def test_eight_bit_content_comes_back_as_such() -> None:
    """8-bit octets are declared, and can be made 7-bit for a next hop without 8BITMIME (RFC 6152 §3)."""
    content = MemoryContent(
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n".encode()
    )
    notice = noticed(content=content)
    assert notice.envelope.body is Body.EIGHTBIT and not notice.envelope.smtputf8
    message = read(notice)
    assert message["Content-Transfer-Encoding"] == "8bit"
    seven = to_seven_bit(MemoryContent(notice.octets))
    assert seven is not None
    for octets in (notice.octets, b"".join(seven.chunks())):
        inner = list(email.message_from_bytes(octets, policy=email.policy.default).walk())[-1]
        assert isinstance(inner, EmailMessage)
        assert inner.get_content().rstrip() == "Grüße"


def test_a_boundary_is_found_that_the_message_does_not_hold() -> None:
    """RFC 2046 §5.1.1: no line of what comes back can be taken for our delimiter."""
    content = MemoryContent(b"Subject: x\r\n\r\n--=_0NEW\r\n--=_0NEW_1--\r\n--=_0NEW_3\r\n")
    notice = noticed(content=content)
    assert read(notice).get_boundary() == "=_0NEW_2"
    assert len(subparts(read(notice))) == 3


# UTF-8 (RFC 6533)


JOERG = Recipient(parse_mailbox("jörg@bücher.example"), orcpt="utf-8;jörg@bücher.example")
UTF8_CONTENT = MemoryContent("To: jörg@bücher.example\r\nSubject: Grüße\r\n\r\nHallo\r\n".encode())


def test_a_utf8_message_has_a_utf8_notice() -> None:
    """RFC 6533 §3, §4, §6: the global kinds, the utf-8 address type, raw; ASCII in our own header."""
    envelope = evolve(ENVELOPE, recipients=(JOERG,), smtputf8=True)
    said = Reply.of(550, ["5.1.1 unbekannter Empfänger"])
    notice = noticed(envelope=envelope, content=UTF8_CONTENT, outcomes=[outcome(reply=said)])
    text, (_, group), back = parts(notice)
    assert subparts(read(notice))[1].get_content_type() == "message/global-delivery-status"
    assert group["Final-Recipient"] == "utf-8; jörg@xn--bcher-kva.example"
    assert group["Original-Recipient"] == "utf-8; jörg@bücher.example"
    assert group["Diagnostic-Code"] == "smtp; 550 5.1.1 unbekannter Empfänger"
    assert back.get_content_type() == "message/global"
    assert "jörg@" in text and "Empfänger" in text
    assert notice.envelope.body is Body.EIGHTBIT and not notice.envelope.smtputf8
    headers = noticed(envelope=evolve(envelope, ret=Ret.HDRS), content=UTF8_CONTENT)
    back = subparts(read(headers))[2]
    assert back.get_content_type() == "message/global-headers"
    seven = to_seven_bit(MemoryContent(notice.octets))
    assert seven is not None and not seven.eightbit


def test_a_utf8_sender_needs_smtputf8() -> None:
    """The notice's own header names the sender in UTF-8 (RFC 6531 §3.3, RFC 6532 §3.2)."""
    envelope = evolve(ENVELOPE, sender=parse_mailbox("älice@example.org"), smtputf8=True)
    notice = noticed(envelope=envelope)
    assert notice.envelope.smtputf8
    assert "To: älice@example.org\r\n".encode() in notice.octets


def test_in_ascii_mail_utf8_addresses_are_escaped() -> None:
    """utf-8-addr-xtext in message/delivery-status, which is 7-bit (RFC 6533 §3)."""
    said = Reply.of(550, ["5.1.1 unbekannter Empfänger"])
    _, (_, group), _ = parts(noticed(envelope=evolve(ENVELOPE, recipients=(JOERG,)), outcomes=[outcome(reply=said)]))
    assert group["Final-Recipient"] == "utf-8; j\\x{F6}rg@xn--bcher-kva.example"
    assert group["Original-Recipient"] == "utf-8; j\\x{F6}rg@b\\x{FC}cher.example"
    assert group["Diagnostic-Code"] == "smtp; 550 5.1.1 unbekannter Empf\\x{E4}nger"


# Nothing breaks out of its field


WORDS = ["envid", "orcpt", "text", "said", "host", "address", "helo"]
nasty = st.text(max_size=40) | st.sampled_from(
    ["x\r\nBcc: evil@example.org\r\n\r\n", "a\nb", "\x85", "\u2028", "--=_0NEW", "\0", "é" * 3000, "x" * 3000, " "]
)


KNOWN = [
    b"Original-Envelope-Id", b"Reporting-MTA", b"Received-From-MTA", b"Arrival-Date", b"X-Relaymta-Queue-ID",
    b"Original-Recipient", b"Final-Recipient", b"Action", b"Status", b"Remote-MTA", b"Diagnostic-Code",
    b"Last-Attempt-Date",
]  # fmt: skip


def read_boundary(notice: Notice) -> bytes:
    """The boundary of the report."""
    boundary = email.message_from_bytes(notice.octets).get_boundary()
    assert boundary is not None
    return boundary.encode()


@given(
    st.fixed_dictionaries(dict.fromkeys(WORDS, nasty)),
    st.sampled_from(list(Kind)),
    st.booleans(),
)
@example(dict.fromkeys(WORDS, "x\r\n\r\nBcc: y"), Kind.FAILED, True)
@example(dict.fromkeys(WORDS, "é" * 3000), Kind.FAILED, True)
@example(dict.fromkeys(WORDS, "é" * 3000), Kind.DELAYED, False)
def test_no_field_can_be_broken_out_of(facts: dict[str, str], kind: Kind, utf8: bool) -> None:
    """No name, word or reply of others adds a line, a field, a group or a part, nor a line above 998 octets."""
    bob = Recipient(parse_mailbox("jörg@example.net"), Notify(14), "utf-8;" + facts["orcpt"])
    envelope = Envelope(
        ALICE, (bob,), NOW - 60, evolve(ORIGIN, helo=facts["helo"]), smtputf8=utf8, envid=facts["envid"]
    )  # fmt: skip
    said = outcome(
        fate=FATES[kind], text=facts["text"], host=facts["host"], address=facts["address"],
        reply=Reply.of(550, [facts["said"], "5.1.1 more"]) if facts["said"] else None,
    )  # fmt: skip
    notice = noticed(kind, envelope, [said])
    pieces = notice.octets.split(b"\r\n--" + read_boundary(notice))
    assert len(pieces) == 5 and pieces[-1] == b"--\r\n"
    _, per_message, per_recipient = pieces[2].split(b"\r\n\r\n")
    for group, first in ((per_message, KNOWN[:5]), (per_recipient, KNOWN[5:])):
        for line in group.split(b"\r\n"):
            assert line == b"" or line.startswith((b" ", *(name + b":" for name in first))), line


@given(local_parts, domains, st.sampled_from(list(Kind)), st.booleans())
def test_every_address_is_read_back(local: str, domain: str, kind: Kind, utf8: bool) -> None:
    """Quoted, UTF-8 or plain: To and Final-Recipient name the mailbox (RFC 3464 §2.3.2)."""
    address = Address(local, domain)
    bob = Recipient(address, Notify(14))
    notice = noticed(kind, evolve(ENVELOPE, sender=address, recipients=(bob,), smtputf8=utf8 or not local.isascii()))
    assert f"To: {address}\r\n".encode() in notice.octets
    final = next(line for line in notice.octets.decode().split("\r\n") if line.startswith("Final-Recipient: "))
    assert final == f"Final-Recipient: {'rfc822' if local.isascii() else 'utf-8'}; {address}"


def test_a_thousand_recipients_fit_one_notice() -> None:
    """RFC 3464 §2.1: one group of fields for each."""
    recipients = tuple(Recipient(parse_mailbox(f"user{n}@example.net")) for n in range(1000))
    notice = noticed(
        envelope=evolve(ENVELOPE, recipients=recipients), outcomes=[outcome(n, reply=REFUSED) for n in range(1000)]
    )
    text, groups, _ = parts(notice)
    assert len(groups) == 1001
    assert "the recipients below" in text


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.DELAYED])
@pytest.mark.parametrize("requiretls", [False, True])
def test_what_tells_of_a_message_is_as_well_protected(kind: Kind, requiretls: bool) -> None:
    """RFC 8689 §5: REQUIRETLS for the notice too, and the header alone, whatever RET said."""
    envelope = evolve(ENVELOPE, ret=Ret.FULL, requiretls=requiretls)
    notice = noticed(kind, envelope)
    assert notice.envelope.requiretls == requiretls
    assert (b"The text." in notice.octets) == (kind is Kind.FAILED and not requiretls)
