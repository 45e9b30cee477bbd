"""Names in memory: what net.dns.Resolver would say, written as a test needs it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from relaymta.net.dns import MX, Answer, Kind, Mx, Security, State

FAILED: Answer[Any] = Answer(State.FAILED, text="SERVFAIL", security=Security.FAILED)
NODATA: Answer[Any] = Answer(State.NODATA, text="no such record")
NXDOMAIN: Answer[Any] = Answer(State.NXDOMAIN, text="no such domain")


class Zone:
    """`mx`: domain to [(preference, name)] or an Answer; `hosts`: name to [address] or an Answer.

    A name of neither does not exist. `asked` holds the questions in order. With `slow`, answers come by release().
    """

    def __init__(
        self,
        mx: dict[str, list[tuple[int, str]] | Answer[Any]] | None = None,
        hosts: dict[str, list[str] | Answer[Any]] | None = None,
        *,
        secure: bool = False,
        slow: bool = False,
    ) -> None:
        self._mx = mx or {}
        self._hosts = hosts or {}
        self._security = Security.SECURE if secure else Security.INSECURE
        self._slow = slow
        self._waiting: list[tuple[Deferred[Any], Answer[Any]]] = []
        self.asked: list[str] = []
        self.known = False  # whether cached() knows everything

    def cached(self, name: str, kind: Kind[Mx]) -> Answer[Mx] | None:
        assert kind is MX
        return self._answer_mx(name) if self.known else None

    def cached_addresses(self, name: str) -> Answer[str] | None:
        return self._answer_addresses(name) if self.known else None

    def mx(self, name: str) -> Deferred[Answer[Mx]]:
        self.asked.append(f"MX {name}")
        return self._tell(self._answer_mx(name))

    def addresses(self, name: str) -> Deferred[Answer[str]]:
        self.asked.append(name)
        return self._tell(self._answer_addresses(name))

    def release(self) -> None:
        """Let all answers that are under way come."""
        waiting, self._waiting = self._waiting, []
        for deferred, answer in waiting:
            deferred.callback(answer)

    def _tell(self, answer: Answer[Any]) -> Deferred[Any]:
        if not self._slow:
            return succeed(answer)
        deferred: Deferred[Any] = Deferred()
        self._waiting.append((deferred, answer))
        return deferred

    def _answer_mx(self, name: str) -> Answer[Mx]:
        found = self._mx.get(name)
        if isinstance(found, Answer):
            return found
        if found is None:
            return NODATA if name in self._hosts else NXDOMAIN
        return Answer(State.FOUND, tuple(Mx(*one) for one in found), 60.0, self._security, name)

    def _answer_addresses(self, name: str) -> Answer[str]:
        found = self._hosts.get(name)
        if isinstance(found, Answer):
            return found
        if found is None:
            return NODATA if name in self._mx else NXDOMAIN
        return Answer(State.FOUND, tuple(found), 60.0, self._security, name)
