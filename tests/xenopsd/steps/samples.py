# SPDX-License-Identifier: Apache-2.0
"""Every operation with a machine to do it to: what the suites that walk all steps read.

A new operation needs a sample here, and a test says so by name; its steps are found in its plan. Pure.
"""

import os
from dataclasses import dataclass
from typing import Any, get_args

from tests.xenopsd.machines import full_machine, mobile_machine
from xenops.derive.catalogue import all_methods
from xenops.events import Kind
from xenops.idl import Method
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge
from xenops.types.vif import Dhcp4, Disabled, Unspecified6
from xenops.types.vm import MIB, PowerState
from xenopsd.engine.plan import Atom, BestEffort, Parallel, Plan, Serial, atoms, cancellable
from xenopsd.operations import catalog, devices, settings, steps
from xenopsd.operations.migrate import HERE, Migrate
from xenopsd.operations.operation import Operation
from xenopsd.operations.reboot import Reboot
from xenopsd.operations.shutdown import Shutdown
from xenopsd.operations.start import Start
from xenopsd.operations.suspend import Checkpoint, FastResume, Resume, Suspend
from xenopsd.store.machine import Machine

HALTED, RUNNING, PAUSED, SUSPENDED = PowerState.HALTED, PowerState.RUNNING, PowerState.PAUSED, PowerState.SUSPENDED
PATIENT_S = 60.0  # for guests that are asked


@dataclass(frozen=True)
class Sample:
    """An operation on a machine with a device of every kind.

    `turns`: once that step has been taken, the operation may leave the machine in that state. `prepare` is done before,
    when the machine is in the state `before`; `broken`: what that leaves is taken away by the check after a failure;
    `refused`: the fault with which it ends when nothing befalls it; `untaken`: the steps that fail by themselves;
    `decided`: once that step has been taken, the check carries out what is left, and the task completes.
    """

    name: str
    operation: Operation
    before: PowerState = RUNNING
    turns: tuple[tuple[str, PowerState], ...] = ()
    prepare: tuple[Operation, ...] = ()
    broken: bool = False
    refused: str = ""
    untaken: tuple[str, ...] = ()
    decided: str = ""

    @property
    def machine(self) -> Machine:
        """With a device of every kind that the operation can do with."""
        make = mobile_machine if isinstance(self.operation, Migrate) else full_machine
        return make(self.operation.vm)

    @property
    def plan(self) -> Plan:
        """Its plan for that machine."""
        return self.operation.plan(self.machine)

    @property
    def places(self) -> list[tuple[str, int]]:
        """Its steps by name, each with which one of that name it is."""
        seen: dict[str, int] = {}
        found = []
        for atom in atoms(self.plan):
            name = name_of(atom)
            seen[name] = seen.get(name, 0) + 1
            found.append((name, seen[name]))
        return found

    @property
    def cancellable(self) -> int:
        """How many of its steps may still be cancelled when they begin."""
        return len(cancellable(self.plan)[0])

    def is_best_effort(self, place: tuple[str, int]) -> bool:
        """Whether the operation goes on without that step."""
        return place[0] in {name_of(atom) for atom in _best_effort(self.plan)}

    @property
    def last(self) -> int:
        """The last step whose failure takes the operation back."""
        return max(n for n, place in enumerate(self.places[: self.cancellable]) if not self.is_best_effort(place))

    def is_undone(self, place: int) -> bool:
        """Whether that step is put back when the last one fails that takes the operation back."""
        atom = list(atoms(self.plan))[place]
        return hasattr(atom, "undo") and place < self.last and not self.untaken

    def after(self) -> PowerState:
        """What it leaves behind when all goes well."""
        return self.turns[-1][1] if self.turns else self.before

    def is_decided(self, upto: int) -> bool:
        """Whether it completes, whatever befalls it after that many steps."""
        return self.decided in [name for name, _ in self.places[:upto]]

    def left_by(self, upto: int) -> set[PowerState]:
        """What the machine may be when all went well up to that many steps, and it was looked after."""
        taken = [name for name, _ in self.places[:upto]]
        states = {HALTED if self.broken else self.before}
        return states | {state for name, state in self.turns if name in taken}


def name_of(atom: Atom) -> str:
    """What a step is called in a plan."""
    return f"{atom.label} {atom.about}".rstrip()


def _best_effort(plan: Plan) -> list[Atom]:
    match plan:
        case BestEffort(step):
            return list(atoms(step))
        case Serial(parts) | Parallel(parts):
            return [atom for part in parts for atom in _best_effort(part)]
    return []


ALL = os.environ.get("CRASH") == "all"  # as `make test-crash` says
_SHORT, _EVERY = 3, 5


def is_walked(sample: Sample, place: int, turn: int) -> bool:
    """Whether a step is for today: all steps of short plans, and of longer ones every fifth, another one each `turn`."""
    return ALL or len(sample.places) <= _SHORT or (place + turn) % _EVERY == 0


def samples(vm: str, image: Local) -> list[Sample]:
    """At least one for each operation of the catalogue."""
    return [*_life(vm, image), *_single_steps(vm), *_plugging(vm), *_settings(vm)]


def _life(vm: str, image: Local) -> list[Sample]:
    asked, stopped, whole = ("vm.AskToShutDown", HALTED), ("vm.Condemn", HALTED), ("vm.Complete", PAUSED)
    runs, saved, moved = ("vm.Unpause", RUNNING), ("vm.Condemn", SUSPENDED), "relocation.Decide"
    return [
        Sample("start", Start(vm=vm), HALTED, (whole,)),
        Sample("start-running", Start(vm=vm, paused=False), HALTED, (whole, runs)),
        Sample("shutdown", Shutdown(vm=vm), RUNNING, (stopped,)),
        Sample("shutdown-clean", Shutdown(vm=vm, delay=PATIENT_S), RUNNING, (asked, stopped)),
        Sample("shutdown-suspended", Shutdown(vm=vm), SUSPENDED, (("vm.DiscardImage", HALTED),), untaken=("vm.Pause",)),
        Sample("reboot", Reboot(vm=vm), RUNNING, (stopped, whole, runs)),
        Sample(
            "reboot-clean",
            Reboot(vm=vm, delay=PATIENT_S),
            RUNNING,
            (("vm.AskToShutDown", RUNNING), stopped, whole, runs),
        ),
        Sample("suspend", Suspend(vm=vm, disk=image), RUNNING, (saved,)),
        Sample("checkpoint", Checkpoint(vm=vm, disk=image)),
        Sample("resume", Resume(vm=vm, disk=image), SUSPENDED, (whole,)),
        Sample("resume-running", Resume(vm=vm, disk=image, paused=False), SUSPENDED, (whole, runs)),
        Sample("fast-resume", FastResume(vm=vm), refused="BadPowerState", untaken=("vm.Resume",)),
        # Between two xenopsds: tests/xenopsd/migration/test_steps.py
        Sample("migrate-here", Migrate(vm=vm, destination=HERE), RUNNING, ((moved, RUNNING),), decided=moved),
        Sample("migrate-here-paused", Migrate(vm=vm, destination=HERE), PAUSED, ((moved, PAUSED),), decided=moved),
        Sample("destroy", steps.Destroy(vm=vm), RUNNING, (("vm.Destroy", HALTED),)),
    ]


def _single_steps(vm: str) -> list[Sample]:
    created = (steps.Create(vm=vm),)
    return [
        Sample("create", steps.Create(vm=vm), HALTED, (("vm.Create", PAUSED),), broken=True),
        Sample("build", steps.Build(vm=vm), PAUSED, (), created, broken=True),
        Sample("device-model", steps.CreateDeviceModel(vm=vm), PAUSED, (), (*created, steps.Build(vm=vm)), broken=True),
        Sample("pause", steps.Pause(vm=vm), RUNNING, (("vm.Pause", PAUSED),)),
        Sample("unpause", steps.Unpause(vm=vm), PAUSED, (("vm.Unpause", RUNNING),)),
        Sample("s3suspend", steps.S3Suspend(vm=vm)),
        Sample("s3resume", steps.S3Resume(vm=vm), RUNNING, (), (steps.S3Suspend(vm=vm),)),
        Sample("delay", steps.Delay(vm=vm, seconds=0.0)),
        Sample("run-script", steps.RunScript(vm=vm, script="true")),
    ]


def _plugging(vm: str) -> list[Sample]:
    found = []
    for kind, dev in ((Kind.VBD, "xvda"), (Kind.VIF, "0"), (Kind.PCI, "0"), (Kind.VUSB, "0")):
        plug, forced = devices.Plug(vm=vm, kind=kind, dev=dev), devices.Unplug(vm=vm, kind=kind, dev=dev, force=True)
        word = kind.name.lower()
        found += [Sample(f"{word}-plug", plug, prepare=(forced,)), Sample(f"{word}-unplug-force", forced)]
        if kind in (Kind.VBD, Kind.VIF):  # whose guest can be asked
            found.append(Sample(f"{word}-unplug", devices.Unplug(vm=vm, kind=kind, dev=dev)))
    insert = devices.Insert(vm=vm, dev="xvdd", disk=Local(path="/iso"))
    return [
        *found,
        Sample("insert", insert),
        Sample("eject", devices.Eject(vm=vm, dev="xvdd"), prepare=(insert,)),
    ]


def _settings(vm: str) -> list[Sample]:
    return [
        Sample("set-vcpus", settings.SetVcpus(vm=vm, n=1)),
        Sample(
            "set-shadow",
            settings.SetShadowMultiplier(vm=vm, multiplier=2.0),
            turns=(("vm.SetShadowMultiplier", RUNNING),),
        ),
        Sample(
            "set-memory",
            settings.SetMemoryDynamicRange(vm=vm, minimum=64 * MIB, maximum=128 * MIB),
            turns=(("vm.SetMemoryRange", RUNNING),),  # whose domain is not what it was
        ),
        Sample("set-xsdata", settings.SetXsdata(vm=vm, xsdata={"vm-data/a": "b"})),
        Sample("move", settings.Move(vm=vm, dev="0", network=Bridge(bridge="other"))),
        Sample("carrier", settings.SetCarrier(vm=vm, dev="0", carrier=False)),
        Sample("locking", settings.SetLockingMode(vm=vm, dev="0", mode=Disabled())),
        Sample("ipv4", settings.SetIpv4Configuration(vm=vm, dev="0", configuration=Dhcp4())),
        Sample("ipv6", settings.SetIpv6Configuration(vm=vm, dev="0", configuration=Unspecified6())),
        Sample("pvs-proxy", settings.SetPvsProxy(vm=vm, dev="0")),
        Sample("trunks", settings.SetTrunks(vm=vm, dev="0", trunks=[1])),
    ]


def without_sample() -> list[str]:
    """The operations that nobody walks."""
    known = {type(sample.operation).__name__ for sample in samples("vm", Local(path="/"))}
    return sorted({operation.__name__ for operation in get_args(catalog.AnyOperation)} - known)


METHODS: dict[str, Method] = {method.wire: method for method in all_methods()}


def asks(operation: Operation) -> tuple[str, tuple[Any, ...]]:
    """The request that an operation answers: the method, and its arguments in the order of its fields."""
    dev = getattr(operation, "dev", None)
    target = operation.vm if dev is None else DeviceId(vm=operation.vm, dev=dev)
    own = [name for name in operation.__struct_fields__ if name not in ("vm", "dev", "kind")]
    taken = METHODS[operation.name].params.__struct_fields__[1:]
    return operation.name, (target, *(getattr(operation, name) for name in own[: len(taken)]))
