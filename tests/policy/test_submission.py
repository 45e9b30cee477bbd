"""A submission listener serves our own people, and nobody else."""

from __future__ import annotations

import pytest
from attrs import evolve

from relaymta.directory.account import Account
from relaymta.mail.address import Address, parse_mailbox
from relaymta.policy.submission import AUTHORS, NO_AUTHOR, PART_RECIPIENT, PART_SENDER, STRANGER, Submission
from relaymta.policy.verdict import Transaction, Verdict

CHECK = Submission(["submission"])


def said(verdict: Verdict | None) -> object:
    """The reply, None when there is nothing against it."""
    return None if verdict is None else verdict.reply


def test_a_stranger_is_told_to_log_in() -> None:
    """RFC 6409 §4.3: 530 5.7.0 at MAIL, before it matters where the mail goes."""
    assert said(CHECK.mail(Transaction("192.0.2.1", listener="submission"))) is STRANGER
    assert (STRANGER.code, STRANGER.enhanced) == (530, "5.7.0")


@pytest.mark.parametrize(
    "transaction",
    [
        Transaction("192.0.2.1", listener="submission", trusted=True),
        Transaction("192.0.2.1", listener="submission", account="app", rights=Account("app")),
        Transaction("192.0.2.1", listener="mx"),
    ],
)
def test_others_are_let_in(transaction: Transaction) -> None:
    """Who logged in, who is trusted otherwise, and everybody at a listener of another kind."""
    assert CHECK.mail(transaction) is None


@pytest.mark.parametrize(
    ("text", "whole"),
    [("a@x.example", True), ("a@[192.0.2.1]", True), ("a@sales", False), ("a@localhost", False)],
)
def test_domains_of_the_envelope_are_fully_qualified(text: str, whole: bool) -> None:
    """RFC 6409 §4.2: 554 for others, on submission listeners alone; <postmaster> and <> have none."""
    address = parse_mailbox(text)
    ours = Transaction("192.0.2.1", listener="submission", account="app", rights=Account("app"), sender=address)
    assert said(CHECK.mail(ours)) is (None if whole else PART_SENDER)
    assert said(CHECK.rcpt(ours, address)) is (None if whole else PART_RECIPIENT)
    assert (PART_SENDER.code, PART_RECIPIENT.code) == (554, 554)
    theirs = Transaction("192.0.2.1", listener="mx", sender=address)
    assert CHECK.mail(theirs) is None and CHECK.rcpt(theirs, address) is None
    assert CHECK.mail(evolve(ours, sender=None)) is None and CHECK.rcpt(ours, Address("postmaster", "")) is None


@pytest.mark.parametrize(
    ("header", "reply"),
    [
        (b"From: a@x.example\r\n\r\n", None),
        (b"FROM : a@x.example\r\n\r\n", None),
        (b"To: a@x.example\r\n\r\n", NO_AUTHOR),
        (b"\r\nFrom: a@x.example\r\n", NO_AUTHOR),
        (b"From: a@x.example\r\nfrom: b@x.example\r\n\r\n", AUTHORS),
    ],
)
def test_a_message_has_one_from_field(header: bytes, reply: object) -> None:
    """RFC 5322 §3.6; what is missing is not made up (RFC 6409 §8)."""
    assert said(CHECK.content(Transaction("127.0.0.1", listener="submission", trusted=True), header)) is reply
    assert CHECK.content(Transaction("127.0.0.1", listener="mx", trusted=True), header) is None
