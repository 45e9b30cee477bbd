"""What the operator may set about the mail that we write ourselves."""

from __future__ import annotations

from attrs import Attribute, field, frozen

from relaymta.config import Size
from relaymta.mail.address import AddressError, parse_mailbox
from relaymta.reports.tlsrpt import Reporter


def _mailbox(_: object, attribute: Attribute[str], value: str) -> None:
    if value:
        try:
            parse_mailbox(value)
        except AddressError as error:
            raise ValueError(f"{attribute.name}: {value!r} is not a mailbox: {error}") from None


@frozen(slots=True)
class Settings:
    """`postmaster`, a mailbox, gets what cannot be told to any sender (a double bounce); "" = it is only logged.

    `return_max`: a message of more octets comes back as its header section alone, whatever RET asks
    (RFC 3461 §4.3 leaves it to us).
    """

    postmaster: str = field(default="", validator=_mailbox)
    return_max: Size = Size(64 * 1024)


def _ascii(_: object, __: Attribute[str], value: str) -> None:
    if value:
        try:
            address = parse_mailbox(value)
        except AddressError as error:
            raise ValueError(f'"{value}" is not an address: {error}') from None
        if address.internationalized or address.domain.startswith("["):
            raise ValueError(f'"{value}" cannot send reports; an address in ASCII at a domain can')


@frozen(slots=True)
class TlsReportSettings:
    """The [tls_report] table (RFC 8460). Without `sender`, "from" in the file, nothing is gathered nor sent.

    `organization`: our hostname where it is ""; `contact`: the sender where it is "".
    """

    sender: str = field(default="", validator=_ascii, metadata={"key": "from"})
    organization: str = ""
    contact: str = field(default="", validator=_ascii)

    def reporter(self, hostname: str) -> Reporter | None:
        """Who reports; None where nobody does."""
        if not self.sender:
            return None
        sender = parse_mailbox(self.sender)
        return Reporter(self.organization or hostname, self.contact or str(sender), sender)
