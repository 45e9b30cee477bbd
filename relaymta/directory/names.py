"""Names and passwords as they are compared: one account has one spelling, whatever keyboard typed it.

RFC 4013 (SASLprep) over the tables of RFC 3454; names are in lower case beside that. Code points that Unicode 3.2 did
not know are let through in both, so that a password may hold what was added since. What an address looks like is
left to mail.
"""

from __future__ import annotations

import stringprep
from unicodedata import ucd_3_2_0

NAME_MAX = 255  # octets in UTF-8; ours, what a column of names usually holds
_PROHIBITED = (  # RFC 4013 §2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepare(text: str) -> str:
    """The form in which two spellings of one text are equal. Raises ValueError for what may not stand in one."""
    if text.isascii():
        if not text.isprintable():
            raise ValueError("control characters are not allowed")
        return text
    mapped = "".join(  # RFC 4013 §2.1
        " " if stringprep.in_table_c12(letter) else letter for letter in text if not stringprep.in_table_b1(letter)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)  # RFC 4013 §2.2
    for letter in prepared:
        if any(prohibited(letter) for prohibited in _PROHIBITED):
            raise ValueError(f"U+{ord(letter):04X} is not allowed")
    _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """RFC 3454 §6: text that runs from right to left does so from its first letter to its last."""
    if not any(map(stringprep.in_table_d1, text)):
        return
    if any(map(stringprep.in_table_d2, text)):
        raise ValueError("letters of both directions are mixed")
    if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
        raise ValueError("what runs from right to left must begin and end so")


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
    return prepare(octets.decode())
