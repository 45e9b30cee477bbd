"""The instruments themselves: what we measure the relay with must be right before it is used."""

from __future__ import annotations

from collections.abc import Callable

from tests.peers.programs import SmtpSink, SmtpSource, Swaks


def test_smtp_source_and_smtp_sink_agree(smtp_sink: Callable[..., SmtpSink], smtp_source: SmtpSource) -> None:
    """Everything that smtp-source sends, smtp-sink writes down, with its envelope."""
    sink = smtp_sink()
    smtp_source.send(sink.port, 200, sessions=5, length=2000)
    messages = sink.wait_for(200)
    assert len(messages) == 200
    assert {(one.sender, one.recipients) for one in messages} == {("source@example.net", ("sink@example.org",))}
    assert min(len(one.content.partition(b"\n\n")[2]) for one in messages) >= 1900  # CRLF counted as one


def test_swaks_speaks_to_smtp_sink(smtp_sink: Callable[..., SmtpSink], swaks: Swaks) -> None:
    """swaks delivers a body that arrives as it was, and says so by its status."""
    sink = smtp_sink()
    said = swaks(sink.port, "--from", "a@example.net", "--to", "b@example.org", "--body", ".dot\n..two\nend")
    assert said.status == 0, said.transcript
    [message] = sink.wait_for(1)
    assert message.recipients == ("b@example.org",)
    assert b"\n.dot\n..two\nend\n" in message.content


def test_a_sink_that_refuses_is_heard_of(smtp_sink: Callable[..., SmtpSink], swaks: Swaks) -> None:
    """smtp-sink's own options reach it: a hard refusal of RCPT is what swaks reports."""
    sink = smtp_sink("-f", "RCPT")
    said = swaks(sink.port, "--from", "a@example.net", "--to", "b@example.org")
    assert said.status == 24, said.transcript
    assert sink.messages() == []
