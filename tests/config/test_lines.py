"""Where keys stand in a TOML text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relaymta.config.lines import Path, locate

TEXT = '''# a comment = 1
top = 1
"quoted key" = 2
a.b."c.d" = 3

[table]   # behind
list = [
  "one",  # [not a table]
  # nothing = here
  "two", ["three",
    "four"],
]
text = """
[fake]
key = 1
"""
raw = \'\'\'it's
= fine\'\'\'
after = "a \\" # = ["
when = 1979-05-27 07:32:00

[[many]]
x = 1
[[many]]
x = 2
inline = { y = [1, 2], z.w = "}" }
[many.sub]
deep = true
[[many.more]]
n = 1
[[many.more]]
n = 2
'''


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path of a tree of TOML values."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        yield (*path, step)
        yield from paths(below, (*path, step))


def test_each_key_has_its_line() -> None:
    """Comments, strings over several lines, quoted and dotted keys, arrays of tables: none moves a line."""
    lines = locate(TEXT)
    assert lines[("top",)] == 2
    assert lines[("quoted key",)] == 3
    assert lines[("a", "b", "c.d")] == 4
    assert lines[("table",)] == 6
    assert [lines[("table", "list", i)] for i in range(3)] == [8, 10, 10]
    assert lines[("table", "list", 2, 1)] == 11
    assert lines[("table", "text")] == 13
    assert lines[("table", "raw")] == 17
    assert lines[("table", "after")] == 19
    assert lines[("many", 0, "x")] == 23
    assert lines[("many", 1, "x")] == 25
    assert lines[("many", 1, "inline", "y", 1)] == 26
    assert lines[("many", 1, "inline", "z", "w")] == 26
    assert lines[("many", 1, "sub", "deep")] == 28
    assert lines[("many", 1, "more", 1, "n")] == 32
    assert max(lines.values()) == 32


def test_what_tomllib_reads_is_found() -> None:
    """Every value that TOML finds has a line, and nothing else has."""
    assert set(locate(TEXT)) == set(paths(tomllib.loads(TEXT)))


def test_carriage_returns_do_not_count() -> None:
    """A file with CRLF line ends has the same lines."""
    assert locate(TEXT.replace("\n", "\r\n")) == locate(TEXT)


def test_an_empty_file_has_no_lines() -> None:
    """Nothing stands in nothing, with or without a comment."""
    assert locate("") == {} and locate("# only") == {}


bare = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
strings = st.one_of(
    st.from_regex(r'"(?:[^"\\\x00-\x1f\x7f]|\\n|\\"){0,8}"', fullmatch=True),
    st.from_regex(r"'[^'\x00-\x1f\x7f]{0,8}'", fullmatch=True),
    st.from_regex(r'"""(?:[a-z#=\[\]"]{0,3}\n){0,3}x"""', fullmatch=True).filter(lambda s: '"""' not in s[3:-3]),
)
scalars = st.one_of(strings, st.sampled_from(["1", "-3.5", "true", "0x1F", "1979-05-27T07:32:00Z"]))
values = st.recursive(
    scalars,
    lambda below: st.one_of(
        st.lists(below, max_size=3).map(lambda parts: "[\n" + ",# c\n".join(parts) + "\n]"),
        st.lists(scalars.filter(lambda s: "\n" not in s), max_size=2).map(
            lambda parts: "{ " + ", ".join(f"k{i}.v = {part}" for i, part in enumerate(parts)) + " }"
        ),
    ),
    max_leaves=6,
)
statements = st.one_of(
    st.tuples(bare, values).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    bare.map(lambda name: f"[{name}]"),
    st.tuples(bare, bare).map(lambda pair: f"[[{pair[0]} . {pair[1]}]]"),
    bare.map(lambda name: f"[[{name}]]"),
    st.just("# comment"),
    st.just(""),
)


@given(st.lists(statements, max_size=10))
def test_any_document_is_located_as_it_is_read(parts: list[str]) -> None:
    """For whatever tomllib accepts, the paths are the same, and none is beyond the last line."""
    text = "\n".join(parts)
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = locate(text)
    assert set(lines) == set(paths(read))
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
