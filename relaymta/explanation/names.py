"""What the domain name system answers, noted on the way, and told again from the notes without a network.

The notes are JSON: a question such as "MX example.org" to its answer (net.dns_answer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed

from relaymta.net.dns import MX, TLSA, TXT, Answer, Kind, Mx, Security, State
from relaymta.routing.mx import Names

_ADDRESSES = "addresses"


class Noting:
    """Asks `names` and keeps what they said in `notes`."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.notes: dict[str, dict[str, Any]] = {}

    def cached(self, name: str, kind: Kind[Mx]) -> Answer[Mx] | None:
        """What is known already."""
        answer = self._names.cached(name, kind)
        return None if answer is None else self._note(answer, kind.name, name)

    def cached_addresses(self, name: str) -> Answer[str] | None:
        """The same of addresses."""
        answer = self._names.cached_addresses(name)
        return None if answer is None else self._note(answer, _ADDRESSES, name)

    def mx(self, name: str) -> Deferred[Answer[Mx]]:
        """The mail exchangers."""
        return self._names.mx(name).addCallback(self._note, MX.name, name)

    def addresses(self, name: str) -> Deferred[Answer[str]]:
        """A and AAAA."""
        return self._names.addresses(name).addCallback(self._note, _ADDRESSES, name)

    def lookup(self, name: str, kind: Kind[Any]) -> Deferred[Answer[Any]]:
        """Any other question, where `names` takes one."""
        asked: Deferred[Answer[Any]] = self._names.lookup(name, kind)  # type: ignore[attr-defined]
        return asked.addCallback(self._note, kind.name, name)

    def tlsa(self, name: str) -> Deferred[Answer[bytes]]:
        """TLSA records as they are."""
        return self.lookup(name, TLSA)

    def txt(self, name: str) -> Deferred[Answer[bytes]]:
        """TXT records as they are."""
        return self.lookup(name, TXT)

    def _note(self, answer: Answer[Any], kind: str, name: str) -> Answer[Any]:
        self.notes[f"{kind} {name}"] = written(answer)
        return answer


class Noted:
    """Answers from notes; what is not in them could not be asked."""

    def __init__(self, notes: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises ValueError for what are no notes."""
        self._answers = {question: read(question.partition(" ")[0], noted) for question, noted in notes.items()}

    def cached(self, name: str, kind: Kind[Any]) -> Answer[Any]:
        """Everything is known already."""
        return self._find(kind.name, name)

    def cached_addresses(self, name: str) -> Answer[str]:
        """The same of addresses."""
        return self._find(_ADDRESSES, name)

    def mx(self, name: str) -> Deferred[Answer[Mx]]:
        """The mail exchangers."""
        return succeed(self._find(MX.name, name))

    def addresses(self, name: str) -> Deferred[Answer[str]]:
        """A and AAAA."""
        return succeed(self._find(_ADDRESSES, name))

    def lookup(self, name: str, kind: Kind[Any]) -> Deferred[Answer[Any]]:
        """Any other question."""
        return succeed(self._find(kind.name, name))

    def tlsa(self, name: str) -> Deferred[Answer[bytes]]:
        """TLSA records as they are."""
        return self.lookup(name, TLSA)

    def txt(self, name: str) -> Deferred[Answer[bytes]]:
        """TXT records as they are."""
        return self.lookup(name, TXT)

    def _find(self, kind: str, name: str) -> Answer[Any]:
        known = self._answers.get(f"{kind} {name}")
        if known is not None:
            return known
        return Answer(State.FAILED, security=Security.FAILED, text=f"{name} {kind} was not recorded")


def written(answer: Answer[Any]) -> dict[str, Any]:
    """An answer as notes have it: an MX is [preference, name], octets are hexadecimal."""
    return {
        "state": answer.state.value,
        "security": answer.security.value,
        "records": [_record(one) for one in answer.records],
        "ttl": round(answer.ttl, 3),
        "canonical": answer.canonical,
        "text": answer.text,
    }


def _record(record: Any) -> Any:
    if isinstance(record, Mx):
        return [record.preference, record.name]
    return record.hex() if isinstance(record, bytes) else record


def read(kind: str, noted: Mapping[str, Any]) -> Answer[Any]:
    """What written() made. Raises ValueError."""
    try:
        records: list[Any] = []
        for one in noted["records"]:
            if kind == MX.name:
                preference, name = one
                records.append(Mx(int(preference), str(name)))
            else:
                records.append(bytes.fromhex(one) if kind in (TLSA.name, TXT.name) else str(one))
        return Answer(
            State(noted["state"]),
            tuple(records),
            float(noted["ttl"]),
            Security(noted["security"]),
            str(noted["canonical"]),
            str(noted["text"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"is no recorded answer: {error}") from None
