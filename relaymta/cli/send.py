"""relaymta send: one test message over SMTP to the daemon, so that a newcomer needs nothing else.

RFC 5322 §3.6 (Date, From, Message-ID). Mail of programs is sendmail(1)'s.
"""

from __future__ import annotations

import getpass
import smtplib
import socket
from argparse import Namespace
from contextlib import closing, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

from relaymta.cli.composing import MessageError, qualified
from relaymta.cli.installation import Installation, connectable, look
from relaymta.cli.output import CommandFailedError, clean, print_json

TIMEOUT = 30.0  # seconds for each step


def run(arguments: Namespace) -> int:
    """Send it, and say what the server said."""
    installation = look(arguments.config)
    hostname = installation.hostname
    try:
        sender = qualified(arguments.sender or getpass.getuser(), hostname)
        recipients = [str(qualified(one, hostname)) for one in arguments.to]
    except MessageError as error:
        raise CommandFailedError(str(error)) from None
    message = compose(arguments, str(sender), recipients, hostname)
    server = _server(arguments.server, installation)
    where = arguments.server or server
    try:
        place = connectable(server)
    except ValueError as error:
        raise CommandFailedError(str(error)) from None
    try:
        said = _talk(place, message, str(sender), recipients)
    except smtplib.SMTPRecipientsRefused as error:
        refused = [f"{address}: {_text(code, text)}" for address, (code, text) in error.recipients.items()]
        raise CommandFailedError("; ".join(refused)) from None
    except smtplib.SMTPResponseException as error:
        raise CommandFailedError(f"{where} said: {_text(error.smtp_code, error.smtp_error)}") from None
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandFailedError(f"no mail can be handed to {where}: {why}; is relaymta running?") from None
    if arguments.json:
        print_json([{"server": str(where), "reply": said, "to": recipients}])
    else:
        print(f"{where} said: {clean(said)}")
    return 0


def compose(arguments: Namespace, sender: str, recipients: list[str], hostname: str) -> EmailMessage:
    """The test message."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = arguments.subject or "A test message from relaymta"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=hostname)
    message.set_content(arguments.text or "If you can read this, mail is relayed.\n")
    return message


def _server(named: str | None, installation: Installation) -> str:
    if named:
        return named
    if installation.listeners:
        return installation.listeners[0]
    raise CommandFailedError(
        f"{installation.file} has no listener that takes mail in clear and without a log-in; name a server with"
        " --server, or try swaks, which can log in"
    )


def _talk(place: tuple[str, int] | str, message: EmailMessage, sender: str, recipients: list[str]) -> str:
    client = _UnixSMTP(place) if isinstance(place, str) else smtplib.SMTP(*place, timeout=TIMEOUT)
    with closing(client):
        client.ehlo_or_helo_if_needed()
        _expect(client.mail(sender), 250)
        refused = {}
        for recipient in recipients:
            code, said = client.rcpt(recipient)
            if code not in (250, 251):
                refused[recipient] = (code, said)
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)
        taken = _expect(client.data(message.as_bytes(policy=SMTP)), 250)
        with suppress(smtplib.SMTPException, OSError):
            client.quit()  # what it says to that changes nothing
        return taken


def _expect(answer: tuple[int, bytes], wanted: int) -> str:
    code, said = answer
    if code != wanted:
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
