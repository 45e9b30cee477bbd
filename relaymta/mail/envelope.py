"""The envelope: who sends, to whom, and what was asked of us; fixed from the moment of acceptance.

RFC 5321 §2.3.1, RFC 3461 §4 (DSN parameters), RFC 4865 (FUTURERELEASE), RFC 6152 (BODY), RFC 6531
(SMTPUTF8), RFC 8689 (REQUIRETLS).
"""

from __future__ import annotations

from enum import Enum, IntFlag

from attrs import field, frozen

from relaymta.mail.address import Address


class Body(Enum):
    """The BODY parameter of MAIL (RFC 6152 §2)."""

    SEVENBIT = "7BIT"
    EIGHTBIT = "8BITMIME"


class Ret(Enum):
    """The RET parameter of MAIL (RFC 3461 §4.3)."""

    FULL = "FULL"
    HDRS = "HDRS"


class Notify(IntFlag):
    """The NOTIFY parameter of RCPT (RFC 3461 §4.1); UNSET is "not given", which differs from NEVER."""

    UNSET = 0
    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8


@frozen(slots=True)
class Recipient:
    """One forward-path with what its RCPT asked.

    `orcpt` is the original recipient as "addr-type;address", xtext decoded (RFC 3461 §4.2), or "".
    """

    address: Address
    notify: Notify = Notify.UNSET
    orcpt: str = ""


@frozen(slots=True)
class Origin:
    """Where a message came from: facts for the log, the trace and the policy, as str.

    `protocol` is the "with" keyword of RFC 3848 ("ESMTPS") or "local" (sendmail) or "notice" (our own).
    """

    listener: str = ""
    session: str = ""
    client: str = ""
    port: int = 0
    helo: str = ""
    protocol: str = ""
    tls: str = ""
    account: str = ""


@frozen(slots=True)
class Envelope:
    """What was accepted. `sender` None is the null reverse-path; times are POSIX time in seconds.

    `requiretls`: the sender asked for it (RFC 8689 §4.1). `tls_optional`: "TLS-Required: No" stands in the header
    (RFC 8689 §3), which REQUIRETLS overrules. `release_at`: not to be sent before (RFC 4865), 0 for at once;
    `release_request`: how that was asked, for notices.
    """

    sender: Address | None
    recipients: tuple[Recipient, ...]
    accepted_at: float
    origin: Origin = field(factory=Origin)
    body: Body = Body.SEVENBIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str = ""
    requiretls: bool = False
    tls_optional: bool = False
    release_at: float = 0.0
    release_request: str = ""
