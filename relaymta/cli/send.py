"""relaymta send: one test message over SMTP to the daemon, so that a newcomer needs nothing else.

RFC 5322 §3.6 (Date, From, Message-ID). Mail of programs is sendmail(1)'s.
"""

from __future__ import annotations

import getpass
import smtplib
import socket
from argparse import Namespace
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

from relaymta.cli.installation import Installation, connectable, look
from relaymta.cli.output import CommandFailedError, print_json

TIMEOUT = 30.0  # seconds for each step


def run(arguments: Namespace) -> int:
    """Send it, and say what the server said."""
    installation = look(arguments.config)
    message = compose(arguments, installation.hostname)
    server = _server(arguments.server, installation)
    where = arguments.server or server
    try:
        place = connectable(server)
    except ValueError as error:
        raise CommandFailedError(str(error)) from None
    try:
        said = _talk(place, message, arguments)
    except smtplib.SMTPRecipientsRefused as error:
        refused = [f"{address}: {_text(code, text)}" for address, (code, text) in error.recipients.items()]
        raise CommandFailedError("; ".join(refused)) from None
    except smtplib.SMTPResponseException as error:
        raise CommandFailedError(f"{where} said: {_text(error.smtp_code, error.smtp_error)}") from None
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        raise CommandFailedError(f"no mail can be handed to {where}: {error}; is relaymta running?") from None
    if arguments.json:
        print_json([{"server": str(where), "reply": said, "to": arguments.to}])
    else:
        print(f"{where} said: {said}")
    return 0


def compose(arguments: Namespace, hostname: str) -> EmailMessage:
    """The test message."""
    message = EmailMessage()
    message["From"] = arguments.sender or f"{getpass.getuser()}@{hostname}"
    message["To"] = ", ".join(arguments.to)
    message["Subject"] = arguments.subject or "A test message from relaymta"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=hostname)
    message.set_content(arguments.text or "If you can read this, mail is relayed.\n")
    return message


def _server(named: str | None, installation: Installation) -> str:
    if named:
        return named
    for address, tls in installation.listeners:
        if tls != "implicit":
            return address
    raise CommandFailedError(f"{installation.file} has no listener that speaks without TLS; name one with --server")


def _talk(place: tuple[str, int] | str, message: EmailMessage, arguments: Namespace) -> str:
    client = _UnixSMTP(place) if isinstance(place, str) else smtplib.SMTP(*place, timeout=TIMEOUT)
    with client:
        client.ehlo_or_helo_if_needed()
        code, said = client.mail(message["From"])
        if code != 250:
            raise smtplib.SMTPResponseException(code, said)
        refused = {}
        for recipient in arguments.to:
            code, said = client.rcpt(recipient)
            if code not in (250, 251):
                refused[recipient] = (code, said)
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)
        code, said = client.data(message.as_bytes(policy=SMTP))
        if code != 250:
            raise smtplib.SMTPResponseException(code, said)
        return _text(code, said)


class _UnixSMTP(smtplib.SMTP):
    """SMTP over a UNIX socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("localhost", timeout=TIMEOUT)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(timeout)
        connected.connect(self._path)
        return connected


def _text(code: int, said: bytes | str) -> str:
    text = said.decode("utf-8", "backslashreplace") if isinstance(said, bytes) else said
    return f"{code} {text}".replace("\n", " ")
