"""What a check says of a command or a message: go on, or this reply.

A check that has nothing against it returns None; the first Verdict of a stage ends the stage.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, field, frozen

from relaymta.directory.account import Account
from relaymta.mail.address import Address
from relaymta.mail.envelope import Recipient
from relaymta.mail.reply import Reply


@frozen(slots=True)
class Verdict:
    """A refusal: the reply for the peer, the check that gave it and the cause for the log."""

    reply: Reply
    check: str
    cause: str = ""


Opinion = Verdict | None
Judgement = Opinion | Awaitable[Opinion]


@define(slots=True)
class Transaction:
    """What is known of the message so far: facts for the checks, filled as the dialogue goes on.

    `account` is the name of who logged in, or ""; `rights` is the account itself. `release_at` is the POSIX time before
    which the message is not to be delivered, 0.0 for none (RFC 4865). A check that would have the message
    wait for the operator writes the reason to `hold`; one that counted it says by `undo` how that is taken back when
    the message is not taken after all.
    """

    client: str
    helo: str = ""
    listener: str = ""
    tls: str = ""
    account: str = ""
    rights: Account | None = None
    trusted: bool = False
    sender: Address | None = None
    recipients: list[Recipient] = field(factory=list)
    size: int = 0
    release_at: float = 0.0
    session: str = ""
    hold: str = ""
    undo: Callable[[], object] | None = None
