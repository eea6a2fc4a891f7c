# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that is not there: a host, its domains and their guests, simulated well enough to test all of xenopsd.

Loaded by name, `create` is its door. It never starts a process, never opens a device and never makes a hypercall.
"""

from pathlib import Path

from xenops.errors import BadRequest
from xenopsd.backends.port import (
    Backend,
    Changed,
    HostBackend,
    PciBackend,
    Surroundings,
    VbdBackend,
    VgpuBackend,
    VifBackend,
    VmBackend,
    VusbBackend,
)
from xenopsd.backends.simulator.console.sockets import Sockets
from xenopsd.backends.simulator.debug import Debug
from xenopsd.backends.simulator.host import SimulatedHost
from xenopsd.backends.simulator.injection import Gate, calls_of
from xenopsd.backends.simulator.options import SimulatorOptions
from xenopsd.backends.simulator.pci import SimulatedPci
from xenopsd.backends.simulator.vbd import SimulatedVbd
from xenopsd.backends.simulator.vgpu import SimulatedVgpu
from xenopsd.backends.simulator.vif import SimulatedVif
from xenopsd.backends.simulator.vm import SimulatedVm
from xenopsd.backends.simulator.vusb import SimulatedVusb
from xenopsd.backends.simulator.world.domain import Behaviour
from xenopsd.backends.simulator.world.guest import parse_behaviour
from xenopsd.backends.simulator.world.shelf import Shelf
from xenopsd.backends.simulator.world.world import World

__all__ = ["Options", "Simulator", "SimulatorOptions", "create"]

Options = SimulatorOptions


class Simulator:
    """The backend; tests may look at its `world` and stand at its `gate`."""

    name: str = "simulator"

    def __init__(self, state_dir: Path, options: SimulatorOptions) -> None:
        self.gate = gate = Gate(options.seed)
        sockets = Sockets(state_dir / "vt")
        self.world = world = World(
            Shelf(state_dir / "world.db"), sockets, memory_mib=options.memory_mib, behaviour=_behaviour(options.guest)
        )
        sockets.connect(world.type_in)
        self.host: HostBackend = SimulatedHost(world, gate, cpus=options.cpus)
        self.vm: VmBackend = SimulatedVm(
            world,
            gate,
            disks=state_dir / "disks",
            minimum_reboot_delay_s=options.minimum_reboot_delay_s,
            suspend_timeout_s=options.suspend_timeout_s,
        )
        self.vbd: VbdBackend = SimulatedVbd(world, gate)
        self.vif: VifBackend = SimulatedVif(world, gate)
        self.pci: PciBackend = SimulatedPci(world, gate)
        self.vusb: VusbBackend = SimulatedVusb(world, gate)
        self.vgpu: VgpuBackend = SimulatedVgpu(world, gate)
        gate.calls = calls_of((self.host, self.vm, self.vbd, self.vif, self.pci, self.vusb, self.vgpu))
        for entry in options.latency:
            gate.delay(*_words(entry, "latency", 2))
        for entry in options.failures:
            gate.fail(*(entry.split(":") if entry.count(":") == 2 else (*_words(entry, "failures", 2), "always")))
        self._debug = Debug(world, gate)

    async def start(self, changed: Changed) -> None:
        self.world.start(changed)

    async def stop(self) -> None:
        self.world.stop()

    async def debug(self, command: str, arguments: list[str]) -> None:
        self._debug.run(command, arguments)


def create(surroundings: Surroundings, options: SimulatorOptions) -> Backend:
    """A simulated host, kept in its folder. Raises `BadRequest` for options that mean nothing, `IoError`."""
    return Simulator(surroundings.state_dir, options)


def _behaviour(text: str) -> Behaviour:
    try:
        return parse_behaviour(text.split())
    except ValueError as error:
        raise BadRequest("guest", str(error)) from error


def _words(entry: str, option: str, count: int) -> list[str]:
    words = entry.split(":")
    if len(words) != count:
        raise BadRequest(option, f"{entry!r:.60} is not written as vm.create:50 or vbd.plug:IoError")
    return words
