"""An event as one line: stable, and forged by nobody."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import unicodedata
from typing import Any

import attrs
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from relaymta import events
from relaymta.admin.logline import as_row, event_name, json_renderer, quoted, text_renderer
from relaymta.events import CommandRefused, DaemonReloaded, Event, LaneResumed, SessionOpened

KINDS = [
    kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, Event) and kind is not Event
]


def sample(kind: type[Event], text: str = "word", number: float = 7) -> Event:
    """An event of this kind, every str field `text`."""
    values: dict[str, Any] = {}
    for one in attrs.fields(kind):  # type: ignore[arg-type]
        values[one.name] = text if one.type == "str" else float(number) if one.type == "float" else number
    return kind(**values)


def text(event: Event) -> str:
    """The text line of an event."""
    return text_renderer(type(event))(event)


def test_a_line_has_the_id_first_then_the_name_then_the_fields() -> None:
    """Dashboards and fail2ban read it: id, kebab-case name, key=value in the fields' order."""
    event = SessionOpened(session="S1", listener="mx", client="192.0.2.7", port=4711)
    assert text(event) == "S1 session-opened listener=mx client=192.0.2.7 port=4711\n"


def test_an_event_without_an_id_has_a_dash() -> None:
    """The columns stay where they are."""
    assert text(LaneResumed("smtp:example.org")) == "- lane-resumed lane=smtp:example.org\n"
    assert text(DaemonReloaded("1", "")) == "- daemon-reloaded version=1 file=\n"
    assert text(SessionOpened("", "mx", "", 0)) == "- session-opened listener=mx client= port=0\n"


def test_free_text_is_always_quoted() -> None:
    """A reply is quoted whether or not it needs to be, so that one pattern finds it."""
    event = CommandRefused("S1", "192.0.2.7", "RCPT", "550", sender="a@b.example")
    assert text(event) == (
        'S1 command-refused client=192.0.2.7 command="RCPT" reply="550" check= sender=a@b.example recipient=\n'
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_quick_way_and_the_careful_way_agree(kind: type[Event]) -> None:
    """For every kind a plain value reads the same written quickly or carefully, as text and as JSON."""
    quick, careful = text(sample(kind)), text(sample(kind, "two words"))
    assert quick.endswith("\n") and quick.count("\n") == 1
    assert re.sub(r'"?two words"?', "W", careful) == re.sub(r'"?word"?', "W", quick)
    assert json.loads("{" + json_renderer(kind)(sample(kind))) == {
        "event": event_name(kind),
        **attrs.asdict(sample(kind)),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize(
    "nasty",
    [
        "a\n2026-11-23T20:00:00.000Z X message-accepted sender=forged",
        "a\r\nb",
        'x" status=2.0.0 fate="relayed',
        "x status=2.0.0",
        "a\u2028b",
        "a\u2029b",
        "a\x85b",
        "a\x00b",
        "a\x1b[2Jb",
        "a\x7fb",
        "a\u202eb",
        "a\ud800b",
        "a\u00a0b",
        "a\\",
        '\\"',
        "tab\there",
    ],
)
@pytest.mark.parametrize("kind", [SessionOpened, CommandRefused, events.RecipientSettled, events.MessageAccepted])
def test_what_a_peer_wrote_cannot_forge_a_line_or_a_field(kind: type[Event], nasty: str) -> None:
    """Control characters, quotes, blanks, line separators and direction marks are quoted and escaped."""
    line = text(sample(kind, nasty))
    assert line.endswith("\n") and len(line.splitlines()) == 1
    assert line[:-1].isprintable()
    words = shlex.split(line.replace("\\\\", "\u2060").replace('\\"', "\u2061"), posix=True)
    names = [one.name for one in attrs.fields(kind)]  # type: ignore[arg-type]
    assert [word.partition("=")[0] for word in words[2:]] == names[1:]
    row = "{" + json_renderer(kind)(sample(kind, nasty))
    assert len(row.splitlines()) == 1 and row[:-1].isascii() and row[:-1].isprintable()
    assert json.loads(row)[names[1]] == nasty if kind is not SessionOpened else True


@given(st.text(st.characters(codec=None), max_size=30))
def test_no_text_leaves_its_line(value: str) -> None:
    """Whatever is written, the line is one, printable, and reads back as Python would read the escapes."""
    line = text(CommandRefused("S1", value, value, value))
    assert len(line.splitlines()) == 1 and line[:-1].isprintable()
    assert not any(unicodedata.category(letter).startswith("C") for letter in line[:-1])
    assert json.loads("{" + json_renderer(CommandRefused)(CommandRefused("S1", value, value, value)))["reply"] == value


def test_letters_of_all_scripts_stay_readable() -> None:
    """An address in UTF-8 is printable, and is written as it is."""
    assert "sender=пример@xn--e1afmkfd.example" in text(
        CommandRefused("S", "c", "M", "r", "", "пример@xn--e1afmkfd.example")
    )
    assert quoted("é\n") == '"é\\n"'


def test_seconds_have_three_decimals() -> None:
    """Milliseconds are what a mail log needs."""
    assert text(events.MessageFinished("Q1", 1.23456)) == "Q1 message-finished seconds=1.235\n"


def test_a_field_that_is_no_str_is_written_all_the_same() -> None:
    """A mistake in an event's maker costs its line nothing, and the mail even less."""
    event = SessionOpened("S1", None, None, 1)  # type: ignore[arg-type]
    assert text(event) == "S1 session-opened listener=None client=None port=1\n"
    assert json.loads("{" + json_renderer(SessionOpened)(event))["listener"] is None


def test_an_event_without_fields_is_a_line() -> None:
    """Even the emptiest event can be told."""

    @frozen(slots=True)
    class BellRung(Event):
        pass

    assert text(BellRung()) == "- bell-rung\n"
    assert json.loads("{" + json_renderer(BellRung)(BellRung())) == {"event": "bell-rung"}


def test_an_event_is_a_row_for_the_control_socket() -> None:
    """The same names and fields as in the log."""
    assert as_row(1.5, LaneResumed("discard")) == {"time": 1.5, "event": "lane-resumed", "lane": "discard"}


def test_names_of_events_are_an_interface() -> None:
    """Every kind has its own name, in lower case with hyphens."""
    names = [event_name(kind) for kind in KINDS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
