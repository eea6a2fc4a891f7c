# SPDX-License-Identifier: Apache-2.0
"""Who may use the switch, and what each of them may configure, write and read: patterns over names, as in RabbitMQ.

One user is always there: the switch's own, whose password is a file and who may do everything. Others stand in a TOML file:

    [web]
    password = "scrypt$..."               # made by `message-switch password`; without one, the user cannot log in by password
    uids = [1001]                         # processes of these users log in over the Unix socket without one (EXTERNAL)
    configure = 'xenops\\.web\\..*'       # each pattern must cover the whole name; without one, nothing
    write = 'amq\\.default|xenops\\.events'
    read = 'xenops\\.web\\..*'
    administrator = false                 # whether it may ask the switch how its queues are

A client certificate logs in (EXTERNAL) the user that its common name says. Pure: the file is read by `main`.
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import msgspec

from message_switch.model.faults import ChannelFault, Code

# The memory (16 MiB x R/8) and time that one guess costs; they stand in each entry, so they may change.
_N, _R, _P = 1 << 13, 8, 1
_MAXMEM = 64 << 20
_SALT = 16
_NAMES_MAX = 4096
ALL = re.compile("")
NOTHING = re.compile("(?!)")


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the users' file; see the module."""

    password: str = ""
    uids: tuple[int, ...] = ()
    configure: str = "(?!)"
    write: str = "(?!)"
    read: str = "(?!)"
    administrator: bool = False


@dataclass(eq=False)
class User:
    """Stays the same object when the file is read again, so that connections which are open go by what it says now."""

    name: str
    configure: re.Pattern[str] = NOTHING
    write: re.Pattern[str] = NOTHING
    read: re.Pattern[str] = NOTHING
    administrator: bool = False  # may look into everything
    _answers: dict[tuple[str, str], bool] = field(default_factory=dict)

    def may(self, act: str, what: str, name: str) -> None:
        """403 unless this user may `act` (configure, write, read) on that queue or exchange."""
        name = name or "amq.default"
        answer = self._answers.get((act, name))
        if answer is None:
            pattern: re.Pattern[str] = getattr(self, act)
            answer = pattern is ALL or pattern.fullmatch(name) is not None
            if len(self._answers) >= _NAMES_MAX:
                self._answers.clear()
            self._answers[act, name] = answer
        if not answer:
            raise ChannelFault(
                Code.ACCESS_REFUSED, f"{act} access to {what} '{name}' in vhost '/' refused for user '{self.name}'"
            )

    def allow(self, configure: re.Pattern[str], write: re.Pattern[str], read: re.Pattern[str]) -> None:
        """From now on, this much."""
        self.configure, self.write, self.read = configure, write, read
        self._answers.clear()


@dataclass(frozen=True)
class Guess:
    """A password that only scrypt can tell from the right one."""

    name: str
    stored: str
    password: bytes = field(repr=False)
    proof: bytes = field(repr=False)

    def holds(self) -> bool:
        """Whether it is right: takes some hundredths of a second and 8 MiB on purpose; for any thread."""
        return _matches(self.stored, self.password)


class Applicant(Protocol):
    """A connection that wants to be let in."""

    @property
    def waits(self) -> bool:
        """Whether anybody still wants to know."""

    def checked(self, user: User | None, now: float) -> None:
        """It may come in as this user, or as nobody."""


class Users:
    """All of them; `uid` is the system user whose processes are the switch's own user."""

    def __init__(self, name: str, password: str, *, uid: int | None = None) -> None:
        self._own = User(name, ALL, ALL, ALL, administrator=True)
        self._password = password.encode()
        self._uid = uid
        self._known: dict[str, User] = {name: self._own}
        self._entries: dict[str, Entry] = {}
        # scrypt is slow on purpose: who has been let in once with a password is let in quickly with it again.
        self._secret = secrets.token_bytes(32)
        self._let_in: dict[str, bytes] = {}

    def read(self, untrusted: str) -> None:
        """Go by this file from now on; raises ValueError, which names what is wrong, and then nothing has changed."""
        try:
            entries = msgspec.convert(tomllib.loads(untrusted), dict[str, Entry])
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ValueError(str(error)) from None
        patterns = {name: _patterns(name, entry) for name, entry in entries.items()}
        if self._own.name in entries:
            raise ValueError(f"{self._own.name} is the switch's own user: its password is a file of its own")
        for name, entry in entries.items():
            if entry.password:
                _parsed(name, entry.password)
        for name, user in self._known.items():
            if user is not self._own and name not in entries:
                user.allow(NOTHING, NOTHING, NOTHING)
                user.administrator = False
        for name, entry in entries.items():
            user = self._known.setdefault(name, User(name))
            user.allow(*patterns[name])
            user.administrator = entry.administrator
        self._entries = entries
        self._let_in.clear()

    def by_password(self, name: bytes, password: bytes) -> User | Guess | None:
        """Whose name and password these are, as far as that is known without work; else a guess to be checked.

        For the switch's own user a bad guess takes as long as a good one.
        """
        if hmac.compare_digest(name, self._own.name.encode()):
            return self._own if hmac.compare_digest(password, self._password) else None
        known = name.decode(errors="replace")
        entry = self._entries.get(known)
        if entry is None or not entry.password:
            return None
        guess = Guess(known, entry.password, password, hmac.digest(self._secret, password, "sha256"))
        return self.known_with(guess) or guess

    def known_with(self, guess: Guess) -> User | None:
        """Whom this very guess has let in before."""
        proof = self._let_in.get(guess.name, b"")
        return self._known[guess.name] if hmac.compare_digest(guess.proof, proof) else None

    def let_in(self, guess: Guess) -> User | None:
        """Remember a guess that holds, unless the file says something else by now."""
        entry = self._entries.get(guess.name)
        if entry is None or entry.password != guess.stored:
            return None
        self._let_in[guess.name] = guess.proof
        return self._known[guess.name]

    def by_uid(self, uid: int) -> User | None:
        """Whose processes run as this system user."""
        if uid == self._uid:
            return self._own
        return next((self._known[name] for name, entry in self._entries.items() if uid in entry.uids), None)

    def by_certificate(self, common_name: str) -> User | None:
        """Whom a certificate of a trusted authority names."""
        return self._known[common_name] if common_name in (self._own.name, *self._entries) else None


def hashed(password: bytes) -> str:
    """A password as it stands in the file."""
    salt = secrets.token_bytes(_SALT)
    key = hashlib.scrypt(password, salt=salt, n=_N, r=_R, p=_P, maxmem=_MAXMEM)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), b64encode(salt).decode(), b64encode(key).decode()))


def _parsed(name: str, text: str) -> tuple[int, int, int, bytes, bytes]:
    try:
        kind, n, r, p, salt, key = text.split("$")
        if kind != "scrypt":
            raise ValueError(kind)
        found = int(n), int(r), int(p), b64decode(salt, validate=True), b64decode(key, validate=True)
        _try(*found[:3], len(found[4]))
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: its password is not what `message-switch password` makes") from None
    return found


@lru_cache(maxsize=16)  # all that one version of `message-switch password` has made have the same cost
def _try(n: int, r: int, p: int, size: int) -> None:
    hashlib.scrypt(b"", salt=b"", n=n, r=r, p=p, maxmem=_MAXMEM, dklen=size)


def _matches(text: str, password: bytes) -> bool:
    n, r, p, salt, key = _parsed("", text)
    return hmac.compare_digest(hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=_MAXMEM, dklen=len(key)), key)


def _patterns(name: str, entry: Entry) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    try:
        return re.compile(entry.configure), re.compile(entry.write), re.compile(entry.read)
    except re.error as error:
        raise ValueError(f"{name}: {error.pattern!r} is no pattern: {error}") from None
