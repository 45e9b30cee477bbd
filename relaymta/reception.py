"""The way in: from a client's commands to a message that is ours.

One Reception serves all sessions; each session gets a Guest, which answers the dialogue, asks the policy, keeps the
transaction and hands the finished message to the queue. The 250 after the end of data goes out when the queue says
that the message is on stable storage, and never before (RFC 5321 §6.1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta import events
from relaymta.directory.account import Account
from relaymta.directory.credentials import ScramKeys
from relaymta.mail.address import Address
from relaymta.mail.content import Content, header_of
from relaymta.mail.envelope import Envelope, Origin, Recipient
from relaymta.mail.message import message_id
from relaymta.mail.reply import Reply
from relaymta.mail.trace import HOPS_MAX, hops, protocol, received
from relaymta.policy.logins import Logins
from relaymta.policy.pipeline import Pipeline
from relaymta.policy.relaying import Relaying
from relaymta.policy.verdict import Judgement, Opinion, Transaction, Verdict
from relaymta.queue.manager import Incoming, Manager
from relaymta.smtp import answers
from relaymta.smtp.authing import LoggingIn
from relaymta.smtp.commands import XForward
from relaymta.smtp.server import MailCommand, Peer, RcptCommand, Sink
from relaymta.store.interfaces import SpoolError

NO_ROOM = Reply(452, "4.3.1", "cannot take mail now, try again later")
NOT_STORED = Reply(451, "4.3.0", "cannot store the message now, try again later")
LOOP = Reply(554, "5.4.6", "too many hops: this message is in a loop")


@frozen(slots=True)
class Manners:
    """What a Reception needs to know of the configuration; made anew at every reload.

    `small_max`: content up to so many octets is kept in memory and goes through the journal. `logins` is None where
    nobody can log in.
    """

    hostname: str
    postmaster: Address
    relaying: Relaying
    pipeline: Pipeline
    small_max: int
    logins: Logins | None = None


class Reception:
    """The joint between the dialogue, the policy and the queue. `seconds` returns POSIX time."""

    def __init__(
        self,
        manners: Manners,
        manager: Manager,
        seconds: Callable[[], float],
        tell: Callable[[events.Event], None],
    ) -> None:
        self.manners = manners
        self.manager = manager
        self.seconds = seconds
        self.tell = tell

    def handler(self, peer: Peer) -> Guest:
        """The answerer for one new session."""
        return Guest(self, peer, self.seconds())

    def take(self, envelope: Envelope, octets: bytes) -> Deferred[None]:
        """Take a message that came by no session (sendmail); fires when it is durable, fails with SpoolError."""
        began, queue_id = self.seconds(), self.manager.new_id()
        octets = self.stamp(queue_id, envelope) + octets
        stored = self.manager.accept(queue_id, envelope, octets)
        return stored.addCallback(lambda _: self.told(queue_id, envelope, len(octets), header_of(octets), began))

    def stamp(self, queue_id: str, envelope: Envelope) -> bytes:
        """Our Received field for a message that is about to be ours."""
        only = None
        if len(envelope.recipients) == 1:  # RFC 5321 §7.6: "for" never shows one recipient to another
            only = envelope.recipients[0].address
        return received(envelope.origin, self.manners.hostname, queue_id, envelope.accepted_at, recipient=only)

    def told(self, queue_id: str, envelope: Envelope, size: int, header: bytes, began: float) -> None:
        """Tell of a message that is ours since now."""
        origin = envelope.origin
        self.tell(
            events.MessageAccepted(
                queue_id,
                origin.session,
                origin.client,
                "" if envelope.sender is None else str(envelope.sender),
                len(envelope.recipients),
                size,
                origin.protocol,
                message_id(header),
                round(self.seconds() - began, 6),
            )
        )


@define(slots=True, eq=False)
class Guest:
    """One session: smtp.server.Handler over policy and queue."""

    _house: Reception
    _peer: Peer
    _since: float
    _trusted: bool = field(init=False)
    _transaction: Transaction = field(init=False)
    _rights: Account | None = None
    _mail: MailCommand | None = None
    _mail_at: float = 0.0
    messages: int = 0

    def __attrs_post_init__(self) -> None:
        self._trusted = self._peer.known and self._house.manners.relaying.trusts(self._peer.client)
        self._transaction = self._fresh()

    def _fresh(self) -> Transaction:
        peer = self._peer
        return Transaction(
            client=peer.client,
            helo=peer.helo,
            listener=peer.listener,
            tls=peer.tls,
            account=peer.account,
            rights=self._rights if peer.account else None,  # a handshake after AUTH makes it forgotten
            trusted=self._trusted or self._is_vouched_for(),
        )

    def _is_vouched_for(self) -> bool:
        """Whether the client showed a certificate that may relay; known since STARTTLS, if at all."""
        peer = self._peer
        if not peer.certificate:
            return False
        return self._house.manners.relaying.vouches(peer.certificate, peer.certificate_names)

    # The stages

    def connect(self) -> Reply | None | Awaitable[Reply | None]:
        """Greet, or refuse at the door."""
        peer = self._peer
        if peer.proxy:
            self._tell_proxy()
        self._house.tell(events.SessionOpened(peer.session, peer.listener, peer.client, peer.port))
        return self._say(self._house.manners.pipeline.connect(self._transaction), "CONNECT")

    def helo(self, name: str, esmtp: bool) -> Reply | None | Awaitable[Reply | None]:
        """EHLO or HELO: facts for what follows."""
        self._transaction = self._fresh()
        return self._say(self._house.manners.pipeline.helo(self._transaction), "EHLO" if esmtp else "HELO")

    def keys(self, name: str) -> Reply | Awaitable[ScramKeys | Reply]:
        """AUTH by SCRAM."""
        logins = self._house.manners.logins
        return answers.AUTH_UNAVAILABLE if logins is None else logins.keys(self._peer, name)

    def auth(self, attempt: LoggingIn) -> Reply | Awaitable[Account | Reply]:
        """AUTH with its credentials."""
        logins = self._house.manners.logins
        return answers.AUTH_UNAVAILABLE if logins is None else logins.login(self._peer, attempt)

    def authenticated(self, account: Account, mechanism: str) -> None:
        """From now on the account's rights count."""
        self._rights = account
        self._transaction = self._fresh()
        peer = self._peer
        self._house.tell(events.Authenticated(peer.session, peer.client, account.name, mechanism))

    def mail(self, command: MailCommand) -> Reply | None | Awaitable[Reply | None]:
        """MAIL: begin a transaction, unless the queue cannot take mail."""
        refusal = self._house.manager.refusal()
        if refusal:
            return NO_ROOM  # RFC 5321 §4.2.2: 452, insufficient system storage
        transaction = self._transaction = self._fresh()
        transaction.sender = command.sender
        transaction.size = command.size or 0
        self._mail = command
        self._mail_at = self._house.seconds()
        if self._peer.forwarded is not None:
            self._tell_forwarded(self._peer.forwarded)
        return self._say(self._house.manners.pipeline.mail(transaction), "MAIL")

    def rcpt(self, command: RcptCommand) -> Reply | None | Awaitable[Reply | None]:
        """RCPT: one more recipient, when it may be relayed to."""
        asked = address = command.address
        if not asked.domain:  # RFC 5321 §4.5.1: <postmaster> is judged as such, wherever his mail goes
            address = self._house.manners.postmaster
        recipient = Recipient(address, command.notify, command.orcpt)
        judgement = self._house.manners.pipeline.rcpt(self._transaction, asked)
        if judgement is None:
            self._transaction.recipients.append(recipient)
            return None
        if isinstance(judgement, Verdict):
            return self._refuse(judgement, "RCPT", str(address))
        return self._add_later(judgement, recipient)

    async def _add_later(self, judgement: Awaitable[Opinion], recipient: Recipient) -> Reply | None:
        transaction = self._transaction
        opinion = await judgement
        if opinion is not None:
            return self._refuse(opinion, "RCPT", str(recipient.address))
        transaction.recipients.append(recipient)
        return None

    def data(self) -> Sink | Reply:
        """DATA or the first BDAT: content may come."""
        if self._mail is None or not self._transaction.recipients:
            return Reply(554, "5.5.1", "no valid recipients")  # RFC 5321 §3.3
        return Arrival(self, self._house, self._envelope(self._mail), self._mail_at)

    def reset(self) -> None:
        """The transaction is gone."""
        self._mail = None

    def refused(self, command: str, reply: Reply) -> None:
        """Tell of a command that the grammar or a limit refused."""
        peer = self._peer
        self._house.tell(events.CommandRefused(peer.session, peer.client, command, str(reply)))

    def closed(self, reason: str) -> None:
        """Tell of the end of the session."""
        peer, house = self._peer, self._house
        house.tell(
            events.SessionClosed(
                peer.session,
                peer.client,
                peer.helo,
                self.messages,
                peer.commands,
                round(house.seconds() - self._since, 3),
                reason,
            )
        )

    # Who speaks for others

    def _tell_proxy(self) -> None:
        peer = self._peer
        self._house.tell(
            events.ClientNamed(
                peer.session,
                peer.listener,
                peer.proxy,
                "XCLIENT" if peer.introduced else "PROXY",
                peer.client if peer.known else "",
                peer.port,
                peer.name,
                peer.account,
            )
        )

    def _tell_forwarded(self, said: XForward) -> None:
        peer = self._peer
        self._house.tell(
            events.OriginForwarded(
                peer.session,
                peer.client,
                said.client,
                said.port,
                said.name,
                said.helo,
                said.protocol,
                said.ident,
                said.source,
            )
        )

    # What the stages share

    def _say(self, judgement: Judgement, command: str) -> Reply | None | Awaitable[Reply | None]:
        if judgement is None:
            return None
        if isinstance(judgement, Verdict):
            return self._refuse(judgement, command)
        return self._say_later(judgement, command)

    async def _say_later(self, judgement: Awaitable[Opinion], command: str) -> Reply | None:
        opinion = await judgement
        return None if opinion is None else self._refuse(opinion, command)

    def _refuse(self, verdict: Verdict, command: str, recipient: str = "") -> Reply:
        peer = self._peer
        sender = "" if self._transaction.sender is None else str(self._transaction.sender)
        self._house.tell(
            events.CommandRefused(
                peer.session, peer.client, command, str(verdict.reply), verdict.check, sender, recipient
            )
        )
        return verdict.reply

    def _envelope(self, mail: MailCommand) -> Envelope:
        peer = self._peer
        origin = Origin(
            listener=peer.listener,
            session=peer.session,
            client=peer.client,
            port=peer.port,
            helo=peer.helo,
            protocol=protocol(
                esmtp=peer.esmtp, tls=bool(peer.tls), auth=bool(peer.account), utf8=mail.smtputf8, lmtp=peer.lmtp
            ),
            tls=f"{peer.tls}; client certificate {peer.certificate}" if peer.certificate else peer.tls,
            account=peer.account,
        )
        if peer.forwarded is not None:
            origin = forwarded(origin, peer.forwarded)
        return Envelope(
            sender=mail.sender,
            recipients=tuple(self._transaction.recipients),
            accepted_at=self._house.seconds(),
            origin=origin,
            body=mail.body,
            smtputf8=mail.smtputf8,
            ret=mail.ret,
            envid=mail.envid,
        )

    def turned_down(self, envelope: Envelope, size: int, reply: Reply) -> Reply:
        """Tell of a message refused at its end of data."""
        peer = self._peer
        sender = "" if envelope.sender is None else str(envelope.sender)
        self._house.tell(
            events.ContentRefused(
                peer.session, peer.client, sender, len(envelope.recipients), size, str(reply)
            )
        )
        return reply


def forwarded(origin: Origin, said: XForward) -> Origin:
    """An origin as XFORWARD tells it, as far as it does; how the message came to us stays what it was."""
    return evolve(
        origin,
        client=said.client or origin.client,
        port=said.port if said.client else origin.port,
        helo=said.helo or origin.helo,
    )


class Arrival:
    """The content of one message on its way in: smtp.server.Sink.

    Up to `small_max` octets it is gathered in memory and goes through the journal; beyond, it streams into the spool.
    Whatever goes wrong on the way is kept as the reply to the end of data, while the rest is eaten.
    """

    __slots__ = ("_began", "_envelope", "_guest", "_house", "_incoming", "_parts", "_refusal", "_size", "queue_id")

    def __init__(self, guest: Guest, house: Reception, envelope: Envelope, began: float) -> None:
        self._guest = guest
        self._house = house
        self._envelope = envelope
        self._began = began
        self.queue_id = house.manager.new_id()
        self._parts = [house.stamp(self.queue_id, envelope)]
        self._size = len(self._parts[0])
        self._incoming: Incoming | None = None
        self._refusal: Reply | None = None

    def write(self, octets: bytes) -> None:
        """Take one more piece of content."""
        if self._refusal is not None:
            return
        self._size += len(octets)
        if self._incoming is not None:
            self._incoming.write(octets)
        else:
            self._parts.append(octets)
            if self._size > self._house.manners.small_max:
                self._turn_large()

    def _turn_large(self) -> None:
        octets = b"".join(self._parts)
        self._parts.clear()
        if hops(header_of(octets)) > HOPS_MAX:
            self._refusal = LOOP
            return
        self._incoming = self._house.manager.receive(self.queue_id, self._envelope)
        self._incoming.write(octets)

    def finish(self) -> Reply | Deferred[Reply]:
        """The end of data: a refusal at once, or 250 when the message is on stable storage."""
        if self._refusal is not None:
            return self._turn_down(self._refusal)
        if self._incoming is not None:
            return self._incoming.commit().addCallbacks(self._accepted_large, self._failed)
        octets = b"".join(self._parts)
        header = header_of(octets)
        if hops(header) > HOPS_MAX:
            return self._turn_down(LOOP)
        stored = self._house.manager.accept(self.queue_id, self._envelope, octets)
        return stored.addCallbacks(self._accepted, self._failed, callbackArgs=(header,))

    def abort(self) -> None:
        """Nothing of this is kept."""
        self._parts.clear()
        if self._incoming is not None:
            self._incoming.abort()
            self._incoming = None

    def _accepted_large(self, content: Content) -> Reply:
        return self._accepted(None, content.header())

    def _accepted(self, _: object, header: bytes) -> Reply:
        self._guest.messages += 1
        self._house.told(self.queue_id, self._envelope, self._size, header, self._began)
        return Reply(250, "2.0.0", f"queued as {self.queue_id}")

    def _failed(self, failure: Failure) -> Reply:
        if failure.check(SpoolError, OSError) is None:
            self._house.tell(events.BugCaught("reception", failure.getTraceback()))
        return self._turn_down(NOT_STORED)

    def _turn_down(self, reply: Reply) -> Reply:
        return self._guest.turned_down(self._envelope, self._size, reply)
