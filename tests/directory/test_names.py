"""One account has one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory.names import NAME_MAX, account_name, password_text, prepare


@pytest.mark.parametrize(
    ("written", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_texts_are_prepared_as_rfc_4013_shows(written: str, prepared: str) -> None:
    """RFC 4013 §3's examples, a blank of another width, and what Unicode 3.2 did not know."""
    assert prepare(written) == prepared


@pytest.mark.parametrize("text", ["\u0007", "a\x7f", "\u0627\u0031", "\u0627a\u0627", "\ue000", "\u200e"])
def test_what_rfc_4013_forbids_is_no_text(text: str) -> None:
    """Control characters, private use, mixed directions (RFC 4013 §2.3 and §2.4)."""
    with pytest.raises(ValueError, match=r"allowed|mixed|begin"):
        prepare(text)


@given(st.text())
def test_to_prepare_twice_is_to_prepare_once(text: str) -> None:
    """What is stored is what is compared."""
    try:
        once = account_name(text)
    except ValueError:
        return
    assert account_name(once) == once


@pytest.mark.parametrize("text", ["", "a b", "#a", "a" * (NAME_MAX + 1), "a\u3000b", "\u00ad", "a\nb", "a\tb"])
def test_what_cannot_be_a_name_says_why(text: str) -> None:
    """Blanks, comments and line ends would not survive the file."""
    with pytest.raises(ValueError, match="name"):
        account_name(text)


def test_names_are_compared_in_lower_case() -> None:
    """Shop@Example.ORG is shop@example.org."""
    assert account_name("Shop@Example.ORG") == "shop@example.org"


def test_a_password_is_utf_8() -> None:
    """Octets that are not are nobody's password; one that is prepared away is none."""
    with pytest.raises(ValueError, match="utf-8"):
        password_text(b"\xff")
    assert password_text("\u00ad".encode()) == ""
