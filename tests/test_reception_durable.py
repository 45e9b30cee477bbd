"""The way in over a disk that can lose its power: 250 means there, whole, as it was wished; a refusal means gone."""

from __future__ import annotations

import errno
from functools import partial
from random import Random
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred

from relaymta.mail.queueid import IdMaker
from relaymta.mail.reply import Reply
from relaymta.policy.verdict import Verdict
from relaymta.queue.desk import Desk as OperatorsDesk
from relaymta.queue.desk import Filter
from relaymta.queue.manager import Manager
from relaymta.queue.settings import Settings
from relaymta.queue.story import decode_envelope
from relaymta.reception import NOT_STORED, Arrival, Reception
from relaymta.store.interfaces import Stored
from relaymta.store.spool import DiskSpool
from tests.store.simdisk import Fate, SimDisk
from tests.store.test_crash import Lost
from tests.store.world import SHARD
from tests.test_reception import NOW, SMALL_MAX
from tests.test_reception_submission import Desk, Office

SMALL = b"\r\nhello\r\n"
LARGE = b"\r\n" + b"hello, hello\r\n" * (3 * SMALL_MAX // 14) + b"the end\r\n"
HEADER = b"From: a@x.example\r\nBcc: b@y.example\r\nSubject: %d\r\n"


class House(Office):
    """An office whose queue is on a simulated disk; `answers` are the replies by the number in the subject."""

    def __init__(self, disk: SimDisk, desk: Desk | None = None) -> None:
        super().__init__(desk)
        self.disk = disk
        self.answers: dict[int, Reply] = {}
        self.shelf = DiskSpool(
            SHARD,
            seconds=self.clock.seconds,
            call_later=self.clock.callLater,
            call_from_thread=lambda call, *args: call(*args),
            disk=disk,
            commit="inline",
            files="inline",
            small_max=SMALL_MAX,
            segment_size=512 * 1024,
            folders=2,
            draw=Random(len(disk.calls)).randbytes,
        )
        ids = IdMaker(self.clock.seconds)
        self.manager = Manager(self.shelf, self.clock, Settings(), ids, lambda: 0.5)
        self.manager.on_ready = self.ready.append
        self.manager.open()
        self.settle()
        self.reception = Reception(self.reception.manners, self.manager, self.clock.seconds, self.told.append)

    def begin(self, number: int, body: bytes, **kwargs: Any) -> Arrival:
        """A message on its way in, all of it but its end."""
        sink = self.transaction(**kwargs)
        content = HEADER % number + body
        for at in range(0, len(content), 4000):
            sink.write(content[at : at + 4000])
        return sink

    def end(self, number: int, sink: Arrival) -> None:
        """The end of data; its answer is heard when it comes."""
        finished = sink.finish()
        if isinstance(finished, Reply):
            self.answers[number] = finished
            return
        later = finished if isinstance(finished, Deferred) else Deferred.fromCoroutine(finished)
        later.addCallback(lambda reply: self.answers.update({number: reply}))

    def submit(self, number: int, body: bytes, **kwargs: Any) -> None:
        """A whole message."""
        self.end(number, self.begin(number, body, **kwargs))

    def found(self) -> dict[int, Stored]:
        """What lies in the spool, by number, each once and taken over by the queue."""
        while self.manager.adopt(100):
            pass
        found: dict[int, Stored] = {}
        for entry in list(self.manager.timeline.entries()):
            stored = self.shelf.load(entry.queue_id)
            content = b"".join(stored.content.chunks())
            number = int(content.partition(b"Subject: ")[2].partition(b"\r\n")[0])
            assert number not in found, "twice"
            found[number] = stored
        return found


@define
class Wish:
    """What one message is: its body, whether the desk holds it, when it is to leave, whether it is refused."""

    body: bytes
    hold: str = ""
    release_at: float = 0.0
    refused: bool = False


WISHES = [
    Wish(SMALL),
    Wish(LARGE),
    Wish(SMALL, hold="quota"),
    Wish(LARGE, hold="quota"),
    Wish(SMALL, release_at=NOW + 3600),
    Wish(LARGE, release_at=NOW + 3600),
    Wish(SMALL, refused=True),
    Wish(LARGE, refused=True),
    Wish(LARGE, hold="quota", release_at=NOW + 3600),
]


def day(house: House) -> None:
    """One message of each kind, side by side and one after the other; the last client goes in the midst of it."""
    waiting = []
    for number, wish in enumerate(WISHES):
        verdict = Verdict(Reply(550, "5.7.1", "no"), "desk") if wish.refused else None
        house.desk.hold, house.desk.verdict = wish.hold, verdict
        sink = house.begin(number, wish.body, release_at=wish.release_at)
        if number % 2:
            waiting.append((number, sink, verdict))
            continue
        house.end(number, sink)
        house.settle()
    for number, sink, verdict in waiting:
        house.desk.verdict = verdict
        house.end(number, sink)
    gone = house.begin(99, LARGE)
    house.settle()
    gone.abort()
    for _ in range(6):
        house.settle()


def check(house: House, answers: dict[int, Reply]) -> None:
    """What must be so after a crash, when that had been answered."""
    found = house.found()
    assert set(found) <= set(range(len(WISHES))), "of a client that went"
    for number, wish in enumerate(WISHES):
        answer, stored = answers.get(number), found.get(number)
        if stored is None:
            assert answer is None or not answer.positive, f"{number} is lost"
            continue
        assert not wish.refused and (answer is None or answer.positive), f"{number} was refused and came back"
        content = b"".join(stored.content.chunks())
        header, _, body = content.partition(b"\r\n\r\n")
        assert b"\r\n" + body == wish.body and b"Message-ID: " in header and b"Bcc" not in header
        assert decode_envelope(stored.head).release_at == wish.release_at
        assert stored.schedule.held is bool(wish.hold)
        assert stored.schedule.due == (wish.release_at or NOW)
        assert house.manager.claim(stored.queue_id) is None or not wish.hold


@pytest.mark.parametrize("fate", list(Fate))
def test_whenever_the_power_goes_what_was_answered_holds(fate: Fate) -> None:
    """Held stays held, a release stays what it was, streamed content is whole, and what was refused is gone."""
    house = House(SimDisk(block=4096), Desk())
    cuts = 0

    def cut(call: str) -> None:
        nonlocal cuts
        cuts += 1
        try:
            check(House(house.disk.crash(fate, cuts)), dict(house.answers))
        except Exception as error:
            raise Lost(f"{fate} at cut {cuts}, {call}: {error!r}") from error

    house.disk.before = cut
    day(house)
    cut("the end")
    assert cuts > 40 and {reply.code for reply in house.answers.values()} == {250, 550}
    assert len(house.answers) == len(WISHES)


def fails_at(at: int, way: int, call: str, number: int) -> int | None:
    """One call; where free space is not known, MAIL is refused before there is anything to lose."""
    return way if number == at and call != "statvfs" else None


@pytest.mark.parametrize("way", [errno.ENOSPC, errno.EIO])
def test_whichever_call_fails_what_was_answered_holds(way: int) -> None:
    """A full or broken disk: 451 and nothing of it is kept, or 250 and all of it is; the next message is taken."""
    at = 0
    refusals = 0
    while True:
        house = House(SimDisk(block=4096), Desk())
        at += 1
        first = len(house.disk.calls)
        house.disk.failing = partial(fails_at, first + at, way)
        day(house)
        if len(house.disk.calls) < first + at:
            break
        house.disk.failing = lambda call, number: None
        assert len(house.answers) == len(WISHES), "a bug instead of an answer"
        refused = [number for number, reply in house.answers.items() if reply is NOT_STORED]
        refusals += len(refused)
        check(House(house.disk.crash(Fate.NOTHING)), house.answers)
        check(House(house.disk.crash(Fate.EVERYTHING)), house.answers)
        house.desk.hold, house.desk.verdict = "", None
        house.submit(0, SMALL)
        house.settle()
        assert house.answers[0].code == 250
        if house.disk.calls[first + at - 1] != "unlink":  # that is swept when it is a day old
            assert house.disk.names(f"{SHARD}/tmp") == [], "half kept"
    assert at > 40 and refusals > 5


def test_a_hold_whose_reason_was_not_written_does_not_grow_old() -> None:
    """The crash comes between a message on hold and the line that says why: released late, it has its whole time."""
    house = House(SimDisk(block=4096), Desk())
    house.desk.hold = "quota"
    house.submit(0, SMALL)
    cut: list[SimDisk] = []
    house.disk.before = lambda call: cut.append(house.disk.crash(Fate.NOTHING)) if house.answers else None
    for _ in range(4):
        house.settle()
    after = House(cut[0])
    [stored] = after.found().values()
    assert stored.lines == () and stored.schedule.held
    after.clock.advance(30 * 86_400)
    operator = OperatorsDesk(after.manager)
    assert list(operator.release(Filter(), "operator")) == [stored.queue_id]
    after.settle()
    message = after.manager.claim(stored.queue_id)
    assert message is not None and not message.held
    assert after.manager.expires(message) > after.clock.seconds()
