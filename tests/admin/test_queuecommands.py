"""The operator's commands over a real queue with a shelf in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relaymta.admin.control import CommandError
from relaymta.admin.queuecommands import BREATH, QueueCommands, read_filter
from relaymta.events import MessageHeld, MessageReleased, MessageRemoved
from relaymta.mail.address import Address
from relaymta.mail.envelope import Envelope, Recipient
from relaymta.queue.desk import Filter
from tests.queue.rig import NOW, Rig, deferred


class House(Rig):
    """A queue in which everything is deferred, with our commands over it."""

    def __init__(self) -> None:
        super().__init__()
        self.peers.script = deferred
        self.commands = QueueCommands(self.manager, self.desk).table()

    def ask(self, command: str, **arguments: Any) -> list[Any]:
        """The rows of an answer, less the breaths, as a client would read them."""
        answer: Any = self.commands[f"queue.{command}"](arguments)
        rows = [row for row in answer if row is not None]
        self.settle_down()
        return json.loads(json.dumps(rows))

    def ids(self, **arguments: Any) -> set[str]:
        """Which messages a filter means."""
        return {row["id"] for row in self.ask("list", **arguments)}


@pytest.fixture
def house() -> House:
    """A queue."""
    return House()


def test_a_listing_says_what_waits_and_why(house: House) -> None:
    """A row has what an operator wants to know, JSON-able, and "brief" leaves out what needs a file."""
    queue_id = house.submit("example.net", "example.com")
    house.settle_down()
    [row] = house.ask("list")
    assert row["id"] == queue_id and row["state"] == "waiting" and row["due"] > row["accepted"]
    assert (row["sender"], row["recipients"]) == ("alice@example.org", ["bob@example.net", "bob@example.com"])
    assert row["attempts"] == 1 and row["reason"] and row["size"] > 0
    [brief] = house.ask("list", brief=True)
    assert set(brief) == {"id", "state", "accepted", "due", "lane"}


def test_a_listing_can_end_early(house: House) -> None:
    """`limit` is a whole number from 1."""
    for _ in range(5):
        house.submit()
    house.settle_down()
    assert len(house.ask("list", limit=3)) == 3
    for wrong in (0, "3"):
        with pytest.raises(CommandError):
            house.ask("list", limit=wrong)


def test_each_filter_finds_its_own(house: House) -> None:
    """By id, sender, recipient, domain, lane, hold and age, and all that is given must fit."""
    old = house.submit("example.net")
    house.wait(100)
    young = house.submit("example.com", sender=None)
    house.settle_down()
    assert house.ids() == {old, young}
    assert house.ids(ids=[old, "NONE"]) == {old}
    assert house.ids(sender="<>") == {young}
    assert house.ids(sender="Alice@example.org") == {old}
    assert house.ids(recipient="bob@example.com") == {young}
    assert house.ids(domain="Example.NET") == {old}
    assert house.ids(lane="smtp:example.net") == {old}
    assert house.ids(older=50) == {old} and house.ids(younger=50) == {young}
    assert house.ids(held=True) == set()
    assert house.ids(domain="example.net", younger=50) == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sendr": "x"}, 'there is no argument "sendr"'),
        ({"ids": "Q1"}, "ids is a list of strings"),
        ({"ids": [7]}, "ids is a list of strings"),
        ({"sender": 7}, "sender is a string"),
        ({"domain": "a b"}, "is not a domain"),
        ({"older": "4h"}, "older is a number of seconds"),
        ({"older": True}, "older is a number of seconds"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(arguments: dict[str, Any], said: str) -> None:
    """A slip in a filter must never mean more messages than were meant."""
    with pytest.raises(CommandError, match=said):
        read_filter(arguments)


def test_an_idn_domain_is_found_as_it_is_in_mail() -> None:
    """What a person types is turned into A-labels."""
    assert read_filter({"domain": "bücher.example"}) == (Filter(domain="xn--bcher-kva.example"), ())


def test_hold_and_release_and_who_did_it(house: House) -> None:
    """The event and the story say who; the listing says why."""
    queue_id = house.submit()
    house.settle_down()
    assert house.ask("hold", ids=[queue_id], by="ops", reason="spam run") == [{"id": queue_id, "changed": True}]
    [row] = house.ask("list", held=True)
    assert row["state"] == "held" and row["reason"] == "spam run"
    assert house.ask("hold", ids=[queue_id]) == [{"id": queue_id, "changed": False, "reason": "nothing to change"}]
    assert house.ask("release", held=True, by="ops") == [{"id": queue_id, "changed": True}]
    assert house.of(MessageHeld) == [MessageHeld(queue_id, "ops", "spam run")]
    assert house.of(MessageReleased) == [MessageReleased(queue_id, "ops")]
    [shown] = house.ask("show", ids=[queue_id])
    assert [entry["event"] for entry in shown["story"]][1:3] == ["held", "released"]


def test_retry_attempts_now(house: House) -> None:
    """A message due in minutes is attempted at once."""
    queue_id = house.submit()
    house.settle_down()
    assert house.ask("retry", ids=[queue_id]) == [{"id": queue_id, "changed": True}]
    house.wait(1)
    assert house.ask("list")[0]["attempts"] == 2


def test_delete_takes_messages_or_only_the_recipients_meant(house: House) -> None:
    """A domain that is given up costs its recipients, and the others stay."""
    both, one = house.submit("example.net", "example.com"), house.submit("example.com")
    house.settle_down()
    rows = house.ask("delete", domain="example.com", by="ops")
    assert {row["id"] for row in rows} == {both, one} and all(row["changed"] for row in rows)
    assert house.ids() == {both}
    assert house.ask("list")[0]["recipients"] == ["bob@example.net"]
    assert {(event.id, event.by, event.recipients) for event in house.of(MessageRemoved)} == {
        (both, "ops", 1), (one, "ops", 1),
    }  # fmt: skip


@pytest.mark.parametrize("command", ["retry", "hold", "release", "delete"])
def test_the_whole_queue_is_meant_only_when_it_is_said(house: House, command: str) -> None:
    """No filter is no permission: all of them wants "all"."""
    house.submit()
    house.settle_down()
    vague: list[dict[str, Any]] = [{}, {"all": "yes"}, {"held": None}, {"ids": []}]
    for arguments in vague:
        with pytest.raises(CommandError, match="--all"):
            house.ask(command, **arguments)
    assert len(house.ids()) == 1
    house.ask(command, all=True)


def test_an_id_that_is_not_there_is_said(house: House) -> None:
    """Each id gets its answer."""
    assert house.ask("delete", ids=["NONE"]) == [{"id": "NONE", "changed": False, "reason": "not in the queue"}]
    with pytest.raises(CommandError, match="there is no message NONE in the queue"):
        house.ask("show", ids=["NONE"])
    with pytest.raises(CommandError, match="say which"):
        house.ask("show")


def test_show_tells_everything(house: House) -> None:
    """Envelope, origin, each recipient with its last answer, the story, the header section."""
    queue_id = house.submit("example.net", "example.com", body=b"Subject: hello\r\nX: \xe9\r\n\r\nbody\r\n")
    house.settle_down()
    [row] = house.ask("show", ids=[queue_id])
    assert row["header"] == "Subject: hello\r\nX: \\xe9\r\n\r\n"
    assert [one["pending"] for one in row["all_recipients"]] == [True, True]
    assert all(one["last"] for one in row["all_recipients"])
    assert row["origin"]["listener"] == "mx" and row["body"] == "7BIT"
    [entry] = row["story"]
    assert entry["event"] == "attempted" and {one["recipient"] for one in entry["outcomes"]} == {
        "bob@example.net", "bob@example.com",
    }  # fmt: skip


def test_what_waits_for_its_release_says_so(house: House) -> None:
    """When it is to leave, why it waits, and what its sender wished about TLS (RFC 4865, RFC 8689)."""
    envelope = Envelope(
        Address("a", "x.example"), (Recipient(Address("b", "y.example")),), NOW, requiretls=True, release_at=NOW + 600
    )
    house.manager.accept(house.manager.new_id(), envelope, b"Subject: later\r\n\r\n")
    house.settle_down()
    [row] = house.ask("list")
    assert (row["state"], row["due"], row["reason"]) == ("waiting", NOW + 600, "not before its time of release")
    [row] = house.ask("show", ids=[row["id"]])
    assert (row["release"], row["requiretls"], row["tls_optional"]) == (NOW + 600, True, False)
    house.ask("retry", all=True)
    [row] = house.ask("list")
    assert row["attempts"] == 1 and "later" in row["reason"]


def test_show_of_a_message_that_is_not_on_disk_yet(house: House) -> None:
    """What is being attempted from memory is shown as far as it is known."""
    house.peers.script = lambda batch, at: None
    queue_id = house.submit()
    house.settle_down()
    [row] = house.ask("show", ids=[queue_id])
    assert row["state"] == "active" and row["attempts"] == 0


def test_a_search_through_many_breathes(house: House) -> None:
    """Looking through a long queue for nothing yields now and then, so that mail goes on."""
    for _ in range(BREATH * 2):
        house.submit()
    house.settle_down()
    rows = list(house.commands["queue.list"]({"sender": "nobody@example.org"}))  # type: ignore[arg-type]
    assert rows == [None, None]
    rows = list(house.commands["queue.hold"]({"sender": "nobody@example.org"}))  # type: ignore[arg-type]
    assert rows == [None, None]


def test_a_listing_is_lazy(house: House) -> None:
    """The first row of a long queue opens one file, not all."""
    for _ in range(50):
        house.submit()
    house.settle_down()
    before = house.spool.loads
    rows = iter(house.commands["queue.list"]({}))  # type: ignore[arg-type]
    next(rows)
    assert house.spool.loads - before <= 1
