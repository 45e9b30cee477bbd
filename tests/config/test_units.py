"""Times and sizes as the operator writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.config import parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("4h", 14400), ("5d", 432000), ("250ms", 0.25), ("2w", 1209600), ("1.5h", 5400)],
)
def test_a_time_is_its_number_of_seconds(text: str, seconds: float) -> None:
    """A time is written with its unit and kept in seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "octets"),
    [("25MB", 25_000_000), ("128KiB", 131072), ("1B", 1), ("1.5KiB", 1536), ("2GiB", 2 << 30), ("1TB", 10**12)],
)
def test_a_size_is_its_number_of_octets(text: str, octets: int) -> None:
    """A size counts in thousands, or in powers of two where its unit has an i."""
    assert parse_size(text) == octets


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (30, '"30s"'),
        (1.5, '"1.5s"'),
        (True, "not true"),
        ("30", '"30s"'),
        ("5 minutes", "did you mean"),
        ("5M", 'did you mean "5m"'),
        ("soon", "is not a time"),
        ("-5m", "is not a time"),
        ("٥s", "is not a time"),
        (["5m"], "not a list"),
        ("", "is not a time"),
    ],
)
def test_what_is_no_time_is_refused_with_what_was_meant(value: object, hint: str) -> None:
    """A bare number, a foreign unit or another type is no time, and the text shows one."""
    with pytest.raises(ValueError) as caught:
        parse_duration(value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (25, '"25MB"'),
        ("25", '"25MB"'),
        ("25mb", 'did you mean "25MB"'),
        ("25M", 'did you mean "25MB"'),
        ("big", "write"),
    ],
)
def test_what_is_no_size_is_refused_with_what_was_meant(value: object, hint: str) -> None:
    """A bare number or a foreign unit is no size, and the text shows one."""
    with pytest.raises(ValueError) as caught:
        parse_size(value)
    assert hint in str(caught.value)


@given(st.integers(0, 10**9))
def test_a_time_reads_as_it_was_shown(seconds: int) -> None:
    """parse(show(x)) == x for whole seconds."""
    assert parse_duration(show_duration(seconds)) == float(seconds)


@given(st.integers(0, 10**15))
def test_a_size_reads_as_it_was_shown(octets: int) -> None:
    """parse(show(x)) == x for octets."""
    assert parse_size(show_size(octets)) == octets


def test_a_value_is_shown_in_the_largest_unit_that_divides_it() -> None:
    """What the operator wrote as "5d" is not shown as seconds."""
    assert [show_duration(s) for s in (432000, 5400, 0.25, 1.5, 0)] == ["5d", "90m", "250ms", "1.5s", "0s"]
    assert [show_size(s) for s in (25_000_000, 131072, 1500, 0)] == ["25MB", "128KiB", "1500B", "0B"]
