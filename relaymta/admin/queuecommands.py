"""The commands over the queue: list, show, retry, hold, release and delete, by filter.

Whatever changes mail wants a filter, or "all" said aloud. Rows come lazily, and a search breathes: it yields None
now and then, so that mail goes on while a million messages are looked through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import evolve

from relaymta.admin.control import Arguments, Command, CommandError
from relaymta.mail.address import AddressError, parse_domain
from relaymta.mail.outcome import Outcome
from relaymta.queue.desk import Desk, Filter, Row
from relaymta.queue.manager import Manager
from relaymta.queue.message import Message
from relaymta.queue.story import (
    Attempted,
    Entry,
    Held,
    Released,
    Removed,
    StoryError,
    Warned,
    decode_entry,
)
from relaymta.store.interfaces import SpoolError

BREATH = 200  # messages looked at in one go; ours, about a millisecond
HEADER_SHOWN = 16 * 1024  # octets of header section in `queue show`

Wish = Callable[[Filter], Iterator[str]]

_TEXTS = ("sender", "recipient", "domain", "lane")
_SPANS = ("older", "younger")
_KNOWN = {*_TEXTS, *_SPANS, "ids", "held", "all", "by", "limit", "reason", "brief"}


class QueueCommands:
    """Reads and changes one shard's queue; what was done and by whom is told by the desk."""

    def __init__(self, manager: Manager, desk: Desk) -> None:
        self._manager = manager
        self._desk = desk

    def table(self) -> dict[str, Command]:
        """The commands by name."""
        return {
            "queue.list": self.listing,
            "queue.show": self.show,
            "queue.retry": self.retry,
            "queue.hold": self.hold,
            "queue.release": self.release,
            "queue.delete": self.delete,
        }

    def listing(self, arguments: Arguments) -> Iterator[object]:
        """A row for each message that is meant; "brief" leaves out what would need its file to be opened."""
        wanted, ids = read_filter(arguments)
        limit = arguments.get("limit")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise CommandError("limit is a whole number from 1")
        return self._listed(self._select(wanted, ids, opened=not arguments.get("brief")), limit)

    def _listed(self, rows: Iterator[Row | None], limit: int | None) -> Iterator[object]:
        count = 0
        for row in rows:
            if row is None:
                yield None
                continue
            yield listed(row)
            count += 1
            if count == limit:
                return

    def show(self, arguments: Arguments) -> Iterator[object]:
        """Everything about the messages named: envelope, each recipient's state, the story, the header section."""
        _, ids = read_filter(arguments)
        if not ids:
            raise CommandError("say which message: its queue id")
        return iter([self._shown(queue_id) for queue_id in ids])

    def _shown(self, queue_id: str) -> dict[str, object]:
        row = next(self._desk.select(Filter(queue_id=queue_id), opened=True), None)
        if row is None or row.message is None:
            raise CommandError(f"there is no message {queue_id} in the queue")
        return {**listed(row), **shown(row.message, self._story(queue_id))}

    def _story(self, queue_id: str) -> list[Entry]:
        try:
            return [decode_entry(line) for line in self._manager.spool.load(queue_id).lines]
        except (KeyError, SpoolError, StoryError):
            return []  # not on disk yet, or not readable just now: what is known of it is shown all the same

    def retry(self, arguments: Arguments) -> Iterator[object]:
        """Let messages be attempted now, and their destinations too."""
        return self._each(arguments, self._desk.retry)

    def hold(self, arguments: Arguments) -> Iterator[object]:
        """Let messages wait for the operator."""
        by, reason = _by(arguments), str(arguments.get("reason") or "held by the operator")
        return self._each(arguments, lambda wanted: self._desk.hold(wanted, by, reason))

    def release(self, arguments: Arguments) -> Iterator[object]:
        """Let held messages go on."""
        by = _by(arguments)
        return self._each(arguments, lambda wanted: self._desk.release(wanted, by))

    def delete(self, arguments: Arguments) -> Iterator[object]:
        """Delete messages, or only the recipients that the filter means; nobody is told."""
        by = _by(arguments)
        return self._each(arguments, lambda wanted: self._desk.remove(wanted, by))

    def _each(self, arguments: Arguments, wish: Wish) -> Iterator[object]:
        wanted, ids = read_filter(arguments)
        if wanted == Filter() and not ids and arguments.get("all") is not True:
            raise CommandError("say which messages (ids, or a filter), or all of them with --all")
        return self._done(wanted, ids, wish)

    def _done(self, wanted: Filter, ids: tuple[str, ...], wish: Wish) -> Iterator[object]:
        for one in self._singly(wanted, ids):
            if one is None:
                yield None
            elif any(True for _ in wish(one)):
                yield {"id": one.queue_id, "changed": True}
            elif ids:
                here = any(True for _ in self._desk.select(Filter(queue_id=one.queue_id)))
                reason = "nothing to change" if here else "not in the queue"
                yield {"id": one.queue_id, "changed": False, "reason": reason}

    def _select(self, wanted: Filter, ids: tuple[str, ...], *, opened: bool) -> Iterator[Row | None]:
        """The messages meant, and None now and then."""
        for one in self._singly(wanted, ids):
            if one is None:
                yield None
            else:
                yield from self._desk.select(one, opened=opened)

    def _singly(self, wanted: Filter, ids: tuple[str, ...]) -> Iterator[Filter | None]:
        """The filter for each message by itself, so that a search can stop between two; and None now and then."""
        everything = (row.queue_id for row in self._desk.select(Filter()))
        for count, queue_id in enumerate(ids or everything, 1):
            yield evolve(wanted, queue_id=queue_id)
            if count % BREATH == 0:
                yield None


def read_filter(arguments: Arguments) -> tuple[Filter, tuple[str, ...]]:
    """The filter and the queue ids of a command. Raises CommandError."""
    for key in arguments:
        if key not in _KNOWN:
            raise CommandError(f'there is no argument "{key}"')
    ids = arguments.get("ids") or []
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise CommandError("ids is a list of strings")
    given: dict[str, Any] = {key: arguments[key] for key in _TEXTS if arguments.get(key)}
    for key, value in given.items():
        if not isinstance(value, str):
            raise CommandError(f"{key} is a string")
    if "domain" in given:
        try:
            given["domain"] = parse_domain(given["domain"])
        except AddressError as error:
            raise CommandError(f'"{given["domain"]}" is not a domain: {error}') from None
    for key in _SPANS:
        if arguments.get(key) is not None:
            if isinstance(arguments[key], bool) or not isinstance(arguments[key], (int, float)):
                raise CommandError(f"{key} is a number of seconds")
            given[key] = float(arguments[key])
    if arguments.get("held") is not None:
        given["held"] = arguments["held"] is True
    return Filter(**given), tuple(ids)


def listed(row: Row) -> dict[str, object]:
    """What one row of a listing says, JSON-able; times are POSIX seconds."""
    brief: dict[str, object] = {
        "id": row.queue_id,
        "state": row.state,
        "accepted": row.accepted_at,
        "due": row.due or None,
        "lane": row.lane,
    }
    message = row.message
    if message is None:
        return brief
    envelope, progress = message.envelope, message.progress
    pending = [str(envelope.recipients[i].address) for i in progress.pending]
    last = next(iter(progress.last.values()), None)
    return {
        **brief,
        "sender": str(envelope.sender) if envelope.sender is not None else "<>",
        "recipients": pending,
        "size": message.content.size,
        "attempts": progress.attempts,
        "reason": _reason(message, last),
    }


def shown(message: Message, story: list[Entry]) -> dict[str, object]:
    """What is known of one message beyond its row."""
    envelope, progress = message.envelope, message.progress
    origin = envelope.origin
    try:
        header = message.content.header()[:HEADER_SHOWN].decode("utf-8", "backslashreplace")
    except OSError as error:
        header = f"(cannot be read: {error.strerror})"
    pending = set(progress.pending)
    return {
        "origin": {
            "listener": origin.listener,
            "session": origin.session,
            "client": origin.client,
            "helo": origin.helo,
            "protocol": origin.protocol,
            "tls": origin.tls,
            "account": origin.account,
        },
        "body": envelope.body.value,
        "smtputf8": envelope.smtputf8,
        "envid": envelope.envid,
        "requiretls": envelope.requiretls,
        "tls_optional": envelope.tls_optional,
        "release": envelope.release_at or None,
        "all_recipients": [
            {
                "address": str(one.address),
                "pending": position in pending,
                "last": _said(progress.last.get(position)),
            }
            for position, one in enumerate(envelope.recipients)
        ],
        "story": [told(entry, message) for entry in story],
        "header": header,
    }


def told(entry: Entry, message: Message) -> dict[str, object]:
    """One entry of a message's story as a row."""
    if isinstance(entry, Attempted):
        outcomes = [
            {"recipient": _name(message, one.recipient), "fate": one.fate.value, "status": one.status,
             "host": one.host, "address": one.address, "text": _said(one)}
            for one in entry.outcomes
        ]  # fmt: skip
        return {"time": entry.at, "event": "attempted", "outcomes": outcomes}
    if isinstance(entry, Held):
        return {"time": entry.at, "event": "held", "by": entry.by, "reason": entry.reason}
    if isinstance(entry, Released):
        return {"time": entry.at, "event": "released", "by": entry.by}
    if isinstance(entry, Warned):
        return {"time": entry.at, "event": "warned"}
    if isinstance(entry, Removed):
        names = [_name(message, one) for one in entry.recipients]
        return {"time": entry.at, "event": "removed", "by": entry.by, "recipients": names}
    return {"time": 0, "event": "unknown"}


def _name(message: Message, position: int) -> str:
    recipients = message.envelope.recipients
    return str(recipients[position].address) if position < len(recipients) else f"#{position}"


def _reason(message: Message, last: Outcome | None) -> str:
    """Why a message still waits."""
    progress = message.progress
    if progress.held_at is not None:
        return progress.held_reason
    if last is None and message.envelope.release_at:
        return "not before its time of release"
    return _said(last)


def _said(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.reply is not None:
        host = f"{outcome.host} said: " if outcome.host else ""
        return f"{host}{outcome.reply}".replace("\n", " ")
    return f"{outcome.status} {outcome.text}".strip()


def _by(arguments: Arguments) -> str:
    return str(arguments.get("by") or "operator")
