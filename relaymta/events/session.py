"""Sessions, the way in: who connected, what was refused, how it ended.

A session's events carry its session id, from before a queue id exists.
"""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class SessionOpened(Event):
    """A client connected."""

    session: str
    listener: str
    client: str
    port: int


@frozen(slots=True)
class SessionRefused(Event):
    """A client was turned away at the door; `reply` says how."""

    session: str
    listener: str
    client: str
    reply: str


@frozen(slots=True)
class ClientNamed(Event):
    """The host at `proxy` said, `by` PROXY or XCLIENT, whose connection it is; `client` "": it could not say."""

    session: str
    listener: str
    proxy: str
    by: str
    client: str
    port: int
    name: str
    account: str


@frozen(slots=True)
class ProxyRefused(Event):
    """A named proxy did not say, or not rightly, whose connection it is; it was closed without a word."""

    session: str
    listener: str
    proxy: str
    reason: str


@frozen(slots=True)
class OriginForwarded(Event):
    """The client said by XFORWARD where its next message comes from: facts for the log that nobody has checked."""

    session: str
    client: str
    origin: str
    port: int
    name: str
    helo: str
    protocol: str
    ident: str
    source: str


@frozen(slots=True)
class CommandRefused(Event):
    """A command was answered 4xx or 5xx by the grammar, a limit or a check."""

    session: str
    client: str
    command: str
    reply: str
    check: str = ""
    sender: str = ""
    recipient: str = ""


@frozen(slots=True)
class ContentRefused(Event):
    """A message was refused at or before its end of data; nothing was kept."""

    session: str
    client: str
    sender: str
    recipients: int
    size: int
    reply: str
    check: str = ""


@frozen(slots=True)
class SessionClosed(Event):
    """A connection ended: how, after how many messages, and seconds."""

    session: str
    client: str
    helo: str
    messages: int
    commands: int
    seconds: float
    reason: str
