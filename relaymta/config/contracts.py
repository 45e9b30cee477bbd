"""What a settings class may promise the loader, beside its fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol, Self, runtime_checkable


@runtime_checkable
class Checked(Protocol):
    """A settings class that knows which of its values contradict each other."""

    def check(self) -> Iterable[tuple[str, str]]:
        """Say (key, what is wrong) for each contradiction; the key is relative, such as "retry[0]" or "" ."""
        ...


@runtime_checkable
class Reading(Protocol):
    """A value that may be written in more than one way, such as one string or a list of them."""

    @classmethod
    def read(cls, value: object) -> Self:
        """Read any TOML value. Raises ValueError, whose text is told to the operator."""
        ...


@runtime_checkable
class Textual(Protocol):
    """A value that is written as a string; `WANTED` says what is wanted, with an example."""

    WANTED: ClassVar[str]

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the string. Raises ValueError, whose text is told to the operator."""
        ...
