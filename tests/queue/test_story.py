"""Envelopes and stories: what is written is what is read, also by the next version."""

from __future__ import annotations

import json

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Envelope, Notify, Origin, Recipient, Ret
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.reply import Reply
from relaymta.queue.story import (
    Attempted,
    Entry,
    Held,
    Progress,
    Released,
    Removed,
    StoryError,
    Unknown,
    Warned,
    decode_entry,
    decode_envelope,
    encode_entry,
    encode_envelope,
    fold,
)

text = st.text(max_size=20)
times = st.floats(0, 4e9)
addresses = st.builds(Address, text, text)
recipients = st.builds(Recipient, addresses, st.integers(0, 15).map(Notify), st.one_of(st.just(""), text))
origins = st.builds(Origin, text, text, text, st.integers(0, 65535), text, text, text, text)
envelopes = st.builds(
    Envelope,
    st.none() | addresses,
    st.lists(recipients, min_size=1, max_size=5).map(tuple),
    times,
    origins,
    st.sampled_from(Body),
    st.booleans(),
    st.none() | st.sampled_from(Ret),
    text,
    st.booleans(),
    st.booleans(),
    st.just(0.0),
)
envelopes |= st.builds(evolve, envelopes, release_at=times.filter(bool), release_request=text)
replies = st.builds(Reply, st.integers(200, 599), text, text)
outcomes = st.builds(
    Outcome, st.integers(0, 4), st.sampled_from(Fate), st.sampled_from(Scope), text, text, times,
    st.none() | replies, text, text, text, st.booleans(), st.booleans(),
)  # fmt: skip
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Attempted, times, st.lists(outcomes, max_size=4).map(tuple)),
    st.builds(Held, times, text, text),
    st.builds(Released, times, text),
    st.builds(Warned, times),
    st.builds(Removed, times, st.lists(st.integers(0, 4), max_size=4).map(tuple), text),
)


@given(envelopes)
def test_an_envelope_is_read_as_it_was_written(envelope: Envelope) -> None:
    """decode(encode(e)) == e, every field, and the octets are one line."""
    octets = encode_envelope(envelope)
    assert decode_envelope(octets) == envelope
    assert b"\n" not in octets and octets.isascii()


@given(entries)
def test_a_story_line_is_read_as_it_was_written(entry: Entry) -> None:
    """decode(encode(entry)) == entry, and the octets are one line."""
    line = encode_entry(entry)
    assert decode_entry(line) == entry
    assert b"\n" not in line and line.isascii()


@given(st.lists(entries, max_size=8), st.integers(0, 8))
def test_lines_of_a_newer_version_are_kept_and_skipped(story: list[Entry], place: int) -> None:
    """A kind that is not known here changes nothing of what the known ones say, and is written back as it came."""
    strange = decode_entry(b'["Z",1.5,{"new":[1]}]')
    assert strange == Unknown(b'["Z",1.5,{"new":[1]}]')
    assert encode_entry(strange) == b'["Z",1.5,{"new":[1]}]'
    mixed = [*story[:place], strange, *story[place:]]
    assert fold(5, mixed) == fold(5, story)


def test_elements_that_a_newer_version_adds_are_ignored() -> None:
    """A known kind with more elements behind the known ones is read."""
    line = json.loads(encode_entry(Held(1.0, "admin", "spam?")))
    assert decode_entry(json.dumps([*line, "new"]).encode()) == Held(1.0, "admin", "spam?")
    envelope = Envelope(None, (Recipient(Address("a", "b.example")),), 1.0, requiretls=True)
    row = json.loads(encode_envelope(envelope))
    assert decode_envelope(json.dumps([*row, "new"]).encode()) == envelope


@pytest.mark.parametrize(
    "octets", [b"", b"{", b"[]", b"[2,1.0]", b"[1]", b"null", b'[1,"x",null,[],"7BIT",false,null,""]', b"\xff"]
)
def test_a_broken_envelope_is_an_error_with_a_reason(octets: bytes) -> None:
    """What cannot be read raises StoryError and nothing else."""
    with pytest.raises(StoryError):
        decode_envelope(octets)


@pytest.mark.parametrize("line", [b"", b"[", b"[]", b'["A",1.0,[[0]]]', b'["H"]', b"7"])
def test_a_broken_line_is_an_error_with_a_reason(line: bytes) -> None:
    """What cannot be read raises StoryError and nothing else."""
    with pytest.raises(StoryError):
        decode_entry(line)


def outcome(recipient: int, fate: Fate) -> Outcome:
    """An outcome of which only recipient and fate matter."""
    return Outcome(recipient, fate, Scope.RECIPIENT, "4.2.0", "", 7.0)


def test_progress_is_the_fold_over_the_story() -> None:
    """Final recipients leave, deferred ones stay with their last outcome, holds add up, the warning is remembered."""
    deferred = outcome(1, Fate.DEFERRED)
    progress = fold(
        4,
        [
            Attempted(10.0, (outcome(0, Fate.RELAYED), deferred, outcome(2, Fate.FAILED))),
            Held(20.0, "admin", "look"),
            Released(50.0, "admin"),
            Warned(60.0),
            Removed(70.0, (3,), "admin"),
        ],
    )
    assert progress == Progress((1,), 1, {1: deferred}, None, "", "", 30.0, 60.0)
    assert fold(2, [Held(5.0, "admin", "why")]).held_reason == "why"


@given(st.lists(entries, max_size=10))
def test_a_recipient_that_is_final_stays_final(story: list[Entry]) -> None:
    """Whatever the order of the lines, pending only shrinks, and each pending one's last outcome is a deferral."""
    progress = fold(5, [])
    for entry in story:
        later = progress.after(entry)
        assert set(later.pending) <= set(progress.pending)
        assert later.attempts >= progress.attempts
        assert set(later.last) <= set(later.pending)
        assert all(not told.fate.final for told in later.last.values())
        progress = later
