"""What a listener offers and bears, made once of its settings for all its sessions.

RFC 5321 §4.1.1.1 and §4.2 (greeting and EHLO), RFC 1870 (SIZE), 1854 and 2920 (PIPELINING), 2034
(ENHANCEDSTATUSCODES), 3030 (CHUNKING), 3207 (STARTTLS), 3461 (DSN), 4865 (FUTURERELEASE), 4954 (AUTH), 6152
(8BITMIME), 6531 (SMTPUTF8), 8689 (REQUIRETLS), 9422 (LIMITS), 2033 (LMTP).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable

from attrs import evolve, frozen

from relaymta.mail.reply import Reply
from relaymta.smtp.commands import XCLIENT, XFORWARD
from relaymta.smtp.settings import AuthMode, BareNewlines, ListenerSettings, Profile, TlsMode
from relaymta.smtp.wishes import NO_WISHES, Wishes

NONCE_OCTETS = 24  # of chance in our part of a nonce; ours


def make_nonce() -> str:
    """Our part of a nonce (RFC 5802 §5.1)."""
    return secrets.token_urlsafe(NONCE_OCTETS)


@frozen(slots=True)
class Rules:
    """Limits of a session (0: none) and its two set pieces for the wire, the greeting and the answer to EHLO.

    `mechanisms`: of AUTH, those that the accounts can be asked about; none where clients cannot log in.
    """

    max_message_size: int
    max_recipients: int
    max_transactions: int
    max_errors: int
    max_idle_commands: int
    max_unrecognized: int
    normalize: bool
    starttls: bool
    tls_required: bool
    greeting: bytes
    helo: bytes
    ehlo_clear: bytes
    ehlo_tls: bytes
    lmtp: bool = False
    xclient: bool = False  # whether this client may say for whom it speaks
    xforward: bool = False
    mechanisms: frozenset[str] = frozenset()
    auth_required: bool = False
    auth_in_clear: bool = False
    nonce: Callable[[], str] = make_nonce
    wishes_clear: Wishes = NO_WISHES
    wishes_tls: Wishes = NO_WISHES

    def hello(self, *, esmtp: bool, tls: bool, mechanisms: Iterable[str] = ()) -> bytes:
        """The positive reply to EHLO (`esmtp`) or HELO; `mechanisms` are those that can work now."""
        if not esmtp:
            return self.helo
        piece, wishes = (self.ehlo_tls, self.wishes_tls) if tls else (self.ehlo_clear, self.wishes_clear)
        if mechanisms:
            piece = _with_auth(piece, mechanisms)
        return wishes.announced(piece)

    def speaking(self, *, xclient: bool, xforward: bool) -> Rules:
        """These rules for a client who may speak for others, which is offered to no other."""
        offers = [" ".join(("XCLIENT", *XCLIENT))] if xclient else []
        offers += [" ".join(("XFORWARD", *XFORWARD))] if xforward else []
        return evolve(
            self,
            xclient=xclient,
            xforward=xforward,
            ehlo_clear=_offering(self.ehlo_clear, offers),
            ehlo_tls=_offering(self.ehlo_tls, offers),
        )


def rules_of(
    settings: ListenerSettings,
    hostname: str,
    mechanisms: Collection[str] = (),
    *,
    seconds: Callable[[], float] = time.time,
) -> Rules:
    """The rules of a listener on the host of that name.

    `mechanisms` are those that the accounts can be asked about; `seconds` gives POSIX time.
    """
    limits = settings.limits
    lmtp = settings.profile is Profile.LMTP
    # RFC 4865 §4.2: for submission and nothing else
    release = int(settings.future_release) if settings.profile is Profile.SUBMISSION else 0
    starttls = settings.tls in (TlsMode.STARTTLS, TlsMode.REQUIRED)
    return Rules(
        max_message_size=settings.max_message_size,
        max_recipients=settings.max_recipients,
        max_transactions=limits.transactions,
        max_errors=limits.errors,
        max_idle_commands=limits.idle_commands,
        max_unrecognized=limits.unrecognized,
        normalize=settings.bare_newlines is BareNewlines.NORMALIZE,
        starttls=starttls,
        tls_required=settings.tls is TlsMode.REQUIRED,
        greeting=Reply(220, "", f"{hostname} {'LMTP' if lmtp else 'ESMTP'} relaymta").render(),
        helo=Reply(250, "", hostname).render(),
        ehlo_clear=_ehlo(hostname, settings, starttls),
        ehlo_tls=_ehlo(hostname, settings, False),  # RFC 3207 §4.2: not offered once TLS is on
        lmtp=lmtp,
        mechanisms=frozenset(() if settings.auth is AuthMode.NONE else mechanisms),
        auth_required=settings.auth is AuthMode.REQUIRED,
        auth_in_clear=settings.auth_in_clear,
        wishes_clear=Wishes(False, release, seconds),
        wishes_tls=Wishes(True, release, seconds),  # RFC 8689 §2: REQUIRETLS is offered over TLS alone
    )


def _with_auth(piece: bytes, mechanisms: Iterable[str]) -> bytes:
    """The answer to EHLO with one more line (RFC 4954 §3)."""
    last = piece.rindex(b"\r\n", 0, -2) + 2
    return piece[:last] + b"250-" + piece[last + 4 :] + f"250 AUTH {' '.join(mechanisms)}\r\n".encode("ascii")


def _ehlo(hostname: str, settings: ListenerSettings, starttls: bool) -> bytes:
    lines = [
        hostname,
        "PIPELINING",
        f"SIZE {settings.max_message_size}",  # RFC 1870 §3: 0 is no fixed maximum
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        _limits(settings),
    ]
    if starttls:
        lines.append("STARTTLS")
    return Reply(250, "", "\n".join(lines)).render()


def _offering(said: bytes, offers: list[str]) -> bytes:
    """An answer to EHLO with more offers."""
    first, _, rest = said.partition(b"\r\n")
    more = b"".join(f"250-{offer}\r\n".encode("ascii") for offer in offers)
    return first + b"\r\n" + more + rest


def _limits(settings: ListenerSettings) -> str:
    words = ["LIMITS"]
    if settings.limits.transactions:
        words.append(f"MAILMAX={settings.limits.transactions}")  # RFC 9422 §4.1
    words.append(f"RCPTMAX={settings.max_recipients}")  # RFC 9422 §4.2
    return " ".join(words)
