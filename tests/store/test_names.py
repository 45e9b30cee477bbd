"""Names of queue files, and the index over them."""

from __future__ import annotations

import sys
import tracemalloc
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.store import names
from relaymta.store.index import Index
from relaymta.store.interfaces import Schedule, Ticket

IDS = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=1, max_size=40)
SCHEDULES = st.builds(Schedule, st.integers(0, 2**40), st.text(max_size=200), st.text(max_size=90), st.booleans())


@given(IDS, SCHEDULES)
def test_a_name_says_what_was_put_into_it(queue_id: str, schedule: Schedule) -> None:
    """Due time and held always, lane and sender as far as they fit; and the name is one that a folder can hold."""
    name = names.encode(queue_id, schedule)
    assert len(name.encode()) <= 255 and "/" not in name and name.isascii() and name.isprintable()
    ticket = names.decode(name)
    assert ticket is not None
    assert (ticket.queue_id, ticket.schedule.due) == (queue_id, schedule.due)
    assert ticket.schedule.held == schedule.held
    if not any(0xD800 <= ord(c) < 0xE000 for c in schedule.lane + schedule.sender):
        assert schedule.lane.startswith(ticket.schedule.lane)
        assert schedule.sender.startswith(ticket.schedule.sender)
    assert names.encode(queue_id, ticket.schedule).count(",") == 4


def test_names_are_readable() -> None:
    """An operator can read a listing."""
    schedule = Schedule(1764000000, "lmtp:unix:/run/lmtp", "news@example.net", held=True)
    name = names.encode("06C9M2J8Q3W0", schedule)
    assert name == "06C9M2J8Q3W0,1764000000,h,lmtp:unix:%2Frun%2Flmtp,news@example.net"
    assert names.decode(name) == Ticket("06C9M2J8Q3W0", schedule)
    assert unquote(name).count("/") == 2


@pytest.mark.parametrize(
    "name",
    ["", "A", "A,1", "A,1,w", "A,1,w,", "A,1,w,,,", "A,x,w,,", "A,01,w,,", "A,1,x,,", ",1,w,,", "A/,1,w,,", "A,²,w,,"]
    + ["A,-1,w,,", "..,1,w,,", "\udcff,1,w,,"],
)
def test_what_is_not_ours_is_not_understood(name: str) -> None:
    """A name has one spelling, or a rename would not find it again."""
    assert names.decode(name) is None


@pytest.mark.parametrize("queue_id", ["", "a,b", "../x", "a b", "é"])
def test_an_id_that_could_not_be_read_back_is_refused(queue_id: str) -> None:
    """Better a bug that shows than a file that nobody finds."""
    with pytest.raises(ValueError):
        names.encode(queue_id, Schedule(1))


def test_a_due_time_that_is_no_time_is_now() -> None:
    """A negative or fractional one would not be read back."""
    assert names.encode("A", Schedule(-5)).startswith("A,0,")
    assert names.encode("A", Schedule(1.5)).startswith("A,1,")  # type: ignore[arg-type]


def test_folders_share_messages_evenly() -> None:
    """Ids that differ in their last characters alone are spread."""
    counts = [0] * 64
    for number in range(6400):
        counts[int(names.folder(f"06C9M2J8{number:04}", 64), 16)] += 1
    assert min(counts) > 60 and max(counts) < 140


@given(st.lists(st.tuples(st.sampled_from("ABCDEF"), st.one_of(st.none(), SCHEDULES)), max_size=40))
def test_the_index_is_a_dict_of_names(steps: list[tuple[str, Schedule | None]]) -> None:
    """Whatever is set, replaced and dropped."""
    index = Index()
    plain: dict[str, str] = {}
    for queue_id, schedule in steps:
        if schedule is None:
            index.drop(queue_id)
            plain.pop(queue_id, None)
        else:
            plain[queue_id] = names.encode(queue_id, schedule)
            index.set(queue_id, plain[queue_id])
        assert {key: index.get(key) for key in "ABCDEF"} == {key: plain.get(key) for key in "ABCDEF"}
        assert len(index) == len(plain)
    for queue_id in "ABCDEF":
        index.drop(queue_id)
    for numbers in (index._lanes, index._senders):
        assert not numbers.numbers and not any(numbers.uses)


def test_the_index_is_small() -> None:
    """About a hundred octets a message, besides its id, however lanes and senders are combined."""
    ids = [f"06C9M2J{number:05}" for number in range(20_000)]
    known = [
        names.encode(queue_id, Schedule(1764000000 + number, f"smtp:example{number % 1000}.org", f"news{number % 301}"))
        for number, queue_id in enumerate(ids)
    ]
    tracemalloc.start()
    try:
        index = Index()
        before = tracemalloc.get_traced_memory()[0]
        for queue_id, name in zip(ids, known, strict=True):
            index.set(queue_id, name)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / len(ids) < 120
    assert sys.getsizeof(next(iter(index._entries.values()))) <= 40
