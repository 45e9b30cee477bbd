"""What is asked of `relaymta explain`: whose mail, by whom handed in, and how far to look."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from attrs import frozen

from relaymta.mail.address import Address, AddressError, parse_mailbox

LOOPBACK = "127.0.0.1"
_TEXTS = ("address", "client", "login", "sender")


class QuestionError(ValueError):
    """The question makes no sense; one line for who asked."""


@frozen(slots=True)
class Question:
    """`address` as it was written. `client`: an IP address; `login`: the account that it logged in as, or "".

    `sender` is None for the null sender; `sender_given` says whether anybody named one. `probe`: connect, up to RCPT.
    """

    address: str
    client: str = LOOPBACK
    login: str = ""
    sender: Address | None = None
    sender_given: bool = False
    probe: bool = False
    record: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Question:
        """Read the arguments of the command. Raises QuestionError."""
        given: dict[str, str] = {}
        for key in _TEXTS:
            value = arguments.get(key) or ""
            if not isinstance(value, str):
                raise QuestionError(f"{key} is a string")
            given[key] = value
        if not given["address"]:
            raise QuestionError("say whose mail: an address")
        try:
            client = str(ip_address(given["client"] or LOOPBACK))
        except ValueError:
            raise QuestionError(f'"{given["client"]}" is not an IP address') from None
        sender, named = None, given["sender"]
        if named and named != "<>":
            try:
                sender = parse_mailbox(named)
            except AddressError as error:
                raise QuestionError(f'sender "{named}": {error}') from None
        return cls(
            given["address"],
            client,
            given["login"],
            sender,
            bool(named),
            bool(arguments.get("probe")),
            bool(arguments.get("record")),
        )
