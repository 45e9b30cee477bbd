"""A deep queue, written straight into the shards: what weeks of trouble leave, in a minute.

The files are those that the relay would have written, by the spool's own rooms; only the syncs are left out.
"""

from __future__ import annotations

import os
import time
from multiprocessing import get_context
from pathlib import Path
from random import Random

from relaymta.mail.address import parse_mailbox
from relaymta.mail.envelope import Envelope, Recipient
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.queueid import IdMaker
from relaymta.queue.story import Attempted, encode_entry, encode_envelope
from relaymta.store import names
from relaymta.store.disk import RealDisk
from relaymta.store.interfaces import Schedule
from relaymta.store.shards import claim, shard_path
from relaymta.store.shelf import Parking, Shelf
from relaymta.store.spool import FOLDERS

BEFORE = 600  # seconds that the relay was down: so much of the queue is overdue at the start
AFTER = 3000  # seconds until the last of it is due
CONTENT = b"Subject: deep\r\n\r\n" + b"waiting\r\n" * 100


def fill(
    spool: Path, shards: int, messages: int, domains: int, zone: str, *, senders: int = 200, after: float = AFTER
) -> float:
    """Put `messages` for `domains` names under `zone` into that many shards, evenly; seconds it took.

    They are due from BEFORE seconds ago until `after` seconds from now.
    """
    begun = time.monotonic()
    spool.mkdir(parents=True, exist_ok=True)
    crew = [
        get_context("fork").Process(
            target=_fill, args=(str(spool), number, messages // shards, domains, zone, senders, after)
        )
        for number in range(shards)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
        if process.exitcode:
            raise RuntimeError("a shard could not be filled")
    return time.monotonic() - begun


def _fill(spool: str, number: int, messages: int, domains: int, zone: str, senders: int, after: float) -> None:
    disk, random, now = RealDisk(), Random(number), time.time()
    path = shard_path(spool, number)
    owned = claim(disk, path)
    shelf = Shelf(disk, path, "fill")
    shelf.prepare(FOLDERS)
    ids = IdMaker(lambda: now - 86400, number)
    for _ in range(messages):
        queue_id = ids.next()
        domain = f"d{random.randrange(domains):05d}.{zone}"
        sender = f"news{random.randrange(senders)}@bench.test"
        envelope = Envelope(parse_mailbox(sender), (Recipient(parse_mailbox(f"user@{domain}")),), now - 86400)
        outcome = Outcome(0, Fate.DEFERRED, Scope.HOST, "4.4.1", "connection refused", now - 3600)
        schedule = Schedule(int(now + random.uniform(-BEFORE, after)), f"smtp:{domain}", sender)
        name = names.encode(queue_id, schedule)
        story = [encode_entry(Attempted(now - 3600, (outcome,)))]
        parking = Parking(queue_id, name, encode_envelope(envelope), CONTENT, story)
        parking.fd = disk.open(shelf.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        parking.prepare(disk)
        disk.close(parking.fd)
    owned.release()
