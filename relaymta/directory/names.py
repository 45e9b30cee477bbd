"""Names and passwords as they are compared: one account has one spelling.

Both are prepared by SASLprep; names are in lower case beside that. What an address looks like is left to mail.
"""

from __future__ import annotations

from relaymta.directory.saslprep import prepare

NAME_MAX = 255  # octets in UTF-8; ours, what a column of names usually holds
PREPARED_MAX = 1024  # characters of a password beyond ASCII; ours: NFKC may take the square of that


def account_name(text: str) -> str:
    """The name of an account as it is kept and compared. Raises ValueError with a sentence."""
    try:
        name = prepare(text).lower()
    except ValueError as error:
        raise ValueError(f"not a name: {error}") from None
    if not name:
        raise ValueError("a name must not be empty")
    if " " in name or name.startswith("#"):
        raise ValueError('a name has no blanks, and does not begin with "#"')
    if len(name.encode()) > NAME_MAX:
        raise ValueError(f"a name has at most {NAME_MAX} octets")
    return name


def password_text(octets: bytes) -> str:
    """A password as it is hashed, from the UTF-8 that the client sent. Raises ValueError; "" is none."""
    text = octets.decode()
    if len(text) > PREPARED_MAX and not text.isascii():
        raise ValueError("a password that long must be ASCII")
    return prepare(text)
