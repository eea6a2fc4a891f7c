# SPDX-License-Identifier: Apache-2.0
"""What is killed where: operations, the states around them, and the points of death, read off each operation's plan.

A step that is added to a plan adds its own points. Pure.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.xenopsd.kill.mortal import Death, name_of
from tests.xenopsd.steps.samples import Sample, asks
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.vm import PowerState
from xenopsd.engine.plan import atoms
from xenopsd.operations import devices
from xenopsd.operations.migrate import HERE, Migrate
from xenopsd.operations.operation import Operation
from xenopsd.operations.reboot import Reboot
from xenopsd.operations.shutdown import Shutdown
from xenopsd.operations.start import Start
from xenopsd.operations.suspend import Checkpoint, Resume, Suspend
from xenopsd.store.machine import Machine

HALTED, RUNNING, PAUSED, SUSPENDED = PowerState.HALTED, PowerState.RUNNING, PowerState.PAUSED, PowerState.SUSPENDED
PATIENT_S = 60.0  # for guests that are asked


@dataclass(frozen=True)
class Case:
    """An operation on a machine, the request that asks for it, and what a death at a step of it leaves behind."""

    name: str
    operation: Operation
    method: str
    args: tuple[Any, ...]
    before: PowerState
    turns: tuple[tuple[str, PowerState], ...]  # from the end of that step on, the check makes it that
    answers: bool = False  # the guest has to
    until: str = ""  # the rest of the plan is another case's
    prepare: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # what is asked for before, in the state `before`
    broken: bool = False  # what that leaves goes with the death
    untaken: tuple[str, ...] = ()  # steps that fail by themselves, and so have no end
    decided: str = ""  # the step from whose end on the task completes

    @property
    def dev(self) -> str | None:
        """The device that is plugged or unplugged; the machine has it, plugged only before an unplug."""
        return getattr(self.operation, "dev", None)

    @property
    def kind(self) -> Kind | None:
        """Its kind."""
        return getattr(self.operation, "kind", None)

    @property
    def plugs(self) -> bool:
        """Whether the device is to be unplugged first."""
        return isinstance(self.operation, devices.Plug) and not self.prepare

    def deaths(self, machine: Machine) -> list[Death]:
        """As the first step begins, and at the end of each."""
        names = [name_of(atom) for atom in atoms(self.operation.plan(machine))]
        if self.until:
            names = names[: names.index(self.until) + 1]
        seen: Counter[str] = Counter()
        found = [Death("begin", 1, names[0])]
        for name in names:
            seen[name] += 1
            if name not in self.untaken:
                found.append(Death("end", seen[name], name))
        return found

    def after(self, machine: Machine, death: Death) -> PowerState:
        """What the machine is once the check has made good what the death left."""
        state, turns = HALTED if self.broken else self.before, dict(self.turns)
        for name, nth, when in _up_to(self, machine, death):
            if when == "end":
                state = turns.get(name if nth == 1 else "", state)
        return state

    def is_decided(self, machine: Machine, death: Death) -> bool:
        """Whether the next life brings it to its end."""
        return (self.decided, "end") in [(name, when) for name, _, when in _up_to(self, machine, death)]

    def same_domain(self, machine: Machine, death: Death) -> bool:
        """Whether it is the domain of before, with the devices of before."""
        passed = [name for name, _, when in _up_to(self, machine, death) if when == "end"]
        return self.dev is None and not any(name in passed for name, _ in self.turns)


def _up_to(case: Case, machine: Machine, death: Death) -> Iterator[tuple[str, int, str]]:
    for each in case.deaths(machine):
        yield each.step, each.nth, each.when
        if each == death:
            return


def cases(vm: str, image: Local, *, drive: str, interface: str) -> list[Case]:
    """Start, shutdown, reboot, suspend, resume, migration and hot-plug of that machine."""
    asked, stopped, whole, runs = (
        "vm.AskToShutDown",
        ("vm.Condemn", HALTED),
        ("vm.Complete", PAUSED),
        ("vm.Unpause", RUNNING),
    )
    found = [
        Case("start", Start(vm=vm, paused=False), "VM.start", (vm, False, False), HALTED, (whole, runs)),
        Case("shutdown", Shutdown(vm=vm), "VM.shutdown", (vm,), RUNNING, (stopped,)),
        Case("reboot", Reboot(vm=vm), "VM.reboot", (vm,), RUNNING, (stopped, whole, runs)),
        Case(
            "suspend",
            Suspend(vm=vm, disk=image),
            "VM.suspend",
            (vm, image),
            RUNNING,
            (("vm.Condemn", SUSPENDED),),
            True,
        ),
        Case(
            "resume",
            Resume(vm=vm, disk=image, paused=False),
            "VM.resume",
            (vm, image, False),
            SUSPENDED,
            (whole, runs),
            True,
        ),
        Case("checkpoint", Checkpoint(vm=vm, disk=image), "VM.checkpoint", (vm, image), RUNNING, (), True),
        Case(
            "clean-shutdown",
            Shutdown(vm=vm, delay=PATIENT_S),
            "VM.shutdown",
            (vm, PATIENT_S),
            RUNNING,
            ((asked, HALTED),),
            True,
            asked,
        ),
        # A guest that stopped in order to reboot is started again by the check, as if it had asked for that by itself.
        Case(
            "clean-reboot",
            Reboot(vm=vm, delay=PATIENT_S),
            "VM.reboot",
            (vm, PATIENT_S),
            RUNNING,
            ((asked, RUNNING),),
            True,
            asked,
        ),
    ]
    found.append(_migration(Migrate(vm=vm, destination=HERE)))
    for kind, dev in ((Kind.VBD, drive), (Kind.VIF, interface)):
        id, word = DeviceId(vm=vm, dev=dev), kind.name.lower()
        plug, unplug = devices.Plug(vm=vm, kind=kind, dev=dev), devices.Unplug(vm=vm, kind=kind, dev=dev)
        found.append(Case(f"{word}-plug", plug, f"{kind.name}.plug", (id,), RUNNING, (), True))
        found.append(Case(f"{word}-unplug", unplug, f"{kind.name}.unplug", (id,), RUNNING, (), True))
    return found


def _migration(operation: Migrate) -> Case:
    """To another domain, which the machine is once that is decided."""
    decided = "relocation.Decide"
    return Case("migrate", operation, *asks(operation), RUNNING, ((decided, RUNNING),), answers=True, decided=decided)


def of_sample(sample: Sample) -> Case:
    """The case of an operation of the catalogue."""
    method, args = asks(sample.operation)
    return Case(
        sample.name,
        sample.operation,
        method,
        args,
        sample.before,
        () if sample.broken else sample.turns,
        answers=True,
        prepare=tuple(asks(operation) for operation in sample.prepare),
        broken=sample.broken,
        untaken=sample.untaken,
        decided=sample.decided,
    )


def chosen(case: Case, machine: Machine) -> Death:
    """The one that stands for a case where there is no time for all: in the middle of it."""
    deaths = case.deaths(machine)
    return deaths[len(deaths) // 2]
