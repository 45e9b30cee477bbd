"""Replies are rendered for the wire and read from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.reply import LINE_MAX, Reply

texts = st.lists(st.from_regex(r"([!-~][ -~]{0,60})?", fullmatch=True), min_size=1, max_size=4).map("\n".join)


def read(octets: bytes) -> Reply:
    """What a client makes of rendered octets."""
    lines = octets.decode().removesuffix("\r\n").split("\r\n")
    assert all(line[3] == "-" for line in lines[:-1]) and lines[-1][3] == " "
    return Reply.of(int(lines[0][:3]), [line[4:] for line in lines])


@given(st.integers(200, 599), st.integers(0, 999), st.integers(0, 999), texts)
def test_what_is_rendered_is_read_back_equal(code: int, subject: int, detail: int, text: str) -> None:
    """parse(render(x)) == x, on one line or on several (RFC 5321 §4.2.1, RFC 2034 §4)."""
    enhanced = f"{code // 100}.{subject}.{detail}" if code // 100 != 3 else ""
    if not enhanced and text[:2] in ("2.", "4.", "5."):
        return
    reply = Reply(code, enhanced, text)
    assert read(reply.render()) == reply


@given(st.integers(200, 599), st.text(max_size=2000))
def test_a_line_never_breaks_nor_grows_too_long(code: int, text: str) -> None:
    """No text can add a line of its own, each is at most 512 octets and UTF-8 (RFC 5321 §4.5.3.1.5, RFC 6531 §3.7)."""
    octets = Reply(code, "5.0.0", text).render()
    assert octets.endswith(b"\r\n")
    lines = octets[:-2].split(b"\r\n")
    assert len(lines) == text.count("\n") + 1
    assert all(len(line) + 2 <= LINE_MAX and b"\r" not in line and b"\n" not in line for line in lines)
    octets.decode()


def test_a_longer_code_on_a_later_line_is_not_cut_in_two() -> None:
    """ "5.1.1" is not the beginning of "5.1.10" (RFC 3463 §2)."""
    assert Reply.of(550, ["5.1.1 first", "5.1.10 second"]).text == "first\n5.1.10 second"


@pytest.mark.parametrize(
    ("code", "lines", "enhanced", "text"),
    [
        (250, ["2.1.5 Ok"], "2.1.5", "Ok"),
        (550, ["5.1.1 No", "5.1.1 such user"], "5.1.1", "No\nsuch user"),
        (550, ["5.1.1"], "5.1.1", ""),
        (550, ["4.1.1 odd class"], "", "4.1.1 odd class"),
        (250, ["mx.example.org", "PIPELINING"], "", "mx.example.org\nPIPELINING"),
        (250, [], "", ""),
    ],
)
def test_the_enhanced_code_is_taken_where_its_class_fits(code: int, lines: list[str], enhanced: str, text: str) -> None:
    """RFC 2034 §4: an enhanced code of another class than the reply's is only text."""
    reply = Reply.of(code, lines)
    assert (reply.enhanced, reply.text) == (enhanced, text)


KINDS = [(250, "positive"), (354, "positive"), (450, "transient"), (550, "permanent")]


@pytest.mark.parametrize(("code", "of"), KINDS)
def test_each_code_is_of_one_kind(code: int, of: str) -> None:
    """RFC 5321 §4.2.1: the first digit decides, and gives the status where there is no enhanced code."""
    reply = Reply(code, "", "x")
    assert [kind for kind in ("positive", "transient", "permanent") if getattr(reply, kind)] == [of]
    assert reply.status == f"{code // 100}.0.0"
    assert str(reply) == f"{code} x"
