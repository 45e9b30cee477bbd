"""sendmail(1), mailq(1) and newaliases(1), with the options that programs use.

A message goes into the drop directory, durable before we exit 0, and the daemon is poked to look: so that mail can be
sent while the daemon is down, and by users who may not use the control socket. `-bs` speaks to the daemon's listener.
RFC 6409 §8 (Date, Message-ID and From are added where missing), RFC 3461 (-N, -R, -V), RFC 5322 §3.6.3 (Bcc).
What stands in the header section is left to cli.composing. Exit statuses are those of sysexits.h.
"""

from __future__ import annotations

import getopt
import os
import pwd
import select
import socket
import sys
from collections.abc import Sequence

from attrs import define, field

from relaymta.admin.dropfile import ENVID_MAX, POKE, Submission, leave
from relaymta.cli.composing import MessageError, addresses, arrange, qualified
from relaymta.cli.daemon import NotRunningError, ask
from relaymta.cli.installation import Installation, connectable, find_file, look
from relaymta.cli.output import CommandFailedError, clean
from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Notify, Ret

EX_OK, EX_USAGE, EX_DATAERR, EX_UNAVAILABLE, EX_TEMPFAIL = 0, 64, 65, 69, 75

# flags, then options with a value (sendmail's, Postfix's and qmail's together); -q and -d have an optional one
OPTIONS = "EGInmitUvxA:B:C:F:L:N:O:R:V:X:b:e:f:h:o:p:r:"
NOTIFY = {"success": Notify.SUCCESS, "failure": Notify.FAILURE, "delay": Notify.DELAY}
CHUNK = 64 * 1024


class UsageError(Exception):
    """Options that do not make sense; the text is for whoever wrote them."""


@define
class Request:
    """What the command line asks for. `sender` None is "not said", "" the null sender."""

    mode: str = "m"
    config: str = ""
    sender: str | None = None
    full_name: str = ""
    from_header: bool = False
    dots: bool = True
    notify: Notify = Notify.UNSET
    ret: Ret | None = None
    envid: str = ""
    body: Body | None = None
    recipients: list[str] = field(factory=list)


def main(words: Sequence[str] | None = None) -> int:
    """The console script `sendmail`."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        request = read_options(words)
    except UsageError as error:
        return _say(str(error), EX_USAGE)
    installation = look(find_file(request.config))
    if request.mode == "p":
        return _mailq(installation)
    if request.mode == "i":
        return EX_OK
    if request.mode == "s":
        return _converse(installation)
    return _submit(request, installation)


def mailq(words: Sequence[str] | None = None) -> int:
    """The console script `mailq`."""
    return main(["-bp", *(sys.argv[1:] if words is None else words)])


def newaliases(words: Sequence[str] | None = None) -> int:
    """The console script `newaliases`: there is no alias database to build, so it is always up to date."""
    return main(["-bi", *(sys.argv[1:] if words is None else words)])


def read_options(words: Sequence[str]) -> Request:
    """The command line as a request. Raises UsageError."""
    # an optional value is no part of getopt's language, and neither option means anything here
    kept: list[str] = []
    for position, word in enumerate(words):
        if word == "--":
            kept.extend(words[position:])
            break
        if not word.startswith(("-q", "-d")):
            kept.append(word)
    try:
        options, recipients = getopt.getopt(kept, OPTIONS)
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from None
    request = Request(recipients=recipients)
    for option, value in options:
        _take(request, option, value)
    if len(kept) < len(words) and not recipients and not request.from_header and request.mode == "m":
        request.mode = "i"  # "sendmail -q": the daemon looks after its queue itself
    return request


def _take(request: Request, option: str, value: str) -> None:
    if option in ("-f", "-r"):
        request.sender = "" if value in ("<>", "") else value
    elif option == "-F":
        request.full_name = value
    elif option == "-t":
        request.from_header = True
    elif option == "-i" or (option == "-o" and value == "i"):
        request.dots = False
    elif option == "-C":
        request.config = value
    elif option == "-b":
        _take_mode(request, value)
    elif option == "-I":
        request.mode = "i"
    elif option == "-N":
        request.notify = _notify(value)
    elif option == "-R":
        if value.lower() not in ("full", "hdrs"):
            raise UsageError(f'-R {value}: "full" or "hdrs" is wanted')
        request.ret = Ret(value.upper())
    elif option == "-V":
        if not value.isascii() or not value.isprintable() or len(value) > ENVID_MAX:
            raise UsageError(f"-V: at most {ENVID_MAX} printable ASCII characters are wanted")  # RFC 3461 §4.4
        request.envid = value
    elif option == "-B":
        if value.upper() not in ("7BIT", "8BITMIME"):
            raise UsageError(f'-B {value}: "7BIT" or "8BITMIME" is wanted')
        request.body = Body(value.upper())


def _take_mode(request: Request, value: str) -> None:
    if value not in ("m", "p", "s", "i"):
        said = {
            "d": "the daemon is started with: twistd relaymta -c FILE",
            "t": "routes are shown by: relaymta config",
            "v": "addresses are not verified",
        }
        raise UsageError(f"-b{value}: {said.get(value[:1], 'there is no such mode')}")
    request.mode = value


def _notify(value: str) -> Notify:
    words = [word.strip().lower() for word in value.split(",")]
    if words == ["never"]:
        return Notify.NEVER
    asked = Notify.UNSET
    for word in words:
        if word not in NOTIFY:
            raise UsageError(f'-N {value}: "never", or a list of "success", "failure" and "delay" is wanted')
        asked |= NOTIFY[word]
    return asked


def _submit(request: Request, installation: Installation) -> int:
    user = pwd.getpwuid(os.getuid())
    hostname = installation.hostname
    try:
        named = addresses(request.recipients, hostname)
        sender = _sender(request, user.pw_name, hostname)
        octets = sys.stdin.buffer.read()
        name = request.full_name or user.pw_gecos.partition(",")[0]
        arranged = arrange(
            octets, f"{user.pw_name}@{hostname}" if sender is None else str(sender), name,
            hostname, recipients=request.from_header, dots=request.dots,
        )  # fmt: skip
        recipients = tuple(dict.fromkeys([*named, *(qualified(text, hostname) for text in arranged.recipients)]))
    except MessageError as error:
        return _say(str(error), EX_DATAERR)
    if not recipients:
        return _say("no recipients: name them, or let -t take them from the header", EX_USAGE)
    if 0 < installation.message_max < len(arranged.octets):
        return _say(f"the message is larger than {installation.message_max} octets", EX_DATAERR)
    eightbit = not arranged.octets.isascii()
    utf8 = any(one.internationalized for one in (*recipients, *([sender] if sender else [])))
    submission = Submission(
        sender=sender,
        recipients=recipients,
        notify=request.notify,
        ret=request.ret,
        envid=request.envid,
        body=Body.EIGHTBIT if eightbit or utf8 else request.body or Body.SEVENBIT,
        smtputf8=utf8 or arranged.utf8,
    )
    try:
        leave(installation.drop, submission, arranged.octets)
    except FileNotFoundError:
        return _say(
            f"there is no {installation.drop}: relaymta was never started with {installation.file}", EX_TEMPFAIL
        )
    except OSError as error:
        return _say(f"the message cannot be kept in {installation.drop}: {error.strerror}", EX_TEMPFAIL)
    _poke(os.path.join(installation.drop, POKE))
    return EX_OK


def _sender(request: Request, user: str, hostname: str) -> Address | None:
    if request.sender is None:
        return qualified(user, hostname)
    if not request.sender:
        return None
    found = addresses([request.sender], hostname)
    if len(found) != 1:
        raise MessageError(f"-f {request.sender}: one address is wanted")
    return found[0]


def _poke(path: str) -> None:
    """Tell the daemon to look now; it looks every second anyway, and may be down."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as poking:
        poking.setblocking(False)
        try:
            poking.sendto(b"\n", path)
        except OSError:
            return


def _converse(installation: Installation) -> int:
    """-bs: SMTP on standard input and output, with the daemon's first listener that asks for no log-in."""
    try:
        place = connectable(next(iter(installation.listeners)))
        daemon = _connected(place)
    except (StopIteration, ValueError, OSError):
        sys.stdout.write("421 4.3.0 relaymta is not running\r\n")
        sys.stdout.flush()
        return EX_TEMPFAIL
    with daemon:
        _relay(daemon)
    return EX_OK


def _connected(place: tuple[str, int] | str) -> socket.socket:
    if not isinstance(place, str):
        return socket.create_connection(place, timeout=30)
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(place)
    return connected


def _relay(daemon: socket.socket) -> None:
    """Octets both ways until the daemon has said its last."""
    daemon.settimeout(None)
    reading: list[int] = [0, daemon.fileno()]
    while True:
        ready, _, _ = select.select(reading, [], [])
        if 0 in ready:
            octets = os.read(0, CHUNK)
            if octets:
                daemon.sendall(octets)
            else:
                daemon.shutdown(socket.SHUT_WR)
                reading.remove(0)
        if daemon.fileno() in ready:
            octets = daemon.recv(CHUNK)
            if not octets:
                return
            sys.stdout.buffer.write(octets)
            sys.stdout.buffer.flush()


def _mailq(installation: Installation) -> int:
    """The queue as people know it from other mailers."""
    import time

    count = size = 0
    try:
        for row in ask(installation.socket, "queue.list"):
            if not count:
                print("-Queue ID-   --Size-- ----Arrival Time---- -Sender/Recipient-------")
            count += 1
            size += row["size"]
            mark = {"active": "*", "held": "!"}.get(row["state"], " ")
            when = time.strftime("%a %b %e %H:%M:%S", time.localtime(row["accepted"]))
            sender = "MAILER-DAEMON" if row["sender"] == "<>" else clean(row["sender"])
            print(f"{row['id']}{mark} {row['size']:8}  {when}  {sender}")
            if row["reason"]:
                print(f"({clean(row['reason'])})".rjust(75))
            for recipient in row["recipients"]:
                print(" " * 44 + clean(recipient))
            print()
        print(
            f"-- {size / 1024:.0f} Kbytes in {count} Request{'s' * (count != 1)}." if count else "Mail queue is empty"
        )
        sys.stdout.flush()
    except NotRunningError as error:
        return _say(str(error), EX_UNAVAILABLE)
    except CommandFailedError as error:
        return _say(str(error), EX_TEMPFAIL)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EX_OK


def _say(text: str, status: int) -> int:
    print(f"sendmail: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
