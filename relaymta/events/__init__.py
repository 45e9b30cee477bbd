"""Events: one frozen value for each thing worth telling; the log, the metrics and the console are ears.

Names and fields are an interface: dashboards and fail2ban read them. This door shows them all, since who tells and who
hears names events of many subjects; each subject has a file. Nothing here formats or writes.
"""

from relaymta.events.account import Authenticated, AuthenticationFailed, QuotaExceeded, UsersBroken, UsersRead
from relaymta.events.daemon import BugCaught, DaemonReloaded, DaemonStarted, DaemonStopping, ReloadFailed, WorkerEnded
from relaymta.events.destination import ConnectFailed, LaneResumed, LaneSuspended, LoginRefused
from relaymta.events.ears import Ear, Ears, Event
from relaymta.events.message import (
    MessageAccepted,
    MessageFinished,
    MessageHeld,
    MessageReleased,
    MessageRemoved,
    NoticeDropped,
    NoticeQueued,
    RecipientDeferred,
    RecipientSettled,
)
from relaymta.events.policy import (
    StsPolicyFailed,
    StsPolicyFetched,
    TlsChecked,
    TlsReportDropped,
    TlsReportFailed,
    TlsReportSent,
)
from relaymta.events.session import (
    ClientNamed,
    CommandRefused,
    ContentRefused,
    OriginForwarded,
    ProxyRefused,
    SessionClosed,
    SessionOpened,
    SessionRefused,
)
from relaymta.events.spool import LedgerMismatch, SpoolCorrupt, SpoolFailed, SpoolFull, SpoolOpened, StateFailed
from relaymta.events.tls import CertificateLoaded, CertificateRefused, TlsFailed, TlsStarted

__all__ = [
    "Authenticated",
    "AuthenticationFailed",
    "BugCaught",
    "CertificateLoaded",
    "CertificateRefused",
    "ClientNamed",
    "CommandRefused",
    "ConnectFailed",
    "ContentRefused",
    "DaemonReloaded",
    "DaemonStarted",
    "DaemonStopping",
    "Ear",
    "Ears",
    "Event",
    "LaneResumed",
    "LaneSuspended",
    "LedgerMismatch",
    "LoginRefused",
    "MessageAccepted",
    "MessageFinished",
    "MessageHeld",
    "MessageReleased",
    "MessageRemoved",
    "NoticeDropped",
    "NoticeQueued",
    "OriginForwarded",
    "ProxyRefused",
    "QuotaExceeded",
    "RecipientDeferred",
    "RecipientSettled",
    "ReloadFailed",
    "SessionClosed",
    "SessionOpened",
    "SessionRefused",
    "SpoolCorrupt",
    "SpoolFailed",
    "SpoolFull",
    "SpoolOpened",
    "StateFailed",
    "StsPolicyFailed",
    "StsPolicyFetched",
    "TlsChecked",
    "TlsFailed",
    "TlsReportDropped",
    "TlsReportFailed",
    "TlsReportSent",
    "TlsStarted",
    "UsersBroken",
    "UsersRead",
    "WorkerEnded",
]
