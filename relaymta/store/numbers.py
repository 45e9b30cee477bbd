"""Small numbers for strings that many share, so that a million who name one of them do not hold it a million times."""

from __future__ import annotations

from attrs import define, field


@define(eq=False)
class Numbers:
    """Numbers from 0 for names, given out again when nobody uses them. `rows` is the way back."""

    rows: list[str] = field(factory=list)
    uses: list[int] = field(factory=list)
    numbers: dict[str, int] = field(factory=dict)
    unused: list[int] = field(factory=list)

    def take(self, name: str) -> int:
        """The number of `name`, for one more user."""
        number = self.numbers.get(name)
        if number is None:
            if self.unused:
                number = self.unused.pop()
                self.rows[number] = name
            else:
                number = len(self.rows)
                self.rows.append(name)
                self.uses.append(0)
            self.numbers[name] = number
        self.uses[number] += 1
        return number

    def give(self, number: int) -> None:
        """One user less."""
        self.uses[number] -= 1
        if not self.uses[number]:
            del self.numbers[self.rows[number]]
            self.rows[number] = ""
            self.unused.append(number)
