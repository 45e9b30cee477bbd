"""The line of an account."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory.account import Over, Quota
from relaymta.directory.credentials import ScramKeys
from relaymta.directory.entry import LIMITS, Entry, certificate, entry_of, parse_line, sender

HASH = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43
octets = st.binary(min_size=32, max_size=32)
entries = st.builds(
    Entry,
    name=st.from_regex(r"[a-z0-9=:][a-z0-9@.=:,\-#]{0,20}", fullmatch=True),
    password=st.sampled_from(["", HASH]),
    scram=st.none() | st.builds(ScramKeys, st.binary(min_size=1), st.integers(4096, 10**6), octets, octets),
    senders=st.lists(st.sampled_from(["*", "a.example", ".b.example", "u@c.example", "U+x@c.example"])).map(tuple),
    relay=st.booleans(),
    certificates=st.lists(st.sampled_from(["host.example", "sha256:" + "0f" * 32, "u@d.example"])).map(tuple),
    limits=st.lists(st.sampled_from(LIMITS), unique=True).map(
        lambda keys: tuple((key, 7) for key in sorted(keys, key=LIMITS.index))
    ),
    over=st.none() | st.sampled_from(Over),
    disabled=st.booleans(),
)


@given(entries)
def test_a_line_says_what_the_account_is(entry: Entry) -> None:
    """parse(render(entry)) == entry, and the line is one word after the other."""
    assert parse_line(str(entry)) == entry
    assert str(entry).split(" ") == str(entry).split()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bob pasword=x", 'no such thing "pasword" about an account; did you mean "password"?'),
        ("bob secret", "every word behind the name is key=value"),
        ("bob relay=no relay=no", "relay stands twice"),
        ("bob relay=maybe", 'relay: "yes" or "no"'),
        ("bob messages_per_day=-1", "messages_per_day: a whole number"),
        ("bob over=bounce", 'over: "hold" or "refuse"'),
        ("bob senders=exa_mple", '"user@example.org"'),
        ("bob password=hunter2", "password is no argon2id hash"),
        ("bob scram=hunter2", "scram are no SCRAM keys"),
        ("bob certificates=sha256:12", "64 hexadecimal digits"),
        ("#x relay=no", "not begin"),
    ],
)
def test_what_a_line_may_not_say(line: str, said: str) -> None:
    """Each slip has a sentence, and none quotes a secret."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_line(line)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_piece_of_a_hash_is_not_told() -> None:
    """A line that was broken by hand may have anything where a key belongs."""
    with pytest.raises(ValueError, match="no such thing about") as caught:
        parse_line("bob Zm9vYmFy=")
    assert "Zm9vYmFy" not in str(caught.value)


def test_senders_and_certificates_have_one_form() -> None:
    """A-labels, lower case, digits without colons."""
    assert sender("@Example.ORG") == "example.org" and sender("u@B\u00dccher.example") == "u@xn--bcher-kva.example"
    assert sender(".EXAMPLE.org") == ".example.org"
    assert certificate("AB:" * 31 + "CD") == "sha256:" + "ab" * 31 + "cd"
    assert certificate("Host.Example") == "host.example"


@pytest.mark.parametrize("text", ["", "a b", "a,b"])
def test_what_names_no_certificate(text: str) -> None:
    """Blanks and commas part words and lists."""
    with pytest.raises(ValueError, match="certificate"):
        certificate(text)


@pytest.mark.parametrize("text", ["a b@c.example", '"a,b"@c.example', "a@", "..", "*.example.org", ""])
def test_what_is_no_pattern_of_senders(text: str) -> None:
    """Nothing is guessed: a pattern that fits nothing by mistake would fit everything by the next."""
    with pytest.raises(ValueError, match="is wanted"):
        sender(text)


def test_limits_that_are_not_given_are_the_default_ones() -> None:
    """One limit of its own does not lift the others; none of its own leaves all to [users.quota]."""
    default = Quota(1, 2, 3, 4)
    own = entry_of("bob", {"recipients_per_hour": "0", "over": "refuse"})
    assert own.account(default).quota == Quota(1, 2, 0, 4)
    assert own.account(default).over is Over.REFUSE
    assert entry_of("bob", {}).account(default).quota is None
