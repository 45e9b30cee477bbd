"""The one configuration file: every room's settings in the order in which mail travels, and what contradicts what.

Names and defaults are relaymta.toml(5)'s. A room's own table is its own class; here they are put together, and
compared with each other. How TOML becomes values is left to relaymta.config.loader.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from enum import Enum
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any, cast

from attrs import Attribute, field, frozen, validators
from OpenSSL import SSL

from relaymta.config import Duration, Size, SocketAddress
from relaymta.config.loader import Loaded, load
from relaymta.config.openness import are_everybody, is_changeable, is_wide
from relaymta.config.privileges import may_run, may_write
from relaymta.config.socketaddress import UNIX_PATH_MAX
from relaymta.delivery.account import AccountSettings, check_accounts, exposed, unreadable
from relaymta.delivery.settings import Settings as DeliverySettings
from relaymta.delivery.settings import Source, TlsException
from relaymta.delivery.verification import trusting_context
from relaymta.directory import machine
from relaymta.directory.settings import UserSettings
from relaymta.mail.address import Address, AddressError, parse_domain, parse_mailbox
from relaymta.net import certificates
from relaymta.net.certificates import CertificateSettings, TlsSettings
from relaymta.net.dns import DnsSettings
from relaymta.net.dns_servers import parse_server
from relaymta.net.mtasts import StsSettings
from relaymta.policy.settings import AuthSettings, RelaySettings
from relaymta.queue.settings import LaneLimits, LaneRule, LaneSettings
from relaymta.queue.settings import Settings as QueueSettings
from relaymta.reports.settings import Settings as NoticeSettings
from relaymta.reports.settings import TlsReportSettings
from relaymta.routing.ourselves import Ourselves
from relaymta.routing.route import TlsLevel
from relaymta.routing.settings import HostSettings, RouteSettings
from relaymta.smtp.settings import AuthMode, ListenerSettings, Profile, TlsMode
from relaymta.store.shards import file_system, is_ephemeral

WORKERS_MAX = 128  # ours: a queue id names one of 1,024 shards, and several generations may live at once
SOCKET = "/run/relaymta/control.sock"
SPOOL = "/var/spool/relaymta"
VERSION = version("relaymta")
EXCEPTION_WARNING = 14  # days before a [[tls_exception]] ends; ours: time to ask the other side once more
ENDPOINTS = ("tcp", "tcp6", "systemd", "fd")  # what net.listen can hand to workers
ENDPOINTS_SAID = '"tcp:25", "tcp6:25", "systemd:domain=INET:index=0" or "fd:fileno=3"'
NOT_YET = "is not available in this version"


class LogFormat(Enum):
    """How the mail log is written."""

    TEXT = "text"
    JSON = "json"


def default_hostname() -> str:
    """This host's fully qualified name as it knows it itself (str, lower case)."""
    for name in (socket.getfqdn(), socket.gethostname()):
        try:
            return parse_domain(name)
        except AddressError:  # such as an underscore: not what could stand in EHLO
            continue
    return "localhost"


def _hostname(_: object, __: Attribute[str], value: str) -> None:
    try:
        name = parse_domain(value)
    except AddressError as error:
        raise ValueError(f'"{value}": {error}') from None
    if name != value:
        raise ValueError(f'"{value}" is not how it goes over the wire; write "{name}"')


def _workers(_: object, __: Attribute[Any], value: int | str) -> None:
    if isinstance(value, str) and value != "auto":
        raise ValueError(f'"auto" or a whole number is wanted, not "{value}"')
    if isinstance(value, int) and not 0 <= value <= WORKERS_MAX:
        raise ValueError(f"is at most {WORKERS_MAX}, and 0 for all in one process")


def _postmaster(_: object, __: Attribute[str], value: str) -> None:
    if value:
        try:
            parse_mailbox(value)
        except AddressError as error:
            raise ValueError(f'"{value}" is not an address: {error}') from None


def _not_empty(_: object, __: Attribute[str], value: str) -> None:
    if not value:
        raise ValueError("must not be empty")


def _read_workers(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError('"auto" or a whole number is wanted')
    return value


@frozen(slots=True)
class DeliveryTable(DeliverySettings):
    """The [delivery] table: the way out, and with it what one lane and all together may take.

    `attempts` at the same time in all; `rate`: messages to one destination in `rate_per`, 0 = any number.
    """

    attempts: int = field(default=1000, validator=validators.ge(1))
    rate: int = field(default=0, validator=validators.ge(0))
    rate_per: Duration = field(default=Duration(60.0), validator=validators.gt(Duration(0.0)))


@frozen(slots=True)
class LaneTable:
    """One [[lane]]: other limits for the destinations that fit `match` ("smtp:*.example.org")."""

    match: str = field(validator=_not_empty)
    concurrency: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    rate: int = field(default=0, validator=validators.ge(0))
    rate_per: Duration = field(default=Duration(60.0), validator=validators.gt(Duration(0.0)))


@frozen(slots=True)
class ReportTable:
    """The [reports] table. `return_max`: a message of more octets comes back as its header section alone."""

    return_max: Size = NoticeSettings().return_max


@frozen(slots=True)
class LogTable:
    """The [log] table. `file` "-" is standard output."""

    file: str = field(default="-", validator=_not_empty)
    format: LogFormat = LogFormat.TEXT


@frozen(slots=True)
class AdminTable:
    """The [admin] table. `group`: who may use the control socket beside the daemon's user; "" is nobody.

    `http` is kept for the console: this version says that it serves nothing there.
    """

    socket: str = field(default=SOCKET, validator=_not_empty)
    http: str = ""
    group: str = ""
    history: int = field(default=20_000, validator=validators.ge(0))


def _default_listeners() -> tuple[ListenerSettings, ...]:
    return (ListenerSettings(name="mx", address=SocketAddress("0.0.0.0", 25)),)


@frozen(slots=True)
class Settings:
    """Everything that the file says, from top to bottom.

    `hostname`: EHLO and Received. `workers`: processes, "auto" for one a core, 0 for all in this process. `user`:
    who the daemon becomes when it was started as root, "" for nobody else. `postmaster`: who gets mail for
    <postmaster> and what can be told to nobody else, "" for none. `ephemeral_spool`: allow a spool that a restart
    of the machine or its container may empty.
    """

    hostname: str = field(factory=default_hostname, validator=_hostname)
    postmaster: str = field(default="", validator=_postmaster)
    spool: str = field(default=SPOOL, validator=_not_empty)
    ephemeral_spool: bool = False
    workers: int | str = field(default=cast("int | str", "auto"), validator=_workers)
    user: str = "relaymta"
    listeners: tuple[ListenerSettings, ...] = field(factory=_default_listeners, metadata={"key": "listener"})
    tls: TlsSettings = field(factory=TlsSettings)
    certificates: tuple[CertificateSettings, ...] = field(default=(), metadata={"key": "certificate"})
    relay: RelaySettings = field(factory=RelaySettings)
    users: UserSettings = field(factory=UserSettings)
    auth: AuthSettings = field(factory=AuthSettings)
    dns: DnsSettings = field(factory=DnsSettings)
    routes: tuple[RouteSettings, ...] = field(default=(), metadata={"key": "route"})
    accounts: tuple[AccountSettings, ...] = field(default=(), metadata={"key": "account"})
    mx: HostSettings = field(factory=HostSettings)
    sources: tuple[Source, ...] = field(default=(), metadata={"key": "source"})
    queue: QueueSettings = field(factory=QueueSettings)
    delivery: DeliveryTable = field(factory=DeliveryTable)
    tls_exceptions: tuple[TlsException, ...] = field(default=(), metadata={"key": "tls_exception"})
    lanes: tuple[LaneTable, ...] = field(default=(), metadata={"key": "lane"})
    mta_sts: StsSettings = field(factory=StsSettings)
    reports: ReportTable = field(factory=ReportTable)
    tls_report: TlsReportSettings = field(factory=TlsReportSettings)
    log: LogTable = field(factory=LogTable)
    admin: AdminTable = field(factory=AdminTable)

    @property
    def worker_count(self) -> int:
        """How many worker processes; 0 is none beside this one."""
        return self.workers if isinstance(self.workers, int) else min(len(os.sched_getaffinity(0)), WORKERS_MAX)

    @property
    def ourselves(self) -> Ourselves:
        """Who we are, for RFC 5321 §5.1: what leads back here."""
        listening = [
            (listener.address.host, listener.address.port)
            for listener in self.listeners
            if listener.address is not None and not listener.address.is_unix
        ]
        return Ourselves(self.hostname, listening, self.mx.own_names, self.mx.own_addresses)

    @property
    def drop(self) -> str:
        """Where sendmail(1) leaves messages."""
        return os.path.join(self.spool, "drop")

    @property
    def state(self) -> str:
        """Where the databases are that all workers share."""
        return os.path.join(self.spool, "state")

    @property
    def folders(self) -> tuple[tuple[str, str], ...]:
        """The directories that the daemon writes in, each with the key that names it."""
        files = (("admin.socket", self.admin.socket), ("log.file", self.log.file if self.log.file != "-" else ""))
        return ("spool", self.spool), *((key, os.path.dirname(file) or ".") for key, file in files if file)

    @property
    def postmaster_address(self) -> Address:
        """Who <postmaster> is: as configured, or that name at our own."""
        return parse_mailbox(self.postmaster or f"postmaster@{self.hostname}")

    @property
    def message_max(self) -> Size:
        """Octets of the largest message that any listener takes; what sendmail(1) may bring too."""
        sizes = [listener.max_message_size for listener in self.listeners]
        return Size(max(sizes, default=25_000_000)) if all(sizes) else Size(2**40)

    def lane_settings(self, workers: int = 1) -> LaneSettings:
        """What one lane may take in one of so many workers: of a rate its part, for a rate is the host's."""
        table = self.delivery

        def limits(concurrency: int, rate: int, per: float) -> LaneLimits:
            return LaneLimits(concurrency, rate, Duration(per * workers))

        rules = tuple(
            LaneRule(one.match, limits(one.concurrency or table.concurrency, one.rate, one.rate_per))
            for one in self.lanes
        )
        return LaneSettings(table.attempts, limits(table.concurrency, table.rate, table.rate_per), rules)

    def notices(self) -> NoticeSettings:
        """What reports wants."""
        return NoticeSettings(postmaster=self.postmaster, return_max=self.reports.return_max)

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions between tables, as (key, what is wrong)."""
        yield from _check_listeners(self.listeners)
        yield from _check_tls(self)
        yield from _check_auth(self.listeners, has_accounts=self.users.configured)
        yield from _check_relay(self.relay)
        yield from _check_routes(self)
        yield from check_accounts(self.accounts, self.routes)
        yield from _check_queue(self.queue)
        yield from _check_paths(self)


def load_settings(file: str) -> Loaded[Settings]:
    """Read the configuration file. Raises ConfigError with every problem found."""
    return load(file, Settings, readers={int | str: _read_workers})


def _check_listeners(listeners: tuple[ListenerSettings, ...]) -> Iterator[tuple[str, str]]:
    if not listeners:
        yield "listener", "without a listener no mail can come in"
    names: dict[str, int] = {}
    taken: list[tuple[int, ListenerSettings]] = []
    for position, listener in enumerate(listeners):
        key = f"listener[{position}]"
        if listener.name in names:
            yield f"{key}.name", f'listener[{names[listener.name] + 1}] is called "{listener.name}" too'
        names.setdefault(listener.name, position)
        if listener.endpoint and listener.endpoint.partition(":")[0] not in ENDPOINTS:
            yield f"{key}.endpoint", f'"{listener.endpoint}" is not of a type that can be listened on: {ENDPOINTS_SAID}'
        if listener.address is not None and not _is_bindable(listener.address):
            yield f"{key}.address", f'"{listener.address}" names a host; an IP address of this machine is wanted'
        for other, earlier in taken:
            if _collide(listener, earlier):
                yield f"{key}.address", f"listener[{other + 1}] is at {earlier.address or earlier.endpoint} already"
        taken.append((position, listener))


def _check_tls(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.tls.certificate:
        return
    where = 'certificate = "/etc/relaymta/tls.pem" and key = "/etc/relaymta/tls.key"'
    for position, listener in enumerate(settings.listeners):
        if listener.tls is not TlsMode.NONE:
            yield f"listener[{position}].tls", f'"{listener.tls.value}" needs a certificate; write [tls] with {where}'


def _check_auth(listeners: tuple[ListenerSettings, ...], *, has_accounts: bool) -> Iterator[tuple[str, str]]:
    """Where clients may log in there must be somebody who knows them."""
    for position, listener in enumerate(listeners):
        if listener.auth is not AuthMode.NONE and not has_accounts:
            what = f'"{listener.auth.value}" needs accounts, and [users] names none; write [users] with '
            yield f"listener[{position}].auth", what + 'file = "/etc/relaymta/users", and `relaymta user add`'


def _is_bindable(address: SocketAddress) -> bool:
    if address.is_unix:
        return True
    try:
        ip_address(address.host)
    except ValueError:
        return False
    return True


def _collide(one: ListenerSettings, other: ListenerSettings) -> bool:
    """Whether the kernel would refuse the second: the same place, or the same port and one of them everywhere."""
    if one.address is None or other.address is None:
        return one.address is other.address and one.endpoint == other.endpoint
    if one.address == other.address:
        return True
    if one.address.is_unix or other.address.is_unix or one.address.port != other.address.port:
        return False
    hosts = (one.address.host, other.address.host)
    return (":" in hosts[0]) == (":" in hosts[1]) and bool({"0.0.0.0", "::"} & set(hosts))


def _check_relay(relay: RelaySettings) -> Iterator[tuple[str, str]]:
    for position, network in enumerate(relay.networks):
        if network.prefixlen == 0:
            yield f"relay.networks[{position}]", f"{network} is everybody: that would be an open relay"
    if are_everybody(relay.networks):
        yield "relay.networks", "together these are everybody: that would be an open relay"
    for position, domain in enumerate(relay.domains):
        key, name = f"relay.domains[{position}]", domain.removeprefix(".")
        try:
            parsed = parse_domain(name)
        except AddressError as error:
            yield key, f'"{domain}": {error}; write "example.org", or ".example.org" for its subdomains'
            continue
        if not name.isascii():
            yield key, f'"{domain}" is written "{domain[: -len(name)]}{parsed}" in mail'


def _check_routes(settings: Settings) -> Iterator[tuple[str, str]]:
    sources = {source.name for source in settings.sources}
    for position, route in enumerate(settings.routes):
        if route.source and route.source not in sources:
            yield f"route[{position}].source", f'there is no [[source]] called "{route.source}"'
        if route.tls is TlsLevel.DANE and not settings.dns.trust_ad:
            yield f"route[{position}].tls", f'"dane" {_NO_DNSSEC}'
    for position, exception in enumerate(settings.tls_exceptions):
        if exception.tls is TlsLevel.DANE and not settings.dns.trust_ad:
            yield f"tls_exception[{position}].tls", f'"dane" {_NO_DNSSEC}'
    for position, source in enumerate(settings.sources):
        if source.name in {earlier.name for earlier in settings.sources[:position]}:
            yield f"source[{position}].name", f'there is another [[source]] called "{source.name}"'


_NO_DNSSEC = (
    "needs DNSSEC, and no answer counts as validated without dns.trust_ad = true;"
    " set it where the resolvers and the path to them are trusted"
)


def _check_queue(queue: QueueSettings) -> Iterator[tuple[str, str]]:
    if queue.expire and queue.retry[0] >= queue.expire:
        yield "queue.retry[0]", "is not before expire: no message would ever be tried again"
    if queue.warn_after and queue.warn_after >= queue.expire:
        yield "queue.warn_after", 'is not before expire: no sender would ever be warned; write "0s" for never'


def _check_paths(settings: Settings) -> Iterator[tuple[str, str]]:
    for key, path in (("admin.socket", settings.admin.socket), ("spool", os.path.join(settings.drop, ".poke"))):
        if len(path.encode()) > UNIX_PATH_MAX:
            yield key, f"{path} is longer than the {UNIX_PATH_MAX} octets that the path of a UNIX socket may have"


# What the machine says


def refusals(settings: Settings) -> Iterator[tuple[str, str]]:
    """Why this configuration cannot be used on this machine, as (key, what is wrong)."""
    if is_ephemeral(settings.spool) and not settings.ephemeral_spool:
        kind = file_system(settings.spool)
        yield (
            "spool",
            (
                f"{settings.spool} is on {kind}, which does not outlive this machine or container, and mail with it;"
                " mount a disk there, or write ephemeral_spool = true"
            ),
        )
    try:
        trusting_context(settings.delivery.tls_ca)
    except SSL.Error:
        yield "delivery.tls_ca", f"{settings.delivery.tls_ca} cannot be read, or holds no certificate (PEM)"
    if settings.user and os.getuid() == 0 and not _exists(pwd.getpwnam, settings.user):
        yield "user", f'there is no user "{settings.user}" on this machine; make it, or write user = "" to stay root'
    elif settings.worker_count and not may_run(sys.executable, settings.user):
        program = os.path.realpath(sys.executable)
        yield "user", f"{settings.user} may not run {program}, as its workers must; use a Python that all may run"
    yield from _closed_folders(settings)
    for position, account in enumerate(settings.accounts):
        for key, said in unreadable(account, settings.user):
            yield f"account[{position}].{key}", said
    if settings.admin.group and not _exists(grp.getgrnam, settings.admin.group):
        yield "admin.group", f'there is no group "{settings.admin.group}" on this machine'
    for position, listener in enumerate(settings.listeners):
        if listener.group and not _exists(grp.getgrnam, listener.group):
            yield f"listener[{position}].group", f'there is no group "{listener.group}" on this machine'
    yield from machine.refusals(settings.users)
    yield from certificate_refusals(settings)


def _closed_folders(settings: Settings) -> Iterator[tuple[str, str]]:
    """Directories that are there, and not open to the user whom the daemon becomes."""
    user = settings.user
    for key, folder in settings.folders:
        if key == "log.file" and os.path.exists(settings.log.file):
            continue  # made for that user beforehand, as in /var/log
        if os.path.isdir(folder) and not may_write(folder, user):
            yield key, (
                f"{user}, who the daemon becomes, may not write in {folder}; chown {user} {folder},"
                " or name a directory of its own, which is made if missing"
            )


def certificate_refusals(settings: Settings) -> Iterator[tuple[str, str]]:
    """Certificates, keys and authorities that cannot be used, as (key, what is wrong)."""
    authorities = [
        (f"listener[{position}].tls_client_ca", listener.tls_client_ca)
        for position, listener in enumerate(settings.listeners)
        if listener.tls_client_ca
    ]
    yield from certificates.refusals(settings.tls, settings.certificates, authorities, settings.user)


def doubts(settings: Settings) -> Iterator[tuple[str, str]]:
    """What will probably be regretted, as (key, what)."""
    if "." not in settings.hostname:
        yield "hostname", f'"{settings.hostname}" is not a fully qualified name: many servers refuse such an EHLO'
    yield from _doubt_exceptions(settings.tls_exceptions, datetime.now(UTC).date())
    far = [server for server in settings.dns.servers if not ip_address(parse_server(server)[0]).is_loopback]
    if settings.dns.trust_ad and far:
        yield "dns.trust_ad", f"{', '.join(far)} is beyond this machine: whoever is on the path can say what it likes"
    place = _nearest(settings.spool)
    facts = os.statvfs(place)
    if facts.f_bavail * facts.f_frsize < settings.queue.min_free:
        yield "queue.min_free", f"there is less free space at {place} now: all mail would be refused"
    for position, listener in enumerate(settings.listeners):
        if listener.auth is not AuthMode.NONE and listener.auth_in_clear:
            yield f"listener[{position}].auth_in_clear", "passwords can be read by anybody on the way"
        if listener.address is not None and listener.address.port == 465 and listener.tls is not TlsMode.IMPLICIT:
            # RFC 8314 §3.3: clients begin with TLS there, and would wait for ever
            yield f"listener[{position}].tls", 'clients of port 465 begin with TLS at once; write "implicit"'
    for position, account in enumerate(settings.accounts):
        for key, said in exposed(account):
            yield f"account[{position}].{key}", said
    yield from _idle_keys(settings)
    if settings.admin.http:
        yield "admin.http", f"the console {NOT_YET}: nothing is served there"
    yield from machine.doubts(settings.users, settings.user)
    yield from _doubt_openness(settings)
    yield from certificates.doubts(settings.tls, settings.certificates, time.time(), settings.user)
    yield from _doubts_of_tls(settings)


def _idle_keys(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is written and does nothing, for want of something else."""
    used = {route.account for route in settings.routes}
    for position, account in enumerate(settings.accounts):
        if account.name not in used:
            said = f'no [[route]] logs in with it; write account = "{account.name}" and tls = "verify" there'
            yield f"account[{position}].name", said
    for position, listener in enumerate(settings.listeners):
        if listener.auth_in_clear and listener.auth is AuthMode.NONE:
            yield f"listener[{position}].auth_in_clear", 'nobody logs in here; write auth = "optional" or "required"'
        if listener.address is not None and listener.address.is_unix and (listener.proxy or listener.xclient):
            key = "proxy" if listener.proxy else "xclient"
            yield f"listener[{position}].{key}", "clients of a UNIX socket have no address, so that it is never heeded"
    report = settings.tls_report
    if not report.sender and (report.organization or report.contact):
        yield "tls_report.from", 'is not given, and nothing is reported without; write from = "tls-reports@example.org"'


def _doubt_openness(settings: Settings) -> Iterator[tuple[str, str]]:
    """What lets in more than was probably meant."""
    trusted = [("relay.networks", settings.relay.networks)]
    for position, listener in enumerate(settings.listeners):
        trusted += [
            (f"listener[{position}].{key}", getattr(listener, key)) for key in ("proxy", "xclient", "xforward")
        ]
    for key, networks in trusted:
        for position, network in enumerate(networks):
            if is_wide(network):
                yield f"{key}[{position}]", f"{network} is wider than any network of one's own"
    for position, domain in enumerate(settings.relay.domains):
        if domain.startswith(".") and "." not in domain[1:]:
            yield f"relay.domains[{position}]", f'"{domain}" is a whole top level: anyone may send there by us'
    for key, folder in settings.folders:
        place = _nearest(folder)
        if is_changeable(place):
            yield key, f"everybody on this machine may write in {place}, and put something else in its place"


def _doubts_of_tls(settings: Settings) -> Iterator[tuple[str, str]]:
    listeners, relay = settings.listeners, settings.relay
    if relay.certificates and not any(one.tls_client_certificates or one.tls_client_ca for one in listeners):
        yield "relay.certificates", "no listener asks clients for one; write tls_client_certificates = true there"
    if relay.certificate_names and not any(one.tls_client_ca for one in listeners):
        yield "relay.certificate_names", "no listener has a tls_client_ca: names of strangers are never believed"
    for position, listener in enumerate(listeners):
        if listener.profile is Profile.MX and listener.tls is TlsMode.REQUIRED and relay.domains:
            yield (  # RFC 3207 §4: a publicly referenced server must not demand STARTTLS
                f"listener[{position}].tls",
                "hosts without TLS cannot deliver here; a public mail exchanger must take mail without (RFC 3207 §4)",
            )


def _doubt_exceptions(exceptions: tuple[TlsException, ...], today: date) -> Iterator[tuple[str, str]]:
    """An exception from TLS policy that has ended, or soon will."""
    for position, exception in enumerate(exceptions):
        key, left = f"tls_exception[{position}].until", exception.until.toordinal() - today.toordinal()
        if left < 0:
            yield key, f"the exception for {exception} ended on {exception.until}, and is in force no more"
        elif left <= EXCEPTION_WARNING:
            when = "today" if left == 0 else f"in {left} day{'s' * (left != 1)}"
            yield key, f"the exception for {exception} ends {when} ({exception.reason})"


def _nearest(path: str) -> str:
    """The path, or the nearest directory above it that exists."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _exists(find: Callable[[str], object], name: str) -> bool:
    try:
        find(name)
    except KeyError:
        return False
    return True
