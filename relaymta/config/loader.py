"""The loader: one TOML file becomes one frozen settings object, or every problem that it has, at once.

Each table is an attrs class: its fields are the keys, its defaults the defaults, its validators and `check`
the contradictions. An unknown or a missing key is a problem like any other, and every problem has its line.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from enum import Enum
from typing import Any, Generic, TypeVar, cast, get_args

import attrs
from attrs import field, frozen
from cattrs import Converter

from relaymta.config.contracts import Checked
from relaymta.config.kinds import ComplaintsError, Path, Reader, complaints_of, converter, is_list, show
from relaymta.config.lines import locate
from relaymta.config.problems import ConfigError, Problem, described, suggestion

T = TypeVar("T")

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN_KEY = "there is no such key here"


@frozen(slots=True)
class Row:
    """One effective value: its dotted key, the value as the file would write it, and where it came from."""

    key: str
    value: str
    origin: str


@frozen(slots=True)
class Loaded(Generic[T]):
    """Settings, the file they came from, the line of each key that stands there, and its whole text."""

    settings: T
    file: str
    lines: Mapping[Path, int]
    text: str = field(default="", repr=False)

    def origin(self, path: Path) -> str:
        """The place of the key, "file:line", or "default"."""
        line = self.lines.get(path)
        return f"{self.file}:{line}" if line else "default"

    def problem(self, key: str, said: str) -> Problem:
        """What is said of a key, "account[0].password_file" as code counts, with the line where it stands."""
        path = path_of(key)
        return Problem(self.file, _line(self.lines, path), dotted(path), said)

    def rows(self) -> Iterator[Row]:
        """Every value in force, in the order of the settings."""
        return self._rows(self.settings, ())

    def _rows(self, settings: Any, path: Path) -> Iterator[Row]:
        for one in attrs.fields(attrs.resolve_types(type(settings))):
            here = (*path, _key(one))
            value = getattr(settings, one.name)
            if attrs.has(type(value)) and not hasattr(value, "from_text"):
                yield from self._rows(value, here)
            elif is_list(one.type) and attrs.has(get_args(one.type)[0]) and not _textual(one.type):
                for position, member in enumerate(value):
                    yield from self._rows(member, (*here, position))
            else:
                yield Row(dotted(here), show(value, one.type), self.origin(here))


def load(file: str, settings: type[T], *, readers: Mapping[Any, Reader] | None = None) -> Loaded[T]:
    """Read `file` into `settings`.

    `readers` reads types that are not ours, by type. Raises ConfigError with every problem found.
    """
    try:
        with open(file, "rb") as stream:
            octets = stream.read()
    except OSError as error:
        raise ConfigError([Problem(file, 0, "", f"cannot be read: {error.strerror}")]) from None
    try:
        text = octets.decode()
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(file, line, "", "is not UTF-8 text")]) from None
    return loads(text, file, settings, readers=readers)


def loads(text: str, file: str, settings: type[T], *, readers: Mapping[Any, Reader] | None = None) -> Loaded[T]:
    """Read the text of `file`; like load()."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(file, text, str(error))]) from None
    lines = locate(text)
    known = converter(readers or {})
    known.register_structure_hook_factory(_is_table, lambda kind: _Table(kind, known))
    try:
        made = known.structure(raw, settings)
    except ComplaintsError as error:
        homes = _homes(settings, "", "at the top of the file")
        problems = [
            Problem(file, _line(lines, path), dotted(path), _rehoused(path, said, homes))
            for path, said in error.complaints
        ]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line)) from None
    return Loaded(made, file, lines, text)


def dotted(path: Path) -> str:
    """A path as people write it, members counted from 1: ("listener", 0, "tls") is "listener[1].tls"."""
    text = ""
    for step in path:
        text += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _syntax(file: str, text: str, said: str) -> Problem:
    match = _AT_LINE.search(said)
    if match is None:
        return Problem(file, 0, "", f"is not TOML: {said}")
    line = int(match[1]) if match[1] else text.rstrip("\n").count("\n") + 1
    return Problem(file, line, "", f"is not TOML: {said[: match.start()].lower()}")


def _line(lines: Mapping[Path, int], path: Path) -> int:
    """The line of the path, or of the nearest table around it; 0 when it stands nowhere in the file."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 0


def _homes(settings: Any, table: str, place: str) -> dict[str, list[str]]:
    """For each key of any table, where it belongs: a key under the wrong header is a common slip."""
    found: dict[str, list[str]] = {}
    tables: dict[str, list[str]] = {}
    for one in attrs.fields(attrs.resolve_types(settings)):
        kind = get_args(one.type)[0] if is_list(one.type) else one.type
        if _is_table(kind):
            inner = f"{table}.{_key(one)}" if table else _key(one)
            header = f"[[{inner}]]" if is_list(one.type) else f"[{inner}]"
            tables.setdefault(_key(one), []).append(f"in a table of its own, {header}")
            shown = _homes(kind, inner, f"in {header}")
            for key, homes in shown.items():
                found.setdefault(key, []).extend(homes)
        else:
            found.setdefault(_key(one), []).append(place)
    return {**tables, **found}


def _rehoused(path: Path, said: str, homes: Mapping[str, list[str]]) -> str:
    if not said.startswith(_UNKNOWN_KEY) or path[-1] not in homes:
        return said  # the very key in another table is a better guess than a like one in this
    return f"{_UNKNOWN_KEY}; it belongs {' or '.join(homes[str(path[-1])])}"


def _example(key: str, kind: Any) -> str:
    """How a key that must be given is written, where its type says so much."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"; write one of {', '.join(json.dumps(one.value) for one in kind)}"
    if isinstance(kind, type) and issubclass(kind, date):
        return f"; write {key} = 2027-01-31"
    return f'; write {key} = "..."' if kind is str else ""


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and attrs.has(kind) and not hasattr(kind, "from_text")


def _textual(kind: Any) -> bool:
    return hasattr(get_args(kind)[0], "from_text")


def _key(one: attrs.Attribute[Any]) -> str:
    """The name in the file: the attribute's, unless its metadata says another under "key"."""
    return str(one.metadata.get("key", one.name))


def path_of(text: str) -> Path:
    """Read what a check calls a key, "retry[0].x" with members from 0 as code counts, into a path."""
    return tuple(int(index) if index else name for name, index in _STEP.findall(text))


class _Table:
    """A structure hook for one attrs class: reads all fields before it complains."""

    def __init__(self, kind: type[Any], known: Converter) -> None:
        self._kind = attrs.resolve_types(kind)
        self._fields = {_key(one): one for one in attrs.fields(self._kind) if one.init}
        self._known = known

    def __call__(self, value: object, _: Any) -> Any:
        if not isinstance(value, dict):
            double = ", written in single brackets: it stands once" if isinstance(value, list) else ""
            raise ValueError(f"a table is wanted{double}, not {described(value)}")
        complaints: list[tuple[Path, str]] = [
            ((key,), self._unknown(key, value[key])) for key in value if key not in self._fields
        ]
        arguments: dict[str, Any] = {}
        for key, one in self._fields.items():
            try:
                if key in value:
                    arguments[one.alias or one.name] = self._read(one, value[key])
                elif one.default is attrs.NOTHING:
                    complaints.append(((key,), f"is missing{_example(key, one.type)}"))
            except ValueError as error:
                complaints.extend(complaints_of(error, key))
        if complaints:
            raise ComplaintsError(complaints)
        try:
            made = self._kind(**arguments)
        except ValueError as error:  # a default that is wrong here, or values that do not fit together
            raise ComplaintsError([((), str(error.args[0] if error.args else error))]) from None
        if isinstance(made, Checked):
            contradictions = [(path_of(key), text) for key, text in made.check()]
            if contradictions:
                raise ComplaintsError(contradictions)
        return made

    def _unknown(self, key: str, value: object) -> str:
        noun = "table" if isinstance(value, dict) else "key"
        return f"there is no such {noun} here{suggestion(key, self._fields)}"

    def _read(self, one: attrs.Attribute[Any], value: object) -> Any:
        """The value of one field as its class takes it; its converter and validator are tried beforehand."""
        found = self._known.structure(value, cast(Any, one.type))
        kept = one.converter(found) if callable(one.converter) else found
        if one.validator is not None:
            try:
                one.validator(None, one, kept)
            except ValueError as error:
                # attrs' own validators put the name first and other arguments behind their sentence
                said = str(error.args[0]) if error.args else "is not allowed"
                raise ValueError(said.removeprefix(f"{one.name}: ").removeprefix(f"'{one.name}' ")) from None
        return found
