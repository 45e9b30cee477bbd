"""The [[listener]] table: where clients connect and what is asked of them.

RFC 5321 §4.5.3 (sizes and timeouts), RFC 1870 (SIZE), RFC 4865 (FUTURERELEASE), RFC 9422 (LIMITS). Binding the
address is left to service, certificates to net.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from attrs import Factory, field, frozen

from relaymta.config import Duration, Size, SocketAddress
from relaymta.config.kinds import Network
from relaymta.config.openness import are_everybody
from relaymta.smtp.wishes import HOLD_MAX

DAY = 86_400.0
SMTP_PORT = 25
RECIPIENTS_LEAST = 100  # RFC 5321 §4.5.3.1.8: a server must take so many


class Profile(Enum):
    """Who a listener is for: other servers, our own people and programs (RFC 6409), a mail server before us."""

    MX = "mx"
    SUBMISSION = "submission"
    LMTP = "lmtp"


class TlsMode(Enum):
    """When TLS begins: never, with STARTTLS where the client wants it or before all else (RFC 3207), or before the
    greeting (RFC 8314 §3).
    """

    NONE = "none"
    STARTTLS = "starttls"
    REQUIRED = "required"
    IMPLICIT = "implicit"


class AuthMode(Enum):
    """Whether a client may or must authenticate (RFC 4954)."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class BareNewlines(Enum):
    """What bare CR and LF in content are: a reason to refuse, or line ends. They never end the data."""

    REJECT = "reject"
    NORMALIZE = "normalize"


@frozen(slots=True)
class Limits:
    """How much one listener bears; 0 is no limit. All are ours, where no clause is named.

    `connections` in all and `connections_per_client` (an IPv6 client is its /64): 421 at the door.
    `errors` and `idle_commands` (those that move no mail) since the last accepted message: 421.
    `unrecognized`: commands that no SMTP knows, since the last accepted message: 421.
    `transactions` in one session (RFC 9422 §4.1, MAILMAX): 421.
    """

    connections: int = 2000
    connections_per_client: int = 50
    errors: int = 20
    idle_commands: int = 100
    unrecognized: int = 5
    transactions: int = 100_000


@frozen(slots=True)
class Timeouts:
    """How long a client may take; each end is a 421.

    `command`: between commands (RFC 5321 §4.5.3.2.7: at least 5 minutes). `content`: without any octet of content.
    `handshake`: for TLS. `message`: from the greeting, or from one accepted message, to the next, whatever the client
    does meanwhile. `min_rate`: octets of content a second, over the whole of it, `content` being the grace.
    """

    command: Duration = Duration(300)
    content: Duration = Duration(300)
    handshake: Duration = Duration(60)
    message: Duration = Duration(3600)
    min_rate: Size = Size(500)


def _default_tls(listener: ListenerSettings) -> TlsMode:
    """A password must not go in clear where nobody has said that it may."""
    return TlsMode.STARTTLS if listener.profile is Profile.SUBMISSION else TlsMode.NONE


def _default_auth(listener: ListenerSettings) -> AuthMode:
    return AuthMode.REQUIRED if listener.profile is Profile.SUBMISSION else AuthMode.NONE  # RFC 6409 §4.3


@frozen(slots=True)
class ListenerSettings:
    """One [[listener]]. `max_message_size` in octets and `max_recipients` of a message; 0 is no limit for the size.

    `group`: who may open the UNIX socket beside the user who binds it, "" is as the umask leaves it.
    `proxy`: hosts whose every connection begins with a PROXY header, and is whose that says. `xclient` and `xforward`:
    clients that may say so by those commands.
    `tls_client_certificates`: clients are asked for one. `tls_client_ca`: the file of those who may have signed it,
    with which clients are asked too; "" for nobody.
    `auth_in_clear`: a client may log in also where anybody on the way can read along.
    `future_release`: how long ahead a submitted message may be released (RFC 4865), 0 for not offered; listeners of
    other profiles never offer it. Defaults of `tls` and `auth` depend on the profile.
    """

    name: str = "mx"
    address: SocketAddress | None = None
    endpoint: str = ""
    group: str = ""
    profile: Profile = Profile.MX
    tls: TlsMode = field(default=Factory(_default_tls, takes_self=True))
    tls_client_certificates: bool = False
    tls_client_ca: str = ""
    auth: AuthMode = field(default=Factory(_default_auth, takes_self=True))
    auth_in_clear: bool = False
    max_message_size: Size = Size(25_000_000)
    max_recipients: int = 1000
    bare_newlines: BareNewlines = BareNewlines.REJECT
    future_release: Duration = Duration(7 * DAY)
    proxy: tuple[Network, ...] = ()
    xclient: tuple[Network, ...] = ()
    xforward: tuple[Network, ...] = ()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if bool(self.address) == bool(self.endpoint):
            yield "address", "a listener has either `address` or `endpoint`"
        if self.auth is not AuthMode.NONE and self.tls is TlsMode.NONE and not self.auth_in_clear:
            yield "auth", "without TLS nobody can log in; set tls, or write auth_in_clear = true"
        if self.max_recipients < RECIPIENTS_LEAST:
            yield "max_recipients", f"at least {RECIPIENTS_LEAST} (RFC 5321 §4.5.3.1.8)"
        if self.group and not (self.address is not None and self.address.is_unix):
            yield "group", "only a UNIX socket has a group"
        if self.profile is Profile.LMTP and self.address is not None and self.address.port == SMTP_PORT:
            yield "profile", "LMTP is never spoken on port 25 (RFC 2033 §5)"
        for key in ("proxy", "xclient", "xforward"):
            for position, network in enumerate(getattr(self, key)):
                if network.prefixlen == 0:
                    yield f"{key}[{position}]", f"{network} is everybody: anyone could say to be anyone"
            if are_everybody(getattr(self, key)):
                yield key, "together these are everybody: anyone could say to be anyone"
        if self.tls is TlsMode.NONE:
            for key in ("tls_client_certificates", "tls_client_ca"):
                if getattr(self, key):
                    yield key, 'without TLS no client shows a certificate; write tls = "starttls" or another'
        if not 0 <= self.future_release <= HOLD_MAX:
            yield "future_release", f'is between "0s" and "{HOLD_MAX}s" (RFC 4865 §3)'
