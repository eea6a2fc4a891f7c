# SPDX-License-Identifier: Apache-2.0
"""Every fault that may cross the bus: a class name and its fields, nothing else of it.

    Fault
      RequestFault        the request itself is at fault; nothing was done
        BadRequest  UnknownMethod  DeadlineExceeded  Busy  AnswerTooLong
      StateFault          asked at the wrong time or of the wrong thing; nothing was changed
        AlreadyExists  DoesNotExist  Migrated  BadPowerState  DomainNotBuilt  InvalidVcpus  Unimplemented
        DeviceIsConnected  DeviceNotConnected  MediaNotEjectable  MediaPresent  MediaNotPresent
      GuestFault          the guest did not play along
        FailedToAcknowledgeShutdownRequest  FailedToAcknowledgeSuspendRequest  FailedToShutdown  FailedToSuspend
        DeviceDetachRejected  FailedToRunScript  VmsFailedToCooperate  BallooningTimeoutBeforeMigration
      HostFault           the host, or something configured on it, did not play along
        NoBootableDevice  BootloaderError  CannotFreeThisMuchMemory  NotEnoughMemory  IoError
        HypercallFailed  HookFailed  ProgramFailed  StepTimedOut  StorageBackendError  PcibackNotLoaded
        FailedToStartEmulator  RecordDamaged  MigrationFailed
      TaskFault           the work was ended before its time
        Cancelled  Interrupted
      ServiceFault        somebody on the bus could not be reached
        FailedToContactRemoteService  NoSuchService  SwitchUnreachable  ConnectionLost  TimedOut
      InternalError       our fault; the log has the traceback under the reference

A fault's `sentence` is for a person and names the next step; programs read `name` and `fields`. An unknown name
decodes to `InternalError`, never to code.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, dataclass_transform

import msgspec


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Fault(Exception):
    """An error that may cross the bus."""

    known: ClassVar[dict[str, type["Fault"]]] = {}
    sentence: ClassVar[str] = "something went wrong"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(eq=False, repr=False)(cls)
        Fault.known[cls.__name__] = cls

    @property
    def name(self) -> str:
        """The name that crosses the bus."""
        return type(self).__name__

    def fields(self) -> dict[str, Any]:
        """The facts of this fault, by field name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.sentence.format(**self.fields())

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={value!r}" for key, value in self.fields().items())
        return f"{self.name}({facts})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Fault) and self.fields() == other.fields()

    __hash__ = Exception.__hash__


class RequestFault(Fault):
    """The request itself is at fault; nothing was done."""


class BadRequest(RequestFault):
    """The bytes are not a request, or a field is missing, unknown or ill-typed; mend the caller."""

    sentence = "{path}: {reason}"
    path: str
    reason: str


class UnknownMethod(RequestFault):
    """This service has no such method; `nearest` is the most similar one, if any."""

    sentence = "there is no method {method!r} here; {nearest}"
    method: str
    nearest: str = "docs/api lists them all"


class DeadlineExceeded(RequestFault):
    """The request's deadline had passed before work could start, and so none was done."""

    sentence = "the request's deadline passed before the work could start; nothing was done: ask again with a later one"
    deadline: int


class Busy(RequestFault):
    """A queue is at its limit; ask again after `retry_after_ms`."""

    sentence = "{what} is at its limit of waiting work; try again in {retry_after_ms} ms"
    what: str
    retry_after_ms: int


class AnswerTooLong(RequestFault):
    """The answer has more bytes than a message may have; ask for less at a time."""

    sentence = "the answer has {size} bytes, and a message at most {limit}; ask for less at a time: stat, not list"
    size: int
    limit: int


class StateFault(Fault):
    """Asked at the wrong time or of the wrong thing; nothing was changed."""


class AlreadyExists(StateFault):
    """There is already something of that kind at that place."""

    sentence = "{kind} {key} exists already; choose another, or remove that one first"
    kind: str
    key: str


class DoesNotExist(StateFault):
    """Nothing of that kind has that key."""

    sentence = "there is no {kind} {key}; list what there is, and check the spelling"
    kind: str
    key: str


class Migrated(StateFault):
    """The machine was given to another xenopsd; ask at its queue."""

    sentence = "the VM {id} was given to {queue}; ask there"
    id: str
    queue: str


class BadPowerState(StateFault):
    """The operation needs the VM in another power state."""

    sentence = "the VM is {actual}, and this needs it {expected}"
    actual: str
    expected: str


class DomainNotBuilt(StateFault):
    """The domain has no memory image yet."""

    sentence = "the domain is not built yet; start the VM first"


class InvalidVcpus(StateFault):
    """The number of vCPUs must be between 1 and `max`."""

    sentence = "the number of vCPUs must be from 1 to {max}, the VM's maximum"
    max: int


class Unimplemented(StateFault):
    """This backend cannot do that."""

    sentence = "{what} cannot be done by this backend"
    what: str


class DeviceIsConnected(StateFault):
    """The device is plugged and cannot be removed from the record."""

    sentence = "{kind} {id} is plugged; unplug it first"
    kind: str
    id: str


class DeviceNotConnected(StateFault):
    """The device is not plugged."""

    sentence = "{kind} {id} is not plugged; plug it first"
    kind: str
    id: str


class MediaNotEjectable(StateFault):
    """Only CD and floppy drives have media that can be changed."""

    sentence = "the media of {id} cannot be changed: it is a disk; unplug it instead"
    id: str


class MediaPresent(StateFault):
    """There is a medium in the drive."""

    sentence = "the drive {id} already holds a medium; eject it first"
    id: str


class MediaNotPresent(StateFault):
    """The drive is empty."""

    sentence = "the drive {id} is empty already"
    id: str


class GuestFault(Fault):
    """The guest did not play along."""


class FailedToAcknowledgeShutdownRequest(GuestFault):
    """The guest did not answer the request to shut down in time; it runs on."""

    sentence = (
        "the guest of {id} did not answer the request to shut down within {timeout_s:g} s;"
        " it may have no drivers for it: without a timeout, shutdown is forced"
    )
    id: str
    timeout_s: float


class FailedToAcknowledgeSuspendRequest(GuestFault):
    """The guest did not answer the request to suspend in time; it runs on."""

    sentence = "the guest of {id} did not answer the request to suspend within {timeout_s:g} s; it runs on"
    id: str
    timeout_s: float


class FailedToShutdown(GuestFault):
    """The guest agreed to shut down, but did not stop in time."""

    sentence = (
        "the guest of {id} agreed to shut down but did not stop within {timeout_s:g} s;"
        " give it longer, or shut down without a timeout to force it"
    )
    id: str
    timeout_s: float


class FailedToSuspend(GuestFault):
    """The guest agreed to suspend, but did not in time."""

    sentence = "the guest of {id} agreed to suspend but did not within {timeout_s:g} s"
    id: str
    timeout_s: float


class DeviceDetachRejected(GuestFault):
    """The guest will not let the device go; `reason` is its own text."""

    sentence = "the guest will not release {kind} {id}: {reason}; unplug with force to take it away"
    kind: str
    id: str
    reason: str


class FailedToRunScript(GuestFault):
    """The script in the guest could not be run."""

    sentence = "the script could not be run in the guest: {reason}"
    reason: str


class VmsFailedToCooperate(GuestFault):
    """These VMs did not give back memory in time."""

    sentence = "these VMs did not give back memory: {vms}"
    vms: list[str]


class BallooningTimeoutBeforeMigration(GuestFault):
    """The guest's balloon was still moving when the time was up."""

    sentence = "the balloon of {id} did not come to rest in time"
    id: str


class HostFault(Fault):
    """The host, or something configured on it, did not play along."""


class NoBootableDevice(HostFault):
    """There is no disk to boot from."""

    sentence = "the VM {id} has no disk to boot from; add one, or give it a kernel"
    id: str


class BootloaderError(HostFault):
    """The boot loader found no kernel."""

    sentence = "the boot loader of {id} failed: {reason}"
    id: str
    reason: str


class CannotFreeThisMuchMemory(HostFault):
    """Even with all balloons blown up there is not enough memory."""

    sentence = "{needed} bytes of memory are needed and at most {free} can be freed; stop or shrink another VM"
    needed: int
    free: int


class NotEnoughMemory(HostFault):
    """The host has not enough free memory."""

    sentence = "{needed} bytes of memory are needed and {free} are free on this host; stop or shrink another VM"
    needed: int
    free: int


class MigrationFailed(HostFault):
    """The machine could not be moved; the reason says which end has it."""

    sentence = "{id} could not be moved: {reason}"
    id: str
    reason: str


class IoError(HostFault):
    """Reading or writing failed."""

    sentence = "{path} could not be read or written: {reason}"
    path: str
    reason: str


class RecordDamaged(HostFault):
    """The disk has damaged what was kept of it; a domain that it has runs on, untouched."""

    sentence = "the record of {kind} {key} is damaged in the store; register it again with VM.add or VM.import_metadata"
    kind: str
    key: str


class HypercallFailed(HostFault):
    """The hypervisor, or the library that speaks to it, refused; its log has more."""

    sentence = "{call} failed with {errno}: {reason}"
    call: str
    errno: str
    reason: str


class HookFailed(HostFault):
    """A hook script ended with a code that vetoes the operation."""

    sentence = "the hook {script} ({reason}) ended with code {code}; its last words: {stdout}"
    script: str
    reason: str
    stdout: str
    code: int


class ProgramFailed(HostFault):
    """A program could not be started."""

    sentence = "{program} could not be run: {reason}"
    program: str
    reason: str


class StepTimedOut(HostFault):
    """A step took longer than it ever should; it was stopped and the VM checked."""

    sentence = "{step} did not end within {timeout_s:g} s and was given up; the service's log says what it waited for"
    step: str
    timeout_s: float


class StorageBackendError(HostFault):
    """The storage service refused."""

    sentence = "storage failed with {code}: {params}"
    code: str
    params: list[str]


class PcibackNotLoaded(HostFault):
    """The driver that holds passed-through PCI devices is not loaded."""

    sentence = "the kernel module xen-pciback is not loaded; run modprobe xen-pciback"


class FailedToStartEmulator(HostFault):
    """The device model did not start."""

    sentence = "the device model {program} of {id} did not start: {reason}"
    id: str
    program: str
    reason: str


class TaskFault(Fault):
    """The work was ended before its time."""


class Cancelled(TaskFault):
    """The task was cancelled; what it had done was taken back as far as could be."""

    sentence = "the task {task} was cancelled"
    task: str


class Interrupted(TaskFault):
    """The service stopped while the task ran; the VM was brought back to a valid state."""

    sentence = (
        "xenopsd stopped while the task {task} was at {step};"
        " the VM was checked and mended afterwards: look at its state before asking again"
    )
    task: str
    step: str


class ServiceFault(Fault):
    """Somebody on the bus could not be reached."""


class FailedToContactRemoteService(ServiceFault):
    """A service that was needed did not answer."""

    sentence = "the service {service} could not be reached; is it running?"
    service: str


class NoSuchService(ServiceFault):
    """Nobody serves that queue."""

    sentence = "nobody serves the queue {queue}; start the service, or check the name with xenops-cli where"
    queue: str


class SwitchUnreachable(ServiceFault):
    """No connection to the message switch came about in time."""

    sentence = "the message switch at {address} cannot be reached: {why}; is it the right one, and does it run?"
    address: str
    why: str = "it does not answer"


class ConnectionLost(ServiceFault):
    """The connection to the switch was lost while a call was under way; it may or may not have been done."""

    sentence = "the connection to {address} was lost during the call, and whether it was carried out is not known; look, then ask again"
    address: str


class TimedOut(ServiceFault):
    """No reply came in time; the work may still be done."""

    sentence = "no reply from {queue} within {timeout_s:g} s; the work may still be done: look before asking again"
    queue: str
    timeout_s: float


class InternalError(Fault):
    """Our fault. The caller gets a reference; the log has the traceback."""

    sentence = "internal error: {reason} (reference {reference}; the service's log says more)"
    reference: str
    reason: str = "unexpected"


def encode(fault: Fault) -> dict[str, Any]:
    """The fault as it travels: `{"name", "fields", "message"}`."""
    return {"name": fault.name, "fields": fault.fields(), "message": str(fault)}


def decode(untrusted: Any) -> Fault:
    """The fault that those bytes named; anything unknown or ill-formed becomes an `InternalError`."""
    if not isinstance(untrusted, dict):
        return InternalError("-", f"a fault that is no map: {untrusted!r:.200}")
    cls = Fault.known.get(str(untrusted.get("name")))
    facts = untrusted.get("fields", {})
    if cls is None or not isinstance(facts, dict):
        return InternalError("-", f"unknown fault {untrusted.get('name')!r:.80}: {untrusted.get('message')!r:.200}")
    try:
        wanted = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return msgspec.convert({k: v for k, v in facts.items() if k in wanted}, cls)
    except (msgspec.ValidationError, TypeError) as error:
        return InternalError("-", f"malformed fault {cls.__name__}: {error}")
