"""A message's own record: its envelope as it was accepted, and one line for each thing that happened since.

The state of a message is the fold over its story, so that there is no second truth. Both are JSON arrays in ASCII,
so that no line feed stands in a line, and both are read by every later version:

| octets | first element | what follows |
|---|---|---|
| envelope | 1, the version | accepted_at, sender, recipients, body, smtputf8, ret, envid, then origin's fields, |
|          |                | and where one of them is set: requiretls, tls_optional, release_at, release_request |
| story line | its kind, one letter | at (POSIX seconds), then the entry's fields |

An envelope of an unknown version cannot be read (StoryError: the caller keeps it and tells the operator). A line of
an unknown kind is kept and skipped; elements behind those that are known here are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from json import JSONEncoder, loads
from operator import attrgetter
from typing import Any

from attrs import evolve, field, frozen

from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Envelope, Notify, Origin, Recipient, Ret
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.reply import Reply

VERSION = 1

_dump = JSONEncoder(separators=(",", ":"), check_circular=False).encode
_ORIGIN = attrgetter("listener", "session", "client", "port", "helo", "protocol", "tls", "account")
_WISH_NAMES = ("requiretls", "tls_optional", "release_at", "release_request")
_WISHES = attrgetter(*_WISH_NAMES)
_BODIES = {body.value: body for body in Body}
_RETS = {ret.value: ret for ret in Ret}
_FATES = {fate.value: fate for fate in Fate}
_SCOPES = {scope.value: scope for scope in Scope}


class StoryError(ValueError):
    """An envelope or a line that cannot be read; the text says why."""


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope as one line of ASCII."""
    sender, ret = envelope.sender, envelope.ret
    recipients = [
        (r.address.local, r.address.domain, r.notify.value, r.orcpt)
        if r.notify or r.orcpt
        else (r.address.local, r.address.domain)
        for r in envelope.recipients
    ]
    return _dump(
        (
            VERSION,
            envelope.accepted_at,
            None if sender is None else (sender.local, sender.domain),
            recipients,
            envelope.body._value_,  # .value is a call
            envelope.smtputf8,
            None if ret is None else ret.value,
            envelope.envid,
            *_ORIGIN(envelope.origin),
            *(_WISHES(envelope) if envelope.requiretls or envelope.tls_optional or envelope.release_at else ()),
        )
    ).encode("ascii")


def decode_envelope(octets: bytes) -> Envelope:
    """Read what encode_envelope() wrote. Raises StoryError."""
    try:
        row = loads(octets)
        if row[0] != VERSION:
            raise StoryError(f"envelope of version {row[0]!r}, known is {VERSION}")
        _, accepted_at, sender, recipients, body, smtputf8, ret, envid = row[:8]
        return Envelope(
            sender=None if sender is None else Address(*sender),
            recipients=tuple(map(_recipient, recipients)),
            accepted_at=float(accepted_at),
            origin=Origin(*row[8:16]),
            body=_BODIES[body],
            smtputf8=smtputf8,
            ret=None if ret is None else _RETS[ret],
            envid=envid,
            **dict(zip(_WISH_NAMES, row[16:20], strict=False)),
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        if isinstance(error, StoryError):
            raise
        raise StoryError(f"envelope cannot be read: {error!r}") from None


def _recipient(row: list[Any]) -> Recipient:
    if len(row) == 2:
        return Recipient(Address(row[0], row[1]))
    return Recipient(Address(row[0], row[1]), Notify(row[2]), row[3])


@frozen(slots=True)
class Attempted:
    """A round of attempts ended: one outcome for each recipient that was tried."""

    at: float
    outcomes: tuple[Outcome, ...]


@frozen(slots=True)
class Held:
    """The message waits for the operator, or for whoever releases it."""

    at: float
    by: str
    reason: str


@frozen(slots=True)
class Released:
    """The message goes on."""

    at: float
    by: str


@frozen(slots=True)
class Warned:
    """The sender was told of the delay."""

    at: float


@frozen(slots=True)
class Removed:
    """The operator deleted these recipients (indices in the envelope); no notice is owed."""

    at: float
    recipients: tuple[int, ...]
    by: str


@frozen(slots=True)
class Unknown:
    """A line of a version that is newer than this one."""

    line: bytes


Entry = Attempted | Held | Released | Warned | Removed | Unknown


def encode_entry(entry: Entry) -> bytes:
    """The story line of an entry, without line feed."""
    row: tuple[Any, ...]
    if isinstance(entry, Attempted):
        row = ("A", entry.at, [_outcome_row(outcome) for outcome in entry.outcomes])
    elif isinstance(entry, Held):
        row = ("H", entry.at, entry.by, entry.reason)
    elif isinstance(entry, Released):
        row = ("R", entry.at, entry.by)
    elif isinstance(entry, Warned):
        row = ("W", entry.at)
    elif isinstance(entry, Removed):
        row = ("X", entry.at, entry.recipients, entry.by)
    else:
        return entry.line
    return _dump(row).encode("ascii")


def decode_entry(line: bytes) -> Entry:
    """Read what encode_entry() wrote; a kind that is not known here becomes Unknown. Raises StoryError."""
    try:
        row = loads(line)
        read = _READERS.get(row[0])
        return Unknown(line) if read is None else read(row)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise StoryError(f"story line cannot be read: {error!r}") from None


_READERS: dict[str, Callable[[list[Any]], Entry]] = {
    "A": lambda row: Attempted(row[1], tuple(map(_outcome, row[2]))),
    "H": lambda row: Held(row[1], row[2], row[3]),
    "R": lambda row: Released(row[1], row[2]),
    "W": lambda row: Warned(row[1]),
    "X": lambda row: Removed(row[1], tuple(row[2]), row[3]),
}


def _outcome_row(o: Outcome) -> tuple[Any, ...]:
    reply = None if o.reply is None else (o.reply.code, o.reply.enhanced, o.reply.text)
    return (
        o.recipient, o.fate.value, o.scope.value, o.status, o.text, o.at,
        reply, o.host, o.address, o.tls, o.dsn, o.unknown,
    )  # fmt: skip


def _outcome(row: list[Any]) -> Outcome:
    index, fate, scope, status, text, at, reply, host, address, tls, dsn, unknown = row[:12]
    said = None if reply is None else Reply(*reply)
    return Outcome(index, _FATES[fate], _SCOPES[scope], status, text, at, said, host, address, tls, dsn, unknown)


@frozen(slots=True)
class Progress:
    """Where a message stands: the fold over its story.

    `pending`: indices of the recipients that are not final, ascending. `attempts`: rounds that ended. `last`: the
    last outcome of each pending recipient that was tried. `held_at`: since when it is on hold, else None;
    `on_hold`: seconds of earlier holds. `warned_at`: when the sender was told of the delay, else None.
    """

    pending: tuple[int, ...]
    attempts: int = 0
    last: dict[int, Outcome] = field(factory=dict)
    held_at: float | None = None
    held_by: str = ""
    held_reason: str = ""
    on_hold: float = 0.0
    warned_at: float | None = None

    def after(self, entry: Entry) -> Progress:
        """Where the message stands after `entry`; what it says of recipients that are final already is ignored."""
        if isinstance(entry, Attempted):
            told = {outcome.recipient: outcome for outcome in entry.outcomes}
            pending = tuple(i for i in self.pending if i not in told or not told[i].fate.final)
            last = {i: told.get(i) or self.last[i] for i in pending if i in told or i in self.last}
            return evolve(self, pending=pending, attempts=self.attempts + 1, last=last)
        if isinstance(entry, Removed):
            gone = set(entry.recipients)
            pending = tuple(i for i in self.pending if i not in gone)
            last = {i: outcome for i, outcome in self.last.items() if i not in gone}
            return evolve(self, pending=pending, last=last)
        if isinstance(entry, Held):
            since = entry.at if self.held_at is None else self.held_at
            return evolve(self, held_at=since, held_by=entry.by, held_reason=entry.reason)
        if isinstance(entry, Released):
            waited = 0.0 if self.held_at is None else max(entry.at - self.held_at, 0.0)
            return evolve(self, held_at=None, held_by="", held_reason="", on_hold=self.on_hold + waited)
        if isinstance(entry, Warned):
            return evolve(self, warned_at=entry.at)
        return self


def fold(recipients: int, entries: Iterable[Entry]) -> Progress:
    """Where a message of `recipients` recipients stands after `entries`."""
    progress = Progress(tuple(range(recipients)))
    for entry in entries:
        progress = progress.after(entry)
    return progress
