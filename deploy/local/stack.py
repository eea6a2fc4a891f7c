# SPDX-License-Identifier: Apache-2.0
"""The whole stack as separate processes on this machine: started in order, stopped in reverse.

For people with a laptop and for tests; in production systemd or a container runtime does this. A process says that
it is ready as it would say it to systemd (sd_notify); one that ends by itself ends the stack.
"""

import asyncio
import errno
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from xenops import where
from xenops.service.bus import short_hostname

READY_S = 30.0  # for one process; an emulated host is slower
STOP_S = 15.0
BIN = Path(sys.executable).parent
_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT, _ATTEMPTS = 15000, 100


def listener() -> socket.socket:
    """A listener on a loopback port that the kernel gives to no connection, as long as there is one (ip(7), ip_local_port_range).

    Any other port may be taken when who listened there was killed and comes again: by a client that connects to somebody
    else, or that reaches itself when it connects to that very port.
    """
    beyond = int(_GIVEN.read_text().split()[0]) - _LOWEST_PORT
    for _ in range(_ATTEMPTS if beyond > 0 else 0):
        try:
            return socket.create_server(("127.0.0.1", _LOWEST_PORT + secrets.randbelow(beyond)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return socket.create_server(("127.0.0.1", 0))


class StackFailed(Exception):
    """A process did not start, or ended by itself."""


@dataclass(frozen=True)
class Part:
    """One process: its program and flags."""

    program: str
    flags: tuple[str, ...]


@dataclass
class Stack:
    """Four processes on a private switch; all state is below `var`."""

    var: Path
    log_level: str = "info"
    log_to: Path | None = None  # None: this terminal
    backend: str = "simulator"
    further: tuple[str, ...] = ()  # more flags for xenopsd
    ready_s: float = READY_S
    ports: dict[str, int] = field(default_factory=dict)
    running: list[tuple[Part, asyncio.subprocess.Process]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def where_file(self) -> Path:
        """What clients read to find the stack."""
        return self.var / where.FILE

    async def start(self) -> where.Where:
        """Start every process, each when the one before it serves; says where things are."""
        self.var.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._choose_ports()
        url = self._write_secrets()
        self._listen_for_readiness()
        try:
            for part in self._parts():
                await self._start(part)
        except BaseException:
            await self.stop()
            raise
        host = short_hostname()
        found = where.Where(
            amqp=url,
            queue=f"xenops.{host}.{self.backend}",
            host=host,
            instance=self.backend,
            forkexec=f"forkexec.{host}",
            console=f"console.{host}",
            metrics={name: f"http://127.0.0.1:{port}/metrics" for name, port in self.ports.items() if name != "amqp"},
            state_dir=str(self.var),
            pid=os.getpid(),
        )
        where.write(self.where_file, found)
        return found

    async def stop(self) -> None:
        """Stop every process, the last one first; one that does not stop in time is killed. Idempotent."""
        if self.notified.fileno() < 0:
            return
        self.where_file.unlink(missing_ok=True)
        while self.running:
            _, process = self.running.pop()
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(STOP_S):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()
        asyncio.get_running_loop().remove_reader(self.notified)
        self.notified.close()

    async def kill(self, program: str) -> Part:
        """End one process without mercy; `start_again` takes what this returns."""
        place = next(n for n, (part, _) in enumerate(self.running) if part.program == program)
        part, process = self.running.pop(place)
        process.kill()
        await process.wait()
        return part

    async def start_again(self, part: Part) -> None:
        """Start a process that was killed; returns when it serves."""
        await self._start(part)

    async def ended(self) -> str:
        """Wait until a process ends by itself; says which."""
        waits = {asyncio.ensure_future(process.wait()): part for part, process in self.running}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            first = next(iter(done))
            return f"{waits[first].program} ended by itself with code {first.result()}"
        finally:
            for waiting in waits:
                waiting.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _parts(self) -> list[Part]:
        def metrics(name: str) -> tuple[str, str]:
            return f"--metrics-port={self.ports[name]}", f"--log-level={self.log_level}"

        bus = (f"--amqp-url-file={self.var / 'amqp-url'}",)
        return [
            Part(
                "message-switch",
                (
                    f"--port={self.ports['amqp']}",
                    f"--data={self.var / 'switch'}",
                    f"--socket={self.var / 'switch.sock'}",
                    f"--password-file={self.var / 'password'}",
                    *metrics("message-switch"),
                ),
            ),
            Part("forkexecd", (*bus, *metrics("forkexecd"))),
            Part(
                "xenopsd",
                (
                    *bus,
                    f"--state-dir={self.var / 'xenopsd'}",
                    f"--hooks-dir={self.var / 'hooks.d'}",
                    f"--backend={self.backend}",
                    *self.further,
                    *metrics("xenopsd"),
                ),
            ),
            Part("vncproxy", (*bus, f"--instance={self.backend}", *metrics("vncproxy"))),
        ]

    def _choose_ports(self) -> None:
        """Free ports, kept open together while they are chosen so that no two are the same."""
        names = ("amqp", "message-switch", "forkexecd", "xenopsd", "vncproxy")
        sockets = [listener() for _ in names]
        self.ports = {name: listening.getsockname()[1] for name, listening in zip(names, sockets, strict=True)}
        for listening in sockets:
            listening.close()

    def _write_secrets(self) -> str:
        password_file = self.var / "password"
        if not password_file.exists():
            _write_private(password_file, secrets.token_urlsafe(24))
        url = f"amqp://xenops:{password_file.read_text().strip()}@127.0.0.1:{self.ports['amqp']}/%2F"
        _write_private(self.var / "amqp-url", url)
        return url

    def _listen_for_readiness(self) -> None:
        """A socket such as systemd gives its services, and the event that READY=1 arrived on it."""
        self.address = f"xenops-stack-{secrets.token_hex(8)}"  # abstract: it may lie as deep as the checkout likes
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.notified.bind("\0" + self.address)

        def receive() -> None:
            if b"READY=1" in self.notified.recv(4096):
                self.ready.set()

        asyncio.get_running_loop().add_reader(self.notified, receive)

    async def _start(self, part: Part) -> None:
        self.ready.clear()
        log = None if self.log_to is None else self.log_to.open("ab")
        try:
            process = await asyncio.create_subprocess_exec(
                str(BIN / part.program),
                *part.flags,
                env={**os.environ, "NOTIFY_SOCKET": f"@{self.address}"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for us; we stop them in order
            )
        finally:
            if log is not None:
                log.close()
        self.running.append((part, process))
        ending = asyncio.ensure_future(process.wait())
        waiting = asyncio.ensure_future(self.ready.wait())
        done, _ = await asyncio.wait((ending, waiting), timeout=self.ready_s, return_when=asyncio.FIRST_COMPLETED)
        for it in (ending, waiting):
            it.cancel()
        await asyncio.gather(ending, waiting, return_exceptions=True)
        if waiting not in done:
            why = (
                f"ended with code {process.returncode}"
                if ending in done
                else f"was not ready within {self.ready_s:g} s"
            )
            raise StackFailed(f"{part.program} {why}")


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text + "\n")
