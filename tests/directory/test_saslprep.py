"""SASLprep of names: the examples of RFC 4013, and what may never be there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory.saslprep import prepare


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # SOFT HYPHEN is mapped to nothing
        ("user", "user"),
        ("USER", "USER"),  # case is kept
        ("\u00aa", "a"),  # NFKC
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),  # RFC 4013 §2.1: other blanks
        ("u\u0308ber", "über"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_the_examples_of_the_standard(text: str, prepared: str) -> None:
    """RFC 4013 §3."""
    assert prepare(text) == prepared


@pytest.mark.parametrize(
    "text", ["\u0007", "a\x7f", "\u06271", "\u0627a\u0627", "a\0b", "\ue000", "\u200e", "\u200e1", "x\u0627", "\ud800"]
)
def test_what_may_not_be_there(text: str) -> None:
    """RFC 4013 §2.3 and §2.4: prohibited characters, both directions in one."""
    with pytest.raises(ValueError, match=r"allowed|mixed|begin") as raised:
        prepare(text)
    assert text not in str(raised.value)


def test_what_unicode_has_added_since_is_let_through() -> None:
    """RFC 4013 §2.5: what is shown is a query, which may hold code points that Unicode 3.2 did not assign."""
    assert prepare("\U0001f600") == "\U0001f600"
    assert prepare("\u1d2c") == "\u1d2c"  # RFC 3454 §4: normalised as Unicode 3.2 does, by client and server alike


@given(st.text(max_size=20))
def test_preparing_twice_changes_nothing(text: str) -> None:
    """What is prepared is prepared."""
    try:
        once = prepare(text)
    except ValueError:
        return
    assert prepare(once) == once
