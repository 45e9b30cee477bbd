"""A probe: the dialogue that a message would have, as far as RCPT, with its transcript; DATA is never said.

RFC 5321 §4.1.1.5 (RSET ends what was begun). The session is opened by delivery's own parts, with TLS and log-in as
for a message. No secret and no challenge is in a transcript.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attrs import evolve, frozen
from cryptography import x509
from cryptography.x509.oid import NameOID
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from relaymta.config import Duration
from relaymta.delivery import classify
from relaymta.delivery.dial import Dialer
from relaymta.delivery.login import Accounts
from relaymta.delivery.policy import Decision
from relaymta.delivery.settings import Settings
from relaymta.delivery.source import Sources
from relaymta.delivery.walk import Means
from relaymta.explanation.question import Question
from relaymta.explanation.steps import Result, Step
from relaymta.explanation.tls import needed
from relaymta.explanation.way import Target
from relaymta.mail.address import Address, sender_path
from relaymta.mail.reply import Reply
from relaymta.net.pair import alternatives
from relaymta.routing.route import Transport
from relaymta.smtp.actions import Action, Answer, Close, Opened, Refused, Stage, StartTls, Trouble, Write
from relaymta.smtp.client import RelaySender, SessionError
from relaymta.smtp.dialogue import Dialogue
from relaymta.smtp.replies import ReplyReader, reply_of
from relaymta.smtp.sasl_client import HIDDEN, Login

PATIENCE = 10.0  # seconds for one stage; ours, somebody waits at a terminal
LIMIT = 60.0  # seconds for a probe in all
TOLD_MAX = 300  # lines of a transcript
LINE_MAX = 300  # characters of one
UNREADABLE = "(cannot be read)"
_LINES = re.compile(rb"\r?\n")


class Probing(Dialogue):
    """A dialogue that says MAIL, RCPT and RSET before it calls itself opened, and notes all that is said.

    `said` is the transcript: "C: ..." is ours, "S: ..." the peer's. `answer` is the last of MAIL and RCPT.
    """

    def __init__(self, hello: bytes, *, mail: bytes, rcpt: bytes, login: Login | None = None, **more: Any) -> None:
        super().__init__(hello, login=login, **more)
        self.said: list[str] = []
        self.answer: Reply | None = None
        self._who = login
        self._turns = [(Stage.MAIL, mail), (Stage.RCPT, rcpt)]
        self._asking: Stage | None = None
        self._replies = ReplyReader()
        self._unread = b""

    @property
    def stage(self) -> Stage:
        """What it waits for."""
        return self._asking or super().stage

    def receive(self, octets: bytes) -> list[Action]:
        """What follows from what the peer sent."""
        if self.stage is Stage.CLOSED:
            return []
        self._hear(octets)
        if self._asking is None:
            return self._note(super().receive(octets))
        actions: list[Action] = []
        for raw in self._replies.feed(octets):
            self.heard += 1
            reply = reply_of(raw)
            if self._asking is not Stage.RSET:
                self.answer = reply
            if reply.code == 421:
                return self._note(self._broken(Answer(self._asking, reply)))
            actions += self._go_on(reply)
            if self._asking is None:
                break
        if self._replies.fault and self._asking is not None:
            return self._note(self._broken(Answer(self._asking, trouble=Trouble.GARBLED, text=self._replies.fault)))
        return self._note(actions)

    def secured(self) -> list[Action]:
        """The handshake ended well."""
        return self._note(super().secured())

    def quit(self) -> list[Action]:
        """End the session."""
        return self._note(super().quit())

    def lost(self, text: str) -> list[Action]:
        """The connection is gone."""
        return self._ends(Trouble.LOST, text) if self._asking else self._note(super().lost(text))

    def expired(self) -> list[Action]:
        """The time for this stage is over."""
        asking = self._asking
        return self._ends(Trouble.TIMEOUT, f"timed out {asking.value}") if asking else self._note(super().expired())

    def _ends(self, trouble: Trouble, text: str) -> list[Action]:
        assert self._asking is not None
        return self._broken(Answer(self._asking, trouble=trouble, text=text))

    def _broken(self, answer: Answer) -> list[Action]:
        self._asking = None
        self._link.stage = Stage.CLOSED
        return [Refused(answer), Close()]

    def _go_on(self, reply: Reply) -> list[Action]:
        """MAIL, RCPT as long as they are taken, RSET, and then it is opened."""
        if self._asking is Stage.RSET:
            self._asking = None
            return [Opened()]
        if self._turns and (self._asking is None or reply.positive):
            self._asking, line = self._turns.pop(0)
            return [Write(line)]
        self._asking = Stage.RSET
        self._turns.clear()
        return [Write(b"RSET\r\n")]

    # The transcript

    def _note(self, actions: list[Action]) -> list[Action]:
        done: list[Action] = []
        for action in actions:
            if isinstance(action, Opened) and self._turns:
                done += self._note(self._go_on(Reply(250, "", "")))
                continue
            if isinstance(action, Write):
                self._tell("C", action.octets)
            elif isinstance(action, StartTls):
                self.said.append("   (TLS begins)")
            done.append(action)
        return done

    def _hear(self, octets: bytes) -> None:
        *lines, self._unread = _LINES.split(self._unread + octets)
        for line in lines:
            self._tell("S", line)

    def _tell(self, who: str, octets: bytes) -> None:
        if len(self.said) >= TOLD_MAX:
            return
        text = octets.decode("utf-8", "backslashreplace").rstrip("\r\n")[:LINE_MAX]
        if self.stage is Stage.AUTH:
            text = _without_secrets(who, text, self._who)
        self.said.append(f"{who}: {text}")


def _without_secrets(who: str, text: str, login: Login | None) -> str:
    """A line of a log-in: the command and the codes, without what stands behind them."""
    if who == "C":
        words = text.split(" ")
        return " ".join([*words[:2], HIDDEN][: len(words)]) if words[0] == "AUTH" else HIDDEN
    if text.startswith("334"):
        return f"334 {HIDDEN}"
    return text if login is None else login.conceal(text)


@frozen(slots=True)
class Probe:
    """Connects as deliveries would. `accounts` are the live ones, so that a refused log-in is not tried again."""

    reactor: Any
    hostname: str
    settings: Settings
    sources: Sources
    means: Means
    accounts: Accounts

    async def __call__(
        self, targets: Sequence[Target], recipient: Address, question: Question
    ) -> tuple[list[Step], Result]:
        """Try one address after the other until one answers to RCPT: the steps, and what they mean."""
        end = self.reactor.seconds() + LIMIT
        steps: list[Step] = []
        for target in targets:
            left = end - self.reactor.seconds()
            if left <= 0:
                text = f"{target.place.host}: not tried any more after {LIMIT:.0f} s"
                steps.append(Step("probe", Result.WAITS, text))
                break
            step = await self._one(target, recipient, question, left)
            steps.append(step)
            if step.facts.get("answered"):
                return steps, step.result
        return steps, Result.WAITS

    async def _one(self, target: Target, recipient: Address, question: Question, left: float) -> Step:
        place, route = target.place, target.route
        sender = question.sender if question.sender_given else None
        facts: dict[str, Any] = {"host": place.host, "address": place.address, "port": place.port, "answered": False}
        made: list[Probing] = []

        def make(hello: bytes, **more: Any) -> Dialogue:
            mail, rcpt = b"MAIL FROM:" + sender_path(sender), b"RCPT TO:" + recipient.path()
            made.append(Probing(hello, mail=mail + b"\r\n", rcpt=rcpt + b"\r\n", **more))
            return made[-1]

        dialer = Dialer(
            self.reactor, self.hostname, _hurried(self.settings), self.sources, accounts=self.accounts, make=make
        )
        decision = await needed(self.means, target.hop, route, target.host, place)
        where = f"{place.host} at {place.address} port {place.port}"
        if decision.refusal is not None:
            return Step("probe", Result.WAITS, f"{where}: {classify.reason(decision.refusal)}", facts)
        patience = self.reactor.callLater(left, dialer.abort)
        try:
            sender_ = await _open(dialer, self.means, target, decision)
        except SessionError as error:
            if not patience.active():
                return Step("probe", Result.WAITS, f"{where}: no answer in time", facts, _told(made))
            return _failed(where, error.answer, facts, made)
        finally:
            if patience.active():
                patience.cancel()
        facts["tls"] = sender_.tls
        facts |= certificate_facts(sender_)
        await self._leave(sender_)
        return _answered(where, made[-1], facts, _told(made))

    async def _leave(self, sender: RelaySender) -> None:
        """QUIT, and its answer."""
        if not sender.usable:
            return
        gone: Deferred[None] = Deferred()
        sender.on_gone = lambda: None if gone.called else gone.callback(None)
        sender.quit()
        wait = deferLater(self.reactor, PATIENCE).addErrback(lambda failure: failure.trap(CancelledError) and None)
        wait.addCallback(lambda _: None if gone.called else gone.callback(None))
        await gone
        wait.cancel()


async def _open(dialer: Dialer, means: Means, target: Target, decision: Decision) -> RelaySender:
    """As delivery.walk does: in clear where TLS is a wish and broken."""
    place, route = target.place, target.route
    lmtp = route.transport is Transport.LMTP
    try:
        return await dialer.open(place, decision, lmtp=lmtp, source=route.source, account=route.account)
    except SessionError as error:
        clear = means.security.in_clear(decision, error.answer, place.host, place.address, place.port)
        if clear is None:
            raise
        return await dialer.open(place, clear, lmtp=lmtp, source=route.source, account=route.account)


def _failed(where: str, answer: Answer, facts: dict[str, Any], made: list[Probing]) -> Step:
    """No session, or one that broke within MAIL and RCPT."""
    meaning = classify.meaning(answer)
    said = classify.reason(answer)
    text = f"{where}: {said if answer.reply is None else f'{said} ({answer.stage.value})'}"
    facts |= {"stage": answer.stage.name.lower(), "status": answer.status or meaning.status}
    return Step("probe", Result.WAITS, text, facts, _told(made))


def _answered(where: str, dialogue: Probing, facts: dict[str, Any], told: tuple[str, ...]) -> Step:
    reply = dialogue.answer
    assert reply is not None
    facts |= {"answered": True, "reply": str(reply), "offers": sorted(dialogue.offers.keywords)}
    result = Result.OK if reply.positive else Result.WAITS if reply.transient else Result.FAILS
    tls = facts["tls"] or "in clear"
    return Step("probe", result, f"{where}, {tls}: {reply}", facts, told)


def _told(made: list[Probing]) -> tuple[str, ...]:
    return tuple(line for one in made for line in one.said)


def certificate_facts(sender: RelaySender) -> dict[str, Any]:
    """The certificate that a peer showed: names, issuer, the end of its time; nothing without TLS."""
    if not sender.tls:
        return {}
    shown = sender.transport.getPeerCertificate()
    if shown is None:
        return {}
    try:
        return {"certificate": _certificate_facts(shown.to_cryptography())}
    except Exception:  # noqa: BLE001 - what makes a library stumble is shown as nothing
        return {"certificate": {"subject": UNREADABLE, "issuer": UNREADABLE, "names": [], "not_after": UNREADABLE}}


def _certificate_facts(certificate: x509.Certificate) -> dict[str, Any]:
    names = alternatives(certificate)
    known = [] if names is None else [str(one) for one in names.get_values_for_type(x509.DNSName)]
    known += [] if names is None else [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    return {
        "subject": _common_name(certificate.subject),
        "issuer": _common_name(certificate.issuer),
        "names": known,
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _hurried(settings: Settings) -> Settings:
    """The same limits, but none longer than somebody waits."""
    short: dict[str, Any] = {
        name: Duration(min(getattr(settings, name), PATIENCE))
        for name in (
            "connect_timeout", "greeting_timeout", "ehlo_timeout", "auth_timeout", "mail_timeout", "rcpt_timeout",
        )
    }  # fmt: skip
    return evolve(settings, **short)
