"""The operator's desk: find messages by what they are; hold, release, remove and hurry them.

Each wish is about one queue id; which ids a filter means is found out lazily, from the tickets alone where they say
enough, and by opening files only where they do not. Who asked is kept in the message's story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import frozen
from twisted.python.failure import Failure

from relaymta.mail.envelope import Envelope, Recipient
from relaymta.mail.outcome import Fate
from relaymta.mail.queueid import is_queue_id, made_at
from relaymta.queue.manager import POLICY, Manager
from relaymta.queue.message import Message
from relaymta.queue.story import Entry, Held, Released, Removed
from relaymta.queue.timeline import State
from relaymta.store.interfaces import Schedule

ACTIVE = "active"  # the state of a row whose message is being attempted, or about to be


@frozen(slots=True)
class Filter:
    """Which messages: all that is given must fit, "" and None fit everything.

    `sender` and `recipient` are mailboxes as text ("<>" is the null sender), `domain` is a recipient's; a recipient
    counts while it is pending. `older` and `younger` are seconds since acceptance.
    """

    queue_id: str = ""
    sender: str = ""
    recipient: str = ""
    domain: str = ""
    lane: str = ""
    held: bool | None = None
    older: float | None = None
    younger: float | None = None

    @property
    def opens(self) -> bool:
        """Whether a message must be opened to know."""
        return bool(self.sender or self.recipient or self.domain)

    def fits(self, message: Message) -> bool:
        """Whether an opened message is meant, as far as `opens` goes."""
        envelope = message.envelope
        if self.sender and self.sender.lower() != _sender(envelope).lower():
            return False
        if not (self.recipient or self.domain):
            return True
        return any(self.means(envelope.recipients[i]) for i in message.progress.pending)

    def means(self, recipient: Recipient) -> bool:
        """Whether one recipient is meant."""
        if self.recipient and self.recipient.lower() != str(recipient.address).lower():
            return False
        return not self.domain or self.domain.lower() == recipient.address.domain


@frozen(slots=True)
class Row:
    """One message in a listing. `state` is "waiting", "ready", "held" or "active"; `due` is POSIX time.

    `message` is there when it had to be, or was asked to be, opened.
    """

    queue_id: str
    state: str
    due: int
    lane: str
    sender: str
    accepted_at: float
    message: Message | None = None


class Desk:
    """The operator's hand in one shard.

    What is done is told to `on_held` (queue id, by, reason), `on_released` (queue id, by), `on_removed` (row, by,
    recipients) and `on_hurried` (the lane of a message that is due now).
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._moves: dict[str, bool | None] = {}
        self.on_held: Callable[[str, str, str], None] = _ignore
        self.on_released: Callable[[str, str], None] = _ignore
        self.on_removed: Callable[[Row, str, tuple[Recipient, ...]], None] = _ignore
        self.on_hurried: Callable[[str], None] = _ignore

    # Finding

    def select(self, wanted: Filter, *, opened: bool = False) -> Iterator[Row]:
        """The messages that `wanted` means, lazily and in no order; `opened` asks for `message` in each row."""
        now = self._manager.seconds()
        for row in self._one(wanted.queue_id) if wanted.queue_id else self._all(wanted.lane):
            if wanted.lane and row.lane != wanted.lane:
                continue
            if wanted.held is not None and wanted.held is not (row.state == _HELD):
                continue
            age = now - row.accepted_at
            if (wanted.older is not None and age < wanted.older) or (
                wanted.younger is not None and age > wanted.younger
            ):
                continue
            if not (opened or wanted.opens):
                yield row
                continue
            message = self._manager.peek(row.queue_id)
            if message is not None and wanted.fits(message):
                yield Row(row.queue_id, row.state, row.due, row.lane, row.sender, message.envelope.accepted_at, message)

    def _all(self, lane: str) -> Iterator[Row]:
        for queue_id in tuple(self._manager.live):
            yield from self._live(queue_id)
        for entry in self._manager.timeline.entries(lane or None):
            yield Row(
                entry.queue_id, entry.state.name.lower(), entry.due, entry.lane, entry.sender, _age(entry.queue_id)
            )

    def _one(self, queue_id: str) -> Iterator[Row]:
        entry = self._manager.timeline.get(queue_id)
        if entry is None:
            yield from self._live(queue_id)
        else:
            yield Row(queue_id, entry.state.name.lower(), entry.due, entry.lane, entry.sender, _age(queue_id))

    def _live(self, queue_id: str) -> Iterator[Row]:
        message = self._manager.live.get(queue_id)
        if message is not None:
            state = _HELD if message.held else ACTIVE
            at = message.envelope.accepted_at
            yield Row(queue_id, state, message.due, message.lane, message.sender, at, message)

    # Wishes

    def hold(self, wanted: Filter, by: str, reason: str) -> Iterator[str]:
        """Put messages on hold; lazily: each is held when its queue id comes out."""
        for row in self.select(wanted):
            if self._hold(row.queue_id, by, reason):
                self.on_held(row.queue_id, by, reason)
                yield row.queue_id

    def release(self, wanted: Filter, by: str) -> Iterator[str]:
        """Let held messages go on, now; lazily."""
        for row in self.select(wanted):
            if self._release(row.queue_id, by):
                self.on_released(row.queue_id, by)
                yield row.queue_id

    def remove(self, wanted: Filter, by: str) -> Iterator[str]:
        """Delete messages with no notice; lazily. Where a recipient or a domain is wanted, only such recipients."""
        for row in self.select(wanted):
            gone = self._remove(row.queue_id, by, wanted.means)
            if gone:
                self.on_removed(row, by, gone)
                yield row.queue_id

    def retry(self, wanted: Filter) -> Iterator[str]:
        """Let waiting messages be due now, and their lanes probe if they are suspended; lazily."""
        for row in self.select(wanted):
            lane = self._hurry(row.queue_id)
            if lane is not None:
                self.on_hurried(lane)
                yield row.queue_id

    # One message

    def _hold(self, queue_id: str, by: str, reason: str) -> bool:
        """Let one message wait for the operator; what is being attempted is attempted to its end. False: no change."""
        entry = Held(self._manager.seconds(), by, reason)
        message = self._manager.live.get(queue_id)
        if message is not None:
            if message.held:
                return False
            self._change(message, entry)
            return True
        ticket = self._manager.timeline.get(queue_id)
        if ticket is None or (ticket.state is State.HELD and self._moves.get(queue_id) is not False):
            return False
        self._manager.timeline.take(queue_id)
        self._manager.timeline.hold(queue_id, ticket.due, ticket.lane, ticket.sender)
        self._tell_stranded(queue_id, entry)
        self._manager.note(queue_id, entry)
        self._move(queue_id, held=True)
        return True

    def _release(self, queue_id: str, by: str) -> bool:
        """Let a held message go on, now. False: it is not on hold."""
        entry = Released(self._manager.seconds(), by)
        message = self._manager.live.get(queue_id)
        if message is not None:
            if not message.held:
                return False
            self._change(message, entry)
            return True
        ticket = self._manager.timeline.get(queue_id)
        if ticket is None or ticket.state is not State.HELD or self._moves.get(queue_id) is False:
            return False
        self._manager.apart.discard(queue_id)
        waiting = self._manager.peek(queue_id)
        if waiting is not None and not waiting.held:
            # A crash came between the message and the line that says why it waits: it has not grown old meanwhile.
            self._manager.note(queue_id, Held(waiting.envelope.accepted_at, POLICY, ""))
        self._tell_stranded(queue_id, entry)
        self._manager.note(queue_id, entry)
        self._move(queue_id, held=False)
        return True

    def _remove(self, queue_id: str, by: str, doomed: Callable[[Recipient], bool]) -> tuple[Recipient, ...]:
        """Delete the `doomed` among the pending recipients, with no notice; the answer is who they were."""
        message = self._manager.peek(queue_id)
        if message is None:
            return ()
        recipients = message.envelope.recipients
        gone = tuple(i for i in message.progress.pending if doomed(recipients[i]))
        if not gone:
            return ()
        entry = Removed(self._manager.seconds(), gone, by)
        self._manager.ledger.fates[Fate.REMOVED] += len(gone)
        deleted = tuple(recipients[i] for i in gone)
        if queue_id in self._manager.live:
            self._change(message, entry)
            return deleted
        message.progress = message.progress.after(entry)
        if message.progress.pending:
            self._manager.note(queue_id, entry)
            return deleted
        self._manager.timeline.take(queue_id)
        if self._manager.stranded.pop(queue_id, None) is not None:
            self._manager.memory -= message.weight
        self._manager.ledger.left += 1
        if queue_id in self._moves:
            self._moves[queue_id] = None
        else:
            self._manager.finish(queue_id)
        return deleted

    def _hurry(self, queue_id: str) -> str | None:
        """Let a waiting message be due now; the answer is its lane (which may sleep), None where nothing changes."""
        ticket = self._manager.timeline.get(queue_id)
        if ticket is None or ticket.state is State.HELD:
            return None
        if ticket.state is State.WAITING:
            now = int(self._manager.seconds())
            if self._manager.timeline.hurry(queue_id, now):
                self._manager.on_waiting(now)
        return ticket.lane

    def _change(self, message: Message, entry: Entry) -> None:
        message.progress = message.progress.after(entry)
        self._manager.note(message.queue_id, entry)
        if message.queue_id not in self._manager.parking:
            self._manager.on_changed(message)

    def _tell_stranded(self, queue_id: str, entry: Entry) -> None:
        stranded = self._manager.stranded.get(queue_id)
        if stranded is not None:
            stranded.progress = stranded.progress.after(entry)

    def _move(self, queue_id: str, *, held: bool) -> None:
        """Give a file its new name; what is wanted meanwhile is done when that is done."""
        under_way = queue_id in self._moves
        self._moves[queue_id] = held
        ticket = self._manager.timeline.get(queue_id)
        if under_way or ticket is None:
            return
        due = ticket.due if held else int(self._manager.seconds())
        moved = self._manager.spool.park(queue_id, Schedule(due, ticket.lane, ticket.sender, held))
        moved.addCallbacks(self._moved, self._not_moved, callbackArgs=(queue_id, held), errbackArgs=(queue_id, held))

    def _not_moved(self, failure: Failure, queue_id: str, held: bool) -> None:
        self._manager.on_trouble(f"{queue_id} cannot be renamed: {failure.getErrorMessage()}")
        self._moved(None, queue_id, held)  # the story has the line, and the story decides when it is opened

    def _moved(self, _: object, queue_id: str, held: bool) -> None:
        if queue_id not in self._moves:
            return
        wanted = self._moves.pop(queue_id)
        if wanted is None:
            self._manager.finish(queue_id)
        elif wanted is not held:
            self._move(queue_id, held=wanted)
        elif not held:
            ticket = self._manager.timeline.take(queue_id)
            if ticket is not None:
                self._manager.wait(queue_id, int(self._manager.seconds()), ticket.lane, ticket.sender)


_HELD = State.HELD.name.lower()


def _sender(envelope: Envelope) -> str:
    return "<>" if envelope.sender is None else str(envelope.sender)


def _age(queue_id: str) -> float:
    return made_at(queue_id) if is_queue_id(queue_id) else 0.0


def _ignore(*_: object) -> None:
    """Nobody listens."""
