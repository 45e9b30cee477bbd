"""Whose a connection is, where somebody else speaks for the client, and what follows from that.

A named proxy says it in a PROXY header (smtp.vestibule), a named host by XCLIENT (smtp.xclient). They are believed;
what they may do themselves, by their address, their account or their certificate, never passes to whom they speak for.
"""

from __future__ import annotations

from typing import TypeVar

from attrs import evolve

from relaymta.smtp.commands import XClient
from relaymta.smtp.door import within
from relaymta.smtp.handler import Peer
from relaymta.smtp.proxy import ProxyHeader
from relaymta.smtp.rules import Rules
from relaymta.smtp.settings import ListenerSettings

_Value = TypeVar("_Value", str, int)


def behind(proxy: Peer, header: ProxyHeader) -> Peer:
    """The facts of a connection of a named proxy, whose header names the client, or nobody."""
    if not header.client:
        return evolve(proxy, proxy=proxy.client, known=False)
    return evolve(proxy, proxy=proxy.client, client=header.client, port=header.port, local=header.local)


def introduced(peer: Peer, command: XClient, session: str) -> Peer:
    """The facts of `session`, which goes on where that of `peer` ended, for whom `command` says it is.

    Nothing that the speaker may do passes to who it speaks for: not its address, its account or its certificate. What
    an XCLIENT before this one said stays, as far as this one does not say otherwise and is about the same client.
    """
    again = peer.introduced and command.client is None
    speaker = peer.proxy if peer.introduced else peer.client
    return evolve(
        peer,
        session=session,
        client=peer.client if again else command.client or speaker,
        known=peer.known if again else bool(command.client),
        port=_first(command.port, peer.port if again else 0),
        local=command.local or peer.local,
        name=_first(command.name, peer.name if again else ""),
        helo=command.helo or "",
        esmtp=bool(command.esmtp),
        account=_first(command.account, peer.account if again else ""),
        certificate="",
        certificate_names=(),
        proxy=speaker,
        introduced=True,
        forwarded=None,
    )


def rules_for(peer: Peer, settings: ListenerSettings, rules: Rules) -> Rules:
    """The rules for a client: those of the listener, and where it is named for that, that it may speak for others."""
    if not (settings.xclient or settings.xforward) or not peer.known:
        return rules
    xclient, xforward = within(peer.client, settings.xclient), within(peer.client, settings.xforward)
    return rules.speaking(xclient=xclient, xforward=xforward) if xclient or xforward else rules


def counted(peer: Peer, settings: ListenerSettings) -> str | None:
    """Who a connection counts as at the door; None for who speaks for others, and has many by rights."""
    if not peer.known or (not peer.proxy and within(peer.client, settings.xclient)):
        return None
    return peer.client


def _first(said: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if said is None else said
