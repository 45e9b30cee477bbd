"""Header sections are searched and edited over bytes, and keep every octet that no edit names."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relaymta.mail.message import (
    Add,
    Edit,
    Field,
    Prepend,
    Remove,
    Replace,
    count,
    edit,
    fields,
    find,
    has_nonascii,
    message_id,
    section_end,
)
from tests.mail.strategies import headers, raw_fields

HEADER = (
    b"Received: from a by b; date\r\n"
    b"RECEIVED: from c\r\n\tby d; date\r\n"
    b"Received-SPF: none\r\n"
    b"Received : from e\r\n"
    b"Subject: a\r\n folded\r\n\tthing\r\n"
    b"To: x@y\r\n"
    b"Message-ID: <1@example.org>\r\n"
    b"\r\n"
)
NEW = b"X-New: yes\r\n"


@given(headers)
@example(b"no field\r\n: empty\r\nA: b\r\n\r\n")
@example(b" leading\r\nA: b\r\n\r\n")
@example(b"A: cut off")
@example(b"\r\n")
@example(b"")
def test_the_fields_joined_are_the_section(header: bytes) -> None:
    """Iteration leaves no octet out and changes none (RFC 5321 §6.4)."""
    assert b"".join(field.raw for field in fields(header)) == header[: section_end(header)]


@given(st.lists(raw_fields, max_size=8))
def test_each_field_is_found_whole(raws: list[bytes]) -> None:
    """A field's folded lines are its own, its name is lower case (RFC 5322 §2.2.3)."""
    found = list(fields(b"".join(raws) + b"\r\n"))
    assert [field.raw for field in found] == raws
    assert [field.name for field in found] == [raw.partition(b":")[0].strip().lower() for raw in raws]


@given(headers, st.binary(max_size=30))
def test_the_body_is_not_searched(header: bytes, body: bytes) -> None:
    """What looks like a field after the empty line is none."""
    more = header + b"Received: x\r\n" + body
    assert count(more, b"received") == count(header, b"received")
    assert find(more, b"received") == find(header, b"received")


@given(headers)
def test_find_and_count_agree_with_fields(header: bytes) -> None:
    """The fast ways see what the slow one sees, white space before the colon included (RFC 5322 §4.5)."""
    every = list(fields(header))
    for name in {field.name for field in every} - {b""}:
        same = [field for field in every if field.name == name]
        assert count(header, name) == len(same)
        assert find(header, name) == same[0]


def test_received_is_counted_and_nothing_that_looks_like_it() -> None:
    """Received-SPF is another field; case and white space do not matter (RFC 5321 §6.3)."""
    assert count(HEADER, b"received") == 3
    assert find(HEADER, b"subject") == Field(b"subject", b"Subject: a\r\n folded\r\n\tthing\r\n")
    assert find(HEADER, b"subject").value == b"a folded\tthing"  # type: ignore[union-attr]
    assert find(HEADER, b"cc") is None


@given(headers, st.lists(raw_fields.filter(lambda raw: b" :" not in raw and b"\t:" not in raw), max_size=3), st.data())
def test_an_edit_keeps_every_untouched_octet(header: bytes, new: list[bytes], data: st.DataObject) -> None:
    """The result is the kept fields as they came, the new ones in their places, and the rest as it was."""
    raws = [field.raw for field in fields(header)]
    edits: list[Edit] = []
    expected: list[bytes] = []
    seen: dict[bytes, int] = {}
    for field in fields(header):
        nth = seen[field.name] = seen.get(field.name, 0) + 1
        fate = data.draw(st.sampled_from(["keep", "keep", "remove", "replace"]))
        if fate == "remove":
            edits.append(Remove(field.name, nth))
        elif fate == "replace":
            edits.append(Replace(field.name, nth, NEW))
            expected.append(NEW)
        else:
            expected.append(field.raw)
    above = [Prepend(raw) for raw in new]
    below = [Add(raw) for raw in reversed(new)]
    result = edit(header, [*above, *edits, *below])
    assert result == b"".join([*reversed(new), *expected, *reversed(new)]) + header[section_end(header) :]
    assert edit(header, []) == header == b"".join(raws) + b"\r\n"


def test_all_of_a_name_can_go() -> None:
    """Remove without a number takes every field of that name, and no other."""
    assert edit(HEADER, [Remove(b"received")]) == b"Received-SPF: none\r\n" + HEADER[HEADER.index(b"Subject") :]


def test_a_replacement_without_an_original_is_added() -> None:
    """As a milter expects of a change beyond the last field of that name."""
    assert edit(HEADER, [Replace(b"cc", 1, NEW)]) == HEADER[:-2] + NEW + b"\r\n"
    assert edit(HEADER, [Remove(b"to"), Replace(b"to", 1, NEW)]) == HEADER.replace(b"To: x@y\r\n", NEW)
    assert edit(HEADER, [Remove(b"cc", 3)]) == HEADER


def test_a_section_without_an_end_can_be_edited() -> None:
    """A header without a body, or cut off, still gets its field on a line of its own."""
    assert edit(b"A: b", [Add(NEW)]) == b"A: b\r\n" + NEW
    assert edit(b"", [Prepend(NEW)]) == NEW
    assert edit(b"\r\nbody", [Prepend(NEW)]) == NEW + b"\r\nbody"


@pytest.mark.parametrize(
    "octets",
    [
        b"X-New: yes",
        b"X-New: yes\n",
        b"X-New: yes\r\n\r\n",
        b"X-New: yes\r\nBcc: x\r\n",
        b"X-New: a\rb\r\n",
        b"X-New: a\nb\r\n",
        b"X-New: \0\r\n",
        b"X New: yes\r\n",
        b": yes\r\n",
        b"yes\r\n",
        b"\r\n",
        b"",
    ],
)
def test_only_one_whole_field_can_be_put_in(octets: bytes) -> None:
    """No edit can bring in a second field, a body or a bare line end."""
    with pytest.raises(ValueError):
        Add(octets)
    with pytest.raises(ValueError):
        Prepend(octets)
    with pytest.raises(ValueError):
        Replace(b"x", 1, octets)


@given(headers, st.binary(max_size=300).map(lambda octets: octets.translate(None, b"\r\n")))
@example(b"\r\n", b"<a b\x00\xff>")
def test_a_message_id_fits_a_log_line(header: bytes, value: bytes) -> None:
    """Whatever a client sends, the log gets printable ASCII without spaces."""
    text = message_id(b"Message-ID: " + value + b"\r\n" + header)
    assert all("!" <= c <= "~" for c in text)
    assert len(text) <= 250


def test_a_folded_message_id_is_read() -> None:
    """Exchange folds before long ones (RFC 5322 §2.2.3)."""
    assert message_id(b"Message-ID:\r\n <long@example.org>\r\n\r\n") == "<long@example.org>"
    assert message_id(b"Subject: x\r\n\r\n") == ""


def test_raw_eight_bit_octets_are_seen() -> None:
    """RFC 6532 §3.2."""
    assert has_nonascii("Subject: é\r\n\r\n".encode())
    assert not has_nonascii(HEADER)
