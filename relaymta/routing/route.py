"""Where a recipient's mail goes: transport, next hops, and the terms on which they are spoken to.

RFC 5321 §5 (next hop), RFC 2033 (LMTP). Values only: rules are router's, hosts and addresses mx's, TLS delivery's.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen

from relaymta.config.hosts import is_address
from relaymta.mail.reply import Reply

SMTP_PORT = 25
LMTP_PORT = 24  # RFC 2033 §5 forbids 25; 24 is IANA's "any private mail system", as other MTAs take it


class Transport(Enum):
    """How mail leaves."""

    SMTP = "smtp"
    LMTP = "lmtp"
    DISCARD = "discard"
    ERROR = "error"


class TlsLevel(Enum):
    """The least TLS that a next hop must show."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    ENCRYPT = "encrypt"
    VERIFY = "verify"
    DANE = "dane"


@frozen(slots=True)
class Hop:
    """One next hop.

    `name`: a domain or host as A-labels, or an IP address without brackets. `mx`: its MX records are asked for;
    otherwise it is a host. `path`: of a UNIX socket; then `name` is "" and `port` 0. `configured`: named by the
    operator, so that a name that does not exist is a mistake of ours and not the recipient's.
    """

    name: str
    port: int = SMTP_PORT
    mx: bool = True
    path: str = ""
    configured: bool = False

    def __str__(self) -> str:
        """As the configuration would write it: "example.org", "[10.0.0.5]:25", "unix:/run/lmtp"."""
        if self.path:
            return f"unix:{self.path}"
        if not self.mx:
            return f"[{self.name}]:{self.port}"
        return self.name if self.port == SMTP_PORT else f"{self.name}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether `name` is an IP address."""
        return not self.mx and is_address(self.name)


@frozen(slots=True)
class Route:
    """One way out. `hops` are tried in order; `account` names the credentials to log in with, `source` the egress.

    `reply` is what an ERROR route says. `rule` tells for people which rule chose it; it is no part of equality.
    """

    transport: Transport
    hops: tuple[Hop, ...] = ()
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    account: str = ""
    source: str = ""
    reply: Reply | None = None
    rule: str = field(default="", eq=False)
    _lane: str = field(default="", init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_lane", self._compose())

    @property
    def lane(self) -> str:
        """The lane's name; routes with the same one may share connections, so all terms stand in it.

        "smtp:example.org", "smtp:[10.0.0.5]:25,backup.example.org:587;tls=verify", "lmtp:unix:/run/lmtp",
        "discard", "error".
        """
        return self._lane

    def _compose(self) -> str:
        text = self.transport.value
        if self.hops:
            text += ":" + ",".join(map(str, self.hops))
        if self.tls is not TlsLevel.OPPORTUNISTIC and self.hops:
            text += f";tls={self.tls.value}"
        if self.account:
            text += f";account={self.account}"
        if self.source:
            text += f";source={self.source}"
        return text
