"""Where in a TOML text each key and each list member stands, so that a problem can name its line.

TOML 1.0 (tables, arrays of tables, dotted and quoted keys, inline tables, multi-line values). tomllib reads
the values and refuses bad syntax; this scan runs over text that it has accepted and trusts its shape.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\"]|\\.|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE = re.compile(r"[A-Za-z0-9_\-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")


def locate(text: str) -> dict[Path, int]:
    """The line (from 1) of every key, table and list member, by its path, such as ("listener", 0, "tls")."""
    return _Scan(text).run()


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}  # arrays of tables met so far

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self._blank()
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._blank()
        return self._lines

    def _blank(self) -> None:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _take(self, mark: str) -> bool:
        """Step over `mark` and the blanks around it, if it stands here."""
        self._blank()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        self._blank()
        return True

    def _note(self, path: Path, at: int) -> None:
        self._lines.setdefault(path, bisect_right(self._starts, at))

    def _header(self) -> Path:
        start = self._at
        many = self._text.startswith("[[", start)
        self._at += 2 if many else 1
        *parents, last = self._keys()
        path: Path = ()
        for key in parents:
            path = self._newest((*path, key))
            self._note(path, start)
        path = (*path, last)
        self._note(path, start)
        if many:
            self._lengths[path] = self._lengths.get(path, 0) + 1
            path = self._newest(path)
            self._note(path, start)
        self._take("]]" if many else "]")
        return path

    def _newest(self, path: Path) -> Path:
        """A path through an array of tables means its newest member."""
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, table: Path) -> None:
        start = self._at
        path = table
        for key in self._keys():
            path = (*path, key)
            self._note(path, start)
        self._take("=")
        self._value(path)

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._take("."):
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._blank()
        bare = _BARE.match(self._text, self._at)
        if bare is not None:
            self._at = bare.end()
            return bare[0]
        quoted = _STRING.match(self._text, self._at)
        if quoted is None:
            raise ValueError(f"no key at offset {self._at}")
        self._at = quoted.end()
        return str(tomllib.loads(f"key = {quoted[0]}")["key"])

    def _value(self, path: Path) -> None:
        self._note(path, self._at)
        if self._take("["):
            self._members(path)
        elif self._take("{"):
            while not self._take("}"):
                self._pair(path)
                self._take(",")
        else:
            match = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            self._at = match.end() if match else len(self._text)

    def _members(self, path: Path) -> None:
        position = 0
        while not self._take("]"):
            self._value((*path, position))
            position += 1
            self._take(",")
