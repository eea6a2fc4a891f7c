# SPDX-License-Identifier: Apache-2.0
"""One QEMU that runs: its process, what it complains of, its monitor, and what its events mean.

The monitor is connected when it is first needed and again when the connection was lost; it holds QEMU's attention, so
that its events reach us.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenopsd.backends.xen.devicemodel import arguments
from xenopsd.backends.xen.devicemodel.monitor import COMMAND_S, CommandRefused, Monitor
from xenopsd.backends.xen.devicemodel.places import Places
from xenopsd.backends.xen.devicemodel.process import Process
from xenopsd.backends.xen.devicemodel.qmp import Event
from xenopsd.backends.xen.devicemodel.words import Words

log = logging.getLogger(__name__)

_NO_SUCH_DEVICE = "DeviceNotFound"
_CLOCK_LIMIT = 1 << 40


@dataclass(frozen=True)
class Ears:
    """Who wants to know what; each is given the domain first."""

    ended: Callable[[int], None]
    ejected: Callable[[int, int], None]  # the guest has opened the tray of that drive
    clock_set: Callable[[int, int], None]  # the guest has set its clock, to so many seconds from the host's


class Running:
    """What we hold of it."""

    def __init__(self, places: Places, process: Process, words: Words, ears: Ears) -> None:
        self.places, self.process, self.words = places, process, words
        self._ears = ears
        self._monitor: Monitor | None = None
        self._connecting = asyncio.Lock()
        self._changing: set[int] = set()
        self._removals: dict[str, asyncio.Event] = {}
        self._watching = asyncio.create_task(self._watch(), name=f"QEMU of domain {places.domid}")

    @property
    def domid(self) -> int:
        """Whom it serves."""
        return self.places.domid

    async def execute(self, name: str, words: dict[str, Any] | None = None, *, timeout_s: float = COMMAND_S) -> Any:
        """A command. Raises `CommandRefused`, `IoError`, `StepTimedOut`."""
        return await (await self.connect()).execute(name, words, timeout_s=timeout_s)

    async def connect(self) -> Monitor:
        """Its monitor. Raises `IoError`, `StepTimedOut`."""
        async with self._connecting:
            if self._monitor is None or self._monitor.lost:
                if self._monitor is not None:
                    await self._monitor.close()
                self._monitor = None
                self._monitor = await Monitor.open(self.places.monitor, self._on_event)
            return self._monitor

    async def change_medium(self, devid: int, path: str | None) -> None:
        """Put that into a drive, or take out what is in it; a drive without an emulated twin is none of ours."""
        drive = arguments.drive_id(devid)
        self._changing.add(devid)
        try:
            if path is None:
                await self.execute("eject", {"device": drive, "force": True})
            else:
                how = {"format": "raw", "read-only-mode": "read-only"}
                await self.execute("blockdev-change-medium", {"device": drive, "filename": path, **how})
        except CommandRefused as refused:
            if refused.kind != _NO_SUCH_DEVICE:
                raise
        finally:
            self._changing.discard(devid)

    async def add_vcpus(self, n: int) -> None:
        """Show the guest its first n vCPUs; it keeps those that it has."""
        for device in arguments.missing_vcpus(await self.execute("query-hotpluggable-cpus"), n):
            await self.execute("device_add", device)

    async def attach_pci(self, address: str) -> None:
        """Show a function to the guest; one that it has is left to it."""
        known = await self.execute("qom-list", {"path": "/machine/peripheral"})
        if arguments.pci_id(address) not in {child.get("name") for child in known if isinstance(child, dict)}:
            device = {"driver": "xen-pci-passthrough", "id": arguments.pci_id(address), "hostaddr": address}
            await self.execute("device_add", device)

    async def detach_pci(self, address: str, within_s: float) -> bool:
        """Ask the guest to let a function go; whether it has."""
        id = arguments.pci_id(address)
        gone = self._removals.setdefault(id, asyncio.Event())
        try:
            await self.execute("device_del", {"id": id})
            async with asyncio.timeout(within_s):
                await gone.wait()
        except CommandRefused as refused:
            if refused.kind != _NO_SUCH_DEVICE:
                raise
        except TimeoutError:
            return False
        finally:
            self._removals.pop(id, None)
        return True

    async def complaint(self, text: bytes) -> str:
        """Wait until it complains of that, or ends; what it said."""
        hearing = asyncio.create_task(self.words.about(text))
        ending = asyncio.create_task(self.process.ended.wait())
        try:
            await asyncio.wait((hearing, ending), return_when=asyncio.FIRST_COMPLETED)
            return hearing.result() if hearing.done() else f"its QEMU has ended: {self.words.last or 'without a word'}"
        finally:
            hearing.cancel()
            ending.cancel()
            await asyncio.gather(hearing, ending, return_exceptions=True)

    async def close(self) -> None:
        """Let go of it; it runs on. Idempotent."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        if self._monitor is not None:
            await self._monitor.close()
        self.process.close()
        self.words.close()

    async def _watch(self) -> None:
        await self.process.ended.wait()
        self._ears.ended(self.domid)

    def _on_event(self, event: Event) -> None:
        match event.name:
            case "DEVICE_TRAY_MOVED":
                devid = arguments.devid_of(event.data.get("device"))
                if devid is not None and event.data.get("tray-open") is True and devid not in self._changing:
                    self._ears.ejected(self.domid, devid)
            case "RTC_CHANGE":
                offset = event.data.get("offset")
                if isinstance(offset, int) and not isinstance(offset, bool) and abs(offset) < _CLOCK_LIMIT:
                    self._ears.clock_set(self.domid, offset)
            case "DEVICE_DELETED":
                device = event.data.get("device")
                if isinstance(device, str) and device in self._removals:
                    self._removals[device].set()
            case _:
                log.debug("QEMU of domain %d: %s", self.domid, event.name)
