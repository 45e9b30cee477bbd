"""What the operator may set about the way out: [delivery], the [[source]] and the [[tls_exception]] tables.

RFC 5321 §4.5.3.2 (time limits), §4.5.3.1.8 (recipients), §5.1 (several addresses). What a lane may do (window, rate,
back-off) is read here and kept by queue.lanes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from ipaddress import ip_address
from typing import Any

from attrs import Attribute, field, frozen, validators

from relaymta.config import Duration
from relaymta.delivery.policy import Exemption
from relaymta.mail.address import AddressError, parse_domain
from relaymta.routing.route import TlsLevel
from relaymta.smtp.actions import Stage
from relaymta.smtp.client import TIMEOUTS


def _positive(_: object, attribute: Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be more than nought")


def _addresses(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if not value:
        raise ValueError("a source needs an address")
    for text in value:
        try:
            ip_address(text)
        except ValueError:
            raise ValueError(f'{attribute.name}: "{text}" is not an IP address') from None


@frozen(slots=True)
class Source:
    """A named pool of local addresses (str, IPv4 or IPv6) that connections leave from, in turn."""

    name: str
    addresses: tuple[str, ...] = field(validator=_addresses)


class Day(date):
    """A date in the file: 2027-01-31, with or without quotes."""

    @classmethod
    def read(cls, value: object) -> Day:
        """What the file says. Raises ValueError."""
        wanted = "a date is wanted, like 2027-01-31"
        if isinstance(value, str):
            try:
                value = date.fromisoformat(value)
            except ValueError:
                raise ValueError(f'{wanted}, not "{value}"') from None
        if type(value) not in (date, cls):
            raise ValueError(wanted)
        assert isinstance(value, date)
        return cls(value.year, value.month, value.day)


def _one_name(_: object, __: Attribute[str], value: str) -> None:
    if value:
        try:
            name = parse_domain(value)
        except AddressError as error:
            raise ValueError(f'"{value}": {error}') from None
        if name != value:
            raise ValueError(f'"{value}" is written "{name}" in mail')


def _said(_: object, __: Attribute[str], value: str) -> None:
    if not value.strip() or not value.isprintable():
        raise ValueError("says nothing; why is TLS another one here?")


@frozen(slots=True)
class TlsException:
    """One [[tls_exception]]: another TLS level for a domain or a host, in the place of its route's and of what the
    domain publishes (DANE, MTA-STS), to the end of the day `until` (UTC). `reason` is for whoever reads it later.
    """

    tls: TlsLevel
    reason: str = field(validator=_said)
    until: Day
    domain: str = field(default="", validator=_one_name)
    host: str = field(default="", validator=_one_name)

    def check(self) -> Iterable[tuple[str, str]]:
        """What contradicts what: (key, sentence)."""
        if bool(self.domain) == bool(self.host):
            yield "", "wants one of domain (the recipient's, or a next hop) and host (one of its MX)"

    def ready(self) -> Exemption:
        """As security uses it."""
        return Exemption(self.tls, self.reason, self.until, self.domain, self.host)

    def __str__(self) -> str:
        """Whom it is for."""
        return self.domain or self.host


@frozen(slots=True)
class Settings:
    """The [delivery] table.

    `concurrency`: connections to one destination, for the whole host, adapted below this.
    `max_per_connection`: messages on one connection; `max_recipients`: recipients in one transaction, for the rest
    there is another. `max_addresses`: addresses tried in one attempt, over all hosts (RFC 5321 §5.1 wants two).
    `idle_timeout`: how long an idle connection is kept; `reuse_time`: how old a connection may become.
    `host_backoff`: how long an address that could not be used comes last; `tls_backoff`: how long one whose TLS
    handshake failed is spoken to in clear, where nothing demands TLS. `tls_ca`: a file of certificates (PEM) of the
    authorities that are believed, "" for the system's.
    """

    concurrency: int = field(default=20, validator=validators.ge(1))
    max_per_connection: int = field(default=100, validator=validators.ge(1))
    max_recipients: int = field(default=100, validator=validators.ge(1))
    max_addresses: int = field(default=5, validator=validators.ge(1))
    connect_timeout: Duration = field(default=Duration(30.0), validator=_positive)
    greeting_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.BANNER]), validator=_positive)
    ehlo_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.HELLO]), validator=_positive)
    auth_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.AUTH]), validator=_positive)
    mail_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.MAIL]), validator=_positive)
    rcpt_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.RCPT]), validator=_positive)
    data_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.DATA]), validator=_positive)
    block_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.CONTENT]), validator=_positive)
    end_timeout: Duration = field(default=Duration(TIMEOUTS[Stage.DOT]), validator=_positive)
    idle_timeout: Duration = field(default=Duration(3.0), validator=_positive)
    reuse_time: Duration = field(default=Duration(300.0), validator=_positive)
    host_backoff: Duration = field(default=Duration(60.0), validator=_positive)
    tls_backoff: Duration = field(default=Duration(600.0), validator=_positive)
    tls_ca: str = ""

    def timeouts(self) -> Mapping[Stage, float]:
        """Seconds for each stage of a dialogue."""
        return {
            **TIMEOUTS,
            Stage.BANNER: self.greeting_timeout,
            Stage.HELLO: self.ehlo_timeout,
            Stage.STARTTLS: self.ehlo_timeout,
            Stage.HANDSHAKE: self.ehlo_timeout,
            Stage.AUTH: self.auth_timeout,
            Stage.RSET: self.mail_timeout,
            Stage.MAIL: self.mail_timeout,
            Stage.RCPT: self.rcpt_timeout,
            Stage.DATA: self.data_timeout,
            Stage.CONTENT: self.block_timeout,
            Stage.DOT: self.end_timeout,
        }
