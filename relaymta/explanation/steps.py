"""One step of the way that a message would take, as people and programs get it.

Names of steps and results, and the facts beside them, are an interface: programs read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from attrs import field, frozen


class Result(Enum):
    """What a step means for the message."""

    OK = "ok"
    WAITS = "waits"  # not now
    FAILS = "fails"  # never
    INFO = "info"


@frozen(slots=True)
class Step:
    """`name` and `facts` for programs, `text` for people, `details` more lines of it."""

    name: str
    result: Result
    text: str
    facts: Mapping[str, Any] = field(factory=dict)
    details: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = {"step": self.name, "result": self.result.value, "text": self.text, **self.facts}
        if self.details:
            found["details"] = list(self.details)
        return found

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Step:
        """What row() made. Raises ValueError and KeyError."""
        facts = {key: value for key, value in row.items() if key not in ("step", "result", "text", "details")}
        return cls(row["step"], Result(row["result"]), row["text"], facts, tuple(row.get("details", ())))
