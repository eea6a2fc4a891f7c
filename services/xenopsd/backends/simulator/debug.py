# SPDX-License-Identifier: Apache-2.0
"""The simulator's own commands: they play the guest, the hardware and fate, so that tests need none of them."""

from collections.abc import Callable

from xenops.errors import BadRequest, DeviceNotConnected, Unimplemented
from xenops.events import Kind
from xenops.types.record import UNSET
from xenops.types.vbd import Mode
from xenopsd.backends.simulator.injection import Gate
from xenopsd.backends.simulator.world.domain import Domain, Drive, Nic, PassedPci, PassedUsb, ShutdownCode
from xenopsd.backends.simulator.world.guest import parse_behaviour
from xenopsd.backends.simulator.world.ram import Ram
from xenopsd.backends.simulator.world.world import World

_KINDS = {"vbd": Kind.VBD, "vif": Kind.VIF, "pci": Kind.PCI, "vusb": Kind.VUSB}


class Debug:
    """Commands by name; `usage` shows a command's arguments."""

    def __init__(self, world: World, gate: Gate) -> None:
        self._world, self._gate = world, gate
        self._commands: dict[str, tuple[str, Callable[..., object]]] = {
            "reboot": ("VM", lambda vm: self._stop(vm, ShutdownCode.REBOOT)),
            "halt": ("VM", lambda vm: self._stop(vm, ShutdownCode.POWEROFF)),
            "crash": ("VM", lambda vm: self._stop(vm, ShutdownCode.CRASH)),
            "suspend": ("VM", lambda vm: self._stop(vm, ShutdownCode.SUSPEND)),
            "kexec": ("VM", lambda vm: self._stop(vm, ShutdownCode.SOFT_RESET)),
            "die": ("VM", self._die),
            "eject": ("VM DEVICE", self._eject),
            "offline": ("VM vbd|vif|pci|vusb DEVICE", self._offline),
            "print": ("VM TEXT", self._print),
            "type": ("VM TEXT", lambda vm, text: world.type_in(world.domain(vm).vm, text.encode() + b"\r")),
            "guest": ("VM BEHAVIOUR [MS]", self._behave),
            "memory": ("VM KIB DIRTY_KIB_A_SECOND", self._remember),
            "check-vbd-plug-ordering": ("VM", self._check_vbd_plug_ordering),
            "storm": ("[TIMES]", self._storm),
            "unmanaged": ("NAME", world.create_foreign),
            "fail": ("CALL FAULT [TIMES|always|CHANCE%]", gate.fail),
            "latency": ("CALL MS[-MS]", gate.delay),
            "pause-call": ("CALL", gate.hold),
            "release-call": ("CALL", gate.release),
        }

    def run(self, command: str, arguments: list[str]) -> None:
        """Carry a command out. Raises `Unimplemented(command)`, `BadRequest`, `DoesNotExist`."""
        if command not in self._commands:
            raise Unimplemented(command)
        usage, action = self._commands[command]
        words = usage.split()
        needed = sum(not word.startswith("[") for word in words)
        if not needed <= len(arguments) <= len(words):
            raise BadRequest("args", f"usage: {command} {usage}")
        action(*arguments)

    def _stop(self, vm: str, code: ShutdownCode) -> None:
        self._world.guest_stops(self._world.domain(vm), code)

    def _die(self, vm: str) -> None:
        self._world.remove(self._world.domain(vm).vm)
        self._world.changed(Kind.VM, vm)

    def _eject(self, vm: str, dev: str) -> None:
        domain = self._world.domain(vm)
        drive = domain.vbds.get(dev)
        if drive is None:
            raise DeviceNotConnected("vbd", f"{vm}.{dev}")
        drive.medium = UNSET
        self._world.commit(domain)
        self._world.changed(Kind.VBD, f"{vm}.{dev}")

    def _offline(self, vm: str, kind: str, dev: str) -> None:
        domain = self._world.domain(vm)
        device = _device(domain, kind, dev)
        if device is None:
            raise DeviceNotConnected(kind, f"{vm}.{dev}")
        device.offline = True
        self._world.commit(domain)
        self._world.changed(_KINDS[kind], f"{vm}.{dev}")

    def _print(self, vm: str, text: str) -> None:
        domain = self._world.domain(vm)
        self._world.show(domain, domain.show(text + "\n"))

    def _behave(self, vm: str, *words: str) -> None:
        domain = self._world.domain(vm)
        try:
            domain.behaviour = parse_behaviour(words)
        except ValueError as error:
            raise BadRequest("args", str(error)) from error
        self._world.commit(domain)

    def _remember(self, vm: str, kib: str, dirty_kib_s: str) -> None:
        domain = self._world.domain(vm)
        if not (kib.isdecimal() and dirty_kib_s.isdecimal() and max(len(kib), len(dirty_kib_s)) < 10):
            raise BadRequest("args", "how much memory the guest has touched and how fast it writes there, in KiB")
        domain.ram = Ram(pages=min(int(kib), domain.target_kib) // 4, dirty_pages_s=int(dirty_kib_s) / 4)
        self._world.commit(domain)

    def _storm(self, times: str = "1") -> None:
        """Every guest writes into its own part of the store, over and over, before anybody comes to look."""
        if not (times.isdecimal() and len(times) < 4):
            raise BadRequest("args", "how often each guest writes: a number below 1000")
        for n in range(int(times)):
            for domain in self._world.domains.values():
                domain.guest["data/updated"] = str(n)
                self._world.commit(domain)
                self._world.changed(Kind.VM, domain.vm)

    def _check_vbd_plug_ordering(self, vm: str) -> None:
        modes = [drive.vbd.mode for drive in self._world.domain(vm).vbds.values()]
        if modes != sorted(modes, key=lambda mode: mode is Mode.READ_ONLY):
            raise BadRequest("check-vbd-plug-ordering", "a read-only drive was plugged before a read-write one")


def _device(domain: Domain, kind: str, dev: str) -> Drive | Nic | PassedPci | PassedUsb | None:
    match kind:
        case "vbd":
            return domain.vbds.get(dev)
        case "vif":
            return domain.vifs.get(dev)
        case "pci":
            return domain.pcis.get(dev)
        case "vusb":
            return domain.vusbs.get(dev)
    raise BadRequest("args", f"{kind!r:.60} is none of {', '.join(_KINDS)}")
