"""Commands: what the grammar takes, and which reply what it does not take gets."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Notify, Ret
from relaymta.smtp import grammar
from relaymta.smtp.commands import MailCommand, RcptCommand
from relaymta.smtp.grammar import RefusalError

A_B = Address("a", "b.test")


def refusal(read: Callable[..., object], argument: bytes, **options: bool) -> tuple[int, str]:
    """The code and enhanced code of a refusal."""
    with pytest.raises(RefusalError) as caught:
        read(argument, **options)
    return caught.value.reply.code, caught.value.reply.enhanced


@pytest.mark.parametrize(
    ("argument", "command"),
    [
        (b"FROM:<a@b.test>", MailCommand(A_B)),
        (b"from:<a@B.TEST>", MailCommand(A_B)),
        (b"FROM:<>", MailCommand(None)),
        (b"FROM: <a@b.test>", MailCommand(A_B)),
        (b"FROM:<a@b.test> SIZE=10", MailCommand(A_B, size=10)),
        (b"FROM:<a@b.test>  size=10  body=8bitmime", MailCommand(A_B, size=10, body=Body.EIGHTBIT)),
        (b"FROM:<a@b.test> BODY=7BIT", MailCommand(A_B)),
        (b"FROM:<a@b.test> SIZE=7 BODY=8BITMIME", MailCommand(A_B, size=7, body=Body.EIGHTBIT)),
        (b"FROM:<a@b.test> RET=hdrs ENVID=a+2Bb", MailCommand(A_B, ret=Ret.HDRS, envid="a+b")),
        (b"FROM:<a@b.test> AUTH=<>", MailCommand(A_B, auth="")),
        (b"FROM:<a@b.test> AUTH=e+3Dmc2@b.test", MailCommand(A_B, auth="e=mc2@b.test")),
        (b"FROM:<@x.test,@y.test:a@b.test>", MailCommand(A_B)),
        (b'FROM:<"a b"@b.test>', MailCommand(Address("a b", "b.test"))),
        (b'FROM:<"a\\"> SIZE=1"@b.test> SIZE=2', MailCommand(Address('a"> SIZE=1', "b.test"), size=2)),
        (b"FROM:<a@[127.0.0.1]>", MailCommand(Address("a", "[127.0.0.1]"))),
        ("FROM:<ä@b.test> SMTPUTF8".encode(), MailCommand(Address("ä", "b.test"), smtputf8=True)),
        ("FROM:<a@bü.test> SMTPUTF8".encode(), MailCommand(Address("a", "xn--b-eha.test"), smtputf8=True)),
    ],
)
def test_mail(argument: bytes, command: MailCommand) -> None:
    """MAIL with the parameters of RFC 1870, 3461, 4954, 6152 and 6531, in any case of letters and order."""
    assert grammar.mail(argument) == command


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (b"", (501, "5.5.2")),
        (b"<a@b.test>", (501, "5.5.2")),
        (b"FROM", (501, "5.5.2")),
        (b"FROM :<a@b.test>", (501, "5.5.2")),
        (b"TO:<a@b.test>", (501, "5.5.2")),
        (b"FROM:a@b.test", (501, "5.1.7")),
        (b"FROM:<a@b.test", (501, "5.1.7")),
        (b"FROM:<a@b.test>SIZE=1", (501, "5.1.7")),
        (b"FROM:<a@@b.test>", (501, "5.1.7")),
        (b"FROM:<a b@b.test>", (501, "5.1.7")),
        (b"FROM:<postmaster>", (501, "5.1.7")),
        (b"FROM:<" + b"a" * 65 + b"@b.test>", (501, "5.1.7")),
        ("FROM:<ä@b.test>".encode(), (553, "5.6.7")),
        (b"FROM:<\xff@b.test> SMTPUTF8", (501, "5.1.7")),
        (b"FROM:<a@b.test> FOO=BAR", (555, "5.5.4")),
        (b"FROM:<a@b.test> NOTIFY=NEVER", (555, "5.5.4")),
        (b"FROM:<a@b.test> BODY=BINARYMIME", (555, "5.5.4")),
        (b"FROM:<a@b.test> BODY=9BIT", (501, "5.5.4")),
        (b"FROM:<a@b.test> BODY", (501, "5.5.4")),
        (b"FROM:<a@b.test> SIZE", (501, "5.5.4")),
        (b"FROM:<a@b.test> SIZE=", (501, "5.5.4")),
        (b"FROM:<a@b.test> SIZE=-1", (501, "5.5.4")),
        (b"FROM:<a@b.test> SIZE=1 SIZE=1", (501, "5.5.4")),
        (b"FROM:<a@b.test> SIZE=1 size=2", (501, "5.5.4")),
        (b"FROM:<a@b.test> SIZE=" + b"9" * 21, (501, "5.5.4")),
        (b"FROM:<a@b.test> SMTPUTF8=1", (501, "5.5.4")),
        (b"FROM:<a@b.test> RET=BODY", (501, "5.5.4")),
        (b"FROM:<a@b.test> ENVID=a+ZZ", (501, "5.5.4")),
        (b"FROM:<a@b.test> ENVID=" + b"a" * 101, (501, "5.5.4")),
        (b"FROM:<a@b.test> ENVID=a+0D+0Ab", (501, "5.5.4")),
        (b"FROM:<a@b.test> AUTH=a+ZZ", (501, "5.5.4")),
        (b"FROM:<a@b.test> =", (501, "5.5.4")),
        (b"FROM:<a@b.test> -A=1", (501, "5.5.4")),
    ],
)
def test_mail_refused(argument: bytes, reply: tuple[int, str]) -> None:
    """Syntax and addresses 501, repeated or malformed parameters 501, unknown ones 555 (RFC 5321 §4.1.1.11)."""
    assert refusal(grammar.mail, argument) == reply


@pytest.mark.parametrize("parameter", [b"SIZE=1", b"BODY=8BITMIME", b"SMTPUTF8", b"SIZE=1 BODY=7BIT"])
def test_parameters_after_helo(parameter: bytes) -> None:
    """A client that said HELO has no extensions (RFC 5321 §4.1.1.1)."""
    assert refusal(grammar.mail, b"FROM:<a@b.test> " + parameter, esmtp=False) == (555, "5.5.4")
    assert grammar.mail(b"FROM:<a@b.test>", esmtp=False) == MailCommand(A_B)


@pytest.mark.parametrize(
    ("argument", "command"),
    [
        (b"TO:<a@b.test>", RcptCommand(A_B)),
        (b"to: <a@b.test>", RcptCommand(A_B)),
        (b"TO:<postmaster>", RcptCommand(Address("postmaster", ""))),
        (b"TO:<Postmaster>", RcptCommand(Address("postmaster", ""))),
        (b"TO:<@x.test:a@b.test>", RcptCommand(A_B)),
        (b"TO:<a@b.test> NOTIFY=NEVER", RcptCommand(A_B, Notify.NEVER)),
        (b"TO:<a@b.test> NOTIFY=success,DELAY", RcptCommand(A_B, Notify.SUCCESS | Notify.DELAY)),
        (b"TO:<a@b.test> ORCPT=rfc822;x+2By@z.test", RcptCommand(A_B, orcpt="rfc822;x+y@z.test")),
        (b"TO:<a@b.test> ORCPT=utf-8;x\\x{E4}@z.test", RcptCommand(A_B, orcpt="utf-8;xä@z.test")),
    ],
)
def test_rcpt(argument: bytes, command: RcptCommand) -> None:
    """RCPT with the parameters of RFC 3461 and 6533."""
    assert grammar.rcpt(argument) == command


def test_rcpt_of_a_utf8_transaction() -> None:
    """Where MAIL had SMTPUTF8, addresses and ORCPT may be UTF-8 (RFC 6531 §3.4, RFC 6533 §3)."""
    command = grammar.rcpt("TO:<ä@b.test> ORCPT=utf-8;ö@z.test".encode(), utf8=True)
    assert command == RcptCommand(Address("ä", "b.test"), orcpt="utf-8;ö@z.test")


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (b"FROM:<a@b.test>", (501, "5.5.2")),
        (b"TO:<>", (501, "5.1.3")),
        (b"TO:<a>", (501, "5.1.3")),
        (b"TO:a@b.test", (501, "5.1.3")),
        ("TO:<ä@b.test>".encode(), (553, "5.6.7")),
        (b"TO:<a@b.test> SIZE=1", (555, "5.5.4")),
        (b"TO:<a@b.test> NOTIFY=NEVER,SUCCESS", (501, "5.5.4")),
        (b"TO:<a@b.test> NOTIFY=", (501, "5.5.4")),
        (b"TO:<a@b.test> NOTIFY", (501, "5.5.4")),
        (b"TO:<a@b.test> NOTIFY=MAYBE", (501, "5.5.4")),
        (b"TO:<a@b.test> ORCPT=a@b.test", (501, "5.5.4")),
        (b"TO:<a@b.test> ORCPT=rfc822;a+0Ab", (501, "5.5.4")),
        (b"TO:<a@b.test> ORCPT=rfc822;" + b"a" * 500, (501, "5.5.4")),
        (b"TO:<a@b.test> NOTIFY=DELAY NOTIFY=DELAY", (501, "5.5.4")),
    ],
)
def test_rcpt_refused(argument: bytes, reply: tuple[int, str]) -> None:
    """Bad destinations 501 5.1.3, bad parameters 501, unknown ones 555."""
    assert refusal(grammar.rcpt, argument) == reply


@pytest.mark.parametrize("name", [b"mx.example.org", b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"under_score", b"x"])
def test_hello_is_lenient(name: bytes) -> None:
    """Any printable name is taken: nothing is decided by it here (RFC 5321 §4.1.4)."""
    assert grammar.hello(name) == name.decode()


@pytest.mark.parametrize("name", [b"", b"a b", b"\xff", b"a\tb", b"x" * 256])
def test_hello_needs_a_name(name: bytes) -> None:
    """A missing, split or unprintable name is 501 (RFC 5321 §4.1.1.1)."""
    assert refusal(grammar.hello, name) == (501, "5.5.4")


def test_chunk() -> None:
    """BDAT has a size and perhaps LAST (RFC 3030 §2)."""
    assert grammar.chunk(b"0") == (0, False)
    assert grammar.chunk(b"1000 last") == (1000, True)


@pytest.mark.parametrize("argument", [b"", b"LAST", b"-1", b"1 2", b"1LAST", b"0x10", b"1" * 21])
def test_chunk_refused_closes(argument: bytes) -> None:
    """Where the content would end is unknown, so the connection has to."""
    with pytest.raises(RefusalError) as caught:
        grammar.chunk(argument)
    assert caught.value.reply.code == 501 and caught.value.reply.close


@given(st.binary(max_size=300) | st.lists(st.sampled_from(b'<>"\\@:.a, =;+\xc3\xa4\t')).map(bytes))
@example(b'FROM:<"\\>')
def test_no_octets_break_the_grammar(octets: bytes) -> None:
    """Whatever comes, it is a command or a refusal, never another exception."""
    for prefix in (b"", b"FROM:", b"FROM:<a@b.test> ", b"TO:", b"TO:<a@b.test> "):
        for read in (grammar.mail, grammar.rcpt, grammar.hello, grammar.chunk):
            try:
                read(prefix + octets)
            except RefusalError as error:
                code = error.reply.code
            else:
                code = 250
            assert code in (250, 501, 553, 555)


@given(
    local=st.text(min_size=1, max_size=20, alphabet=st.characters(codec="utf-8", exclude_categories=["C", "Z"])),
    size=st.none() | st.integers(0, 10**19),
    eightbit=st.booleans(),
)
def test_mail_reads_what_address_renders(local: str, size: int | None, eightbit: bool) -> None:
    """Every mailbox that we can write on the wire is read back as the same one."""
    address = Address(local, "b.test")
    parameters = b" SMTPUTF8" if address.internationalized else b""
    parameters += b"" if size is None else b" SIZE=%d" % size
    parameters += b" BODY=8BITMIME" if eightbit else b""
    command = grammar.mail(b"FROM:" + address.path() + parameters)
    assert (command.sender, command.size) == (address, size)
    assert command.body is (Body.EIGHTBIT if eightbit else Body.SEVENBIT)


EVIL: dict[str, Callable[[int], bytes]] = {
    "blanks": lambda n: b"FROM:<a@b.test>" + b" " * n + b"x",
    "line feeds": lambda n: b"FROM:<a@b.test>" + b" \n" * (n // 2),
    "dots": lambda n: b"FROM:<" + b"a." * (n // 2) + b"@b.test>",
    "labels": lambda n: b"FROM:<a@" + b"b." * (n // 2) + b">",
    "route": lambda n: b"FROM:<" + b"@a.test," * (n // 8) + b"a@b.test>",
    "quotes": lambda n: b'FROM:<"' + b'\\"' * (n // 2),
    "quoted strings": lambda n: b"FROM:<" + b'"a"' * (n // 3),
    "brackets": lambda n: b"FROM:" + b"<" * n,
    "parameters": lambda n: b"FROM:<a@b.test>" + b" A=1" * (n // 4),
    "known parameter": lambda n: b"FROM:<a@b.test> ENVID=" + b"+2B" * (n // 3),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_commands_cost_linear_time(kind: str) -> None:
    """CRIT: one command of 16 KB cost 1.31 s in an expression, and 250 ms in the address parser."""

    def cost(octets: bytes) -> float:
        best = 1.0
        for _ in range(7):
            start = time.perf_counter()
            for read in (grammar.mail, lambda line: grammar.rcpt(b"TO:" + line[5:])):
                try:
                    read(octets)
                except RefusalError:
                    pass
            best = min(best, time.perf_counter() - start)
        return best

    small, large = cost(EVIL[kind](4000)), cost(EVIL[kind](64000))
    assert large < max(48 * small, 0.02)  # 16 times the octets; quadratic would be 256 times the time
