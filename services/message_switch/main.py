# SPDX-License-Identifier: Apache-2.0
"""The command `message-switch`: puts the rooms together and runs until told to stop."""

import asyncio
import fcntl
import getpass
import logging
import os
import secrets
import signal
import stat
import sys
from importlib import import_module
from pathlib import Path

import uvloop

from message_switch import clock
from message_switch.access.encryption import server_context
from message_switch.access.users import Users, hashed
from message_switch.admin import Administration
from message_switch.config import SwitchSettings
from message_switch.journal import Journal
from message_switch.model.broker import Broker
from message_switch.model.recovery import restore, snapshot
from message_switch.server import Server, write_atomically
from message_switch.switch import Limits, Switch
from xenops.service.log import configure
from xenops.service.process import notify_ready, run
from xenops.service.settings import load
from xenops.version import VERSION

log = logging.getLogger(__name__)
PROGRAM = "message-switch"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main() -> int:
    """Entry point of the console script."""
    if sys.argv[1:] == ["password"]:
        print(hashed(_asked_for()))
        return 0
    settings = load(SwitchSettings, program=PROGRAM, argv=sys.argv[1:], environ=os.environ)
    configure(PROGRAM, settings.log_level)

    async def serving(stop: asyncio.Event) -> int:
        return await serve(settings, stop)

    try:
        return run(serving, uvloop.new_event_loop)
    except OSError as error:
        log.critical("%s", error)
        return 1


async def serve(settings: SwitchSettings, stop: asyncio.Event) -> int:
    """Serve until `stop`, or until the journal cannot be written."""
    data = Path(settings.data)
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _lock(data)
    _forget_ports(data)  # of a switch that was killed
    journal = Journal(data / "journal", rewrite_bytes=settings.journal_rewrite)
    broker = Broker(ledger=journal, now=clock.now(), bytes_max=settings.memory_max)
    password = _password(Path(settings.password_file) if settings.password_file else data / "password")
    limits = Limits(settings.frame_max, settings.channel_max, settings.heartbeat, settings.body_max)
    users = Users(settings.user, password, uid=os.getuid())
    switch = Switch(broker, users, limits)
    server = Server(switch, version=VERSION)
    restore(broker, journal.open())
    Administration(broker)
    journal.on_synced = switch.on_synced
    journal.on_full = lambda full: broker.lack("disk", full)
    journal.snapshot = lambda: snapshot(broker)
    journal.alive = lambda: broker.queued_bytes
    syncing = asyncio.create_task(journal.run())
    stopped = asyncio.create_task(stop.wait())
    try:
        _read_users(settings, users)
        await _open_doors(settings, server, broker, journal)
        await asyncio.wait((syncing, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        _forget_ports(data)
        await server.close()
        await journal.close(syncing)
        os.close(lock)
    return 0


async def _open_doors(settings: SwitchSettings, server: Server, broker: Broker, journal: Journal) -> None:
    if settings.socket:
        await server.listen_unix(Path(settings.socket), for_all=bool(settings.users_file))
    if settings.tls_host:
        authority = Path(settings.tls_client_ca) if settings.tls_client_ca else None
        context = server_context(Path(settings.tls_certificate), Path(settings.tls_key), authority)
        await server.listen_tls(settings.tls_host, settings.tls_port, context)
        _tell_port(Path(settings.data) / "tls-port", server.tls_port, chosen=settings.tls_port)
    if settings.host:
        if settings.host not in _LOOPBACK:
            log.warning("listening on %s, beyond this host: nothing that is said there is encrypted", settings.host)
        await server.listen_tcp(settings.host, settings.port)
        _tell_port(Path(settings.data) / "port", server.port, chosen=settings.port)
    if settings.metrics_port:
        # Its library is a tenth of our memory, so only who wants metrics reads it.
        figures = import_module("message_switch.metrics")
        connections, journalled = (lambda: len(server.connections)), (lambda: journal.size)
        journal.observe = figures.fsync_histogram().observe
        figures.REGISTRY.register(figures.SwitchCollector(broker, connections, server.unread, journalled, clock.now))
        await figures.serve(PROGRAM, settings.metrics_host, settings.metrics_port)
    log.info("serving on %s:%d %s: %d queues", settings.host, server.port, settings.socket, len(broker.queues))
    notify_ready()


def _tell_port(path: Path, port: int, *, chosen: int) -> None:
    """Who knows the port that was chosen can do without the file, as when the disk is full."""
    try:
        write_atomically(path, f"{port}\n")
    except OSError as error:
        if not chosen:
            raise
        log.warning("%s cannot be written: %s", path, error)


def _forget_ports(data: Path) -> None:
    for name in ("port", "tls-port"):
        (data / name).unlink(missing_ok=True)


def _read_users(settings: SwitchSettings, users: Users) -> None:
    """Now, and whenever SIGHUP asks for it; a mistake at the start ends us, later it leaves everything as it is."""
    loop = asyncio.get_running_loop()
    if not settings.users_file:
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP: there is no users-file to read again")
        return
    path = Path(settings.users_file)

    def again() -> None:
        try:
            users.read(path.read_text())
        except (OSError, ValueError) as error:
            log.error("%s: %s: the users stay as they were", path, error)
        else:
            log.info("%s: read again", path)

    try:
        users.read(path.read_text())
    except ValueError as error:
        raise OSError(f"{path}: {error}") from None
    loop.add_signal_handler(signal.SIGHUP, again)


def _asked_for() -> bytes:
    """A password, from a terminal or as the one line of standard input: never from the command line, which others see."""
    text = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not text:
        raise SystemExit("message-switch password: an empty password lets nobody in")
    return text.encode()


def _lock(directory: Path) -> int:
    """Two switches on one journal would ruin it."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise OSError(f"{directory} is in use by another switch") from None
    return fd


def _password(path: Path) -> str:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        password = path.read_text().strip()
        if not password:
            raise OSError(f"{path} is empty: write a password into it, or remove it to have one made") from None
        if path.stat().st_mode & stat.S_IROTH:
            log.warning("%s can be read by everybody: chmod o-r it", path)
        return password
    password = secrets.token_urlsafe(24)
    with os.fdopen(fd, "w") as file:
        file.write(password + "\n")
    return password
