"""Answers that are kept, and the same explanation from them without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relaymta.explanation.alone import explain_offline
from relaymta.explanation.names import Noted, Noting, read, written
from relaymta.explanation.record import Record
from relaymta.net.dns import MX, TLSA, Answer, Mx, Security, State
from tests.explanation.rig import rig
from tests.routing.zone import Zone

SITE = Zone(
    mx={"b.test": [(20, "mx2.b.test"), (10, "mx1.b.test")]},
    hosts={"mx1.b.test": ["198.51.100.1"], "mx2.b.test": ["2001:db8::2"]},
)


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows but for what hangs on the clock, and the lane, which only a daemon knows."""
    return [row for row in rows if row["step"] not in ("retry", "lane", "record")]


def recorded(folder: Path, zone: Zone = SITE) -> tuple[list[dict[str, Any]], str]:
    """An explanation and its record as a file has it."""
    rows = rig(folder, zone=zone).explain("bob@b.test", record=True)
    return rows, json.dumps({key: value for key, value in rows[-1].items() if key != "step"})


def test_an_explanation_from_its_record_is_the_same(tmp_path: Path) -> None:
    """Nobody is asked, and every step but the time of day is as it was."""
    rows, text = recorded(tmp_path)
    again = explain_offline(str(tmp_path / "relaymta.toml"), text, {"address": "bob@b.test"})
    assert without_time(again) == without_time(rows)
    assert json.loads(text)["question"] == {"address": "bob@b.test", "client": "127.0.0.1", "login": "", "sender": ""}


def test_what_was_not_recorded_could_not_be_asked(tmp_path: Path) -> None:
    """Another domain is no "does not exist"."""
    _, text = recorded(tmp_path)
    rows = explain_offline(str(tmp_path / "relaymta.toml"), text, {"address": "bob@c.test"})
    assert rows[-1]["result"] == "waits" and "c.test MX was not recorded" in rows[-1]["text"]


def test_a_record_that_is_nested_too_deep_is_said(tmp_path: Path) -> None:
    """A file of an enemy is a clear error too."""
    recorded(tmp_path)
    with pytest.raises(ValueError, match="nested too deep"):
        explain_offline(str(tmp_path / "relaymta.toml"), "[" * 100_000, {"address": "bob@b.test"})


def test_verdicts_are_those_of_the_record(tmp_path: Path) -> None:
    """What TLS a host had to show then is told, and not judged anew."""
    _, text = recorded(tmp_path)
    record = json.loads(text)
    [verdict] = record["verdicts"]["mx1.b.test 198.51.100.1"]
    verdict.update(result="waits", text="DANE: no usable record")
    rows = explain_offline(str(tmp_path / "relaymta.toml"), json.dumps(record), {"address": "bob@b.test"})
    assert "DANE: no usable record" in [row["text"] for row in rows]
    assert rows[-1]["text"] == "would go to mx2.b.test at 2001:db8::2"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"relaymta": 2, "answers": {}, "verdicts": {}}',
        '{"relaymta": 1, "answers": {"MX b.test": {}}, "verdicts": {}}',
        '{"relaymta": 1, "answers": {"MX b.test": 5}, "verdicts": {}}',
        '{"relaymta": 1, "answers": {}, "verdicts": {"x": [{}]}}',
        '{"relaymta": 1, "answers": {}, "verdicts": {"x": 5}}',
        '{"relaymta": 1, "answers": {}, "verdicts": {"x": [{"step": "\\u001b[2J", "result": "ok", "text": ""}]}}',
        '{"relaymta": 1, "answers": [], "verdicts": {}}',
    ],
)
def test_what_is_no_record_is_said(text: str) -> None:
    """A file of something else is a clear error."""
    with pytest.raises(ValueError):
        Record.of(json.loads(text))


ANSWERS: list[tuple[str, Answer[Any]]] = [
    ("MX", Answer(State.FOUND, (Mx(10, "mx.test"), Mx(0, "")), 60.0, Security.SECURE, "b.test")),
    ("addresses", Answer(State.FOUND, ("192.0.2.1", "2001:db8::1"), 1.5, Security.INSECURE, "x.test")),
    ("TLSA", Answer(State.FOUND, (b"\x03\x01\x01" + bytes(32),), 60.0, Security.SECURE)),
    ("MX", Answer(State.FAILED, (), 5.0, Security.BOGUS, text="expired")),
    ("MX", Answer(State.NXDOMAIN, text="no such domain")),
]


@pytest.mark.parametrize(("kind", "answer"), ANSWERS)
def test_answers_survive_being_written(kind: str, answer: Answer[Any]) -> None:
    """read(written(x)) == x, over JSON."""
    assert read(kind, json.loads(json.dumps(written(answer)))) == answer


def test_all_ways_of_asking_are_noted() -> None:
    """Cached or not, by name or address."""
    zone = Zone(mx={"b.test": [(10, "mx.b.test")]}, hosts={"mx.b.test": ["192.0.2.1"]})
    noting = Noting(zone)
    assert noting.cached("b.test", MX) is None and noting.cached_addresses("mx.b.test") is None
    noting.mx("b.test")
    noting.addresses("mx.b.test")
    zone.known = True
    noting.cached("c.test", MX)
    noting.cached_addresses("mx.c.test")
    assert list(noting.notes) == ["MX b.test", "addresses mx.b.test", "MX c.test", "addresses mx.c.test"]
    noted = Noted(noting.notes)
    assert noted.cached("b.test", MX).records == (Mx(10, "mx.b.test"),)
    assert noted.cached_addresses("mx.b.test").records == ("192.0.2.1",)
    found: list[Any] = []
    noted.tlsa("_25._tcp.mx.b.test").addCallback(found.append)
    noted.lookup("x", TLSA).addCallback(found.append)
    assert [one.state for one in found] == [State.FAILED] * 2
