"""What an explanation was told, kept in a file, so that it can be told again where there is no network.

The file is JSON: {"relaymta": 1, "question": {...}, "answers": {"MX example.org": {...}}, "verdicts": {"host address":
[steps]}}. How an answer is written is names'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from relaymta.explanation.names import Noted
from relaymta.explanation.steps import Step
from relaymta.explanation.way import Way

VERSION = 1
STEP = "record"  # the row that carries it; no step of the way
VERDICT = "tls"  # the step that a verdict consists of


@frozen(slots=True)
class Record:
    """One record, read."""

    names: Noted
    verdicts: Mapping[str, list[dict[str, Any]]]

    @classmethod
    def of(cls, text: object) -> Record:
        """Read what record_row() made, as JSON gives it. Raises ValueError."""
        if not isinstance(text, dict) or text.get("relaymta") != VERSION:
            raise ValueError(f"is no record of `relaymta explain`, version {VERSION}")
        answers, verdicts = text.get("answers"), text.get("verdicts")
        if not isinstance(answers, dict) or not isinstance(verdicts, dict):
            raise ValueError("has no answers or no verdicts")
        try:
            for steps in verdicts.values():
                for row in steps:
                    if Step.of(row).name != VERDICT:
                        raise ValueError("has a verdict that is none of TLS")
            return cls(Noted(answers), verdicts)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"is no record of `relaymta explain`: {error!r}") from None


def record_row(way: Way) -> dict[str, Any]:
    """What `way` was told."""
    question = way.question
    return {
        "step": STEP,
        "relaymta": VERSION,
        "recorded": round(way.grounds.now()),
        "question": {
            "address": question.address,
            "client": question.client,
            "login": question.login,
            "sender": "" if not question.sender_given else str(question.sender or "<>"),
        },
        "answers": way.notes,
        "verdicts": way.verdicts,
    }
