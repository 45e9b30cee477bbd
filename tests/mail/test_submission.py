"""What is added to and taken out of a submitted message, and whom it says that it is from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.message import edit, fields, section_end
from relaymta.mail.submission import AuthorError, authors, completions
from tests.mail.strategies import headers, raw_fields

DATE = "Mon, 23 Nov 2026 23:00:00 +0000"
ID = "0ABC@relay.example.org"
FULL = b"From: a@x.example\r\nDate: yesterday\r\nMessage-ID: <1@x.example>\r\n\r\n"

hidden = st.sampled_from([b"Bcc", b"bcc ", b"BCC", b"Resent-Bcc", b"resent-bcc\t"]).flatmap(
    lambda name: raw_fields.map(lambda raw: name + b":" + raw.partition(b":")[2])
)
submitted = st.lists(st.one_of(raw_fields, hidden), max_size=8).map(lambda raws: b"".join(raws) + b"\r\n")


def completed(header: bytes) -> bytes:
    """The header section with all that is due."""
    return edit(header, completions(header, date=DATE, message_id=ID))


@given(submitted)
def test_what_is_not_named_stays_as_it_was(header: bytes) -> None:
    """Every field but Bcc stands behind what was added, octet by octet and in its order (RFC 5321 §6.4)."""
    known = {b"date", b"message-id"}
    dated = {one.name for one in fields(header) if one.value}
    kept = b"".join(
        one.raw for one in fields(header)
        if one.name not in (b"bcc", b"resent-bcc") and (one.name in dated or one.name not in known)
    )
    assert completed(header).endswith(kept + b"\r\n")
    added = completed(header)[: -len(kept + b"\r\n")]
    assert {one.name for one in fields(added)} <= known


@given(st.one_of(submitted, headers))
def test_twice_is_once(header: bytes) -> None:
    """A message that was completed needs nothing more."""
    assert completions(completed(header), date="later", message_id="other@example") == []


@given(submitted)
def test_date_and_message_id_stand_and_no_bcc(header: bytes) -> None:
    """Whatever came, both fields are there with something in them, and nobody sees the blind copies."""
    found = list(fields(completed(header)))
    assert not {one.name for one in found} & {b"bcc", b"resent-bcc"}
    for name in (b"date", b"message-id"):
        assert next(one for one in found if one.name == name).value


def test_what_is_complete_is_not_touched() -> None:
    """No edit at all: no signature breaks."""
    assert completions(FULL, date=DATE, message_id=ID) == []


def test_what_is_missing_is_put_above_the_rest() -> None:
    """RFC 6409 §8.2 and §8.3."""
    assert completed(b"From: a@x.example\r\n\r\n") == (
        f"Date: {DATE}\r\nMessage-ID: <{ID}>\r\nFrom: a@x.example\r\n\r\n".encode()
    )


def test_an_empty_field_counts_as_missing() -> None:
    """A Date without a date is no Date; where a second one has one, nothing is done."""
    header = b"Date: \r\n \r\nFrom: a@x.example\r\nMessage-Id:\r\n\r\n"
    assert completed(header) == f"Date: {DATE}\r\nMessage-ID: <{ID}>\r\nFrom: a@x.example\r\n\r\n".encode()
    assert completed(b"Date:\r\n" + FULL) == b"Date:\r\n" + FULL


def test_blind_copies_are_dropped_with_their_folded_lines() -> None:
    """RFC 5322 §3.6.3: the field goes as a whole, and more than one of them does."""
    header = FULL[:-2] + b"Bcc: b@y.example,\r\n\tc@z.example\r\nTo: d@y.example\r\nBCC :e@z.example\r\nBcc:\r\n\r\n"
    assert completed(header) == FULL[:-2] + b"To: d@y.example\r\n\r\n"


def test_a_message_without_a_body_can_be_completed() -> None:
    """A section that nothing ends gets its fields all the same."""
    header = b"From: a@x.example\r\nBcc: b@y.example"
    assert section_end(header) == len(header)
    assert completed(header).endswith(b">\r\nFrom: a@x.example\r\n")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b" a@x.example", ["a@x.example"]),
        (b" A B <a@X.example>", ["a@x.example"]),
        (b' "c@y.example" <a@x.example>', ["a@x.example"]),
        (b" =?utf-8?q?c=40y=2Eexample?= <a@x.example>", ["a@x.example"]),
        (b" A\r\n\t<a@x.example>,\r\n b@y.example", ["a@x.example", "b@y.example"]),
        (b" (c@y.example) a@x.example (and (c@z.example))", ["a@x.example"]),
        (b" board: a@x.example, b@y.example;", ["a@x.example", "b@y.example"]),
        (b' "a b"@x.example', ['"a b"@x.example']),
        (b" a@[192.0.2.1]", ["a@[192.0.2.1]"]),
        (b' "A <a@x.example>" <a@x.example>', ["a@x.example"]),
        (b' "<b@y.example>" <a@x.example>', ["a@x.example", "b@y.example"]),
        (b" a@x.example (A <b@y.example>)", ["a@x.example", "b@y.example"]),
        (b" =?utf-8?b?PGJAeS5leGFtcGxlPg==?= <a@x.example>", ["a@x.example", "b@y.example"]),
        (b' "=?utf-16?B?PABiAEAAeQAuAGUAeABhAG0AcABsAGUAPgA=?=" <a@x.example>', ["a@x.example", "b@y.example"]),
        (b" =?utf-8?q?J=C3=B6rg?= =?us-ascii?Q?=3Cb=40y.example=3E?= <a@x.example>", ["a@x.example", "b@y.example"]),
        (b' "A @ work > home" (<3) <a@x.example>', ["a@x.example"]),
        (" J\u00f6rg <j\u00f6rg@b\u00fccher.example>".encode(), ["j\u00f6rg@xn--bcher-kva.example"]),
    ],
)
def test_every_author_is_found(value: bytes, found: list[str]) -> None:
    """RFC 5322 §3.4: mailboxes, groups, comments, quoted strings and folded lines."""
    header = b"Subject: From: no@z.example\r\nFROM :" + value + b"\r\nTo: b@z.example\r\n\r\nFrom: no@z.example\r\n"
    assert [str(one) for one in authors(header)] == found


def test_the_sender_field_is_read_too() -> None:
    """Whoever is named as the sender is shown beside the author (RFC 5322 §3.6.2)."""
    header = b"Sender: s@y.example\r\nFrom: a@x.example, b@x.example\r\n\r\n"
    assert {str(one) for one in authors(header)} == {"s@y.example", "a@x.example", "b@x.example"}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"To: b@y.example\r\n\r\n", "there is no From field"),
        (b"\r\nFrom: a@x.example\r\n", "there is no From field"),
        (b"From: a@x.example\r\nfrom: b@x.example\r\n\r\n", "there is more than one From field"),
        (b"From: a@x.example\r\nFrom : b@x.example\r\n\r\n", "there is more than one From field"),
        (b"From: a@x.example\r\nSender: a@x.example\r\nSender: b@x.example\r\n\r\n", "more than one Sender field"),
        (b"From: a@x.example\r\nSender: a@x.example, b@x.example\r\n\r\n", "the Sender field names more than one"),
        (b"From:\r\n\r\n", "the From field names nobody"),
        (b"From: nobody:;\r\n\r\n", "the From field names nobody"),
        (b"From: a@x.example b@y.example\r\n\r\n", "not a list of addresses"),
        (b"From: b@y.example <a@x.example>\r\n\r\n", "not a list of addresses"),
        (b"From: b@y.example: a@x.example;\r\n\r\n", "not a list of addresses"),
        (b"From: <a@x.example> b@y.example\r\n\r\n", "not a list of addresses"),
        (b"From: a@x.example, root\r\n\r\n", "not a list of addresses"),
        (b'From: "a@x.example\r\n\r\n', "not a list of addresses"),
        (b"From: a@x..example\r\n\r\n", "not a list of addresses"),
        (b"From: =?utf-8?q?b=40y=2Eexample=00?=@x.example\r\n\r\n", "an encoded word in an address"),
        (b"From: J\xf6rg <a@x.example>\r\n\r\n", "not UTF-8"),
        (b"From: <@y.example,@z.example:a@x.example>\r\n\r\n", "an address with a route"),
        (b"From: A < (c) @y.example:a@x.example>\r\n\r\n", "not a list|an address with a route"),
        (b"From: b@y.example\0 <a@x.example>\r\n\r\n", "a control character"),
        (b"From: A\x0bB <a@x.example>\r\n\r\n", "a control character"),
        (b"From: A\x1b[2J <a@x.example>\r\n\r\n", "a control character"),
        ("From: A\u2028B <a@x.example>\r\n\r\n".encode(), "a control character"),
        (b'From: "<b @y.example>" <a@x.example>\r\n\r\n', "not a list of addresses"),
        (b"Subject: x\r\nnothing\r\nFrom: a@x.example\r\n\r\n", "a line of the header section is no field"),
        (b" folded\r\nFrom: a@x.example\r\n\r\n", "a line of the header section is no field"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(header: bytes, said: str) -> None:
    """Nobody is deceived about the author by what readers disagree on."""
    with pytest.raises(AuthorError, match=said):
        authors(header)


@given(st.one_of(headers, st.binary(max_size=60).map(lambda octets: b"From:" + octets + b"\r\n\r\n")))
def test_any_header_is_read_or_refused(header: bytes) -> None:
    """No octets of a client raise anything but the one error, and nobody is found without a domain."""
    try:
        found = authors(header)
    except AuthorError:
        return
    assert found and all(one.domain for one in found)


@pytest.mark.parametrize(
    "piece", [b"(a)", b"\"", b'"<a@', b"=?a?q?<", b"a,", b"a:", b"<", b"(", b"\\", b" ", b"\r\n ", b"a@b,"]
)
def test_a_long_field_takes_no_long_time(piece: bytes) -> None:
    """However it is written, a field as long as a header section may be is read or refused at once."""
    try:
        authors(b"From: " + piece * (100_000 // len(piece)) + b"\r\n\r\n")
    except AuthorError:
        pass
