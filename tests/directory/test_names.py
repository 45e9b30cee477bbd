"""One account has one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory.names import NAME_MAX, account_name, password_text


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


def test_a_long_password_beyond_ascii_is_nobodys() -> None:
    """What would take long to prepare is not prepared; a token in the place of a password is ASCII and may be long."""
    with pytest.raises(ValueError, match="ASCII"):
        password_text("\ufdfa".encode() * 3000)
    assert password_text("\ufdfa".encode()).startswith("\u0635")
    assert password_text(b"x" * 9000) == "x" * 9000
