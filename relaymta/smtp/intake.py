"""The half of smtp.session that takes content: DATA and BDAT, from their decision to the reply at their end.

RFC 5321 §4.1.1.4 (DATA), RFC 1870 §6 (size), RFC 3030 §2 (BDAT), RFC 2033 §4.2 (a reply for each recipient). What is
refused is read to its end all the same, and refused then. What clean content is, is left to smtp.data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from relaymta.mail.reply import Reply
from relaymta.smtp import answers, grammar
from relaymta.smtp.commands import XForward
from relaymta.smtp.data import ChunkDecoder, Decoder, Fault
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.rules import Rules
from relaymta.smtp.stream import Stream
from relaymta.smtp.turns import NEED_DATA, Event, Piece, Signal, State

_GO_AHEAD = answers.GO_AHEAD.render()


class Intake:
    """What a Session does with content. The fields are the Session's, which says what they mean."""

    if TYPE_CHECKING:
        rules: Rules
        state: State
        messages: int
        size: int
        _stream: Stream
        _output: list[bytes]
        _events: list[Event]
        _decide: Callable[[Reply | None], None] | None
        _errors: int
        _idle: int
        _unrecognized: int
        _open: bool
        _recipients: int
        forwarded: XForward | None
        _decoder: Decoder | ChunkDecoder | None
        _refusal: Reply | None
        _ours: bool
        _chunk_left: int
        _chunk_size: int
        _chunk_last: bool
        _after_chunk: State

        def _say(self, reply: Reply, times: int = 1) -> None: ...
        def _refuse(self, reply: Reply, times: int = 1) -> None: ...
        def _end_transaction(self) -> None: ...
    else:
        __slots__ = ()

    # DATA

    def _read_data(self, argument: bytes) -> Event:
        if argument:
            raise RefusalError(answers.NO_ARGUMENT)
        self._decide = self._decide_data
        return Signal.CONTENT_ASKED

    def _decide_data(self, verdict: Reply | None) -> None:
        if verdict is None:
            self._output.append(_GO_AHEAD)
            self._decoder = Decoder(normalize=self.rules.normalize)
            self.state = State.CONTENT
        else:
            self.state = State.IDLE
            self._end_transaction()
            self._say(verdict)

    def _read_content(self) -> Event | None:
        octets = self._stream.read_all()
        if not octets:
            return NEED_DATA
        decoder = self._decoder
        assert isinstance(decoder, Decoder)
        clean = decoder.feed(octets)
        event = self._take(clean, decoder.fault)
        if decoder.ended:
            self._stream.receive(decoder.rest)
            self._end_content()
        return event

    def _take(self, octets: bytes, fault: Fault | None) -> Event | None:
        """Content for the sink, unless it is or becomes refused."""
        self.size += len(octets)  # of what is refused too: it comes as quickly as it comes
        if fault is not None:
            self._spoil(answers.FAULTS[fault])  # the gravest refusal, since it closes
        elif self._refusal is None:
            if 0 < self.rules.max_message_size < self.size:
                self._spoil(answers.SIZE_EXCEEDED)  # RFC 1870 §6.3
            elif octets:
                return Piece(octets)
        return None

    def _spoil(self, refusal: Reply) -> None:
        """Nobody keeps this content; it is read to its end, then refused."""
        if self._open:
            self._open = False
            self._events.append(Signal.RESET)
        self._refusal = refusal
        self.forwarded = None  # it was said of this message, and chunks have no end that would say so

    def _end_content(self) -> None:
        refusal = self._refusal
        if refusal is not None:
            self.state = State.IDLE
            self._end_transaction()
            self._refuse(refusal, self._owed())
        else:
            self._events.append(Signal.CONTENT_ENDED)
            self._decide = self._decide_end

    def _decide_end(self, verdict: Reply | None) -> None:
        verdict = verdict or answers.TAKEN
        if verdict.positive:
            self.messages += 1
            self._errors = self._idle = self._unrecognized = 0
        self.state = State.IDLE
        self._end_transaction()
        self._say(verdict, self._owed())

    def _owed(self) -> int:
        """Replies to a whole message: one, or over LMTP one for each RCPT that was accepted (RFC 2033 §4.2)."""
        return self._recipients if self.rules.lmtp else 1

    # BDAT

    def _read_bdat(self, argument: bytes) -> Event | None:
        size, last = grammar.chunk(argument)
        if self.state is State.CHUNKS:
            self._begin_chunk(size, last, None, State.IDLE)
            return None
        self._chunk_size, self._chunk_last = size, last
        self._decide = self._decide_bdat
        return Signal.CONTENT_ASKED

    def _decide_bdat(self, verdict: Reply | None) -> None:
        if verdict is None:
            self._decoder = ChunkDecoder(normalize=self.rules.normalize)
            self._begin_chunk(self._chunk_size, self._chunk_last, None, State.IDLE)
        else:
            self._end_transaction()
            self._begin_chunk(self._chunk_size, self._chunk_last, verdict, State.IDLE)
            self._ours = False

    def _begin_chunk(self, size: int, last: bool, refusal: Reply | None, after: State) -> None:
        self._chunk_left = self._chunk_size = size
        self._chunk_last = last
        self._refusal = refusal
        self._ours = True
        self._after_chunk = after
        self.state = State.CHUNK

    def _read_chunk(self) -> Event | None:
        octets = self._stream.read(self._chunk_left)
        if self._chunk_left and not octets:
            return NEED_DATA
        self._chunk_left -= len(octets)
        event: Event | None = None
        if self._refusal is None:
            decoder = self._decoder
            assert isinstance(decoder, ChunkDecoder)
            octets = decoder.feed(octets)
            if self._chunk_last and not self._chunk_left:
                octets += decoder.finish()
            event = self._take(octets, decoder.fault)
        else:
            self.size += len(octets)
        if not self._chunk_left:
            self._end_chunk()
        return event

    def _end_chunk(self) -> None:
        refusal = self._refusal
        if refusal is not None:
            self._refusal = None
            self.state = self._after_chunk
            say = self._refuse if self._ours else self._say
            say(refusal, self._owed() if self._chunk_last else 1)
        elif self._chunk_last:
            self._end_content()
        else:
            self.state = State.CHUNKS
            self._say(Reply(250, "2.0.0", f"{self._chunk_size} octets taken"))
