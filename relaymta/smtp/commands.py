"""The commands that carry a transaction, parsed: values from the grammar to whoever decides.

RFC 5321 §4.1.1.2 (MAIL) and §4.1.1.3 (RCPT), with the parameters of RFC 1870, 3461, 4865, 4954, 6152, 6531 and 8689;
and those of Postfix by which one host speaks for another (smtp.xclient).
"""

from __future__ import annotations

from attrs import frozen

from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Notify, Ret

XCLIENT = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")


@frozen(slots=True)
class MailCommand:
    """MAIL. `sender` None is the null reverse-path; `size` in octets as declared, or None.

    `envid` is decoded from xtext. `auth` is None when AUTH= was not given, and "" for AUTH=<>. `release_at`: POSIX time
    of HOLDFOR or HOLDUNTIL, 0 for at once; `release_request`: as it was asked, "for;3600" (RFC 4865 §5.1.2).
    """

    sender: Address | None
    size: int | None = None
    body: Body = Body.SEVENBIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str = ""
    auth: str | None = None
    requiretls: bool = False
    release_at: float = 0.0
    release_request: str = ""


@frozen(slots=True)
class RcptCommand:
    """RCPT. `orcpt` is "addr-type;address", decoded, or ""."""

    address: Address
    notify: Notify = Notify.UNSET
    orcpt: str = ""


@frozen(slots=True)
class XClient:
    """XCLIENT: this session is somebody else's. None was not said, "" and 0 are not known to who said it.

    `client` and `local` are IP addresses as text, `name` is the client's name in the DNS.
    """

    client: str | None = None
    port: int | None = None
    local: str | None = None
    name: str | None = None
    helo: str | None = None
    esmtp: bool | None = None
    account: str | None = None


@frozen(slots=True)
class XForward:
    """XFORWARD: where the next message comes from, for the log and the trace; "" and 0 are not known.

    `client` is an IP address as text; `ident` the message's id there; `source` "LOCAL" or "REMOTE".
    """

    client: str = ""
    port: int = 0
    name: str = ""
    helo: str = ""
    protocol: str = ""
    ident: str = ""
    source: str = ""
