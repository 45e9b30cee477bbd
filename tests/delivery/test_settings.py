"""The [delivery] table, and the sources."""

from __future__ import annotations

import pytest

from relaymta.config import Duration
from relaymta.delivery.settings import Settings, Source
from relaymta.delivery.source import Sources
from relaymta.smtp.actions import Stage


def test_the_defaults_are_the_rfcs() -> None:
    """RFC 5321 §4.5.3.2: five minutes for most, two for DATA, three a block, ten for the dot; 100 recipients."""
    timeouts = Settings().timeouts()
    assert [timeouts[stage] for stage in (Stage.BANNER, Stage.MAIL, Stage.RCPT)] == [300, 300, 300]
    assert [timeouts[stage] for stage in (Stage.DATA, Stage.CONTENT, Stage.DOT)] == [120, 180, 600]
    assert Settings().max_recipients == 100


def test_each_timeout_reaches_its_stage() -> None:
    """What is set is what the dialogue gets."""
    timeouts = Settings(data_timeout=Duration(7.0), end_timeout=Duration(8.0)).timeouts()
    assert (timeouts[Stage.DATA], timeouts[Stage.DOT]) == (7.0, 8.0)


@pytest.mark.parametrize("wrong", [{"max_per_connection": 0}, {"connect_timeout": 0.0}, {"max_addresses": -1}])
def test_values_without_sense_are_errors(wrong: dict[str, int]) -> None:
    """Nought connections, recipients or seconds are no settings."""
    with pytest.raises(ValueError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_a_source_needs_addresses() -> None:
    """A pool of no address, or of a name, is an error."""
    with pytest.raises(ValueError):
        Source("x", ())
    with pytest.raises(ValueError, match="not an IP address"):
        Source("x", ("localhost",))


def test_addresses_of_a_source_take_turns_by_family() -> None:
    """Connections leave from each address in turn, in the family of where they go."""
    sources = Sources([Source("pool", ("198.51.100.1", "2001:db8::1", "198.51.100.2"))])
    taken = [sources.binding("pool", "192.0.2.1") for _ in range(3)]
    assert taken == [("198.51.100.1", 0), ("198.51.100.2", 0), ("198.51.100.1", 0)]
    assert sources.binding("pool", "2001:db8::9") == ("2001:db8::1", 0)
    assert sources.binding("", "192.0.2.1") is None
    assert sources.reaches("pool", "2001:db8::9") and not sources.reaches("other", "192.0.2.1")
