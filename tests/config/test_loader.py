"""The loader: every problem at once, each with its line and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import pytest
from attrs import Attribute, field, frozen, validators

from relaymta.config import ConfigError, Duration, Problem, Size, SocketAddress
from relaymta.config.loader import Loaded, dotted, load, loads


class Level(Enum):
    """An enum of words."""

    NONE = "none"
    SOME = "opportunistic"


def _even(_: object, attribute: Attribute[int], value: int) -> None:
    if value % 2:
        raise ValueError(f"{attribute.name}: must be even")


@frozen(slots=True)
class Port:
    """A table that stands several times."""

    name: str
    address: SocketAddress | None = None
    level: Level = Level.NONE
    size: Size = Size(25_000_000)


class Words(tuple[str, ...]):
    """A value that is read in more than one way."""

    __slots__ = ()

    @classmethod
    def read(cls, value: object) -> Words:
        """One string or several."""
        if isinstance(value, str):
            return cls((value,))
        if isinstance(value, (list, tuple)):
            return cls(value)
        raise ValueError("words are wanted")


@frozen(slots=True)
class Waiting:
    """A table with contradictions."""

    retry: tuple[Duration, ...] = (Duration(300.0),)
    expire: Duration = Duration(432000.0)
    even: int = field(default=2, validator=_even)
    many: int = field(default=3, validator=validators.ge(1))

    def check(self) -> Iterator[tuple[str, str]]:
        """A retry after the end, wherever it is."""
        for position, delay in enumerate(self.retry):
            if delay > self.expire:
                yield f"retry[{position}]", "is later than expire"


@frozen(slots=True)
class House:
    """Everything."""

    name: str = "x"
    share: float = 0.5
    on: bool = False
    either: int | str = 0
    words: Words = field(default=Words(), converter=lambda value: Words.read(value))
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    ports: tuple[Port, ...] = field(default=(), metadata={"key": "port"})
    queue: Waiting = field(factory=Waiting)


def either(value: object) -> int | str:
    """A reader for a union."""
    if isinstance(value, (int, str)):
        return value
    raise ValueError("a number or a word is wanted")


def read(text: str) -> Loaded[House]:
    """Load a text as house.toml."""
    return loads(text, "house.toml", House, readers={int | str: either})


def problems(text: str) -> list[str]:
    """What is said of a text."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_a_file_becomes_frozen_settings() -> None:
    """Units, enums, networks, addresses, lists of tables and renamed keys are read into their types."""
    house = read(
        'name = "h"\nshare = 1\nwords = "one"\neither = "auto"\nnetworks = ["10.0.0.0/8", "::1/128"]\n'
        '[[port]]\nname = "a"\naddress = "[::]:25"\nlevel = "opportunistic"\nsize = "1KiB"\n'
        '[queue]\nretry = ["5m", "1h"]\n'
    ).settings
    assert (house.name, house.share, house.either, house.words) == ("h", 1.0, "auto", Words(("one",)))
    assert house.networks == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert house.ports == (Port("a", SocketAddress("::", 25), Level.SOME, Size(1024)),)
    assert house.queue.retry == (300.0, 3600.0) and house.queue.expire == 432000.0


def test_an_empty_file_is_all_defaults() -> None:
    """Nothing said is everything by default."""
    assert read("").settings == House()


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    """Wrong types, unknown keys, bad units, missing keys: one list, each with file and line."""
    assert problems(
        'name = 3\n[[port]]\nname = "a"\nsize = 25\n[[port]]\nlevel = "none"\n[queue]\nretry = ["5m",\n  "soon"]\n'
    ) == [
        'house.toml:1: name: a string in quotes is wanted, not the number 3; write "3"',
        'house.toml:4: port[1].size: 25 is a bare number; a size needs its unit, such as "25B" or "25MB"',
        'house.toml:5: port[2].name: is missing; write name = "..."',
        'house.toml:9: queue.retry[2]: "soon" is not a time; write it as "30s", "5m", "4h" or "5d"',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("on = 1", "true or false is wanted, not the number 1"),
        ('on = "yes"', 'true or false is wanted, not the string "yes"; write true without quotes'),
        ('on = "off"', 'true or false is wanted, not the string "off"; write false without quotes'),
        ("share = true", "a number is wanted, not true"),
        ('[queue]\nmany = "7"', 'a whole number is wanted, not the string "7"; write 7 without quotes'),
        ("[queue]\nmany = 1.5", "a whole number is wanted, not the number 1.5"),
        ("[queue]\nmany = true", "a whole number is wanted, not true"),
        ("name = [1]", "a string in quotes is wanted, not a list"),
        ("name = {}", "a string in quotes is wanted, not a table"),
        ("name = 1979-05-27", "a string in quotes is wanted, not the date 1979-05-27"),
        ('networks = "10.0.0.0/8"', 'a list is wanted, not the string "10.0.0.0/8"; write ["10.0.0.0/8"]'),
        ("networks = [1]", 'a network such as "192.0.2.0/24" or "2001:db8::/32" is wanted, not the number 1'),
        ('networks = ["10.0.0.1/8"]', '"10.0.0.1/8" has bits beyond its mask; did you mean "10.0.0.0/8"?'),
        ('networks = ["here"]', '"here" is not a network; write "192.0.2.0/24" or "2001:db8::/32"'),
        ("words = 1", "words are wanted"),
        ("either = 1.5", "a number or a word is wanted"),
        ("queue = 1", "a table is wanted, not the number 1"),
        ("[[queue]]", "a table is wanted, written in single brackets: it stands once, not a list"),
        ("[port]", "may stand several times: write its name in double brackets, [[...]]"),
        ('[[port]]\nname = "a"\naddress = 25', 'an address such as "0.0.0.0:25", "[::]:25" or "unix:/run/x.sock" '
         "is wanted, not the number 25"),
        ('[[port]]\nname = "a"\nlevel = "oportunistic"', '"oportunistic" is not one of "none", "opportunistic"; '
         'did you mean "opportunistic"?'),
        ('[[port]]\nname = "a"\nlevel = false', 'one of "none", "opportunistic" is wanted, not false'),
        ("[queue]\neven = 3", "must be even"),
        ("[queue]\nmany = 0", "must be >= 1: 0"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_is_wanted(text: str, said: str) -> None:
    """Nothing is coerced, and each refusal shows how to write it."""
    [problem] = problems(text)
    assert problem.startswith("house.toml:") and problem.partition(": ")[2].partition(": ")[2] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nmae = 1", 'house.toml:1: nmae: there is no such key here; did you mean "name"?'),
        ("[queue]\nre-try = []", 'house.toml:2: queue.re-try: there is no such key here; did you mean "retry"?'),
        ("[quue]\nx = 1", 'house.toml:1: quue: there is no such table here; did you mean "queue"?'),
        ("expire = 1", "house.toml:1: expire: there is no such key here; it belongs in [queue]"),
        (
            "[queue]\nshare = 1",
            "house.toml:2: queue.share: there is no such key here; it belongs at the top of the file",
        ),
        ("[queue]\nlevel = 1", "house.toml:2: queue.level: there is no such key here; it belongs in [[port]]"),
        (
            "[queue]\nport = 1",
            "house.toml:2: queue.port: there is no such key here; it belongs in a table of its own, [[port]]",
        ),
        ("zzz = 1", "house.toml:1: zzz: there is no such key here"),
    ],
)
def test_an_unknown_key_is_an_error_with_what_was_meant(text: str, said: str) -> None:
    """Variables silently ignored is how relays were opened: a slip is told, and the nearest key named."""
    assert problems(text) == [said]


def test_contradictions_stand_at_the_key_they_are_about() -> None:
    """A class's own check names its keys, list members included."""
    assert problems('[queue]\nexpire = "1h"\nretry = ["5m",\n"2h", "3h"]\n') == [
        "house.toml:4: queue.retry[2]: is later than expire",
        "house.toml:4: queue.retry[3]: is later than expire",
    ]


def test_a_contradiction_with_a_default_stands_at_the_table() -> None:
    """A key that is not in the file has the line of the nearest table around it."""
    assert problems('\n[queue]\nexpire = "1m"\n') == ["house.toml:2: queue.retry[1]: is later than expire"]


@pytest.mark.parametrize(
    ("text", "line"), [("name = 'a'\nname = 'b'\n", 2), ("a = [1,\n\n", 1), ("= 1", 1), ("[x", 1), ("x = nan1", 1)]
)
def test_what_is_not_toml_is_told_with_its_line(text: str, line: int) -> None:
    """A syntax error is one problem, with the line that the parser stopped at."""
    [said] = problems(text)
    assert said.startswith(f"house.toml:{line}: is not TOML: ")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The cause is the system's words, not a traceback."""
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "none.toml"), House)
    assert str(caught.value).endswith("none.toml: cannot be read: No such file or directory")


def test_a_file_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    """TOML is UTF-8; Latin-1 is told where it stands."""
    path = tmp_path / "latin.toml"
    path.write_bytes(b"name = 'a'\n# \xe9\n")
    with pytest.raises(ConfigError) as caught:
        load(str(path), House)
    assert caught.value.problems == (Problem(str(path), 2, "", "is not UTF-8 text"),)


def test_a_default_that_is_wrong_here_is_told_and_not_raised() -> None:
    """A default that its own validator refuses on this machine is a problem like any other."""

    @frozen(slots=True)
    class Odd:
        even: int = field(factory=lambda: 3, validator=_even)

    with pytest.raises(ConfigError) as caught:
        loads("", "f", Odd)
    assert str(caught.value) == "f: even: must be even"


def test_the_effective_configuration_says_where_each_value_came_from() -> None:
    """Every key has a row: as the file would write it, with file and line or "default"."""
    rows = {row.key: (row.value, row.origin) for row in read(
        'on = true\nwords = ["a", "b"]\n[[port]]\nname = "p"\naddress = "unix:/x"\n[queue]\nretry = ["90s"]\n'
    ).rows()}  # fmt: skip
    assert rows["name"] == ('"x"', "default")
    assert rows["on"] == ("true", "house.toml:1")
    assert rows["words"] == ('["a", "b"]', "house.toml:2")
    assert rows["port[1].address"] == ('"unix:/x"', "house.toml:5")
    assert rows["port[1].level"] == ('"none"', "default")
    assert rows["port[1].size"] == ('"25MB"', "default")
    assert rows["queue.retry"] == ('["90s"]', "house.toml:7")
    assert rows["queue.expire"] == ('"5d"', "default")
    assert rows["share"] == ("0.5", "default") and rows["networks"] == ("[]", "default")


def test_an_optional_value_that_is_not_given_is_shown_empty() -> None:
    """None has no form in TOML; it is shown as the empty string."""
    rows = {row.key: row.value for row in read('[[port]]\nname = "p"\n').rows()}
    assert rows["port[1].address"] == '""'


def test_a_type_that_nobody_reads_is_a_bug_of_ours_and_not_coerced() -> None:
    """A settings class with a field that the loader does not know fails in every test, and never guesses."""

    @frozen(slots=True)
    class Odd:
        words: frozenset[str] = frozenset()

    with pytest.raises(TypeError, match="nobody reads"):
        loads('words = "abc"', "f", Odd)


def test_members_are_counted_from_one_for_people() -> None:
    """The first [[port]] is port[1]."""
    assert dotted(("port", 0, "sub", 2)) == "port[1].sub[3]"


@frozen
class Inner:
    """A table that may stand several times."""

    name: str = ""
    path: str = ""


@frozen
class Outer:
    """A file of them."""

    inners: tuple[Inner, ...] = field(default=(), metadata={"key": "inner"})


def test_what_the_machine_says_of_a_key_has_its_line() -> None:
    """A member of a list is counted from 1 for people; a key that is not there has the line of its table."""
    loaded = loads('[[inner]]\nname = "a"\n[[inner]]\nname = "b"\npath = "x"\n', "f", Outer)
    assert str(loaded.problem("inner[1].path", "is gone")) == "f:5: inner[2].path: is gone"
    assert loaded.problem("inner[0].path", "is gone").line == 1
