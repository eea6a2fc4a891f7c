# SPDX-License-Identifier: Apache-2.0
"""The device models of our domains: started, spoken to, found again, and taken away without a trace.

An HVM guest has one that emulates its devices; a PV or PVH guest has one only when a disk of it needs QEMU to be read.

    start     folder and pipe made, note "starting" ── forkexecd runs QEMU, which goes into the background ──
              device-model/<n>/state = running ── taps joined to their bridges, serial terminal told, note "running"
    stop      quit, SIGTERM, SIGKILL ── nodes and folder gone
    crash     an HVM guest whose device model ended by itself has crashed; it is shut down as such

QEMU outlives us. After a restart `adopt` finds it by its pid file and its command line.
"""

import asyncio
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from xenops.errors import DoesNotExist, FailedToStartEmulator, Fault, IoError, StepTimedOut
from xenops.events import Kind
from xenops.types.metadata import Metadata
from xenops.types.vm import Hvm, Vm
from xenopsd.backends.xen.devicemodel import arguments, nodes
from xenopsd.backends.xen.devicemodel.launch import CommandLine, Launch
from xenopsd.backends.xen.devicemodel.monitor import CommandRefused
from xenopsd.backends.xen.devicemodel.places import Places
from xenopsd.backends.xen.devicemodel.process import Process
from xenopsd.backends.xen.devicemodel.rooms import Host
from xenopsd.backends.xen.devicemodel.running import Ears, Running
from xenopsd.backends.xen.devicemodel.words import Words
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.layout import handle_of
from xenopsd.backends.xen.domctl import DomainInfo, Shutdown
from xenopsd.backends.xen.xenstore.changes import Write

log = logging.getLogger(__name__)

START_S = 60.0
_QUIT_S, _TERMINATE_S, _KILL_S = 5.0, 5.0, 10.0
_DETACH_S = 10.0
_THEIRS_S = 20.0  # how long another toolstack may take to take a domain away

T = TypeVar("T")


class DeviceModels:
    """All QEMUs of ours, by domain."""

    def __init__(self, world: Host, *, start_s: float = START_S) -> None:
        self._world, self._launch = world, Launch(world, start_s)
        self._running: dict[int, Running] = {}
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._chores: set[asyncio.Task[None]] = set()
        self._ears = Ears(self._on_end, self._on_eject, self._on_clock)
        # Set by those who know: joins a tap to where its interface is; takes note that a guest has ejected a medium.
        self.connect_tap: Callable[[int, int, str], Awaitable[None]] | None = None
        self.on_eject: Callable[[int, int], Awaitable[None]] | None = None

    async def adopt(self) -> None:
        """Find those that an earlier life of ours left running, and end those whose domains are gone."""
        ours = {domid for _, domid in self._world.domains.items()}
        for domid in await asyncio.to_thread(_folders, self._world.options.run_dir):
            if domid not in ours:
                await self.stop(domid)
        for domid in ours:
            running = self._find(domid)
            if running is not None:
                with suppress(Fault):  # it is connected when it is needed
                    await running.connect()
            elif await self._world.xs.read(nodes.note(domid)) == nodes.RUNNING:
                self._on_end(domid)

    async def close(self) -> None:
        """Let go of them; they run on."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        for running in self._running.values():
            await running.close()
        self._running.clear()

    def has(self, domid: int) -> bool:
        """Whether a domain's devices are emulated."""
        return self._emulator(domid) is not None

    def screen(self, domid: int) -> Path | None:
        """The socket on which a viewer sees a domain's screen."""
        path = self._places(domid).screen
        return path if path.is_socket() else None

    def saved_state(self, domid: int) -> Path:
        """Where what the device model knows of its devices lies, between saving and restoring."""
        places = self._places(domid)
        places.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return places.state

    async def start(self, machine: Metadata, domid: int, restoring_state: Path | None) -> None:
        """Emulate a guest's devices, from that state when there is one. Raises `FailedToStartEmulator`, `BadRequest`."""
        places, incoming = self._places(domid), restoring_state is not None
        command_line = partial(arguments.emulator, machine, places, incoming)
        command_line(False)  # what cannot be emulated is known before anything is done
        async with self._turns[domid]:
            try:
                running = await self._started(machine.vm, places, command_line, restoring_state)
                async with self._launch.alive(machine.vm, running):
                    for vif in arguments.emulated_nics(machine):
                        if self.connect_tap is not None:
                            await self.connect_tap(domid, vif.position, arguments.tap(domid, vif))
                    ports = await _done(running, running.execute("query-chardev"))
                await self._world.xs.commit(nodes.running(domid, running.process.pid, ports))
            except BaseException:
                await self._end(domid)
                raise

    async def serves_disks(self, vm: Vm, domid: int) -> bool:
        """Whether a QEMU serves this domain's qdisk back ends; one is started for a guest that has none otherwise."""
        if isinstance(vm.ty, Hvm):
            return self._find(domid) is not None
        async with self._turns[domid]:
            if self._find(domid) is None:
                places = self._places(domid)
                try:
                    await self._started(vm, places, partial(arguments.back_end, vm.name, places), None)
                    await self._world.xs.commit([Write(nodes.note(domid), nodes.RUNNING)])
                except BaseException:
                    await self._end(domid)
                    raise
        return True

    async def disk_refused(self, domid: int, devid: int) -> str:
        """Wait until a QEMU cannot serve that qdisk; what it says of it, untrusted."""
        running = self._find(domid)
        return await running.complaint(b"device '%d'" % devid) if running is not None else "its QEMU has ended"

    async def stop(self, domid: int) -> None:
        """End it; nothing of it is left. Idempotent. Raises `StepTimedOut` when the kernel does not let it go."""
        async with self._turns[domid]:
            await self._end(domid)

    async def go_on(self, domid: int) -> None:
        """Let it work again after it has saved its state, or let go of its disks."""
        running = self._find(domid)
        if running is not None:
            await _done(running, running.execute("cont"))
            await asyncio.to_thread(running.places.state.unlink, missing_ok=True)

    async def save_state(self, domid: int) -> Path | None:
        """Stop it and have what it knows written to a file; `go_on` when the guest stays here after all."""
        running = self._emulator(domid)
        if running is None:
            return None
        path = self.saved_state(domid)
        await _done(running, running.execute("stop"))
        try:
            file = {"filename": str(path), "live": True}  # live: the images are let go of, too
            await _done(running, running.execute("xen-save-devices-state", file))
        except BaseException:
            await _done(running, running.execute("cont"))
            raise
        return path

    async def let_go_of_disks(self, domid: int) -> None:
        """Where a QEMU only serves a suspended guest's disks: all is written, and their images are another QEMU's to open.

        `go_on` when the guest stays here after all. A device model does the same when it saves its state.
        """
        running = self._find(domid)
        if running is None or running.process.emulates:
            return
        await _done(running, running.execute("stop"))
        file = {"filename": str(self.saved_state(domid)), "live": True}
        await _done(running, running.execute("xen-save-devices-state", file))  # nothing else has it let go of images

    async def set_log_dirty(self, domid: int, enable: bool) -> None:
        """Have it say, or no longer say, which of the guest's pages it writes to."""
        running = self._emulator(domid)
        if running is not None:
            await _done(running, running.execute("xen-set-global-dirty-log", {"enable": enable}))

    async def change_medium(self, domid: int, devid: int, path: str | None) -> None:
        """Put that file into an emulated drive, or take out what is in it. Without a device model there is nothing to do."""
        running = self._emulator(domid)
        if running is not None:
            source = None if path is None else arguments.medium_path(path)
            await _done(running, running.change_medium(devid, source))

    async def add_vcpus(self, domid: int, n: int) -> None:
        """Plug vCPUs until there are n, as a PC's guest learns of them. Without a device model there is nothing to do."""
        running = self._emulator(domid)
        if running is not None:
            await _done(running, running.add_vcpus(n))

    async def attach_pci(self, domid: int, address: str) -> None:
        """Show a PCI function. Without a device model there is nothing to do: it finds it when it starts."""
        running = self._emulator(domid)
        if running is not None:
            await _done(running, running.attach_pci(address))

    async def detach_pci(self, domid: int, address: str) -> None:
        """Show it no more. Idempotent."""
        running = self._emulator(domid)
        if running is not None and not await _done(running, running.detach_pci(address, _DETACH_S)):
            log.warning("the guest of domain %d has not let %s go within %g s", domid, address, _DETACH_S)

    async def _started(
        self, vm: Vm, places: Places, command_line: CommandLine, restoring_state: Path | None
    ) -> Running:
        program, domid = self._launch.program(vm), places.domid
        await self._end(domid, but=restoring_state)
        await self._world.xs.commit(nodes.starting(domid))
        places.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = Words.made(places.words)
        try:
            await self._launch.run(vm, command_line, words)
            process = Process.find(places)
            if process is None:
                raise FailedToStartEmulator(vm.id, str(program), f"it ended at once: {words.last or 'without a word'}")
        except BaseException:
            words.close()
            raise
        running = self._running[domid] = Running(places, process, words, self._ears)
        await self._launch.ready(vm, running, restoring_state)
        return running

    async def _end(self, domid: int, *, but: Path | None = None) -> None:
        """All of it, except a state that is about to be restored."""
        places, running = self._places(domid), self._held(domid)
        self._running.pop(domid, None)
        noted = await self._world.xs.read(nodes.note(domid))
        if running is not None:
            await _put_down(running)
        # From here on none can start there; one that is about to is found by its command line.
        if not await asyncio.to_thread(_cleared, places, but) and noted is None:
            return
        for process in Process.search(places):
            if not await process.put_down(_TERMINATE_S, _KILL_S):
                process.close()
                raise StepTimedOut(f"ending QEMU of domain {domid}", _TERMINATE_S + _KILL_S)
        await self._world.xs.commit(nodes.gone(domid))

    def _held(self, domid: int) -> Running | None:
        """The one that we know of, even when it has just ended; or one that an earlier life of ours started."""
        running = self._running.get(domid)
        if running is None:
            places = self._places(domid)
            process = Process.find(places)
            if process is not None:
                running = self._running[domid] = Running(places, process, Words.heard(places.words), self._ears)
        return running

    def _find(self, domid: int) -> Running | None:
        running = self._held(domid)
        return None if running is None or running.process.ended.is_set() else running

    def _emulator(self, domid: int) -> Running | None:
        running = self._find(domid)
        return running if running is not None and running.process.emulates else None

    def _places(self, domid: int) -> Places:
        return Places.of(self._world.options.run_dir, domid)

    def _on_end(self, domid: int) -> None:
        self._chore(self._ended_by_itself(domid))

    def _on_eject(self, domid: int, devid: int) -> None:
        if self.on_eject is not None:
            self._chore(self.on_eject(domid, devid))

    def _on_clock(self, domid: int, offset_s: int) -> None:
        vm = self._world.domains.machine(domid)
        if vm is not None:
            path = f"{layout.vm_tree(handle_of(vm))}/rtc/timeoffset"
            self._chore(self._world.xs.commit([Write(path, str(offset_s))]))

    async def _ended_by_itself(self, domid: int) -> None:
        """Its guest cannot go on without it. One that is being started or stopped is none of this."""
        vm = self._world.domains.machine(domid)
        if vm is not None:  # `xl destroy` pauses a domain and ends its QEMU: it is to be left to it
            await self._world.domains.wait(vm, _runs_or_is_gone, _THEIRS_S)
        async with self._turns[domid]:
            noted = await self._world.xs.read(nodes.note(domid))
            if noted != nodes.RUNNING or self._find(domid) is not None:
                return
            running = self._running.get(domid)
            words = running.words.last if running is not None else ""
            log.error("QEMU of domain %d has ended by itself; its last words: %s", domid, words or "none")
            emulated = running.process.emulates if running is not None else self._places(domid).screen.exists()
            await self._end(domid)
        vm = self._world.domains.machine(domid)
        if vm is None:
            return
        if emulated:
            with suppress(DoesNotExist):
                await self._world.xc.shutdown(domid, Shutdown.CRASH)
        self._world.changed(Kind.VM, vm)

    def _chore(self, work: Awaitable[None]) -> None:
        """What has to be done because a QEMU told something."""

        async def done() -> None:
            try:
                await work
            except Fault as fault:
                log.warning("what a QEMU told could not be dealt with: %s", fault)

        chore = asyncio.create_task(done())
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)


def _runs_or_is_gone(info: DomainInfo | None) -> bool:
    return info is None or not info.paused


async def _done(running: Running, work: Awaitable[T]) -> T:
    """What QEMU refuses is a fault of ours to the rest of the house."""
    try:
        return await work
    except CommandRefused as refused:
        raise IoError(str(running.places.monitor), f"QEMU refused {refused}") from None


async def _put_down(running: Running) -> None:
    process = running.process
    try:
        if not process.ended.is_set():
            with suppress(CommandRefused, Fault):
                await running.execute("quit", timeout_s=_QUIT_S)
                await process.ends(_QUIT_S)
        if not process.ended.is_set() and not await process.put_down(_TERMINATE_S, _KILL_S):
            raise StepTimedOut(f"ending QEMU of domain {running.domid}", _QUIT_S + _TERMINATE_S + _KILL_S)
    finally:
        await running.close()


def _folders(run_dir: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(run_dir / "qemu") if name.isascii() and name.isdigit()]
    except FileNotFoundError:
        return []


def _cleared(places: Places, but: Path | None) -> bool:
    """The folder goes, or is empty but for that file; whether there was any."""
    try:
        names = os.listdir(places.folder)
    except FileNotFoundError:
        return False
    if but is None or but.parent != places.folder:
        shutil.rmtree(places.folder)
        return True
    for name in names:
        if places.folder / name != but:
            (places.folder / name).unlink(missing_ok=True)
    return True
