"""Packed tickets: everything comes back, and the usual ones are small."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from relaymta.store.packed import due_of, lane_of, pack, sender_of, state_of, with_state

numbers = st.integers(0, (1 << 24) - 1) | st.integers(0, 600)
dues = st.integers(0, 1 << 33) | st.integers(0, 1 << 60)
states = st.integers(0, 3)


@given(dues, numbers, numbers, states, states)
def test_what_was_packed_comes_back(due: int, lane: int, sender: int, state: int, other: int) -> None:
    """In either form, and in another state."""
    for packed, expected in (
        (pack(due, lane, sender, state), state),
        (with_state(pack(due, lane, sender, state), other), other),
    ):
        assert (due_of(packed), lane_of(packed), sender_of(packed), state_of(packed)) == (due, lane, sender, expected)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 65_535), st.integers(0, 511), states)
def test_the_usual_ones_take_two_digits_of_python(due: int, lane: int, sender: int, state: int) -> None:
    """Until 2106, for 65,536 lanes and 512 senders of a shard: 32 octets."""
    assert sys.getsizeof(pack(due, lane, sender, state)) <= 32
