"""Certificates in the configuration: the [tls] and [[certificate]] tables, and what is wrong with the files they name.

RFC 8314 §4.1 (versions of TLS). What the daemon's user could not read is told before the daemon has become that user.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from attrs import frozen

from relaymta.config.privileges import is_public, may_read
from relaymta.mail.address import AddressError, parse_domain
from relaymta.net.keyring import Sources
from relaymta.net.pair import CertificateError, Pair, denied, read_certificates, read_pair
from relaymta.net.servertls import Minimum

SOON = 14  # days before the end of a certificate in which `check` warns; ours
DAY = 86400.0

Said = Iterator[tuple[str, str]]


@frozen(slots=True)
class CertificateSettings:
    """One [[certificate]]: beside that of [tls], for clients that ask for one of its names.

    `key` "": in the certificate's file. `names` (): those in the certificate; a name may begin with "*.".
    """

    certificate: str
    key: str = ""
    names: tuple[str, ...] = ()

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if not self.certificate:
            yield "certificate", "must not be empty"
        for position, name in enumerate(self.names):
            try:
                parse_domain(name.removeprefix("*."))
            except AddressError as error:
                yield f"names[{position}]", f'"{name}": {error}; write "mail.example.org" or "*.example.org"'
            else:
                if not name.isascii():
                    yield f"names[{position}]", f'"{name}" is written in A-labels ("xn--...") here'


@frozen(slots=True)
class TlsSettings:
    """The [tls] table: what listeners show to clients that name nobody we know. `key` "": in the certificate's file."""

    certificate: str = ""
    key: str = ""
    minimum: Minimum = Minimum.TLS_1_2

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if self.key and not self.certificate:
            yield "key", "is a key without a certificate; write certificate too"


def sources(tls: TlsSettings, more: Iterable[CertificateSettings]) -> list[Sources]:
    """Where all pairs are, the first for clients that name nobody; none where [tls] names none."""
    if not tls.certificate:
        return []
    return [Sources(tls.certificate, tls.key), *(Sources(one.certificate, one.key, one.names) for one in more)]


def refusals(
    tls: TlsSettings, more: Sequence[CertificateSettings], authorities: Iterable[tuple[str, str]], user: str
) -> Said:
    """Why these certificates cannot be used, as (key, what is wrong).

    `authorities` are (key, file); `user` is who the daemon becomes where it begins as root.
    """
    for table, one in _pairs(tls, more):
        yield from _refusals_of(table, one, user)
    for key, file in authorities:
        try:
            _look_as(user, file)
            read_certificates(file)
        except CertificateError as error:
            if not _is_others(error, user):
                yield key, str(error)


def _refusals_of(table: str, one: Sources, user: str) -> Said:
    try:
        for file in dict.fromkeys((one.certificate, one.key or one.certificate)):
            _look_as(user, file)
        read_pair(one.certificate, one.key, one.names)
    except CertificateError as error:
        if not _is_others(error, user):
            yield f"{table}.{_key_of(one, error.file)}", str(error)


def _is_others(error: CertificateError, user: str) -> bool:
    """Whether only `user` can say whether it can read the file: we are somebody else, such as an operator."""
    return error.denied and bool(user) and os.getuid() not in (0, _number(user))


def _key_of(one: Sources, file: str) -> str:
    return "key" if one.key == file else "certificate"


def _number(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return -1


def doubts(tls: TlsSettings, more: Sequence[CertificateSettings], now: float, user: str = "") -> Said:
    """What will be regretted about certificates that can be used; `now` is POSIX time, `user` as for refusals."""
    for table, one in _pairs(tls, more):
        try:
            pair = read_pair(one.certificate, one.key, one.names)
        except CertificateError as error:
            if _is_others(error, user):
                said = f"{error.file} is not for us to read: only root and {user} can say whether it is right"
                yield f"{table}.{_key_of(one, error.file)}", said
            continue  # else it is told as a refusal
        yield from _doubts_of(table, pair, now)
        if is_public(one.key or one.certificate):
            key = "key" if one.key else "certificate"
            yield f"{table}.{key}", f"{one.key or one.certificate} holds a private key, and everybody may read it"


def _doubts_of(table: str, pair: Pair, now: float) -> Said:
    key = f"{table}.certificate"
    if pair.until <= now:
        yield key, f"{pair.file} expired on {_day(pair.until)}"
    elif days_left(pair, now) < SOON:
        left = days_left(pair, now)
        yield key, f"{pair.file} expires on {_day(pair.until)}, in {left} day{'s' * (left != 1)}"
    if pair.since > now:
        yield key, f"{pair.file} is not valid before {_day(pair.since)}"
    if not pair.names and table != "tls":
        yield key, f"{pair.file} names nobody: it will never be shown; write names"


def days_left(pair: Pair, now: float) -> int:
    """Whole days until a certificate ends; below 0 when it has."""
    return int((pair.until - now) // DAY)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _pairs(tls: TlsSettings, more: Sequence[CertificateSettings]) -> list[tuple[str, Sources]]:
    keys = ["tls", *(f"certificate[{position}]" for position, _ in enumerate(more))]
    found = sources(tls, more)
    return list(zip(keys, found, strict=True)) if found else []


def _look_as(user: str, file: str) -> None:
    """Raises CertificateError when `user`, whom root will become, may not read `file`."""
    if not may_read(file, user):
        raise denied(file, user)
