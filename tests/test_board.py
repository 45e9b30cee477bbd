"""The board of counts: limits of the host hold across workers."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from relaymta.board import Board
from relaymta.smtp.door import Door

KEYS = st.sampled_from([b"192.0.2.1", b"192.0.2.2", b"smtp:example.org"])


def crew(size: int) -> list[Board]:
    """The views of `size` workers on one board."""
    descriptor = Board.make(size)
    try:
        return [Board.attach(descriptor, size, column) for column in range(size)]
    finally:
        os.close(descriptor)


@given(st.lists(st.tuples(st.integers(0, 2), KEYS, st.booleans()), max_size=60), st.integers(1, 5))
def test_a_limit_holds_for_the_host(steps: list[tuple[int, bytes, bool]], limit: int) -> None:
    """In any order of taking and giving by any worker, no key is counted above its limit, and none is lost."""
    boards = crew(3)
    held: dict[tuple[int, bytes], int] = {}
    for worker, key, give in steps:
        if give and held.get((worker, key)):
            boards[worker].give(key)
            held[worker, key] -= 1
        elif not give:
            before = sum(count for (_, k), count in held.items() if k == key)
            assert boards[worker].take(key, limit) == (before < limit)
            if before < limit:
                held[worker, key] = held.get((worker, key), 0) + 1
        for _, known, _ in steps:
            expected = sum(count for (_, k), count in held.items() if k == known)
            assert boards[0].count(known) == expected


def test_a_dead_worker_gives_back_what_it_had() -> None:
    """The successor of a killed worker wipes its column; the counts of the others stand."""
    descriptor = Board.make(2)
    first, second = (Board.attach(descriptor, 2, column) for column in range(2))
    assert first.take(b"k", 9)
    assert second.take(b"k", 9)
    successor = Board.attach(descriptor, 2, 0)
    os.close(descriptor)
    assert successor.count(b"k") == 1
    assert second.count(b"k") == 1


def test_giving_what_was_not_taken_is_a_bug() -> None:
    """A count never goes below nought in silence."""
    with pytest.raises(KeyError):
        Board.alone().give(b"k")


def test_connections_of_a_client_are_limited_for_the_host() -> None:
    """Two workers behind one port let in no more from one client than the listener says."""
    doors = [Door(0, 3, lambda client: False, Clock(), board, "mx") for board in crew(2)]
    guests = [object() for _ in range(5)]
    let_in = [
        doors[position % 2].enter(guest, "192.0.2.1") is None  # type: ignore[arg-type]
        for position, guest in enumerate(guests)
    ]
    assert let_in == [True, True, True, False, False]
    doors[0].leave(guests[0])  # type: ignore[arg-type]
    assert doors[1].enter(guests[3], "192.0.2.1") is None  # type: ignore[arg-type]


def test_clients_that_share_a_cell_do_not_share_it_in_every_row() -> None:
    """Rows were copies of each other for keys of one length, as IPv6 clients all are: one count for two strangers."""
    board = Board.alone()
    rows: dict[int, set[int]] = {}
    for number in range(2000):
        first, *others = board._places(b"door mx %016x" % number)
        rows.setdefault(first, set()).add(others[0])
    shared = [seconds for seconds in rows.values() if len(seconds) > 1]
    assert len(shared) > 50  # about 115 pairs share the first
    assert sum(map(len, rows.values())) > 1990


def test_nobody_knows_who_shares_a_cell_with_whom() -> None:
    """Each board has a key of its own, and all views of one board have the same."""
    one, other = crew(2)
    key = b"door mx 20010db800010002"
    assert one._places(key) == other._places(key) != crew(1)[0]._places(key)


def test_nobody_is_counted_on_an_empty_board() -> None:
    """Whatever the cells of a key: what stands behind the cells is never taken for a count."""
    board = Board.alone()
    assert not any(board.count(b"%d" % number) for number in range(60_000))
