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
from relaymta.directory.credentials import DirectoryUnavailableError, ScramKeys
from relaymta.mail.address import Address
from relaymta.mail.content import HEADER_MAX, header_of
from relaymta.mail.envelope import Envelope, Origin, Recipient
from relaymta.mail.message import edit, message_id
from relaymta.mail.reply import Reply
from relaymta.mail.submission import completions
from relaymta.mail.tlsrequired import tls_optional
from relaymta.mail.trace import HOPS_MAX, date, hops, protocol, received
from relaymta.policy.logins import XCLIENT, Logins
from relaymta.policy.pipeline import Pipeline
from relaymta.policy.relaying import Relaying
from relaymta.policy.verdict import Judgement, Opinion, Transaction, Verdict
from relaymta.queue.manager import POLICY, Incoming, Manager
from relaymta.smtp import answers
from relaymta.smtp.authing import LoggingIn
from relaymta.smtp.commands import MailCommand, RcptCommand, XForward
from relaymta.smtp.handler import Peer, Sink
from relaymta.store.interfaces import SpoolError

NO_ROOM = Reply(452, "4.3.1", "cannot take mail now, try again later")
NOT_STORED = Reply(451, "4.3.0", "cannot store the message now, try again later")
NOBODY_TO_ASK = Reply(421, "4.7.0", "the accounts cannot be looked up now, try again later", close=True)
CHANGED = Reply(421, "4.7.0", "this account has been changed, log in again", close=True)
LOOP = Reply(554, "5.4.6", "too many hops: this message is in a loop")
LONG_HEADER = Reply(552, "5.3.4", "header section too large")

PIECES_MAX = 256  # of content in memory; ours: octets that came in pairs would take twenty times their room
_BLANKS = (b" ", b"\t")


@frozen(slots=True)
class Manners:
    """What a Reception needs to know of the configuration; made anew at every reload.

    `small_max`: content up to so many octets is kept in memory and goes through the journal. `logins` is None where
    nobody can log in. `submission`: names of the listeners whose mail is completed (RFC 6409 §8).
    """

    hostname: str
    postmaster: Address
    relaying: Relaying
    pipeline: Pipeline
    small_max: int
    logins: Logins | None = None
    submission: frozenset[str] = frozenset()


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
        if tls_optional(header_of(octets)):
            envelope = evolve(envelope, tls_optional=True)
        stamp = self.stamp(queue_id, envelope)
        octets = unfolded(stamp + octets, len(stamp))
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
                origin.account,
            )
        )


@define(slots=True, eq=False)
class Guest:
    """One session: smtp.handler.Handler over policy and queue."""

    _house: Reception
    _peer: Peer
    _since: float
    _trusted: bool = field(init=False)
    _transaction: Transaction = field(init=False)
    _rights: Account | None = None
    _logins: Logins | None = None  # who said so, and what they knew of the account's changes then
    _changes: int = 0
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
            session=peer.session,
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
        if peer.introduced and peer.account and self._house.manners.logins is not None:
            return self._introduce(self._house.manners.logins)
        return self._say(self._house.manners.pipeline.connect(self._transaction), "CONNECT")

    async def _introduce(self, logins: Logins) -> Reply | None:
        """Who is said to have logged in has the rights of that account; a name that nobody keeps is no log-in."""
        peer = self._peer
        try:
            account = await logins.introduced(peer)
        except DirectoryUnavailableError:
            return NOBODY_TO_ASK
        peer.account = account.name if account is not None else ""
        if account is not None:
            self.authenticated(account, XCLIENT)
        opinion = self._say(self._house.manners.pipeline.connect(self._transaction), "CONNECT")
        return opinion if opinion is None or isinstance(opinion, Reply) else await opinion

    def helo(self, name: str, esmtp: bool) -> Reply | None | Awaitable[Reply | None]:
        """EHLO or HELO: facts for what follows."""
        fresh = self._fresh()
        if self._mail is None:  # else it goes on where this is refused (RFC 5321 §4.1.4), with all its recipients
            self._transaction = fresh
        return self._say(self._house.manners.pipeline.helo(fresh), "EHLO" if esmtp else "HELO")

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
        self._know_changes(self._house.manners.logins)
        self._transaction = self._fresh()
        peer = self._peer
        self._house.tell(events.Authenticated(peer.session, peer.client, account.name, mechanism))

    def _know_changes(self, logins: Logins | None) -> None:
        assert self._rights is not None
        self._logins = logins
        self._changes = logins.directory.changes(self._rights.name) if logins is not None else 0

    def _has_changed(self, rights: Account) -> bool:
        """Whether the account is not what it was at the log-in; of those before a reload only that there are none."""
        logins = self._house.manners.logins
        if logins is not self._logins and logins is not None:
            self._know_changes(logins)
        if logins is None:
            return self._logins is not None
        return logins.directory.changes(rights.name) != self._changes

    def mail(self, command: MailCommand) -> Reply | None | Awaitable[Reply | None]:
        """MAIL: begin a transaction, unless the queue cannot take mail."""
        refusal = self._house.manager.refusal()
        if refusal:
            return NO_ROOM  # RFC 5321 §4.2.2: 452, insufficient system storage
        transaction = self._transaction = self._fresh()
        if transaction.rights is not None and self._has_changed(transaction.rights):  # a stolen one
            return self._refuse(Verdict(CHANGED, "account", transaction.rights.name), "MAIL")
        transaction.sender = command.sender
        transaction.size = command.size or 0
        transaction.release_at = command.release_at
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

    def data(self) -> Sink | Reply | Awaitable[Sink | Reply]:
        """DATA or the first BDAT: content may come."""
        mail, transaction = self._mail, self._transaction
        if mail is None or not transaction.recipients:
            return Reply(554, "5.5.1", "no valid recipients")  # RFC 5321 §3.3
        judgement = self._house.manners.pipeline.data(transaction)
        if judgement is None:
            return Arrival(self, self._house, self._envelope(mail), self._mail_at, transaction)
        if isinstance(judgement, Verdict):
            return self._refuse(judgement, "DATA")
        return self._receive_later(judgement, mail)

    async def _receive_later(self, judgement: Awaitable[Opinion], mail: MailCommand) -> Sink | Reply:
        transaction = self._transaction
        opinion = await judgement
        if opinion is not None:
            return self._refuse(opinion, "DATA")
        return Arrival(self, self._house, self._envelope(mail), self._mail_at, transaction)

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
            requiretls=mail.requiretls,
            release_at=mail.release_at,
            release_request=mail.release_request,
        )

    def turned_down(self, envelope: Envelope, size: int, reply: Reply, check: str = "") -> Reply:
        """Tell of a message refused at its end of data."""
        peer = self._peer
        sender = "" if envelope.sender is None else str(envelope.sender)
        self._house.tell(
            events.ContentRefused(
                peer.session, peer.client, sender, len(envelope.recipients), size, str(reply), check
            )
        )
        return reply


def forwarded(origin: Origin, said: XForward) -> Origin:
    """An origin as XFORWARD tells it; how the message came to us stays what it was.

    XFORWARD_README: what is known of two clients is never mixed. Without an address the rest is ignored: it is mail of
    the very host that speaks.
    """
    return evolve(origin, client=said.client, port=said.port, helo=said.helo) if said.client else origin


class Arrival:
    """The content of one message on its way in: smtp.handler.Sink.

    Up to `small_max` octets it is gathered in memory and goes through the journal; beyond, it streams into the spool as
    soon as its header section is whole, for that is judged and completed before any of it is kept. Whatever goes wrong
    on the way is kept as the reply to the end of data, while the rest is eaten.
    """

    __slots__ = (
        "_began", "_envelope", "_gather", "_guest", "_header", "_house", "_incoming", "_parts", "_refusal", "_section",
        "_size", "_transaction", "queue_id",
    )  # fmt: skip

    def __init__(
        self, guest: Guest, house: Reception, envelope: Envelope, began: float, transaction: Transaction
    ) -> None:
        self._guest = guest
        self._house = house
        self._envelope = envelope
        self._began = began
        self._transaction = transaction
        self.queue_id = house.manager.new_id()
        self._parts = [house.stamp(self.queue_id, envelope)]
        self._size = len(self._parts[0])
        self._gather = house.manners.small_max
        self._header = b""  # as the client sent it, where somebody wants to see it
        self._section = b""  # as it is kept, our own field included
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
            parts = self._parts
            parts.append(octets)
            if self._size > self._gather:
                self._turn_large()
            elif len(parts) > PIECES_MAX:
                parts[1:] = [b"".join(parts[1:])]

    def _turn_large(self) -> None:
        octets = b"".join(self._parts)
        if self._size <= HEADER_MAX and not _has_header(octets, len(self._parts[0])):
            self._gather = HEADER_MAX  # it is looked for once more, so that small pieces cost no more than large ones
            return
        octets = self._prepared(octets)
        self._parts.clear()
        if self._refusal is None:
            self._incoming = self._house.manager.receive(self.queue_id, self._envelope, self._transaction.hold)
            self._incoming.write(octets)

    def _prepared(self, octets: bytes) -> bytes:
        """What is to be kept of `octets`, in which the header section is whole; or there is a refusal."""
        whole = unfolded(octets, len(self._parts[0]))
        if whole is not octets:
            self._size += 2
            octets = whole
        header = self._section = header_of(octets)
        if hops(header) > HOPS_MAX:
            self._refusal = LOOP
            return octets
        if tls_optional(header) and not self._envelope.requiretls:  # RFC 8689 §4.1: REQUIRETLS overrules it
            self._envelope = evolve(self._envelope, tls_optional=True)
        manners, ours = self._house.manners, self._envelope.origin.listener in self._house.manners.submission
        if not (ours or manners.pipeline.judges_content):
            return octets
        stamp = self._parts[0]
        self._header = header[len(stamp) :]
        if len(header) == HEADER_MAX and not _has_header(octets, len(stamp)) and (ours or self._transaction.rights):
            self._refusal = LONG_HEADER  # what nobody has seen whole nobody can vouch for
            return octets
        return self._completed(octets, stamp) if ours else octets

    def _completed(self, octets: bytes, stamp: bytes) -> bytes:
        """RFC 6409 §8: what a message of our own people lacks is added, what must not be seen is taken out."""
        header, hostname = self._header, self._house.manners.hostname
        at = date(self._envelope.accepted_at)
        edits = completions(header, date=at, message_id=f"{self.queue_id}@{hostname}")
        if not edits:
            return octets
        changed = edit(header, edits)
        self._size += len(changed) - len(header)
        self._section = stamp + changed
        return self._section + octets[len(stamp) + len(header) :]

    def finish(self) -> Reply | Awaitable[Reply]:
        """The end of data: a refusal at once, or 250 when the message is on stable storage."""
        octets = b""
        if self._refusal is None and self._incoming is None:
            octets = self._prepared(b"".join(self._parts))
        if self._refusal is not None:
            return self._turn_down(self._refusal)
        pipeline = self._house.manners.pipeline
        if pipeline.judges_content:
            judgement = pipeline.content(self._transaction, self._header)
            if isinstance(judgement, Verdict):
                return self._turn_down(judgement.reply, judgement.check)
            if judgement is not None:
                return self._keep_later(judgement, octets)
        return self._keep(octets)

    async def _keep_later(self, judgement: Awaitable[Opinion], octets: bytes) -> Reply:
        opinion = await judgement
        if opinion is not None:
            return self._turn_down(opinion.reply, opinion.check)
        return await self._keep(octets)

    def _keep(self, octets: bytes) -> Deferred[Reply]:
        if self._incoming is not None:
            return self._incoming.commit().addCallbacks(self._accepted, self._failed)
        stored = self._house.manager.accept(self.queue_id, self._envelope, octets, self._transaction.hold)
        return stored.addCallbacks(self._accepted, self._failed)

    def abort(self) -> None:
        """Nothing of this is kept."""
        self._parts.clear()
        self._drop()

    def _drop(self) -> None:
        """Leave nothing behind, neither in the spool nor in what was counted."""
        if self._incoming is not None:
            self._incoming.abort()
            self._incoming = None
        undo, self._transaction.undo = self._transaction.undo, None
        if undo is not None:
            undo()

    def _accepted(self, _: object) -> Reply:
        self._guest.messages += 1
        self._house.told(self.queue_id, self._envelope, self._size, self._section, self._began)
        hold = self._transaction.hold
        if hold:
            self._house.tell(events.MessageHeld(self.queue_id, POLICY, hold))
        return Reply(250, "2.0.0", f"queued as {self.queue_id}")

    def _failed(self, failure: Failure) -> Reply:
        if failure.check(SpoolError, OSError) is None:
            self._house.tell(events.BugCaught("reception", failure.getTraceback()))
        return self._turn_down(NOT_STORED)

    def _turn_down(self, reply: Reply, check: str = "") -> Reply:
        self._drop()
        return self._guest.turned_down(self._envelope, self._size, reply, check)


def unfolded(octets: bytes, start: int) -> bytes:
    """A message whose content begins at `start`, behind our own field; the same object as nearly always.

    Content that begins with a blank would be read as more of our field (RFC 5322 §2.2.3), and what we say of its way
    would be forged. As with Postfix it gets an empty header section, and all of it is body.
    """
    return octets[:start] + b"\r\n" + octets[start:] if octets.startswith(_BLANKS, start) else octets


def _has_header(octets: bytes, start: int) -> bool:
    """Whether the header section that begins at `start`, behind our own field, has its end here."""
    return octets.startswith(b"\r\n", start) or octets.find(b"\r\n\r\n", start, HEADER_MAX) >= 0
