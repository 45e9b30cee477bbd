"""The certificates in force: read from their files, read again when those change, and chosen by name.

RFC 6066 §3 (server name indication), RFC 6125 §6.4.3 (wildcards). One pair that cannot be read any more stays as it
was and hurts no other. Contexts and handshakes are left to net.servertls, what the operator is told to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from attrs import frozen
from cryptography import x509

from relaymta.net.pair import CertificateError, Pair, common_names, read_certificates, read_pair
from relaymta.net.watched import Watched

LOOK_SECONDS = 2.0  # between two looks at the files; ours

Group = tuple[Pair, ...]  # what one client may be shown: pairs of different kinds of key, the wanted one first


class _Call(Protocol):
    def cancel(self) -> None: ...


@frozen(slots=True)
class Sources:
    """Where one pair is: files, and the names that stand in place of the certificate's own."""

    certificate: str
    key: str = ""
    names: tuple[str, ...] = ()


@frozen(slots=True, eq=False)
class Shelf:
    """The pairs in order, the first for who names nobody; and what is shown to whom."""

    pairs: tuple[Pair, ...]
    default: Group
    exact: Mapping[str, Group]
    wild: Mapping[str, Group]  # by what stands behind "*."

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Shelf:
        """Put up these pairs."""
        names = list(dict.fromkeys(name for pair in pairs for name in pair.names))
        first = pairs[0]
        beside = [pair for pair in pairs if pair is first or not set(pair.names).isdisjoint(first.names)]
        shown = {name: _group(_covering(pairs, name)) for name in names}
        exact = {name: group for name, group in shown.items() if not name.startswith("*.")}
        wild = {name[2:]: group for name, group in shown.items() if name.startswith("*.")}
        return cls(tuple(pairs), _group(beside), exact, wild)

    def find(self, name: str) -> Group:
        """What a client is shown that asks for `name`; one that asks for a stranger gets the first pair's."""
        name = name.lower().removesuffix(".")
        return self.exact.get(name) or self.wild.get(name.partition(".")[2]) or self.default


def _covering(pairs: Iterable[Pair], name: str) -> list[Pair]:
    """Those for `name`, first those that say it without a wildcard."""
    found = [pair for pair in pairs if name in pair.names or pair.covers(name)]
    return sorted(found, key=lambda pair: name not in pair.names)


def _group(pairs: Iterable[Pair]) -> Group:
    """The first of each kind of key."""
    kinds: dict[str, Pair] = {}
    for pair in pairs:
        kinds.setdefault(pair.kind, pair)
    return tuple(kinds.values())


Authorities = tuple[x509.Certificate, ...]


class Keyring:
    """All pairs, and the authorities of client certificates by their file, watched until `close`.

    `call_later` is the reactor's. `on_loaded` hears of what was read anew: the file, whom it names, and until when
    (POSIX time). `on_refused` hears of files that are bad now, whose old content stays in force. Raises
    CertificateError when one cannot be read at first.
    """

    def __init__(
        self,
        sources: Sequence[Sources],
        authorities: Iterable[str],
        call_later: Callable[[float, Callable[[], None]], Any],
        *,
        on_loaded: Callable[[str, tuple[str, ...], float], None],
        on_refused: Callable[[CertificateError], None],
    ) -> None:
        self._pairs = [_watched_pair(one) for one in sources]
        self.authorities: dict[str, Watched[Authorities]] = {
            file: Watched((file,), partial(_read_authorities, file)) for file in authorities
        }
        self._call_later = call_later
        self._on_loaded = on_loaded
        self._on_refused = on_refused
        self.shelf = Shelf.of([one.value for one in self._pairs])
        self._later: _Call | None = call_later(LOOK_SECONDS, self._look_again)

    def look(self) -> None:
        """Read what has changed."""
        changed = False
        for watched in self._pairs:
            if self._has_changed(watched):
                changed = True
                pair = watched.value
                self._on_loaded(pair.file, pair.names, pair.until)
        for file, some in self.authorities.items():
            if self._has_changed(some):
                names = tuple(name for one in some.value for name in common_names(one))
                self._on_loaded(file, names, min(one.not_valid_after_utc.timestamp() for one in some.value))
        if changed:
            self.shelf = Shelf.of([one.value for one in self._pairs])

    def _has_changed(self, watched: Watched[Any]) -> bool:
        try:
            return watched.look()
        except CertificateError as error:
            self._on_refused(error)
            return False

    def _look_again(self) -> None:
        self._later = self._call_later(LOOK_SECONDS, self._look_again)
        self.look()

    def close(self) -> None:
        """Look no more."""
        if self._later is not None:
            self._later.cancel()
            self._later = None


def _watched_pair(one: Sources) -> Watched[Pair]:
    files = (one.certificate, one.key) if one.key else (one.certificate,)
    return Watched(files, partial(read_pair, one.certificate, one.key, one.names))


def _read_authorities(file: str) -> Authorities:
    return tuple(read_certificates(file))
