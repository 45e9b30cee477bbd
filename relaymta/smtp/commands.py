"""The commands that carry a transaction, parsed: values from the grammar to whoever decides.

RFC 5321 §4.1.1.2 (MAIL) and §4.1.1.3 (RCPT), with the parameters of RFC 1870, 3461, 4954, 6152 and 6531.
"""

from __future__ import annotations

from attrs import frozen

from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Notify, Ret


@frozen(slots=True)
class MailCommand:
    """MAIL. `sender` None is the null reverse-path; `size` in octets as declared, or None.

    `envid` is decoded from xtext. `auth` is None when AUTH= was not given, and "" for AUTH=<>.
    """

    sender: Address | None
    size: int | None = None
    body: Body = Body.SEVENBIT
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str = ""
    auth: str | None = None


@frozen(slots=True)
class RcptCommand:
    """RCPT. `orcpt` is "addr-type;address", decoded, or ""."""

    address: Address
    notify: Notify = Notify.UNSET
    orcpt: str = ""
