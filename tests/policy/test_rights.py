"""Whom an account may send as: in the envelope and in the header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory.account import Account
from relaymta.mail.address import Address, parse_mailbox
from relaymta.policy.rights import Rights, Senders
from relaymta.policy.verdict import Transaction
from tests.mail.strategies import domains, local_parts


def asked(senders: tuple[str, ...], sender: str | None, header: bytes = b"", name: str = "app") -> str:
    """The reply to MAIL, or else to the content; "" when both are taken."""
    account = Account(name, senders=senders)
    address = None if sender is None else parse_mailbox(sender)
    transaction = Transaction("192.0.2.1", account=name, rights=account, sender=address)
    rights = Rights()
    verdict = rights.mail(transaction) or (rights.content(transaction, header) if header else None)
    return "" if verdict is None else str(verdict.reply)


def header(*fields: str) -> bytes:
    """A header section."""
    return "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n"


@pytest.mark.parametrize("senders", [(), ("*",), ("x.example", "*")])
@pytest.mark.parametrize("sender", [None, "anybody@z.example"])
def test_an_account_without_bounds_sends_as_anybody(senders: tuple[str, ...], sender: str | None) -> None:
    """Also with the null reverse-path, and whatever the header says."""
    assert asked(senders, sender, b"no header at all") == ""


@pytest.mark.parametrize(
    ("pattern", "may", "may_not"),
    [
        ("app@x.example", ["app@x.example", "APP@x.example", "App@X.EXAMPLE"], ["ap@x.example", "app@y.x.example"]),
        ("x.example", ["a@x.example", '"a b"@x.example'], ["a@y.x.example", "a@notx.example", "x.example@y.example"]),
        (".x.example", ["a@y.x.example", "a@z.y.x.example"], ["a@x.example", "a@yx.example"]),
        ("b\u00fccher.example", ["a@xn--bcher-kva.example"], ["a@bucher.example"]),
        ("j\u00f6rg@x.example", ["j\u00f6rg@x.example"], ["jorg@x.example", "j\u00d6rg@x.example"]),
        ("app+tag@x.example", ["app+tag@x.example"], ["app@x.example"]),
        ("not a pattern", [], ["a@x.example"]),
        ("@x.example", [], ["a@x.example"]),
        ("", [], ["a@x.example"]),
    ],
)
def test_a_pattern_allows_what_it_says(pattern: str, may: list[str], may_not: list[str]) -> None:
    """An address, a domain, the subdomains of one; nothing that only looks like it."""
    for sender in may:
        assert asked((pattern,), sender) == "", sender
    for sender in may_not:
        assert asked((pattern,), sender).startswith("550 5.7.1 app may not send as "), sender


@given(local_parts, domains, st.lists(domains, max_size=4))
def test_a_domain_is_allowed_when_it_stands_there(local: str, domain: str, patterns: list[str]) -> None:
    """Exactly the domains that are named, whatever the local part."""
    senders = Senders([one for one in patterns if "@" not in one])
    assert (Address(local, domain) in senders) == (domain in patterns)


def test_the_null_reverse_path_is_for_anybody_and_the_header_is_held_to_its_bounds() -> None:
    """RFC 6409 §3.2: <> in itself is no reason to refuse, for read receipts have it; and no way round the check."""
    assert asked(("x.example",), None, header("From: app@x.example")) == ""
    said = asked(("x.example",), None, header("From: boss@y.example"))
    assert said == "550 5.7.1 app may not send as boss@y.example, only as x.example"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("From: app@x.example",), ""),
        (("From: App <app@x.example>", "Sender: other@x.example"), ""),
        (("From: team: app@x.example, b@x.example;",), ""),
        (("From: boss@y.example",), "550 5.7.1 app may not send as boss@y.example, only as x.example"),
        (("From: app@x.example, boss@y.example",), "550 5.7.1 app may not send as boss@y.example, only as x.example"),
        (("From: team: app@x.example, boss@y.example;",), "550 5.7.1 app may not send as boss@y.example"),
        (('From: "app@x.example" <boss@y.example>',), "550 5.7.1 app may not send as boss@y.example"),
        (("From: app@x.example", "Sender: boss@y.example"), "550 5.7.1 app may not send as boss@y.example"),
        (("From: app@x.example", "From: boss@y.example"), "554 5.6.0 there is more than one From field"),
        (("From: app@x.example <boss@y.example>",), "554 5.6.0 the From field is not a list of addresses"),
        (("To: boss@y.example",), "554 5.6.0 there is no From field"),
        (("Subject: x", "broken", "From: app@x.example"), "554 5.6.0 a line of the header section is no field"),
    ],
)
def test_the_authors_are_held_to_the_same_bounds(fields: tuple[str, ...], said: str) -> None:
    """Every address of From and Sender, however it is written; what is not clear is refused."""
    reply = asked(("x.example",), "app@x.example", header(*fields))
    assert reply == said if not said else reply.startswith(said)


def test_a_refusal_is_a_safe_line() -> None:
    """Names are cut and cleaned, so that a reply stays one short line of ASCII."""
    senders = tuple(f"a{n}@x.example" for n in range(9))
    said = asked(senders, "j\u00f6rg@" + "y." * 60 + "example", name="\u00e4pp\r\n250 ok")
    assert said.isascii() and "\n" not in said and "\r" not in said and len(said) < 480
    assert said.endswith("a4@x.example, ...")


def test_who_has_not_logged_in_has_no_bounds_here() -> None:
    """Others are judged by other checks."""
    transaction = Transaction("192.0.2.1", sender=parse_mailbox("a@x.example"))
    assert Rights().mail(transaction) is None
    assert Rights().content(transaction, b"\r\n") is None
