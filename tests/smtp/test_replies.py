"""Reading replies: strict digits, one code a reply, bounded in every direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.reply import Reply
from relaymta.smtp.replies import LINE_MAX, LINES_MAX, TOLD_MAX, Raw, ReplyReader, reply_of


def read(octets: bytes) -> list[Raw]:
    """All replies of a stream."""
    reader = ReplyReader()
    replies = reader.feed(octets)
    assert not reader.fault
    return replies


def fault(*pieces: bytes) -> str:
    """What is wrong with a stream."""
    reader = ReplyReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.fault


def test_replies_of_one_and_of_several_lines() -> None:
    """A hyphen after the code says that the reply goes on (RFC 5321 §4.2.1); the code alone is a reply."""
    stream = b"250 ok\r\n250-a\r\n250-\r\n250 b\r\n354\r\n"
    assert read(stream) == [(250, [b"ok"]), (250, [b"a", b"", b"b"]), (354, [b""])]


def test_a_bare_lf_ends_a_line() -> None:
    """Old servers end lines with LF; nothing of ours hangs on it."""
    assert read(b"250-a\n250 b\n") == [(250, [b"a", b"b"])]


NO_REPLIES = b"2_0 x|+25 x| 25 x|-12 x|25 ok|250ok|1.0 x|150 x|260 x|650 x|099 x||x".split(b"|")


@pytest.mark.parametrize("line", NO_REPLIES)
def test_crit_strict_digits(line: bytes) -> None:
    """A code is three digits, 2 to 5, 0 to 5, 0 to 9 (RFC 5321 §4.2); int() would take "2_0" and "+25"."""
    assert fault(line + b"\r\n") == "not an SMTP reply"


def test_mixed_codes_are_no_reply() -> None:
    """All lines of a reply have one code (RFC 5321 §4.2.1)."""
    assert fault(b"250-ok\r\n550 no\r\n") == "the lines of one reply have different codes"


def test_replies_before_a_fault_still_count() -> None:
    """The 250 to the end of a message counts also when rubbish comes in the same segment; else it is sent twice."""
    reader = ReplyReader()
    assert reader.feed(b"250 ok\r\nrubbish\r\n250 ok\r\n") == [(250, [b"ok"])]
    assert reader.fault and reader.feed(b"250 ok\r\n") == []


def test_crit_9_a_flood_of_lines_ends_soon() -> None:
    """A reply without end, a line without end and a reply of long lines are cut off in bounded memory."""
    assert fault(b"250-x\r\n" * (LINES_MAX + 1)) == "the reply is too long"
    assert fault((b"250-" + b"x" * 1000 + b"\r\n") * 20) == "the reply is too long"
    assert fault(b"250 " + b"x" * LINE_MAX) == "a line of the reply is too long"
    assert fault(b"250 " + b"x" * LINE_MAX + b"\r\n") == "a line of the reply is too long"
    assert fault(*[b"25"] * LINE_MAX) == "a line of the reply is too long"


REPLIES = [b"250 ok\r\n", b"250-a\r\n250 b\r\n", b"421 bye\r\n", b"354\r\n"]


@given(st.lists(st.sampled_from(REPLIES), max_size=6), st.data())
def test_any_split_gives_the_same_replies(replies: list[bytes], data: st.DataObject) -> None:
    """Where the stream is cut makes no difference."""
    stream = b"".join(replies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = ReplyReader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == read(stream) and reader.between


def test_a_reply_as_a_value() -> None:
    """The enhanced code is taken out, text is decoded, and what cannot be printed is made visible."""
    assert reply_of((550, [b"5.1.1 no", b"5.1.1 such user"])) == Reply(550, "5.1.1", "no\nsuch user")
    assert reply_of((250, [b"2.0.0 \xc3\xa4 \xff\x1b[2J\r"])) == Reply(250, "2.0.0", "\u00e4 \\xff?[2J?")


def test_a_reply_of_many_lines_is_kept_in_part() -> None:
    """It is logged and stored once for each recipient: the beginning says enough."""
    told = reply_of((550, [b"5.1.1 " + b"x" * 1000] * 16))
    assert told.enhanced == "5.1.1" and told.text.endswith("\n...") and len(told.text) <= TOLD_MAX + 4
