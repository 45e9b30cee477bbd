"""From TOML values to typed ones, and back to how the file would write them.

Nothing is coerced: a bare number is not a time, a string is not a list. Every refusal is a ValueError whose
text says what is wanted, with an example. Tables are left to loader.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Union, get_args, get_origin

import attrs
from cattrs import Converter

from relaymta.config.contracts import Textual
from relaymta.config.problems import described, suggestion
from relaymta.config.units import Duration, Size, parse_duration, parse_size, show_duration, show_size

Path = tuple[str | int, ...]
Reader = Callable[[object], Any]
Hook = Callable[[object, Any], Any]
Network = IPv4Network | IPv6Network

_WANTED: dict[type, str] = {
    str: "a string in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


class ComplaintsError(ValueError):
    """What is wrong within one value: for each complaint its path from there and a sentence."""

    def __init__(self, complaints: list[tuple[Path, str]]) -> None:
        self.complaints = complaints
        super().__init__("; ".join(text for _, text in complaints))


def complaints_of(error: ValueError, step: str | int) -> Iterator[tuple[Path, str]]:
    """The complaints of a value that stands under `step`."""
    if isinstance(error, ComplaintsError):
        for path, text in error.complaints:
            yield (step, *path), text
    else:
        yield (step,), str(error)


def converter(readers: Mapping[Any, Reader]) -> Converter:
    """A cattrs converter for all but tables: plain types, units, networks, enums, lists, and `readers`."""
    made = Converter()
    known: dict[Any, Reader] = {
        Duration: parse_duration,
        Size: parse_size,
        Network: _network,
        IPv4Network: _network,
        IPv6Network: _network,
        **readers,
    }
    for plain in _WANTED:  # cattrs has hooks of its own for these, which coerce and go before any factory
        made.register_structure_hook(plain, _plain_hook(plain))

    def known_hook(kind: Any) -> Hook:
        read = known[kind]
        return lambda value, _: read(value)

    # of two factories that fit, the later one is asked; what none of ours reads must not reach cattrs' own, which
    # coerce (a string would become a set of its letters)
    made.register_structure_hook_factory(lambda _: True, _unreadable)
    made.register_structure_hook_factory(is_list, lambda kind: _list_hook(kind, made))
    made.register_structure_hook_factory(_is_optional, lambda kind: _optional_hook(kind, made))
    made.register_structure_hook_factory(_is_enum, _enum_hook)
    made.register_structure_hook_factory(_is_textual, _textual_hook)
    made.register_structure_hook_factory(_is_reading, lambda kind: lambda value, _: kind.read(value))
    made.register_structure_hook_factory(known.__contains__, known_hook)
    return made


def _unreadable(kind: Any) -> Hook:
    raise TypeError(f"a settings class has a field of type {kind}, which nobody reads")


def is_list(kind: Any) -> bool:
    """Whether values of this type are lists in the file."""
    return get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,)


def show(value: object, kind: Any) -> str:
    """Write a value as the file would; `kind` is its declared type, None is written as "" ."""
    if isinstance(value, tuple):
        member = get_args(kind)[0] if is_list(kind) else object
        return "[" + ", ".join(show(one, member) for one in value) + "]"
    if value is None:
        return '""'
    if _is_optional(kind):
        kind = _without_none(kind)
    if kind is Duration and isinstance(value, (int, float)):
        return f'"{show_duration(value)}"'
    if kind is Size and isinstance(value, int):
        return f'"{show_size(value)}"'
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False)


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _without_none(kind: Any) -> Any:
    return Union[tuple(arg for arg in get_args(kind) if arg is not type(None))]  # noqa: UP007 - made at run time


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _is_textual(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "WANTED") and hasattr(kind, "from_text")


def _is_reading(kind: Any) -> bool:
    return isinstance(kind, type) and isinstance(getattr(kind, "read", None), types.MethodType)


def _plain_hook(kind: type) -> Hook:
    def read(value: object, _: Any) -> object:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        raise ValueError(f"{_WANTED[kind]} is wanted, not {described(value)}{_rewritten(kind, value)}")

    return read


def _rewritten(kind: type, value: object) -> str:
    """What the operator probably meant, where a value of the wrong type shows it."""
    if kind is str and isinstance(value, (int, float)):
        return f'; write "{str(value).lower()}"'
    if kind is int and isinstance(value, str) and value.isascii() and value.isdigit():
        return f"; write {int(value)} without quotes"
    if kind is bool and isinstance(value, str):
        meant = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
        word = meant.get(value.lower())
        return f"; write {word} without quotes" if word else ""
    return ""


def _network(value: object) -> Network:
    if not isinstance(value, str):
        raise ValueError(f'a network such as "192.0.2.0/24" or "2001:db8::/32" is wanted, not {described(value)}')
    try:
        meant = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f'"{value}" is not a network; write "192.0.2.0/24" or "2001:db8::/32"') from None
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError(f'"{value}" has bits beyond its mask; did you mean "{meant}"?') from None


def _enum_hook(kind: type[Enum]) -> Hook:
    values = [str(member.value) for member in kind]
    listed = ", ".join(f'"{value}"' for value in values)

    def read(value: object, _: Any) -> Enum:
        for member in kind:
            if member.value == value and type(member.value) is type(value):
                return member
        if not isinstance(value, str):
            raise ValueError(f"one of {listed} is wanted, not {described(value)}")
        raise ValueError(f'"{value}" is not one of {listed}{suggestion(value, values)}')

    return read


def _textual_hook(kind: type[Textual]) -> Hook:
    def read(value: object, _: Any) -> Textual:
        if not isinstance(value, str):
            raise ValueError(f"{kind.WANTED} is wanted, not {described(value)}")
        return kind.from_text(value)

    return read


def _optional_hook(kind: Any, made: Converter) -> Hook:
    inner = _without_none(kind)
    return lambda value, _: made.structure(value, inner)


def _list_hook(kind: Any, made: Converter) -> Hook:
    member = get_args(kind)[0]

    def read(value: object, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            if isinstance(value, dict) and attrs.has(member):
                raise ValueError("may stand several times: write its name in double brackets, [[...]]")
            shown = f'; write ["{value}"]' if isinstance(value, str) else ""
            raise ValueError(f"a list is wanted, not {described(value)}{shown}")
        found: list[Any] = []
        complaints: list[tuple[Path, str]] = []
        for position, one in enumerate(value):
            try:
                found.append(made.structure(one, member))
            except ValueError as error:
                complaints.extend(complaints_of(error, position))
        if complaints:
            raise ComplaintsError(complaints)
        return tuple(found)

    return read
