"""XCLIENT and XFORWARD: the grammar, and who a session is after it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from relaymta.smtp.commands import XClient, XForward
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.handler import Peer
from relaymta.smtp.whose import introduced
from relaymta.smtp.xclient import xclient, xforward

PROXY = Peer(
    "S1", "mx", "127.0.0.1", 4711, "198.51.100.1",
    helo="proxy.test", esmtp=True, tls="TLSv1.3 X 256", account="proxy", certificate="ab",
    certificate_names=("p.test",),
)  # fmt: skip


def xtext(text: str) -> bytes:
    """Every octet in hex, which any text may be."""
    return b"".join(b"+%02X" % octet for octet in text.encode())


def test_all_attributes_of_xclient() -> None:
    """Names and the words within are of any case; IPv6 addresses have a prefix."""
    said = xclient(
        b"name=c.test ADDR=ipv6:2001:DB8::1 PORT=1025 Proto=esmtp HELO=c+2Etest LOGIN=a+2Bb+C3+A9 DESTADDR=192.0.2.9"
        b" DESTPORT=25"
    )
    assert said == XClient("2001:db8::1", 1025, "192.0.2.9", "c.test", "c.test", True, "a+b\xe9")


def test_what_is_not_known_is_said_so() -> None:
    """[UNAVAILABLE] and [TEMPUNAVAIL] are another thing than nothing said."""
    unknown = b"ADDR=[UNAVAILABLE] PORT=[unavailable] NAME=[TEMPUNAVAIL] LOGIN=[UNAVAILABLE] HELO=[UNAVAILABLE]"
    assert xclient(unknown) == XClient("", 0, None, "", "", None, "")
    assert xclient(b"PORT=1") == XClient(port=1)


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b"ADDR",
        b"ADDR=",
        b"ADDR=localhost",
        b"ADDR=192.0.2.256",
        b"ADDR=[192.0.2.1]",
        b"ADDR=IPV6:192.0.2.1.1",
        b"ADDR=IPV6:fe80::1%eth0",
        b"ADDR=192.0.2.1 ADDR=192.0.2.2",
        b"ADDR=192.0.2.1 FOO=bar",
        b"ADDR=192.0.2.1=",
        b"PORT=65536",
        b"PORT=-1",
        b"PORT=+31x",
        b"DESTADDR=here",
        b"DESTPORT=smtp",
        b"PROTO=HTTP",
        b"NAME=a+20b",
        b"NAME=a+0D+0Ab",
        b"HELO=a+0",
        b"HELO=a+ZZ",
        b"LOGIN=a+00b",
        b"LOGIN=a+E2+80+A8b",
        b"LOGIN=+FF",
        b"LOGIN=" + b"x" * 256,
        b"IDENT=x",
    ],
)
def test_bad_xclient_is_501(argument: bytes) -> None:
    """A value that is malformed, unknown, given twice or dangerous is refused whole."""
    with pytest.raises(RefusalError) as refusal:
        xclient(argument)
    assert refusal.value.reply.code == 501


@pytest.mark.parametrize("argument", [b"", b"LOGIN=x", b"PORT=x", b"SOURCE=HERE", b"PROTO=" + b"x" * 65, b"IDENT=+0A"])
def test_bad_xforward_is_501(argument: bytes) -> None:
    """The same for XFORWARD, which knows no LOGIN."""
    with pytest.raises(RefusalError) as refusal:
        xforward(argument)
    assert refusal.value.reply.code == 501


def test_xforward_adds_up() -> None:
    """Several commands say more of one message; an address that is not of the Internet is none."""
    first = xforward(b"NAME=host/x ADDR=192.0.2.1 PORT=1025")
    assert first == XForward("192.0.2.1", 1025, "host/x")
    both = xforward(b"PROTO=ESMTP HELO=a+20b IDENT=4AbCdE SOURCE=remote", first)
    assert both == XForward("192.0.2.1", 1025, "host/x", "a?b", "ESMTP", "4AbCdE", "REMOTE")
    assert xforward(b"ADDR=x25:1234", both).client == ""


@given(st.binary(max_size=300) | st.lists(st.sampled_from([b"ADDR", b"=", b" ", b"+", b"4", b"LOGIN", b"[", b":"])))
def test_any_argument_is_read_or_refused(argument: bytes | list[bytes]) -> None:
    """Nothing but the refusal is raised, whatever comes."""
    octets = argument if isinstance(argument, bytes) else b"".join(argument)
    for read in (xclient, xforward):
        with suppress(RefusalError):
            read(octets)


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=80))
def test_any_login_comes_through_xtext(login: str) -> None:
    """xtext carries UTF-8 (what is said to be unavailable is the one exception)."""
    assume(login.upper() not in ("[UNAVAILABLE]", "[TEMPUNAVAIL]"))
    assert xclient(b"LOGIN=" + xtext(login)).account == login


# Who it is then


def test_nothing_of_the_speaker_passes_to_whom_it_speaks_for() -> None:
    """Address, name, account and certificate are the client's or nobody's; TLS is that of the connection."""
    peer = introduced(PROXY, XClient("192.0.2.1", 1025), "S2")
    assert (peer.session, peer.client, peer.port, peer.proxy) == ("S2", "192.0.2.1", 1025, "127.0.0.1")
    assert (peer.helo, peer.esmtp, peer.account, peer.certificate, peer.certificate_names) == ("", False, "", "", ())
    assert peer.tls == PROXY.tls and peer.known and PROXY.client == "127.0.0.1"


@pytest.mark.parametrize("command", [XClient(account="u"), XClient(client=""), XClient(name="c.test", port=1)])
def test_a_client_without_an_address_is_not_known(command: XClient) -> None:
    """It has the speaker's address, and must not be taken for it."""
    peer = introduced(PROXY, command, "S2")
    assert peer.client == "127.0.0.1" and not peer.known and peer.account == (command.account or "")


def test_a_second_xclient_adds_to_the_first() -> None:
    """What one said stays, as far as the next says nothing else, and the speaker stays the speaker."""
    first = introduced(PROXY, XClient("192.0.2.1", 1025, name="c.test"), "S2")
    second = introduced(first, XClient(account="u"), "S3")
    assert (second.client, second.port, second.name, second.account) == ("192.0.2.1", 1025, "c.test", "u")
    assert second.known and second.proxy == "127.0.0.1"
    third = introduced(second, XClient("192.0.2.2"), "S4")
    assert (third.client, third.port, third.name, third.account) == ("192.0.2.2", 0, "", "")
    assert third.proxy == "127.0.0.1"
    unknown = introduced(evolve(third, account="v"), XClient(client=""), "S5")
    assert unknown.client == "127.0.0.1" and not unknown.known and unknown.account == ""
