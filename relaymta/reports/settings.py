"""What the operator may set about the mail that we write ourselves."""

from __future__ import annotations

from attrs import Attribute, field, frozen

from relaymta.config import Size
from relaymta.mail.address import AddressError, parse_mailbox


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
