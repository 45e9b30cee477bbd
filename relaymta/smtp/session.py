"""The server's side of the dialogue as a machine without input or output: bytes to events, decisions to replies.

RFC 5321 §3 and §4.1.4 (order of commands), RFC 2920 (pipelining), RFC 3030 (BDAT), RFC 3207 (STARTTLS), RFC 4954
(AUTH), RFC 9422 (limits), RFC 2033 (LMTP).

In the manner of h11: `receive` bytes, ask `next_event` until it says NEED_DATA or PAUSED, answer what is owed with
`reply`, send what `take_output` gives. One decision is owed at a time and nothing is parsed meanwhile, so that a
pipelined dialogue is the lockstep one by construction. Grammar is smtp.grammar's, DATA and BDAT are smtp.intake's,
AUTH is smtp.authing's, judgement is the handler's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field

from relaymta.mail.reply import Reply
from relaymta.smtp import answers, authing, grammar, verbs, xclient
from relaymta.smtp.authing import Answer, Channel, Exchange, Move
from relaymta.smtp.commands import XForward
from relaymta.smtp.data import ChunkDecoder, Decoder
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.intake import Intake
from relaymta.smtp.rules import Rules
from relaymta.smtp.sasl import Challenge
from relaymta.smtp.stream import Stream
from relaymta.smtp.turns import NEED_DATA, PAUSED, Event, Hello, Refused, Signal, State

OVERSHOOT_MAX = 1000  # recipients above the limit that are no error of the client; RFC 5321 §4.5.3.1.10, ours

_MAIL_OK = answers.MAIL_OK.render()
_RCPT_OK = answers.RCPT_OK.render()

# On the path of every event; the look-up of an enum's member costs as much as the test.
_CONNECTED, _CONTENT, _CHUNK = State.CONNECTED, State.CONTENT, State.CHUNK
_HANDSHAKE, _CLOSED = State.HANDSHAKE, State.CLOSED


@define(slots=True, eq=False)
class Session(Intake):
    """One session, from the greeting to its end. `rules` is what the listener offers and bears."""

    rules: Rules
    state: State = State.CONNECTED
    tls: bool = False  # whether the octets come over TLS
    helo: str = ""
    esmtp: bool = False
    account: str = ""  # who authenticated
    forwarded: XForward | None = None  # where the next message comes from, as XFORWARD said
    channel: Channel = authing.CLEAR
    commands: int = 0
    messages: int = 0  # accepted
    size: int = 0  # octets of content of this transaction so far
    reason: str = ""  # why it was closed, for a log
    _stream: Stream = field(factory=Stream)
    _hello: Hello = Hello("", False)  # the one to be decided on
    _line: bytes = field(default=b"", repr=False)  # the command being read, perhaps with a password
    _output: list[bytes] = field(factory=list)
    _events: list[Event] = field(factory=list)
    _decide: Callable[[Any], None] | None = None  # what the owed decision goes to
    _exchange: Exchange | None = None  # AUTH under way
    _secretive: bool = False  # AUTH was said: what is no command may be a part of it
    _draining: bool = False
    # counted since the last accepted message
    _errors: int = 0
    _idle: int = 0
    _unrecognized: int = 0
    # the transaction
    _open: bool = False  # MAIL was accepted and no RESET was given yet
    _transactions: int = 0
    _utf8: bool = False
    _recipients: int = 0
    _overshoot: int = 0
    _decoder: Decoder | ChunkDecoder | None = None
    _refusal: Reply | None = None  # of content that is read to its end and kept by nobody
    _ours: bool = True  # whether that refusal is the dialogue's own
    _chunk_left: int = 0
    _chunk_size: int = 0
    _chunk_last: bool = False
    _after_chunk: State = State.IDLE  # where a refused chunk leads

    def __attrs_post_init__(self) -> None:
        self._decide = self._decide_connect

    # What the shell uses

    @property
    def owes(self) -> bool:
        """Whether a decision is owed by `reply`."""
        return self._decide is not None

    @property
    def waiting(self) -> int:
        """Octets received and not read."""
        return self._stream.waiting

    def receive(self, octets: bytes) -> None:
        """Take octets from the client. Before the greeting they end the session (RFC 5321 §3.1)."""
        if self.state is _CONNECTED:
            self._line = octets.partition(b"\r\n")[0]
            self._refuse(answers.TALKED_FIRST)
        elif self.state is not _CLOSED:
            self._stream.receive(octets)

    def take_output(self) -> bytes:
        """What is to be sent; empties it."""
        output = self._output
        if not output:
            return b""
        octets = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return octets

    def next_event(self) -> Event:
        """The next event; CLOSED, PAUSED and NEED_DATA are given again until something changes."""
        while True:
            if self._events:
                return self._events.pop(0)
            if self._decide is not None:
                return PAUSED
            state = self.state
            if state is _CONTENT:
                event = self._read_content()
            elif state is _CHUNK:
                event = self._read_chunk()
            elif state is _CLOSED:
                return Signal.CLOSED
            elif state is _HANDSHAKE:
                return PAUSED
            elif self._exchange is not None:
                event = self._read_response()
            elif self._draining and state in (State.IDLE, State.GREETED):
                self._say(answers.GOING_DOWN)
                continue
            else:
                event = self._read_command()
            if event is not None:
                return event

    def reply(self, verdict: Answer) -> None:
        """The decision that is owed; None is the standard positive reply, where AUTH does not want another value."""
        decide = self._decide
        assert decide is not None, "no decision is owed"
        self._decide = None
        decide(verdict)

    def tls_started(self, channel: Channel = authing.CLEAR) -> None:
        """The handshake ended well. What was known from before is forgotten (RFC 3207 §4.2)."""
        self.tls = True
        self.channel = channel
        self.helo, self.esmtp = "", False
        self.account = ""
        if self.state is State.HANDSHAKE:
            self.state = State.GREETED

    def drain(self) -> None:
        """Close with 421 as soon as no transaction runs."""
        self._draining = True

    def give_up(self, reply: Reply | None, reason: str) -> None:
        """End the session now: `reply` is the last one, or None when nobody hears it any more."""
        if self.state is not State.CLOSED:
            self._close(reply, reason)

    # Replies

    def _say(self, reply: Reply, times: int = 1) -> None:
        if times > 1:
            self._output.append(reply.render() * (times - 1))
        if reply.permanent:
            self._errors += 1
        if reply.close or reply.code == 421:  # RFC 5321 §3.8
            self._close(reply, "quit" if reply is answers.BYE else str(reply))
        else:
            self._output.append(reply.render())

    def _refuse(self, reply: Reply, times: int = 1) -> None:
        """Say what grammar, order or limits have against the command, and tell of it."""
        line = self._line
        verb = line.partition(b" ")[0].upper()
        self._secretive |= verb == b"AUTH"
        known = verb in _KNOWN
        self._events.append(Refused(verbs.shown(line, known=known, secretive=self._secretive), reply))
        self._say(reply, times)

    def _close(self, reply: Reply | None, reason: str) -> None:
        if reply is not None:
            self._output.append(reply.render())
        self._end_transaction()
        self.state = State.CLOSED
        self.reason = reason
        self._decide = self._exchange = None
        self._stream.read_all()  # nothing behind the last reply is ever read

    def _accepts(self, verdict: Reply | None, standard: bytes) -> bool:
        """Say a verdict; whether it was positive."""
        if verdict is None:
            self._output.append(standard)
            return True
        self._say(verdict)
        return verdict.positive

    def _end_transaction(self) -> None:
        if self._open:
            self._open = False
            self._events.append(Signal.RESET)
        self._decoder = self._refusal = self.forwarded = None

    # Lines

    def _read_command(self) -> Event | None:
        line = self._stream.read_line()
        if line is None:
            return NEED_DATA
        self._line = line
        self.commands += 1
        try:
            if self._errors or self._idle:
                self._check_limits()
            if self._stream.fault is not None:
                raise _bad_line(line, self._stream.fault)
            verb, _, argument = line.partition(b" ")
            read = _READERS.get(verb)
            if read is None:
                verb = verb.upper()
                read = _READERS.get(verb) or Session._read_unknown
            argument = argument.rstrip(b" \t")  # RFC 5321 §4.1.1: trailing blanks are tolerated
            refusal = self.state.out_of_turn.get(verb)
            if self.rules.tls_required and not self.tls and verb in _UNDER_TLS:
                refusal = answers.TLS_FIRST
            if refusal is None:
                return read(self, argument)
            self._read_out_of_turn(refusal, verb, argument)
        except RefusalError as error:
            self._refuse(error.reply)
        return None

    def _check_limits(self) -> None:
        if 0 < self.rules.max_errors <= self._errors:
            raise RefusalError(answers.TOO_MANY_ERRORS)
        if 0 < self.rules.max_idle_commands <= self._idle:
            raise RefusalError(answers.TOO_MANY_COMMANDS)

    def _read_out_of_turn(self, refusal: Reply, verb: bytes, argument: bytes) -> None:
        if refusal is answers.NO_RECIPIENTS and self.rules.lmtp:
            refusal = answers.NO_RECIPIENTS_LMTP
        if verb != b"BDAT":
            raise RefusalError(refusal)
        size, _ = grammar.chunk(argument)
        self._begin_chunk(size, False, refusal, self.state)  # RFC 3030 §2: its content is eaten first

    def _read_unknown(self, argument: bytes) -> None:
        verb = self._line.partition(b" ")[0].upper()
        if verb in verbs.HTTP:
            raise RefusalError(answers.NOT_HTTP)
        if verb in verbs.NOT_OURS:
            raise RefusalError(answers.NOT_IMPLEMENTED)
        raise self._unknown()

    def _unknown(self) -> RefusalError:
        self._unrecognized += 1
        many = 0 < self.rules.max_unrecognized < self._unrecognized
        return RefusalError(answers.TOO_MANY_ERRORS if many else answers.UNRECOGNIZED)

    # The greeting, EHLO, HELO, STARTTLS

    def _decide_connect(self, verdict: Reply | None) -> None:
        if self._draining:
            verdict = answers.GOING_DOWN
        if verdict is None:
            self.state = State.GREETED
            self._output.append(self.rules.greeting)
        else:
            self._close(verdict, str(verdict))  # RFC 5321 §3.1

    def _read_ehlo(self, argument: bytes) -> Event:
        if self.rules.lmtp:
            raise RefusalError(answers.LHLO_ONLY)
        return self._read_hello(Hello(grammar.hello(argument), True))

    def _read_helo(self, argument: bytes) -> Event:
        if self.rules.lmtp:
            raise RefusalError(answers.LHLO_ONLY)
        return self._read_hello(Hello(grammar.hello(argument), False))

    def _read_lhlo(self, argument: bytes) -> Event:
        if not self.rules.lmtp:
            raise RefusalError(answers.NOT_IMPLEMENTED)
        return self._read_hello(Hello(grammar.hello(argument), True))  # RFC 2033 §4.1: as EHLO

    def _read_hello(self, hello: Hello) -> Event:
        self._idle += 1
        self._hello = hello
        self._decide = self._decide_hello
        return hello

    def _decide_hello(self, verdict: Reply | None) -> None:
        if verdict is not None and not verdict.positive:
            self._say(verdict)  # RFC 5321 §4.1.4: the state stays what it was
            return
        self._end_transaction()  # RFC 5321 §4.1.4: as if RSET had been said
        self.state = State.IDLE
        self.helo, self.esmtp = self._hello.name, self._hello.esmtp
        self._output.append(self.rules.hello(esmtp=self.esmtp, tls=self.tls, mechanisms=self._mechanisms()))

    def _read_starttls(self, argument: bytes) -> None:
        _no_argument(argument)
        self._idle += 1
        if self.tls:
            raise RefusalError(answers.TLS_ACTIVE)
        if not self.rules.starttls:
            raise RefusalError(answers.TLS_ABSENT)
        if self.waiting:  # RFC 3207 §4.2 and CVE-2011-0411: what came in clear is never read under TLS
            raise RefusalError(answers.INJECTED)
        self._end_transaction()
        self._say(answers.READY_FOR_TLS)
        self.state = State.HANDSHAKE
        self._events.append(Signal.START_TLS)

    # For whom the client speaks

    def _read_xclient(self, argument: bytes) -> Event:
        if not self.rules.xclient:
            raise self._unknown()
        self._check_between()
        command = xclient.xclient(argument)
        self._decide = self._decide_connect  # XCLIENT_README: back to the greeting
        return command

    def begin_again(self, helo: str) -> None:
        """It is another client's session from now on; the greeting is owed. Errors and limits go on."""
        self.helo, self.esmtp = helo, False
        self.account = ""
        self.channel = evolve(self.channel, certificate="", names=())  # it is the speaker's
        self.state = State.GREETED

    def _read_xforward(self, argument: bytes) -> None:
        if not self.rules.xforward:
            raise self._unknown()
        self._check_between()
        self.forwarded = xclient.xforward(argument, self.forwarded)
        self._say(answers.FORWARD_OK)

    def _check_between(self) -> None:
        self._idle += 1
        if self.state not in (State.GREETED, State.IDLE):
            raise RefusalError(answers.MAIL_NESTED)

    # AUTH

    def _mechanisms(self) -> tuple[str, ...]:
        """Those that can work now: once logged in, none."""
        return () if self.account else authing.offered(self.rules, self.channel, tls=self.tls)

    def _read_auth(self, argument: bytes) -> Event | None:
        self._idle += 1
        self._secretive = True
        if self.account:  # RFC 4954 §4
            raise RefusalError(answers.AUTH_TWICE)
        if not self.esmtp:
            raise RefusalError(answers.HELLO_FIRST)
        self._exchange, move = authing.begin(argument, self.rules, self.channel, tls=self.tls)
        self._stream.response = True
        return self._proceed(move)

    def _read_response(self) -> Event | None:
        exchange = self._exchange
        assert exchange is not None
        line = self._stream.read_line()
        if line is None:
            return NEED_DATA
        self._line = b"AUTH"  # for a log
        try:
            if self._stream.fault is not None:
                raise RefusalError(self._stream.fault)
            return self._proceed(exchange.hear(line))
        except RefusalError as error:
            self._end_exchange()
            self._refuse(error.reply)
        return None

    def _proceed(self, move: Move) -> Event | None:
        """Say a challenge, put a question, or end the exchange."""
        if isinstance(move, Challenge):
            self._output.append(authing.rendered(move))
        elif isinstance(move, Reply):
            self._end_exchange()
            self._say(move)
        elif isinstance(move, authing.LoggedIn):
            self._end_exchange()
            self.account = move.account.name
            self._say(answers.AUTHENTICATED)
            return move
        else:
            self._decide = self._decide_auth
            return move
        return None

    def _decide_auth(self, answer: Answer) -> None:
        assert self._exchange is not None
        event = self._proceed(self._exchange.decide(answer))
        if event is not None:
            self._events.append(event)

    def _end_exchange(self) -> None:
        self._exchange = None
        self._stream.response = False

    # MAIL, RCPT

    def _read_mail(self, argument: bytes) -> Event | None:
        rules = self.rules
        if rules.auth_required and not self.account:  # RFC 4954 §6
            tls_first = rules.starttls and not (self.tls or rules.auth_in_clear)
            raise RefusalError(answers.AUTH_REQUIRED_UNDER_TLS if tls_first else answers.AUTH_REQUIRED)
        self._transactions += 1
        if 0 < rules.max_transactions < self._transactions:  # RFC 9422 §4.1
            raise RefusalError(answers.TOO_MANY_MESSAGES)
        wishes = rules.wishes_tls if self.tls else rules.wishes_clear
        command = grammar.mail(argument, esmtp=self.esmtp, wishes=wishes)
        if command.size is not None and 0 < rules.max_message_size < command.size:  # RFC 1870 §6.1
            raise RefusalError(answers.SIZE_EXCEEDED)
        if command.auth and not self.account:  # RFC 4954 §5: as if AUTH=<> had been given
            command = evolve(command, auth="")
        self._utf8 = command.smtputf8
        self._decide = self._decide_mail
        return command

    def _decide_mail(self, verdict: Reply | None) -> None:
        if self._accepts(verdict, _MAIL_OK):
            self.state = State.SENDER
            self._open = True
            self._recipients = self._overshoot = self.size = 0

    def _read_rcpt(self, argument: bytes) -> Event | None:
        command = grammar.rcpt(argument, esmtp=self.esmtp, utf8=self._utf8)
        if self._recipients >= self.rules.max_recipients:  # RFC 5321 §4.5.3.1.10
            self._overshoot += 1
            self._errors += self._overshoot > OVERSHOOT_MAX
            raise RefusalError(answers.TOO_MANY_RECIPIENTS)
        self._decide = self._decide_rcpt
        return command

    def _decide_rcpt(self, verdict: Reply | None) -> None:
        if self._accepts(verdict, _RCPT_OK):
            self.state = State.RECIPIENTS
            self._recipients += 1

    # The rest

    def _read_rset(self, argument: bytes) -> None:
        _no_argument(argument)
        if self.state is not State.GREETED:
            self.state = State.IDLE
        self._end_transaction()
        self._say_idle(answers.RESET_OK)

    def _read_noop(self, argument: bytes) -> None:
        self._say_idle(answers.NOOP_OK)  # RFC 5321 §4.1.1.9: an argument is ignored

    def _read_help(self, argument: bytes) -> None:
        self._say_idle(answers.HELP)

    def _read_vrfy(self, argument: bytes) -> None:
        if not argument:
            raise RefusalError(answers.ARGUMENT_NEEDED)
        self._say_idle(answers.CANNOT_VERIFY)

    def _read_quit(self, argument: bytes) -> None:
        _no_argument(argument)
        self._say(answers.BYE)

    def _say_idle(self, reply: Reply) -> None:
        self._idle += 1
        self._say(reply)


_READERS: dict[bytes, Callable[[Session, bytes], Event | None]] = {
    b"EHLO": Session._read_ehlo,
    b"HELO": Session._read_helo,
    b"LHLO": Session._read_lhlo,
    b"XCLIENT": Session._read_xclient,
    b"XFORWARD": Session._read_xforward,
    b"STARTTLS": Session._read_starttls,
    b"AUTH": Session._read_auth,
    b"MAIL": Session._read_mail,
    b"RCPT": Session._read_rcpt,
    b"DATA": Session._read_data,
    b"BDAT": Session._read_bdat,
    b"RSET": Session._read_rset,
    b"NOOP": Session._read_noop,
    b"HELP": Session._read_help,
    b"VRFY": Session._read_vrfy,
    b"QUIT": Session._read_quit,
}
# RFC 3207 §4: what a client may say before STARTTLS where that is demanded; HELO and RSET move nothing either
_IN_CLEAR = frozenset((b"EHLO", b"HELO", b"LHLO", b"NOOP", b"QUIT", b"RSET", b"STARTTLS"))
_UNDER_TLS = frozenset(_READERS) - _IN_CLEAR
_KNOWN = frozenset(_READERS) | verbs.NOT_OURS


def _bad_line(line: bytes, reply: Reply) -> RefusalError:
    if line[:4].upper() == b"BDAT":  # what follows may be content and must not be read as commands
        reply = evolve(reply, close=True)
    return RefusalError(reply)


def _no_argument(argument: bytes) -> None:
    if argument:
        raise RefusalError(answers.NO_ARGUMENT)
