"""The replies that the server gives by itself, in one table.

RFC 5321 §4.2 and §4.3.2 (which reply to which command), RFC 2034 and RFC 3463 (an enhanced code on each).
"""

from __future__ import annotations

from relaymta.mail.reply import Reply
from relaymta.smtp.data import Fault

# What is well

MAIL_OK = Reply(250, "2.1.0", "sender ok")
RCPT_OK = Reply(250, "2.1.5", "recipient ok")
GO_AHEAD = Reply(354, "", "end data with <CR><LF>.<CR><LF>")
TAKEN = Reply(250, "2.0.0", "message accepted")
RESET_OK = Reply(250, "2.0.0", "ok")
NOOP_OK = Reply(250, "2.0.0", "ok")
FORWARD_OK = Reply(250, "2.0.0", "ok")
CANNOT_VERIFY = Reply(252, "2.0.0", "cannot verify, but will take mail and try to deliver it")  # RFC 5321 §3.5.3
HELP = Reply(214, "2.0.0", "EHLO HELO AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS QUIT: RFC 5321")
BYE = Reply(221, "2.0.0", "bye", close=True)
READY_FOR_TLS = Reply(220, "2.0.0", "ready to start TLS")
AUTHENTICATED = Reply(235, "2.7.0", "authentication succeeded")  # RFC 4954 §6

# Out of turn (RFC 5321 §4.1.4)

HELLO_FIRST = Reply(503, "5.5.1", "send EHLO (over LMTP: LHLO) first")
MAIL_FIRST = Reply(503, "5.5.1", "send MAIL first")
MAIL_NESTED = Reply(503, "5.5.1", "a transaction is under way: end it or send RSET")
NO_RECIPIENTS = Reply(554, "5.5.1", "no valid recipients")  # RFC 5321 §3.3
NO_RECIPIENTS_LMTP = Reply(503, "5.5.1", "no valid recipients")  # RFC 2033 §4.2
CHUNKS_UNDER_WAY = Reply(503, "5.5.1", "chunks are under way: send BDAT or RSET")  # RFC 3030 §2
TLS_ACTIVE = Reply(503, "5.5.1", "TLS is already active")
TLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")  # RFC 3207 §4
TLS_ABSENT = Reply(502, "5.5.1", "TLS is not available")

# AUTH (RFC 4954 §4 and §6)

AUTH_NESTED = Reply(503, "5.5.1", "AUTH is not possible within a transaction")
AUTH_TWICE = Reply(503, "5.5.1", "already authenticated")
AUTH_CLEAR = Reply(538, "5.7.11", "encryption is required for AUTH")
AUTH_UNKNOWN = Reply(504, "5.5.4", "this mechanism is not available")
AUTH_SYNTAX = Reply(501, "5.5.4", "write: AUTH mechanism [initial-response]")
AUTH_NOT_BASE64 = Reply(501, "5.5.2", "not base64")
AUTH_MALFORMED = Reply(501, "5.5.2", "not a response of this mechanism")
AUTH_TOO_LONG = Reply(500, "5.5.6", "authentication exchange line too long")
AUTH_CANCELLED = Reply(501, "5.7.0", "authentication cancelled")
AUTH_FAILED = Reply(535, "5.7.8", "authentication credentials invalid")
AUTH_UNAVAILABLE = Reply(454, "4.7.0", "temporary authentication failure")
AUTH_REQUIRED = Reply(530, "5.7.0", "authentication required")
AUTH_REQUIRED_UNDER_TLS = Reply(530, "5.7.0", "authentication required, and STARTTLS before it")

# Malformed

UNRECOGNIZED = Reply(500, "5.5.1", "command not recognized")
LHLO_ONLY = Reply(500, "5.5.1", "this is LMTP: send LHLO")  # RFC 2033 §4.1
NOT_IMPLEMENTED = Reply(502, "5.5.1", "command not implemented")
TOO_LONG = Reply(500, "5.5.2", "command line too long")  # RFC 5321 §4.5.3.1.4
BARE_LF = Reply(500, "5.5.2", "bare LF in a command")
BARE_CR = Reply(500, "5.5.2", "bare CR in a command")
NUL = Reply(500, "5.5.2", "NUL in a command")
NO_ARGUMENT = Reply(501, "5.5.4", "no argument allowed")
ARGUMENT_NEEDED = Reply(501, "5.5.4", "argument needed")
BAD_HELLO = Reply(501, "5.5.4", "a domain or an address literal is needed")
BAD_CHUNK = Reply(501, "5.5.4", "write: BDAT size [LAST]", close=True)  # where content ends is unknown from here on

# Limits

SIZE_EXCEEDED = Reply(552, "5.3.4", "message too large")  # RFC 1870 §6
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "too many recipients")  # RFC 5321 §4.5.3.1.10
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors", close=True)
TOO_MANY_COMMANDS = Reply(421, "4.7.0", "too many commands without mail", close=True)
TOO_MANY_MESSAGES = Reply(421, "4.7.0", "too many transactions in one session", close=True)
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "too many connections, try again later", close=True)
TOO_MANY_FROM_CLIENT = Reply(421, "4.7.0", "too many connections from your address, try again later", close=True)
TIMED_OUT = Reply(421, "4.4.2", "timed out", close=True)
TOO_SLOW = Reply(421, "4.4.2", "content comes too slowly", close=True)
OVERTIME = Reply(421, "4.4.2", "too long without a message", close=True)

# Not a mail client

TALKED_FIRST = Reply(554, "5.5.1", "you spoke before the greeting", close=True)  # RFC 5321 §3.1, §4.3.1
NOT_HTTP = Reply(421, "4.7.0", "this is SMTP", close=True)
INJECTED = Reply(554, "5.5.1", "nothing may follow STARTTLS in clear", close=True)  # RFC 3207 §4.2

# Ours

GOING_DOWN = Reply(421, "4.3.2", "the service is stopping, try again later", close=True)
OUR_FAULT = Reply(451, "4.3.0", "an error of ours, try again later")
BROKEN = Reply(421, "4.3.0", "an error of ours, try again later", close=True)

FAULTS = {
    fault: Reply(550, "5.6.0", f"{fault.value} in the message: lines end with CRLF", close=True)
    for fault in (Fault.BARE_LF, Fault.BARE_CR)
} | {Fault.NUL: Reply(550, "5.6.0", f"{Fault.NUL.value} in the message", close=True)}
