"""The values of MTA-STS: records and policies as RFC 8461 writes them."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.net.mtasts_policy import MAX_AGE_MAX, Mode, PolicyError, parse_policy, record_id

# RFC 8461 §3.2
EXAMPLE = (
    b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: backupmx.example.com\n"
    b"max_age: 604800"
)

labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=2, max_size=4).map(".".join)
patterns = st.one_of(names, names.map(lambda name: f"*.{name}"))


def test_the_policy_of_the_standard() -> None:
    """RFC 8461 §3.2: the example there."""
    policy = parse_policy(EXAMPLE, "20160831085700Z")
    assert (policy.mode, policy.max_age, policy.id) == (Mode.ENFORCE, 604800, "20160831085700Z")
    assert policy.mx == ("mail.example.com", "*.example.net", "backupmx.example.com")
    assert policy.text == tuple(EXAMPLE.decode().split("\n"))


@given(
    st.lists(patterns, min_size=1, max_size=6, unique=True),
    st.sampled_from(["enforce", "testing"]),
    st.integers(0, MAX_AGE_MAX),
    st.sampled_from(["\n", "\r\n"]),
    st.randoms(),
)
def test_what_is_written_is_read(mx: list[str], mode: str, age: int, end: str, random: object) -> None:
    """RFC 8461 §3.2: lines in any order, LF or CRLF, unknown keys between them."""
    lines = ["version: STSv1", f"mode:{mode}", f"max_age: \t{age} ", "x-other: some thing"]
    lines += [f"mx: {one}" for one in mx]
    random.shuffle(lines)  # type: ignore[attr-defined]
    policy = parse_policy(end.join(lines).encode(), "1")
    assert (set(policy.mx), policy.mode.value, policy.max_age) == (set(mx), mode, age)


@given(st.binary(max_size=300))
def test_garbage_is_a_policy_error_or_a_policy(octets: bytes) -> None:
    """Whatever a web server says, nothing but PolicyError comes out."""
    try:
        policy = parse_policy(octets, "1")
    except PolicyError:
        return
    assert policy.mx or policy.mode is Mode.NONE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mode: enforce\nmx: a.example\nmax_age: 1", "version"),
        ("version: STSv2\nmode: enforce\nmx: a.example\nmax_age: 1", "version"),
        ("version: STSv1\nmx: a.example\nmax_age: 1", "mode"),
        ("version: STSv1\nmode: Enforce\nmx: a.example\nmax_age: 1", "mode"),
        ("version: STSv1\nmode: enforce\nmax_age: 1", "no mx"),
        ("version: STSv1\nmode: enforce\nmx: a.example", "max_age"),
        ("version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1", "max_age"),
        ("version: STSv1\nmode: enforce\nmx: *\nmax_age: 1", "mx"),
        ("version: STSv1\nmode: enforce\nmx: a.*.example\nmax_age: 1", "mx"),
        ("version: STSv1\nmode: enforce\nmx: *.*.example\nmax_age: 1", "mx"),
        ("version: STSv1\nmode: enforce\nmx: mx_1.example\nmax_age: 1", "mx"),
        ("<html>\nversion: STSv1\nmode: enforce\nmx: a.example\nmax_age: 1", "key"),
        ("version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 1\nx: \x00", "key"),
        ("version: STSv1\nmode: enforce\nmax_age: 1\n" + "mx: a.example\n" * 600, "lines"),
    ],
)
def test_what_is_no_policy(text: str, reason: str) -> None:
    """RFC 8461 §3.2: a key that is missing, or a value outside of the grammar, makes it invalid."""
    with pytest.raises(PolicyError, match=reason):
        parse_policy(text.encode(), "1")


def test_the_first_of_two_counts_and_none_needs_no_mx() -> None:
    """RFC 8461 §3.2: all but the first of a field that may not be repeated are ignored; "none" has no mx."""
    twice = parse_policy(b"version: STSv1\nmode: none\nmode: enforce\nmax_age: 9\nmax_age: 5", "1")
    assert (twice.mode, twice.max_age, twice.mx) == (Mode.NONE, 9, ())


@pytest.mark.parametrize("piece", [" ", "\t", "a ", ": ", "x", "-", "mx:"])
def test_a_long_line_takes_no_long_time(piece: str) -> None:
    """A policy of blanks took fourteen seconds in which nobody was served."""
    much = piece * (60_000 // len(piece))
    for line in (f"x: a{much}b", much, f"mx:{much}", f"version:{much}\x01"):
        begin = process_time()
        try:
            parse_policy(EXAMPLE + b"\n" + line.encode(), "1")
        except PolicyError:
            pass
        assert process_time() - begin < 0.5


def test_a_year_is_the_longest() -> None:
    """RFC 8461 §3.2: at most 31557600 seconds."""
    assert parse_policy(EXAMPLE.replace(b"604800", b"9999999999"), "1").max_age == MAX_AGE_MAX


@given(names, labels)
def test_a_wildcard_is_exactly_one_label(name: str, label: str) -> None:
    """RFC 8461 §4.1: the leftmost label, never none and never two; letters of either case are the same."""
    policy = parse_policy(f"version: STSv1\nmode: enforce\nmax_age: 1\nmx: *.{name}".encode(), "1")
    assert policy.allows(f"{label}.{name}") and policy.allows(f"{label}.{name}".upper() + ".")
    assert not policy.allows(name) and not policy.allows(f"a.{label}.{name}") and not policy.allows(f".{name}")
    plain = parse_policy(f"version: STSv1\nmode: enforce\nmax_age: 1\nmx: {name}".encode(), "1")
    assert plain.allows(name.upper()) and not plain.allows(f"{label}.{name}")


@pytest.mark.parametrize(
    ("records", "ident"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1 ;\tx=y ; id=1 ; "], "1"),
        ([b"v=spf1 -all", b"v=STSv1; id=1"], "1"),
        ([b"v=STSv1; id=1; id=2"], "1"),
        ([b"v=STSv1; id=1", b"v=STSv1; id=2"], ""),
        ([b"v=STSv1; id=1", b"v=STSv1; broken"], ""),
        ([b"v=STSv1; id="], ""),
        ([b"v=STSv1; id=" + b"1" * 33], ""),
        ([b"v=STSv1; id=a-b"], ""),
        ([b"v=STSv1;"], ""),
        ([b"v=STSv1; ID=1"], ""),
        ([b"id=1; v=STSv1"], ""),
        ([b"v=STSv10; id=1"], ""),
        ([b"v=STSv1; id=1; x=\xff"], ""),
        ([], ""),
    ],
)
def test_records(records: list[bytes], ident: str) -> None:
    """RFC 8461 §3.1: one record that begins with the version and has an id; anything else is none."""
    assert record_id(records) == ident


@given(st.lists(st.binary(max_size=60).map(lambda octets: b"v=STSv1;" + octets), max_size=2))
def test_any_record_is_read(records: list[bytes]) -> None:
    """No record makes it fail."""
    assert len(record_id(records)) <= 32
