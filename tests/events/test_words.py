"""The words of the room: which events there are, and what each says."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import attrs
import pytest

from relaymta import events
from relaymta.admin.logline import event_name
from relaymta.events import Ears, Event, LaneResumed

# The interface: dashboards and fail2ban read names and fields, in this order. A row that changes breaks somebody's.
WORDS = """
authenticated session:str client:str account:str mechanism:str
authentication-failed session:str client:str name:str mechanism:str reason:str failures:int=0
bug-caught where:str trace:str
certificate-loaded file:str names:str until:str
certificate-refused file:str reason:str
client-named session:str listener:str proxy:str by:str client:str port:int name:str account:str
command-refused session:str client:str command:str reply:str check:str='' sender:str='' recipient:str=''
connect-failed lane:str host:str address:str reason:str seconds:float
content-refused session:str client:str sender:str recipients:int size:int reply:str check:str=''
daemon-reloaded version:str file:str
daemon-started version:str pid:int listeners:str
daemon-stopping reason:str
lane-resumed lane:str
lane-suspended lane:str reason:str seconds:float
ledger-mismatch shard:str difference:int
login-refused account:str host:str reason:str seconds:float
message-accepted id:str session:str client:str sender:str recipients:int size:int protocol:str message_id:str seconds:float account:str=''
message-finished id:str seconds:float
message-held id:str by:str reason:str
message-released id:str by:str
message-removed id:str by:str recipients:int
notice-dropped id:str kind:str reason:str recipients:int
notice-queued id:str notice:str kind:str to:str recipients:int
origin-forwarded session:str client:str origin:str port:int name:str helo:str protocol:str ident:str source:str
proxy-refused session:str listener:str proxy:str reason:str
quota-exceeded session:str client:str account:str limit:str would_be:int allowed:int over:str
recipient-deferred id:str recipient:str status:str host:str address:str reply:str scope:str lane:str attempts:int next:int
recipient-settled id:str fate:str recipient:str status:str host:str address:str reply:str lane:str tls:str attempts:int seconds:float
reload-failed file:str reason:str
session-closed session:str client:str helo:str messages:int commands:int seconds:float reason:str
session-opened session:str listener:str client:str port:int
session-refused session:str listener:str client:str reply:str
spool-corrupt file:str reason:str
spool-failed shard:str reason:str
spool-full shard:str free:int
spool-opened shard:str queued:int replayed:int corrupt:int seconds:float
state-failed file:str reason:str
sts-policy-failed domain:str result:str mode:str reason:str
sts-policy-fetched domain:str mode:str mx:str max_age:int version:str
tls-checked domain:str policy:str terms:tuple[str, ...] mx:str mx_patterns:tuple[str, ...] source:str address:str result:str reason:str policy_domain:str=''
tls-failed session:str listener:str client:str reason:str
tls-report-dropped domain:str day:str reason:str
tls-report-failed domain:str day:str to:str again:bool reason:str
tls-report-sent domain:str day:str to:str report:str
tls-started session:str client:str tls:str server_name:str='' certificate:str='' names:str=''
users-broken file:str reason:str
users-read file:str accounts:int
worker-ended worker:str reason:str
"""  # noqa: E501 - a row is a line, as it is in the log


def kinds() -> Iterator[type[Event]]:
    """Every kind of event that stands behind the door."""
    for module in iter_modules(events.__path__):
        for one in vars(import_module(f"relaymta.events.{module.name}")).values():
            if isinstance(one, type) and issubclass(one, Event) and one is not Event:
                yield one


def row(kind: type[Event]) -> str:
    """A kind of event as the table has it."""
    fields = [
        f"{one.name}:{one.type}" + ("" if one.default is attrs.NOTHING else f"={one.default!r}")
        for one in attrs.fields(kind)  # type: ignore[arg-type]
    ]
    return " ".join((event_name(kind), *fields))


def test_names_and_fields_are_an_interface() -> None:
    """Each event has the name and the fields, in the order, that others have learnt to read."""
    assert sorted(map(row, kinds())) == WORDS.strip().splitlines()


def test_the_door_shows_every_event() -> None:
    """Who tells or hears an event need not know in which file it stands."""
    shown = {getattr(events, name) for name in events.__all__}
    assert {kind.__name__ for kind in kinds() if kind not in shown} == set()


def test_an_event_is_a_value() -> None:
    """What was told does not change on its way through the ears."""
    for kind in kinds():
        values = {one.name: "" for one in attrs.fields(kind)}  # type: ignore[arg-type]
        assert kind(**values) == kind(**values)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(kind(**values), next(iter(values)), "else")


def test_an_ear_that_fails_hurts_nobody() -> None:
    """The other ears hear what was told, and the complaint is heard once."""
    heard: list[Event] = []
    complaints: list[int] = []
    ears = Ears(lambda: complaints.append(1))

    def deaf(event: Event) -> None:
        raise RuntimeError

    ears.add(deaf)
    ears.add(heard.append)
    ears.tell(LaneResumed("smtp:example.org"))
    ears.remove(deaf)
    ears.tell(LaneResumed("smtp:example.net"))
    assert [event.lane for event in heard if isinstance(event, LaneResumed)] == ["smtp:example.org", "smtp:example.net"]
    assert complaints == [1]
