# SPDX-License-Identifier: Apache-2.0
"""Every operation's plan, printed: what reviewers read when a plan changes."""

import os
from pathlib import Path
from typing import get_args

import pytest

from tests.xenopsd.machines import full_machine, mobile_machine
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.network import Bridge
from xenops.types.vif import Dhcp4, Disabled, Unspecified6
from xenops.types.vm import PowerState, VmState
from xenopsd.backends.port import DeviceAction, DomainAction
from xenopsd.engine.plan import draw
from xenopsd.migration.arrival import Arrival
from xenopsd.migration.handshake import Destination
from xenopsd.operations import catalog, check, devices, migrate, settings, steps
from xenopsd.operations.migrate import HERE, Migrate
from xenopsd.operations.operation import Operation
from xenopsd.operations.reboot import Reboot
from xenopsd.operations.shutdown import Shutdown
from xenopsd.operations.start import Start
from xenopsd.operations.suspend import Checkpoint, FastResume, Resume, Suspend
from xenopsd.store.migrations import Crossing, Phase

GOLDEN = Path(__file__).parents[2] / "golden" / "plans"
VM = "vm-1"
DISK = Local(path="/var/lib/image")

OPERATIONS: list[Operation] = [
    Start(vm=VM),
    Start(vm=VM, paused=False),
    Shutdown(vm=VM),
    Shutdown(vm=VM, delay=30.0),
    Reboot(vm=VM),
    Reboot(vm=VM, delay=30.0),
    Suspend(vm=VM, disk=DISK),
    Resume(vm=VM, disk=DISK),
    Checkpoint(vm=VM, disk=DISK),
    FastResume(vm=VM),
    Migrate(vm=VM, destination="xenops.there.simulator"),
    Migrate(vm=VM, destination=HERE),
    steps.Destroy(vm=VM),
    steps.Create(vm=VM),
    steps.Build(vm=VM),
    steps.CreateDeviceModel(vm=VM),
    steps.Pause(vm=VM),
    steps.Unpause(vm=VM),
    steps.S3Suspend(vm=VM),
    steps.S3Resume(vm=VM),
    steps.Delay(vm=VM, seconds=5.0),
    steps.RunScript(vm=VM, script="true"),
    settings.SetVcpus(vm=VM, n=2),
    settings.SetShadowMultiplier(vm=VM, multiplier=2.0),
    settings.SetMemoryDynamicRange(vm=VM, minimum=1, maximum=2),
    settings.SetXsdata(vm=VM, xsdata={}),
    settings.Move(vm=VM, dev="0", network=Bridge()),
    settings.SetCarrier(vm=VM, dev="0", carrier=False),
    settings.SetLockingMode(vm=VM, dev="0", mode=Disabled()),
    settings.SetIpv4Configuration(vm=VM, dev="0", configuration=Dhcp4()),
    settings.SetIpv6Configuration(vm=VM, dev="0", configuration=Unspecified6()),
    settings.SetPvsProxy(vm=VM, dev="0"),
    settings.SetTrunks(vm=VM, dev="0", trunks=[1]),
    *(
        devices.Plug(vm=VM, kind=kind, dev=dev)
        for kind, dev in ((Kind.VBD, "xvda"), (Kind.VIF, "0"), (Kind.PCI, "0"), (Kind.VUSB, "0"))
    ),
    *(
        devices.Unplug(vm=VM, kind=kind, dev=dev)
        for kind, dev in ((Kind.VBD, "xvda"), (Kind.VIF, "0"), (Kind.PCI, "0"), (Kind.VUSB, "0"))
    ),
    devices.Insert(vm=VM, dev="xvdd", disk=DISK),
    devices.Eject(vm=VM, dev="xvdd"),
]


def name(operation: Operation) -> str:
    extra = "-clean" if getattr(operation, "delay", None) is not None else ""
    extra += "-here" if operation == Migrate(vm=VM, destination=HERE) else ""
    return operation.name + extra + ("-running" if operation == Start(vm=VM, paused=False) else "")


def compare(filename: str, text: str) -> None:
    path = GOLDEN / filename
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, "the plan has changed: read the difference; `make golden` takes it over"


@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
def test_golden_plan(operation: Operation) -> None:
    compare(f"{name(operation)}.txt", draw(operation.plan(full_machine())))


@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
def test_the_journal_reads_it_back(operation: Operation) -> None:
    assert catalog.decode(catalog.encode(operation)) == operation


def test_no_operation_is_forgotten() -> None:
    assert {type(operation) for operation in OPERATIONS} == set(get_args(catalog.AnyOperation))


@pytest.mark.parametrize("action", [*DomainAction, None])
@pytest.mark.parametrize("ran_s", [1.0, 1000.0])
def test_golden_check(action: DomainAction | None, ran_s: float) -> None:
    facts = check.Facts(
        state=VmState(power_state=PowerState.RUNNING, domids=[7]),
        action=action,
        ran_s=ran_s,
        minimum_run_s=120.0,
        loop_delay_s=15.0,
        device_actions={(Kind.VBD, "xvda"): DeviceAction.SET_QOS, (Kind.VIF, "0"): DeviceAction.UNPLUG},
    )
    soon = "-soon" if ran_s < 120 else ""
    compare(
        f"check-{action.value if action else 'devices'}{soon}.txt",
        draw(check.plan(full_machine(), facts)) or "nothing\n",
    )


def test_a_machine_without_a_domain_is_cleared_up_once() -> None:
    machine = full_machine()
    facts = check.Facts(VmState(power_state=PowerState.HALTED), DomainAction.POWEROFF, 0.0, 0.0, 0.0)
    assert draw(check.plan(machine, facts)) == ""
    vanished = check.Facts(VmState(power_state=PowerState.HALTED), None, 0.0, 0.0, 0.0, remains=True)
    assert "vm.Destroy" in draw(check.plan(machine, vanished))
    machine.devices[Kind.VBD]["xvda"].active = True
    assert "vbd.Unplug xvda" in draw(check.plan(machine, facts))


def test_golden_arrival() -> None:
    machine = full_machine()
    crossing = Crossing(id="m", vm=VM, peer="xenops.here.simulator", phase=Phase.RECEIVING)
    arrival = Arrival(crossing, machine, Destination.RECEIVING)
    compare("VM.migrate_receive.txt", draw(migrate.arrive(arrival)) + draw(migrate.settle(arrival)))
    compare("VM.migrate_receive-given-up.txt", draw(migrate.give_up(machine)))
    facts = check.Facts(
        VmState(power_state=PowerState.SUSPENDED, domids=[7]), DomainAction.SUSPEND, 0, 0, 0, given=True
    )
    compare("check-given.txt", draw(check.plan(machine, facts)))


@pytest.mark.parametrize("phase", [Phase.BESIDE, Phase.REPLACING], ids=lambda phase: phase.value)
@pytest.mark.parametrize("twin", [True, False])
def test_golden_second_domain(phase: Phase, twin: bool) -> None:
    machine = mobile_machine()
    crossing = Crossing(id="m", vm=VM, peer="xenops.here.simulator", phase=phase, metadata=machine.metadata())
    state = VmState(power_state=PowerState.SUSPENDED, domids=[7])
    facts = check.Facts(state, DomainAction.SUSPEND, 0, 0, 0, doubled=crossing, twin=twin)
    vanished = "" if twin or phase is Phase.BESIDE else "-gone"
    compare(f"check-{phase.value}{vanished}.txt", draw(check.plan(machine, facts)))
