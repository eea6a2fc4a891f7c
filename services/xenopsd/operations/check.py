# SPDX-License-Identifier: Apache-2.0
"""What has to be done to bring a machine to a valid state: the truth, whatever happened before.

Asked after every failure and cancellation, when a guest or the host does something by itself, and for every machine
at start-up. The facts come in; the plan goes out.

    given to another host   -> tell it, and leave    whatever its domain needs
    a second domain         -> that takes its place, if it was decided, or goes; then as if it had never been
    no domain               -> clear up what is left of it
    domain needs DISCARD    -> stop               half built or half taken away
                 POWEROFF   -> on_shutdown
                 REBOOT     -> on_reboot          ran shorter than the minimum: first wait a while
                 CRASHDUMP  -> on_crash           ran shorter than the minimum: stop instead of starting again
                 SUSPEND    -> wake it            nobody asked, or we were killed while its image was being written:
                                                  the memory is still there, and is the only copy that is surely whole
                 SOFTRESET  -> on_softreboot
"""

from dataclasses import dataclass, field, replace

from xenops.events import Kind
from xenops.types.vbd import Qos
from xenops.types.vm import Action, PowerState, VmState
from xenopsd.atoms import vbd, vif, vm
from xenopsd.atoms.hook import Reason
from xenopsd.atoms.kind import KINDS, deactivate_all
from xenopsd.backends.port import DeviceAction, DomainAction
from xenopsd.engine.plan import NOTHING, BestEffort, Plan, serial
from xenopsd.operations.migrate import finish, go_on, take_place, without_twin
from xenopsd.operations.reboot import reboot
from xenopsd.operations.shutdown import dismantle, power_off
from xenopsd.store.machine import Machine, twin_of
from xenopsd.store.migrations import Crossing, Phase

# Which field of a machine's record says what to do.
ANSWERS = {
    DomainAction.POWEROFF: "on_shutdown",
    DomainAction.REBOOT: "on_reboot",
    DomainAction.CRASHDUMP: "on_crash",
    DomainAction.SOFTRESET: "on_softreboot",
}


@dataclass(frozen=True)
class Facts:
    """What the backend says of a machine now; `ran_s` is how long its domain has lived."""

    state: VmState
    action: DomainAction | None
    ran_s: float
    minimum_run_s: float
    loop_delay_s: float
    device_actions: dict[tuple[Kind, str], DeviceAction] = field(default_factory=dict)
    plugged: dict[tuple[Kind, str], bool] = field(default_factory=dict)  # drives and interfaces of a live domain
    remains: bool = False  # of a domain that is gone
    given: bool = False  # to a destination that has not confirmed it
    doubled: Crossing | None = None  # the migration within this xenopsd that has not come to its end
    twin: bool = False  # there is a second domain


def plan(machine: Machine, facts: Facts) -> Plan:
    """From what is to what may be."""
    if facts.given:
        return finish(machine)
    if facts.doubled is not None:
        return _undouble(machine, facts, facts.doubled)
    if not facts.state.domids:
        return _clear_up(machine, facts)
    if facts.action is DomainAction.SUSPEND:
        return vm.Resume(machine.vm)
    if facts.action is not None:
        return serial(*(_act(machine, facts, action) for action in wanted(machine, facts)))
    return serial(
        *(_mend_device(machine, kind, dev, action) for (kind, dev), action in facts.device_actions.items()),
        *(_set_active(machine, kind, dev, plugged) for (kind, dev), plugged in facts.plugged.items()),
    )


def wanted(machine: Machine, facts: Facts) -> list[Action]:
    """The actions that the machine's record asks for, after damping of loops."""
    if facts.action not in ANSWERS:
        return [Action.SHUTDOWN]
    actions: list[Action] = getattr(machine.vm, ANSWERS[facts.action])
    if facts.action is DomainAction.CRASHDUMP and facts.ran_s < facts.minimum_run_s:
        return [Action.SHUTDOWN if action is Action.START else action for action in actions]
    return actions


def counts_as(machine: Machine, facts: Facts) -> PowerState | None:
    """What the machine counts as while the plan is carried out, where its domain goes and another comes."""
    if facts.doubled is not None and facts.doubled.phase is Phase.REPLACING:
        return PowerState.PAUSED if facts.doubled.paused else PowerState.RUNNING
    restarts = bool(facts.state.domids) and Action.START in wanted(machine, facts)
    return PowerState.RUNNING if restarts else None


def _act(machine: Machine, facts: Facts, action: Action) -> Plan:
    match action:
        case Action.START:
            in_a_loop = facts.ran_s < facts.minimum_run_s
            return serial(vm.Delay(facts.loop_delay_s) if in_a_loop else NOTHING, reboot(machine, Reason.CLEAN_REBOOT))
        case Action.SHUTDOWN:
            clean = facts.action is DomainAction.POWEROFF
            return power_off(machine, Reason.CLEAN_SHUTDOWN if clean else Reason.HARD_SHUTDOWN)
        case Action.PAUSE:
            return vm.Pause(machine.vm)
        case Action.COREDUMP:
            return BestEffort(vm.DumpCore(machine.vm))
        case Action.SOFTREBOOT:
            return vm.SoftReset(machine.vm)


def _undouble(machine: Machine, facts: Facts, doubled: Crossing) -> Plan:
    """One domain of two; what the machine needs besides is asked again afterwards."""
    assert doubled.metadata is not None
    if doubled.phase is Phase.BESIDE:
        return serial(without_twin(machine, doubled.metadata), plan(machine, replace(facts, doubled=None)))
    return take_place(machine, twin_of(doubled.metadata).vm) if facts.twin else go_on(machine)


def _clear_up(machine: Machine, facts: Facts) -> Plan:
    """No domain: take away what a vanished one left behind."""
    left_over = any(device.active for devices in machine.devices.values() for device in devices.values())
    suspended = facts.state.power_state is PowerState.SUSPENDED
    if not left_over and not facts.remains:
        return NOTHING
    return serial(dismantle(machine), deactivate_all(machine, life_goes_on=suspended))


def _set_active(machine: Machine, kind: Kind, dev: str, plugged: bool) -> Plan:
    """In a live domain the truth is what is plugged; an interrupted plug or unplug may have left the mark behind."""
    device = machine.device(kind, dev)
    if device.active == plugged:
        return NOTHING
    atom = vbd.SetActive if kind is Kind.VBD else vif.SetActive
    return atom(machine.vm, device.record, plugged)


def _mend_device(machine: Machine, kind: Kind, dev: str, action: DeviceAction) -> Plan:
    record = machine.device(kind, dev).record
    match action:
        case DeviceAction.SET_QOS if kind is Kind.VBD:
            return vbd.SetQos(machine.vm, record, record.qos if isinstance(record.qos, Qos) else None)
        case _:
            return KINDS[kind].unplug(machine.vm, record, True)
