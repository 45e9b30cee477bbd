"""The grammar of commands: bytes of one line to values, or the reply that says what is wrong with it.

RFC 5321 §4.1.1 and §4.1.2, with the parameters of RFC 1870 (SIZE), 3030 (BDAT), 3461 (RET, ENVID, NOTIFY, ORCPT),
4865 (HOLDFOR, HOLDUNTIL), 4954 (AUTH=), 6152 (BODY), 6531 (SMTPUTF8), 6533 (ORCPT of type utf-8) and 8689
(REQUIRETLS). Every expression is linear. Which command may come when is left to smtp.session, the address itself to
mail.address, times of release to smtp.wishes.
"""

from __future__ import annotations

import re
from functools import lru_cache

from relaymta.mail.address import Address, AddressError, parse_path
from relaymta.mail.envelope import Body, Notify, Ret
from relaymta.mail.reply import Reply
from relaymta.mail.xtext import orcpt_decode, xtext_decode
from relaymta.smtp import answers
from relaymta.smtp.commands import MailCommand, RcptCommand
from relaymta.smtp.wishes import NO_WISHES, WishError, Wishes, requested

ENVID_MAX = 100  # RFC 3461 §4.4, octets of xtext
ORCPT_MAX = 500  # RFC 3461 §4.2, octets
HELLO_MAX = 255  # RFC 5321 §4.5.3.1.2, octets
_PATHS_KEPT = 4096  # parsed paths remembered: correspondents repeat; ours, at most 2 MB

# The forms that nearly all clients send: no quotes, no blanks, no UTF-8.
_PLAIN_PATH = rb"(<[^\x00-\x20\"<>\\\x7f-\xff]{0,254}>)"
_PLAIN_MAIL = re.compile(rb"[Ff][Rr][Oo][Mm]:" + _PLAIN_PATH + rb"( SIZE=([0-9]{1,20}))?( BODY=(?:(8BITMIME)|7BIT))?")
_PLAIN_RCPT = re.compile(rb"[Tt][Oo]:" + _PLAIN_PATH)

# Blanks after the colon are taken, as Postfix takes them; they are no part of the path.
_MAIL = re.compile(rb"[Ff][Rr][Oo][Mm]:[ \t]*+(.*+)", re.DOTALL)
_RCPT = re.compile(rb"[Tt][Oo]:[ \t]*+(.*+)", re.DOTALL)
_PATH = re.compile(rb'(<(?:[^"<>\\]|"(?:[^"\\]|\\.)*+")*+>)(?:$|[ \t]++)', re.DOTALL)
_KEYWORD = re.compile(rb"[A-Za-z0-9][A-Za-z0-9\-]*+")
_VALUE = re.compile(rb"[!-<>-~\x80-\xff]++")  # RFC 5321 §4.1.2 esmtp-value, RFC 6531 §3.3
_SIZE = re.compile(rb"[0-9]{1,20}")  # RFC 1870 §3
_HELLO = re.compile(rb"[!-~]++")
_CHUNK = re.compile(rb"([0-9]{1,20})(?:[ \t]++([Ll][Aa][Ss][Tt]))?")

_NOTIFY = {b"SUCCESS": Notify.SUCCESS, b"FAILURE": Notify.FAILURE, b"DELAY": Notify.DELAY}
_RET = {b"FULL": Ret.FULL, b"HDRS": Ret.HDRS}
_MAIL_KEYWORDS = frozenset((b"SIZE", b"BODY", b"SMTPUTF8", b"RET", b"ENVID", b"AUTH"))
_RCPT_KEYWORDS = frozenset((b"NOTIFY", b"ORCPT"))


class RefusalError(ValueError):
    """A command that cannot be had, by grammar, order or limits; `reply` says so to the client."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def hello(argument: bytes) -> str:
    """The name a client gives itself: any printable ASCII without blanks, taken as it comes. Raises RefusalError."""
    if len(argument) > HELLO_MAX or not _HELLO.fullmatch(argument):
        raise RefusalError(answers.BAD_HELLO)
    return argument.decode("ascii")


def mail(argument: bytes, *, esmtp: bool = True, wishes: Wishes = NO_WISHES) -> MailCommand:
    """What follows "MAIL ". Without `esmtp` (HELO) no parameter is known. Raises RefusalError."""
    plain = _PLAIN_MAIL.fullmatch(argument)
    if plain is None or not (esmtp or plain.end(1) == len(argument)):
        return _mail(argument, esmtp, wishes)
    path, _, size, _, eightbit = plain.groups()
    return MailCommand(
        _sender(path, False),
        None if size is None else int(size),
        Body.SEVENBIT if eightbit is None else Body.EIGHTBIT,
    )


def rcpt(argument: bytes, *, esmtp: bool = True, utf8: bool = False) -> RcptCommand:
    """What follows "RCPT ". `utf8`: MAIL had SMTPUTF8 (RFC 6531 §3.4). Raises RefusalError."""
    plain = _PLAIN_RCPT.fullmatch(argument)
    if plain is None:
        return _rcpt(argument, esmtp, utf8)
    return RcptCommand(_recipient(plain[1], False))


def chunk(argument: bytes) -> tuple[int, bool]:
    """What follows "BDAT ": octets, and whether it is the last (RFC 3030 §2). Raises RefusalError."""
    found = _CHUNK.fullmatch(argument)
    if found is None:
        raise RefusalError(answers.BAD_CHUNK)
    return int(found[1]), found[2] is not None


def _mail(argument: bytes, esmtp: bool, wishes: Wishes) -> MailCommand:
    known = _MAIL_KEYWORDS | wishes.keywords
    path, given = _path_and_parameters(_MAIL, argument, "MAIL FROM:<address>", known, esmtp)
    smtputf8 = _flag(given, b"SMTPUTF8")  # RFC 6531 §3.1
    hold = _value(given, b"HOLDFOR"), _value(given, b"HOLDUNTIL")
    return MailCommand(
        sender=_sender(path, smtputf8),
        size=_size(given),
        body=_body(given),
        smtputf8=smtputf8,
        ret=_ret(given),
        envid=_envid(given),
        auth=_auth(given),
        requiretls=_flag(given, b"REQUIRETLS"),  # RFC 8689 §2
        release_at=_release_at(hold, wishes),
        release_request=requested(*hold),
    )


def _rcpt(argument: bytes, esmtp: bool, utf8: bool) -> RcptCommand:
    path, given = _path_and_parameters(_RCPT, argument, "RCPT TO:<address>", _RCPT_KEYWORDS, esmtp)
    return RcptCommand(_recipient(path, utf8), _notify(given), _orcpt(given, utf8))


def _path_and_parameters(
    form: re.Pattern[bytes], argument: bytes, usage: str, known: frozenset[bytes], esmtp: bool
) -> tuple[bytes, dict[bytes, bytes | None]]:
    found = form.fullmatch(argument)
    if found is None:
        raise RefusalError(Reply(501, "5.5.2", f"write: {usage}"))
    path = _PATH.match(found[1])
    if path is None:
        status = "5.1.3" if known is _RCPT_KEYWORDS else "5.1.7"
        raise RefusalError(Reply(501, status, f"the address must stand in angle brackets: {usage}"))
    return path[1], _parameters(found[1][path.end() :], known if esmtp else frozenset())


def _parameters(text: bytes, known: frozenset[bytes]) -> dict[bytes, bytes | None]:
    """The parameters by upper-case keyword; unknown ones are 555, repeated or malformed ones 501."""
    given: dict[bytes, bytes | None] = {}
    for word in text.split():
        keyword, equals, value = word.partition(b"=")
        if not _KEYWORD.fullmatch(keyword) or (equals and not _VALUE.fullmatch(value)):
            raise RefusalError(Reply(501, "5.5.4", "malformed parameter"))
        name = keyword.upper()
        if name not in known:  # RFC 5321 §4.1.1.11
            raise RefusalError(Reply(555, "5.5.4", f"parameter not recognized: {name[:40].decode('ascii')}"))
        if name in given:
            raise RefusalError(Reply(501, "5.5.4", f"parameter given twice: {name.decode('ascii')}"))
        given[name] = value if equals else None
    return given


def _malformed(name: bytes) -> RefusalError:
    return RefusalError(Reply(501, "5.5.4", f"malformed {name.decode('ascii')} parameter"))


def _value(given: dict[bytes, bytes | None], name: bytes) -> bytes | None:
    """The value of a parameter that must have one, or None when it was not given."""
    value = given.get(name)
    if value is None and name in given:
        raise _malformed(name)
    return value


def _flag(given: dict[bytes, bytes | None], name: bytes) -> bool:
    """Whether a parameter that has no value was given."""
    if given.get(name) is not None:
        raise _malformed(name)
    return name in given


# Addresses


@lru_cache(maxsize=_PATHS_KEPT)
def _parse(path: bytes, utf8: bool) -> Address | None:
    return parse_path(path, utf8=utf8)


def _sender(path: bytes, utf8: bool) -> Address | None:
    address = _address(path, utf8, "5.1.7")  # RFC 3463 §3.2: bad sender's mailbox address syntax
    if address is not None and not address.domain:
        raise RefusalError(Reply(501, "5.1.7", "the sender's address needs a domain"))
    return address


def _recipient(path: bytes, utf8: bool) -> Address:
    address = _address(path, utf8, "5.1.3")  # RFC 3463 §3.2: bad destination mailbox address syntax
    if address is None:
        raise RefusalError(Reply(501, "5.1.3", "the null path is no recipient"))
    return address


def _address(path: bytes, utf8: bool, status: str) -> Address | None:
    if not utf8 and not path.isascii():  # RFC 6531 §3.5
        raise RefusalError(Reply(553, "5.6.7", "non-ASCII addresses need SMTPUTF8"))
    try:
        return _parse(path, utf8)
    except AddressError as error:
        raise RefusalError(Reply(501, status, str(error))) from None


# Parameters of MAIL


def _size(given: dict[bytes, bytes | None]) -> int | None:
    value = _value(given, b"SIZE")
    if value is None:
        return None
    if not _SIZE.fullmatch(value):
        raise _malformed(b"SIZE")
    return int(value)


def _body(given: dict[bytes, bytes | None]) -> Body:
    value = _value(given, b"BODY")
    if value is None or value.upper() == b"7BIT":
        return Body.SEVENBIT
    if value.upper() == b"8BITMIME":
        return Body.EIGHTBIT
    if value.upper() == b"BINARYMIME":  # RFC 3030 §3, which is not offered
        raise RefusalError(Reply(555, "5.5.4", "BODY=BINARYMIME is not implemented"))
    raise _malformed(b"BODY")


def _ret(given: dict[bytes, bytes | None]) -> Ret | None:
    value = _value(given, b"RET")
    if value is None:
        return None
    ret = _RET.get(value.upper())
    if ret is None:
        raise _malformed(b"RET")
    return ret


def _envid(given: dict[bytes, bytes | None]) -> str:
    value = _value(given, b"ENVID")
    if value is None:
        return ""
    if len(value) > ENVID_MAX:
        raise _malformed(b"ENVID")
    try:
        return xtext_decode(value)
    except ValueError:
        raise _malformed(b"ENVID") from None


def _auth(given: dict[bytes, bytes | None]) -> str | None:
    value = _value(given, b"AUTH")
    if value is None:
        return None
    if value == b"<>":
        return ""
    try:
        return xtext_decode(value)
    except ValueError:
        raise _malformed(b"AUTH") from None


def _release_at(hold: tuple[bytes | None, bytes | None], wishes: Wishes) -> float:
    try:
        return wishes.release_at(*hold)
    except WishError as error:
        raise RefusalError(error.reply) from None


# Parameters of RCPT


def _notify(given: dict[bytes, bytes | None]) -> Notify:
    value = _value(given, b"NOTIFY")
    if value is None:
        return Notify.UNSET
    value = value.upper()
    if value == b"NEVER":  # RFC 3461 §4.1: it stands alone
        return Notify.NEVER
    notify = Notify.UNSET
    for word in value.split(b","):
        flag = _NOTIFY.get(word)
        if flag is None:
            raise _malformed(b"NOTIFY")
        notify |= flag
    return notify


def _orcpt(given: dict[bytes, bytes | None], utf8: bool) -> str:
    value = _value(given, b"ORCPT")
    if value is None:
        return ""
    if len(value) > ORCPT_MAX:
        raise _malformed(b"ORCPT")
    try:
        return orcpt_decode(value, utf8=utf8)
    except ValueError:
        raise _malformed(b"ORCPT") from None
