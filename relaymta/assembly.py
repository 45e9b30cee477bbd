"""One whole relay on one reactor, put together from its rooms: only wiring.

A Relay owns one shard of the spool and serves listening sockets that somebody else bound. It is what the daemon runs
in its own process, or once in each worker. What a signal means and whose the ports are is left to service.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.python.failure import Failure

from relaymta import events
from relaymta.admin.authcommands import AuthCommands
from relaymta.admin.commands import RelayCommands
from relaymta.admin.control import Arguments, Command, CommandError, Rows
from relaymta.admin.drop import DropRefusedError, DropWatcher
from relaymta.admin.queuecommands import QueueCommands
from relaymta.admin.quotacommands import QuotaCommands
from relaymta.admin.recorder import Recorder
from relaymta.admin.stscommands import StsCommands
from relaymta.admin.tlsreports import TlsReports
from relaymta.board import Board
from relaymta.delivery.attempt import Deliveries
from relaymta.delivery.refusals import SCHEMA as LOGIN_SCHEMA
from relaymta.delivery.refusals import Refusals
from relaymta.delivery.sts import Sts
from relaymta.directory.accounts import Accounts
from relaymta.directory.maker import make_directory
from relaymta.mail.content import header_of
from relaymta.mail.envelope import Envelope
from relaymta.mail.queueid import IdMaker, shard_of
from relaymta.mail.reply import Reply
from relaymta.mail.trace import HOPS_MAX, hops
from relaymta.net.certificates import days_left, sources
from relaymta.net.dns import Resolver
from relaymta.net.keyring import Keyring
from relaymta.net.listen import serve
from relaymta.net.pair import CertificateError
from relaymta.net.servertls import ServerSide, client_certificate
from relaymta.net.turn import busy
from relaymta.policy.bruteforce import SCHEMA, BruteForce
from relaymta.policy.logins import Logins
from relaymta.policy.pipeline import Pipeline
from relaymta.policy.quota import SCHEMA as QUOTA_SCHEMA
from relaymta.policy.quota import Quotas
from relaymta.policy.relaying import Relaying
from relaymta.policy.rights import Rights
from relaymta.policy.submission import Submission
from relaymta.queue.lanes import Lanes
from relaymta.queue.manager import Manager
from relaymta.reception import Manners, Reception
from relaymta.routing.mx import HostFinder
from relaymta.routing.router import Router
from relaymta.scheduler import Scheduler, Terms
from relaymta.settings import VERSION, Settings
from relaymta.smtp.handler import Peer
from relaymta.smtp.listener import RelayFactory
from relaymta.smtp.settings import AuthMode, ListenerSettings, Profile, TlsMode
from relaymta.store.disk import RealDisk
from relaymta.store.fleet import Fleet
from relaymta.store.interfaces import OpenReport, SpoolError, SpoolLocked, Ticket
from relaymta.store.shards import Claim, claim, shard_path
from relaymta.store.spool import SMALL_MAX, DiskSpool
from relaymta.store.state import State
from relaymta.workers import DRAIN_SECONDS

DROP_AGAIN = 2.0  # seconds until a worker looks again whether the drop directory has lost its watcher; ours


class Relay:
    """The rooms of one relay. `reactor` is Twisted's; `shard` is the number of the shard that it owns."""

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        ears: events.Ears,
        *,
        shard: int = 0,
        board: Board | None = None,
        pid: int,
    ) -> None:
        self.settings = settings
        self._reactor = reactor
        self._ears = ears
        self._tell = ears.tell
        self._shard = shard
        self._board = board
        self._workers = board.columns if board is not None else 1
        self._ids = IdMaker(reactor.seconds, shard)
        self._random = Random()
        self._factories: dict[str, RelayFactory] = {}
        self._ports: dict[str, IListeningPort] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._keyring: Keyring | None = None
        self._drop_claim: Claim | None = None
        self._drop_later: IDelayedCall | None = None
        self.directory = self._make_directory(settings)
        self.recorder = Recorder(reactor.seconds, settings.admin.history // self._workers)
        ears.add(self.recorder)
        self.spool = Fleet(shard, self._make_spool(shard), shard_of)
        self.manager = Manager(self.spool, reactor, settings.queue, self._ids, self._random.random)
        self._resolver = Resolver(reactor, settings.dns)
        self.sts = Sts(
            reactor,
            settings.state,
            random=self._random.random,
            tell=self._tell,
            changed=lambda: self.deliveries.policies_changed(),
        )
        self._refusals: Refusals | None = None
        self.deliveries = self._make_deliveries(settings)
        self.lanes: Lanes[Any] = Lanes(settings.lane_settings(self._workers), self.manager.timeline.sender, board)
        self.scheduler = Scheduler(
            self.manager, self.deliveries, self.lanes, _terms(settings, self._workers), reactor, self._tell, str(shard)
        )
        self._quota_state = self._make_state(settings, "quota.sqlite", QUOTA_SCHEMA)
        self.quotas = Quotas(self._quota_state, reactor.seconds, self._tell)
        self._auth_state: State | None = None
        self._guard: BruteForce | None = None
        self.reception = Reception(self._manners(settings), self.manager, reactor.seconds, self._tell)
        self._drop = DropWatcher(
            reactor, settings.drop, self._take_drop, self._tell, reactor.seconds, settings.message_max
        )
        self._auth_commands = AuthCommands(lambda: self._guard)
        self._tls_reports = TlsReports(
            reactor, ears, settings.state, take=self.reception.take, random=self._random
        )
        self._queue_commands = QueueCommands(self.manager, self.scheduler.desk)
        self._relay_commands = RelayCommands(
            version=VERSION,
            pid=pid,
            seconds=reactor.seconds,
            stats=self.manager.stats,
            lanes=self.lanes,
            recorder=self.recorder,
            more=self._more_stats,
        )

    # Beginning and end

    def open(self) -> Deferred[None]:
        """Own the spool, mend what a crash left, and begin to deliver. Fails with SpoolError, CertificateError."""
        try:
            self._keyring = self._make_keyring(self.settings)
        except CertificateError:
            return fail()
        return self.manager.open().addCallback(self._opened)

    def _opened(self, report: OpenReport) -> None:
        self._configure_tls(self.settings)
        self.scheduler.start(report)
        self._watch_drop()

    def _watch_drop(self) -> None:
        """One of all workers picks up what sendmail(1) left; another takes its place when it is gone."""
        try:
            self._drop_claim = claim(RealDisk(), os.path.join(self.settings.spool, "drop-watch"))
        except SpoolLocked:
            self._drop_later = self._reactor.callLater(DROP_AGAIN, self._watch_drop)
        else:
            self._drop.start()

    def adopt(self, shard: int) -> Deferred[None]:
        """Own one more shard, whose worker is gone, and deliver what waits in it. Fails with SpoolError."""
        if shard in self.spool.numbers:
            return succeed(None)

        def take_over(found: tuple[OpenReport, Iterator[Ticket]]) -> None:
            report, tickets = found
            self.scheduler.take_over(report, tickets, str(shard))

        return self.spool.adopt(shard, self._make_spool(shard)).addCallback(take_over)

    def _make_spool(self, shard: int) -> DiskSpool:
        return DiskSpool(
            shard_path(self.settings.spool, shard),
            seconds=self._reactor.seconds,
            call_later=self._reactor.callLater,
            call_from_thread=self._reactor.callFromThread,
            busy=busy(self._reactor),
        )

    def serves(self, name: str, sock: socket.socket) -> bool:
        """Whether the listener `name` is served on this very socket."""
        return self._sockets.get(name) is sock

    def listen(self, sockets: Mapping[str, socket.socket]) -> None:
        """Serve these bound sockets, by the name of their listener; those no longer named are let go."""
        for name in [name for name in self._ports if name not in sockets]:
            self._ports.pop(name).stopListening()
            del self._sockets[name]
            self._factories.pop(name).drain(DRAIN_SECONDS)
        for listener in self.settings.listeners:
            if listener.name not in self._ports and listener.name in sockets:
                factory = RelayFactory(
                    listener,
                    self.settings.hostname,
                    self.reception.handler,
                    self._reactor,
                    self._ids.next,
                    on_bug=self._bug,
                    on_turned_away=self._turned_away,
                    on_bad_header=self._bad_header,
                    on_tls=self._tls_started,
                    on_tls_failed=self._tls_failed,
                    certificate_of=client_certificate,
                    exempt=self._trusts,
                    tls_context=self._tls_of(listener),
                    counts=self._board,
                    directory=self.directory,
                )
                self._factories[listener.name] = factory
                self._sockets[listener.name] = sockets[listener.name]
                self._ports[listener.name] = serve(self._reactor, sockets[listener.name], factory)

    def reload(self, settings: Settings) -> None:
        """Put another configuration in force: for sessions to come, and for every attempt from now on.

        Raises CertificateError before anything has changed.
        """
        keyring, before_it = self._make_keyring(settings), self._keyring
        self._keyring = keyring
        if before_it is not None:
            before_it.close()
        self.settings = settings
        self._replace_directory(settings)
        self.reception.manners = self._manners(settings)
        for listener in settings.listeners:
            factory = self._factories.get(listener.name)
            if factory is not None:
                factory.configure(listener, self._tls_of(listener), self.directory)
        before, resolver = self.deliveries, self._resolver
        self._resolver = Resolver(self._reactor, settings.dns)
        self._configure_tls(settings)
        self.deliveries = self._make_deliveries(settings)
        self.scheduler.reload(_terms(settings, self._workers), self.deliveries)
        before.close(DRAIN_SECONDS).addCallback(lambda _: resolver.close())

    def leave(self) -> None:
        """Take nobody in any more; who is inside goes on as if nothing had happened."""
        for port in self._ports.values():
            port.stopListening()
        self._ports.clear()

    @property
    def guests(self) -> int:
        """How many sessions there are."""
        return sum(len(factory.door) for factory in self._factories.values())

    def stop(self) -> Deferred[None]:
        """Take nobody in, let what runs end, and give the spool up; fires when all is on disk."""
        self.leave()
        drained = [factory.drain(DRAIN_SECONDS) for factory in self._factories.values()]
        if self._keyring is not None:
            self._keyring.close()
        if self._drop_later is not None and self._drop_later.active():
            self._drop_later.cancel()
        if self._drop_claim is not None:
            drained.append(self._drop.stop().addCallback(self._give_drop_up))
        return gatherResults(drained).addCallback(self._stop_deliveries)

    def _give_drop_up(self, _: object) -> None:
        assert self._drop_claim is not None
        self._drop_claim.release()

    def _stop_deliveries(self, _: object) -> Deferred[None]:
        return self.scheduler.stop(DRAIN_SECONDS).addCallback(self._close)

    def _close(self, _: object) -> Deferred[None]:
        self.sts.close()
        self._tls_reports.close()
        self._resolver.close()
        if self.directory is not None:
            self.directory.close()
        if self._auth_state is not None:
            self._auth_state.close()
        self._quota_state.close()
        if self._refusals is not None:
            self._refusals.close()
        return self.manager.close()

    # What the rooms are given

    def commands(self) -> dict[str, Command]:
        """What the operator may ask of this relay."""
        tables = (
            self._relay_commands.table(),
            self._queue_commands.table(),
            {name: partial(self._explain, name) for name in ("explain", "explain.lane")},
            self._auth_commands.table(),
            QuotaCommands(self.quotas).table(),
            StsCommands(lambda: self.sts.policies).table(),
            self._tls_reports.table(),
            {"adopt": self._adopt, "release": self._release},
        )
        return {name: command for table in tables for name, command in table.items()}

    def _explain(self, command: str, arguments: Arguments) -> Any:
        """`relaymta explain`, whose rooms are read when they are first wanted: a start need not wait for them."""
        from relaymta.explanation.live import Explainer, Parts

        parts = Parts(self.settings, self._resolver, self.deliveries)
        return Explainer(self._reactor, lambda: parts, self.lanes.rows).table()[command](arguments)

    def _adopt(self, arguments: Arguments) -> Deferred[Rows]:
        """For the parent: adopt a shard."""
        shard = int(arguments["shard"])

        def failed(failure: Failure) -> Rows:
            failure.trap(SpoolError)
            raise CommandError(failure.getErrorMessage())

        return self.adopt(shard).addCallbacks(lambda _: [{"adopted": shard}], failed)

    def _release(self, _: Arguments) -> Deferred[Rows]:
        """For the parent: give up adopted shards that are empty."""
        released = self.spool.release() if self.manager.listed else succeed([])
        return released.addCallback(lambda numbers: [{"released": number} for number in numbers])

    def _make_directory(self, settings: Settings) -> Accounts | None:
        return make_directory(
            settings.users,
            self._reactor,
            os.path.join(settings.spool, "state"),
            on_read=lambda file, accounts: self._tell(events.UsersRead(file, accounts)),
            on_broken=lambda file, reason: self._tell(events.UsersBroken(file, reason)),
        )

    def _replace_directory(self, settings: Settings) -> None:
        """Other accounts; who is being looked at is still answered by the ones before."""
        before, self.directory = self.directory, self._make_directory(settings)
        if before is not None:
            before.retire(DRAIN_SECONDS)

    def _make_deliveries(self, settings: Settings) -> Deliveries:
        finder = HostFinder(self._resolver, settings.mx, settings.ourselves, self._random)
        return Deliveries(
            self._reactor,
            finder,
            settings.delivery,
            hostname=settings.hostname,
            tell=self._tell,
            sources=settings.sources,
            accounts=settings.accounts,
            refusals=self._make_refusals(settings),
            tlsa=self._resolver if settings.dns.trust_ad else None,  # DANE is nothing without DNSSEC
            sts=self.sts,
            exemptions=settings.tls_exceptions,
        )

    def _make_refusals(self, settings: Settings) -> Refusals | None:
        """What all workers know of our log-ins at next hops, where there are any."""
        if settings.accounts and self._refusals is None:
            state = self._make_state(settings, "logins.sqlite", LOGIN_SCHEMA)
            self._refusals = Refusals(state, self._reactor.seconds)
        if self._refusals is not None:
            self._refusals.begin().addErrback(lambda failure: failure.trap(sqlite3.Error) and None)
        return self._refusals

    def _manners(self, settings: Settings) -> Manners:
        relaying = Relaying(settings.relay)
        submission = frozenset(one.name for one in settings.listeners if one.profile is Profile.SUBMISSION)
        logins = self._make_logins(settings, relaying)
        checks: list[object] = [relaying]
        if submission:
            checks.append(Submission(submission))
        if logins is not None:
            self.quotas.default = settings.users.quota.quota
            self.quotas.over = settings.users.quota.over
            checks += [Rights(), self.quotas]
        return Manners(
            settings.hostname,
            settings.postmaster_address,
            relaying,
            Pipeline(checks),
            SMALL_MAX,
            logins,
            submission,
        )

    def _make_logins(self, settings: Settings, relaying: Relaying) -> Logins | None:
        """How clients log in, where a listener lets them. The counts of failures outlive a reload."""
        if self.directory is None or all(listener.auth is AuthMode.NONE for listener in settings.listeners):
            return None
        if self._guard is None:
            self._auth_state = self._make_state(settings, "auth.sqlite", SCHEMA)
            self._guard = BruteForce(self._auth_state, settings.auth, self._reactor.seconds)
        self._guard.settings = settings.auth
        return Logins(self.directory, self._guard, self._reactor, self._tell, relaying.trusts)

    def _make_state(self, settings: Settings, file: str, schema: str) -> State:
        def trouble(reason: str) -> None:
            self._tell(events.StateFailed(file, reason))

        return State(os.path.join(settings.state, file), schema, self._reactor.callFromThread, trouble)

    def _configure_tls(self, settings: Settings) -> None:
        """What other domains say of TLS, and what we tell them."""
        self.sts.configure(self._resolver, settings.mta_sts)
        self._tls_reports.configure(self._resolver, settings.tls_report.reporter(settings.hostname))

    def _take_drop(self, envelope: Envelope, octets: bytes) -> Deferred[None]:
        """Mail that sendmail(1) left: as good as mail from this host. Raises DropRefusedError."""
        if hops(header_of(octets)) > HOPS_MAX:  # RFC 5321 §6.3: a program that we deliver to may hand it back to us
            raise DropRefusedError("too many hops: this message is in a loop")
        return self.reception.take(evolve(envelope, accepted_at=self._reactor.seconds()), octets)

    def _make_keyring(self, settings: Settings) -> Keyring | None:
        """Certificates as configured; none where no listener needs one. Raises CertificateError."""
        found = sources(settings.tls, settings.certificates)
        if not found or all(listener.tls is TlsMode.NONE for listener in settings.listeners):
            return None
        return Keyring(
            found,
            {listener.tls_client_ca for listener in settings.listeners if listener.tls_client_ca},
            self._reactor.callLater,
            on_loaded=self._certificate_loaded,
            on_refused=self._certificate_refused,
        )

    def _tls_of(self, listener: ListenerSettings) -> ServerSide | None:
        """What a listener shows its clients."""
        keyring = self._keyring
        if listener.tls is TlsMode.NONE or keyring is None:
            return None
        authorities = keyring.authorities.get(listener.tls_client_ca)
        asks = listener.tls_client_certificates
        return ServerSide(keyring, self.settings.tls.minimum, asks=asks, authorities=authorities)

    def _more_stats(self) -> dict[str, object]:
        sessions = {name: len(factory.door) for name, factory in self._factories.items()}
        now = self._reactor.seconds()
        pairs = self._keyring.shelf.pairs if self._keyring is not None else ()
        certificates = {pair.file: {"days_left": days_left(pair, now), "names": " ".join(pair.names)} for pair in pairs}
        return {"sessions": sessions, "connections": self.deliveries.connections, "certificates": certificates}

    def _bug(self, where: str, trace: str) -> None:
        self._tell(events.BugCaught(where, trace))

    def _trusts(self, client: str) -> bool:
        return self.reception.manners.relaying.trusts(client)

    def _tls_started(self, peer: Peer) -> None:
        names = " ".join(peer.certificate_names)
        self._tell(
            events.TlsStarted(peer.session, peer.client, peer.tls, peer.server_name, peer.certificate, names)
        )

    def _tls_failed(self, peer: Peer, reason: str) -> None:
        self._tell(events.TlsFailed(peer.session, peer.listener, peer.client, reason))

    def _certificate_loaded(self, file: str, names: tuple[str, ...], until: float) -> None:
        day = datetime.fromtimestamp(until, UTC).date().isoformat()
        self._tell(events.CertificateLoaded(file, " ".join(names), day))

    def _certificate_refused(self, error: CertificateError) -> None:
        self._tell(events.CertificateRefused(error.file, error.reason))

    def _turned_away(self, peer: Peer, reply: Reply) -> None:
        self._tell(events.SessionRefused(peer.session, peer.listener, peer.client, str(reply)))

    def _bad_header(self, peer: Peer, reason: str) -> None:
        self._tell(events.ProxyRefused(peer.session, peer.listener, peer.client, reason))


def _terms(settings: Settings, workers: int) -> Terms:
    return Terms(
        Router(settings.routes),
        settings.hostname,
        settings.notices(),
        settings.queue,
        settings.lane_settings(workers),
    )
