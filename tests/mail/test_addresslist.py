"""Lists of addresses: read as RFC 5322 §3.4 says, or refused; never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.addresslist import AddressListError, mailboxes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@x.example", ["a@x.example"]),
        ("  a@x.example ,\t b@y.example  ", ["a@x.example", "b@y.example"]),
        ("root", ["root"]),
        ("A B <a@x.example>", ["a@x.example"]),
        ("<a@x.example>", ["a@x.example"]),
        ('"B, C" <a@x.example>, "D <d@z.example>" <b@y.example>', ["a@x.example", "b@y.example"]),
        ("a@x.example (A (nested \\) B) C)", ["a@x.example"]),
        ("(before) A (between) <a@x.example> (behind)", ["a@x.example"]),
        ("friends: a@x.example, B <b@y.example>;", ["a@x.example", "b@y.example"]),
        ("undisclosed-recipients:;", []),
        ("friends: a@x.example;, c@z.example", ["a@x.example", "c@z.example"]),
        ('"odd, local"@x.example', ['"odd, local"@x.example']),
        ('"a<b>;:"@x.example', ['"a<b>;:"@x.example']),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"]),
        ("a@[IPv6:2001:db8::1], b@x.example", ["a@[IPv6:2001:db8::1]", "b@x.example"]),
        ("<@one.example,@two.example:a@x.example>", ["a@x.example"]),
        ("пример@пример.example", ["пример@пример.example"]),
        ("", []),
        (" , ,", []),
        ("(only a comment)", []),
    ],
)
def test_every_form_of_the_standard_is_read(text: str, found: list[str]) -> None:
    """Names, comments, groups, quoted locals, literals and routes are what surrounds an address."""
    assert mailboxes(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "a@x.example b@y.example",
        "a@x.example)b@y.example",
        "a@b c",
        "A <a@x.example> b@y.example",
        "<a@x.example> trailing",
        "<<a@x.example>>",
        "<a@x.example",
        "a@x.example>",
        "<>",
        "A <a b@x.example>",
        "b@y.example <a@x.example>",
        "a@x.example; b@y.example",
        "friends: a@x.example",
        "b@y.example: a@x.example;",
        "<b@y.example>: a@x.example;",
        ": a@x.example;",
        "(comment): a@x.example;",
        "f: g: a@x.example;;",
        '"a@x.example',
        "(a@x.example",
        "a\\@x.example",
        "a@[192.0.2.1",
        "(" * 1000,
    ],
)
def test_what_is_not_wholly_an_address_is_refused(text: str) -> None:
    """The standard library would make other people's addresses of these."""
    with pytest.raises(AddressListError, match="is not an address"):
        mailboxes(text)


@given(st.text(st.sampled_from('a@x.,<>;:()[]"\\ '), max_size=30))
def test_no_text_breaks_the_reader_and_what_is_found_stands_in_it(text: str) -> None:
    """Whatever is written is a list or an error, and every address was there as it is given back."""
    try:
        found = mailboxes(text)
    except AddressListError:
        return
    assert all(one in text for one in found)


@given(st.lists(st.from_regex(r"[a-z]{1,5}@[a-z]{1,5}\.example", fullmatch=True), max_size=5))
def test_a_list_reads_as_it_was_written(addresses: list[str]) -> None:
    """parse(render(x)) == x, with names and comments around."""
    assert mailboxes(", ".join(addresses)) == addresses
    assert mailboxes(", ".join(f'"N, N" <{one}> (c, c)' for one in addresses)) == addresses
