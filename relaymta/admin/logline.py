"""An event as one line: how each kind is written is worked out once, so that writing it costs a few string calls.

Text is `id name key=value ...`; a value is quoted when it is free text or holds a blank, a quote, a backslash
or anything unprintable (controls, line separators U+2028 and U+2029, bidirectional marks, lone surrogates),
which are escaped as in Python. JSON is one object. Neither can be forged by what a peer sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import Any

import attrs

from relaymta.events import Event

Renderer = Callable[[Event], str]

IDENTITIES = ("id", "session")  # a first field of this name is the line's id
FREE_TEXT = frozenset({"reply", "reason", "command", "trace", "text"})  # always quoted, so that greps are easy

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
NUMBERS = ("int", "float", int, float)  # as annotations are, or as they read


def event_name(kind: type[Event]) -> str:
    """The stable name of a kind of event: MessageAccepted is "message-accepted"."""
    name = kind.__name__
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def as_row(at: float, event: Event) -> dict[str, object]:
    """An event as a JSON-able row: its POSIX time, its name and its fields."""
    return {"time": at, "event": event_name(type(event)), **_fields(event)}


def quoted(value: str) -> str:
    """The value in double quotes, on one line, whatever it holds."""
    return '"' + "".join(map(_escaped, value)) + '"'


def text_renderer(kind: type[Event]) -> Renderer:
    """A function that writes events of this kind as text; the line ends with a line feed."""
    names = [one.name for one in attrs.fields(kind)]  # type: ignore[arg-type]
    first = names[0] if names and names[0] in IDENTITIES else ""
    written = [one for one in attrs.fields(kind) if one.name != first]  # type: ignore[arg-type]
    head = f"{'%s' if first else '-'} {event_name(kind)}"
    template = head + "".join(f" {one.name}={_directive(one)}" for one in written) + "\n"
    slow = _careful(kind, first, [one.name for one in written])
    get_all = _getter(names)
    get_plain = _getter([one.name for one in attrs.fields(kind) if _is_plain(one)])  # type: ignore[arg-type]
    get_free = _getter([one.name for one in attrs.fields(kind) if one.name in FREE_TEXT])  # type: ignore[arg-type]

    def render(event: Event) -> str:
        try:
            plain = "".join(get_plain(event))
            free = "".join(get_free(event))
        except TypeError:  # a field that is no str after all
            return slow(event)
        if " " in plain or '"' in plain or "\\" in plain or not plain.isprintable():
            return slow(event)
        if '"' in free or "\\" in free or not free.isprintable():
            return slow(event)
        line = template % get_all(event)
        return line if not first or line[0] != " " else f"-{line}"

    return render


def json_renderer(kind: type[Event]) -> Renderer:
    """A function that writes events of this kind as a JSON object less its opening brace: the time comes first."""
    all_fields = attrs.fields(kind)  # type: ignore[arg-type]
    name = event_name(kind)
    template = f'"event":"{name}"' + "".join(f',"{one.name}":%s' for one in all_fields) + "}\n"
    get_all = _getter([one.name for one in all_fields])
    encoders = [repr if one.type in NUMBERS else encode_basestring_ascii for one in all_fields]

    def render(event: Event) -> str:
        try:
            return template % tuple([encode(value) for encode, value in zip(encoders, get_all(event), strict=True)])
        except TypeError:  # a field that is no str after all
            return json.dumps({"event": name, **_fields(event)}, default=str)[1:] + "\n"

    return render


def _getter(names: list[str]) -> Callable[[Event], tuple[Any, ...]]:
    """Like attrgetter, but always a tuple."""
    if not names:
        return lambda event: ()
    get = attrgetter(*names)
    if len(names) > 1:
        return get
    return lambda event: (get(event),)


def _is_plain(one: attrs.Attribute[Any]) -> bool:
    return one.name not in FREE_TEXT and one.type not in NUMBERS


def _directive(one: attrs.Attribute[Any]) -> str:
    if one.type in ("float", float):
        return "%.3f"
    return '"%s"' if one.name in FREE_TEXT else "%s"


def _fields(event: Event) -> dict[str, object]:
    return {one.name: getattr(event, one.name) for one in attrs.fields(type(event))}  # type: ignore[arg-type]


def _careful(kind: type[Event], first: str, names: list[str]) -> Renderer:
    """The way of an event that holds something odd: value by value."""
    name = event_name(kind)

    def render(event: Event) -> str:
        identity = _value("", getattr(event, first)) if first else ""
        parts = [identity or "-", name]
        parts += [f"{key}={_value(key, getattr(event, key))}" for key in names]
        return " ".join(parts) + "\n"

    return render


def _value(key: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if key in FREE_TEXT or " " in text or '"' in text or "\\" in text or not text.isprintable():
        return quoted(text)
    return text


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
