"""Whom an account may send as: the envelope's sender at MAIL, the authors in the header at the end of data.

RFC 6409 §6.1 (sender rights), RFC 5322 §3.6.2 (From and Sender). An account without `senders` may send as anybody. One
with them is held to them strictly: a header section that does not say clearly whom it is from is refused. The null
reverse-path is nobody's, and for anybody (RFC 6409 §3.2): read receipts have it, and their header is looked at as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from relaymta.directory.account import Account
from relaymta.mail.address import Address, AddressError, parse_domain, parse_mailbox
from relaymta.mail.reply import Reply
from relaymta.mail.submission import AuthorError, authors
from relaymta.policy.relaying import Domains
from relaymta.policy.verdict import Opinion, Transaction, Verdict

SHOWN_MAX = 5  # patterns named in a refusal; ours
WIDTH_MAX = 100  # characters of each thing named there; ours


class Senders:
    """Patterns of addresses: "user@example.org", "example.org", ".example.org" (subdomains), "*".

    Upper and lower case of ASCII are one, also before the "@", since no two people share a mailbox by case alone. A
    pattern that is none matches nothing.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        domains: list[str] = []
        mailboxes: list[str] = []
        self.anybody = False
        for pattern in patterns:
            try:
                if pattern == "*":
                    self.anybody = True
                elif "@" in pattern:
                    mailboxes.append(_key(parse_mailbox(pattern)))
                else:
                    dot = "." if pattern.startswith(".") else ""
                    domains.append(dot + parse_domain(pattern.removeprefix(".")))
            except AddressError:
                continue
        self._domains = Domains(domains)
        self._mailboxes = frozenset(mailboxes)

    def __contains__(self, address: Address) -> bool:
        """Whether `address` may be sent as."""
        return self.anybody or address.domain in self._domains or _key(address) in self._mailboxes


class Rights:
    """The check of who sends as whom."""

    name = "rights"

    def mail(self, transaction: Transaction) -> Opinion:
        """The reverse-path."""
        account = transaction.rights
        if account is None or not account.senders:
            return None
        senders = _senders(account.senders)
        sender = transaction.sender
        if senders.anybody or sender is None or sender in senders:
            return None
        return self._no(account, str(sender), "the reverse-path")

    def content(self, transaction: Transaction, header: bytes) -> Opinion:
        """From and Sender."""
        account = transaction.rights
        if account is None or not account.senders:
            return None
        senders = _senders(account.senders)
        if senders.anybody:
            return None
        try:
            for address in authors(header):
                if address not in senders:
                    return self._no(account, str(address), "the header")
        except AuthorError as error:
            # RFC 6409 §6.3: 554 is for what is wrong with the data itself
            return Verdict(Reply(554, "5.6.0", str(error)), self.name, f"{account.name}: {error}")
        return None

    def _no(self, account: Account, sender: str, where: str) -> Verdict:
        # The account itself is told, and nobody else: that it may know what it may do.
        allowed = ", ".join(map(_shown, account.senders[:SHOWN_MAX]))
        more = ", ..." if len(account.senders) > SHOWN_MAX else ""
        text = f"{_shown(account.name)} may not send as {_shown(sender)}, only as {allowed}{more}"
        return Verdict(Reply(550, "5.7.1", text), self.name, f"{account.name} as {sender} in {where}")


@lru_cache(maxsize=4096)
def _senders(patterns: tuple[str, ...]) -> Senders:
    return Senders(patterns)


def _key(address: Address) -> str:
    local = "".join(c.lower() if c.isascii() else c for c in address.local)
    return f"{local}@{address.domain}"


def _shown(text: str) -> str:
    """For a reply: printable ASCII, and not long."""
    text = "".join(c if " " <= c <= "~" else "?" for c in text[: WIDTH_MAX + 1])
    return text if len(text) <= WIDTH_MAX else text[: WIDTH_MAX - 3] + "..."
