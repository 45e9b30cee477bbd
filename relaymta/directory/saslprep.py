"""SASLprep: the form in which two spellings of one name or password are equal, whatever keyboard typed them.

RFC 4013, over the tables of RFC 3454. Code points that Unicode 3.2 did not know are let through, so that a password may
hold what was added since.
"""

from __future__ import annotations

import stringprep
from unicodedata import ucd_3_2_0

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
    # The tables are slow and a stranger's text is long: each letter is looked up once, however often it stands there.
    letters = set(text)
    mapping: dict[int, str | None] = {ord(letter): " " for letter in letters if stringprep.in_table_c12(letter)}
    mapping |= {ord(letter): None for letter in letters if stringprep.in_table_b1(letter)}
    prepared = ucd_3_2_0.normalize("NFKC", text.translate(mapping))  # RFC 4013 §2.1, §2.2
    for letter in sorted(set(prepared)):
        if any(prohibited(letter) for prohibited in _PROHIBITED):
            raise ValueError(f"U+{ord(letter):04X} is not allowed")
    _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """RFC 3454 §6: text that runs from right to left does so from its first letter to its last."""
    letters = set(text)
    if not any(map(stringprep.in_table_d1, letters)):
        return
    if any(map(stringprep.in_table_d2, letters)):
        raise ValueError("letters of both directions are mixed")
    if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
        raise ValueError("what runs from right to left must begin and end so")
