# SPDX-License-Identifier: Apache-2.0
"""Machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from xenops.errors import BadPowerState, Busy, DeviceIsConnected, IoError
from xenops.events import Change, Kind
from xenops.interfaces.xenops import VM
from xenops.types.disk import Disk
from xenops.types.metadata import Metadata
from xenops.types.network import Network
from xenops.types.record import UNSET
from xenops.types.vm import Added, PowerState, Vm, VmStat, VmState
from xenopsd.control import Control
from xenopsd.devices import Devices
from xenopsd.imports.metadata import read_metadata, refuse_contradictions
from xenopsd.migration.resolution import resolve
from xenopsd.operations import settings, steps
from xenopsd.operations.migrate import HERE, Migrate
from xenopsd.operations.reboot import Reboot
from xenopsd.operations.shutdown import Shutdown
from xenopsd.operations.start import Start
from xenopsd.operations.suspend import Checkpoint, FastResume, Resume, Suspend
from xenopsd.store.machine import Machine, redirected


class VmApi(VM):
    """Registers machines and queues what is asked of them."""

    def __init__(self, control: Control, devices: Devices) -> None:
        self._control, self._devices = control, devices
        self._machines, self._announce, self._begin = control.machines, control.announce, control.begin

    async def add(self, vm: Vm) -> Added:
        refuse_contradictions(vm, "params.vm")
        async with self._machines.changing(vm.id) as revision:
            added = Added(id=vm.id, updated=revision.put(vm))
            await self._control.commit(revision, added)
        self._announce(Kind.VM, vm.id, Change.CHANGED if added.updated else Change.ADDED)
        return added

    async def remove(self, id: str) -> None:
        self._machines.find(id)
        await self._control.turns.take(id, "VM.remove", lambda: self._remove(id))

    async def _remove(self, id: str) -> None:
        machine = self._machines.find(id)
        if self._control.migration.crossings.doubled(id) is not None:
            self._control.check(id)
            raise Busy(f"VM {id}, of whose last migration something is still cleared away,", 1000)
        state = await self._control.power_state(machine)
        if state not in (PowerState.HALTED, PowerState.SUSPENDED):
            raise BadPowerState(state.value, PowerState.HALTED.value)
        async with self._machines.changing(id) as revision:
            gone = revision.remove()
            await self._control.backend.vm.forget(machine.vm)
            with self._told_if_half_done(id):
                await self._control.commit(revision, None)
        for kind, dev in gone:
            self._announce(kind, f"{id}.{dev}", Change.REMOVED)
        self._announce(Kind.VM, id, Change.REMOVED)

    @contextmanager
    def _told_if_half_done(self, id: str) -> Iterator[None]:
        """When the store refuses what the backend has done already, a machine is what it was, but for that."""
        try:
            yield
        except IoError:
            if id in self._machines:
                self._announce(Kind.VM, id)
            raise

    async def rename(self, id: str, name: str) -> None:
        async with self._machines.changing(id) as revision:
            revision.put(msgspec.structs.replace(revision.machine.vm, name=name))
            await self._control.commit(revision, None)
        self._announce(Kind.VM, id)

    async def exists(self, id: str) -> bool:
        return id in self._machines

    async def stat(self, id: str) -> VmStat:
        machine = self._machines.find(id)
        return self._stat(machine, (await self._control.states([machine]))[0])

    async def list(self) -> list[VmStat]:
        machines = list(self._machines)
        states = await self._control.states(machines)
        return [self._stat(machine, state) for machine, state in zip(machines, states, strict=True)]

    def _stat(self, machine: Machine, state: VmState) -> VmStat:
        given = self._control.migration.given(machine.id)
        return VmStat(vm=machine.vm, state=state, given_to=UNSET if given is None else given.peer)

    async def create(self, id: str) -> str:
        return await self._begin(steps.Create(vm=id))

    async def build(self, id: str, force: bool = False) -> str:
        return await self._begin(steps.Build(vm=id, force=force))

    async def create_device_model(self, id: str, save_state: bool = False) -> str:
        return await self._begin(steps.CreateDeviceModel(vm=id, save_state=save_state))

    async def destroy(self, id: str) -> str:
        return await self._begin(steps.Destroy(vm=id))

    async def start(self, id: str, force: bool = False, paused: bool = True) -> str:
        return await self._begin(Start(vm=id, force=force, paused=paused))

    async def shutdown(self, id: str, delay: float | None = None) -> str:
        return await self._begin(Shutdown(vm=id, delay=delay))

    async def reboot(self, id: str, delay: float | None = None) -> str:
        return await self._begin(Reboot(vm=id, delay=delay))

    async def pause(self, id: str) -> str:
        return await self._begin(steps.Pause(vm=id))

    async def unpause(self, id: str) -> str:
        return await self._begin(steps.Unpause(vm=id))

    async def suspend(self, id: str, disk: Disk) -> str:
        return await self._begin(Suspend(vm=id, disk=disk))

    async def resume(self, id: str, disk: Disk, paused: bool = True) -> str:
        return await self._begin(Resume(vm=id, disk=disk, paused=paused))

    async def checkpoint(self, id: str, disk: Disk) -> str:
        return await self._begin(Checkpoint(vm=id, disk=disk))

    async def migrate(
        self,
        id: str,
        destination: str,
        compress: bool = False,
        disks: dict[str, Disk] = {},  # noqa: B006 (never changed)
        networks: dict[str, Network] = {},  # noqa: B006
    ) -> str:
        redirected(self._machines.find(id).metadata(), disks, networks)  # they must be there
        to = HERE if destination == self._control.migration.queue else destination
        return await self._begin(Migrate(vm=id, destination=to, compress=compress, disks=disks, networks=networks))

    async def migrate_resolve(self, id: str, keep: bool) -> None:
        await resolve(self._control, id, keep=keep)

    async def fast_resume(self, id: str) -> str:
        return await self._begin(FastResume(vm=id))

    async def s3suspend(self, id: str) -> str:
        return await self._begin(steps.S3Suspend(vm=id))

    async def s3resume(self, id: str) -> str:
        return await self._begin(steps.S3Resume(vm=id))

    async def delay(self, id: str, seconds: float) -> str:
        return await self._begin(steps.Delay(vm=id, seconds=seconds))

    async def set_vcpus(self, id: str, n: int) -> str:
        return await self._begin(settings.SetVcpus(vm=id, n=n))

    async def set_shadow_multiplier(self, id: str, multiplier: float) -> str:
        return await self._begin(settings.SetShadowMultiplier(vm=id, multiplier=multiplier))

    async def set_memory_dynamic_range(self, id: str, min: int, max: int) -> str:
        return await self._begin(settings.SetMemoryDynamicRange(vm=id, minimum=min, maximum=max))

    async def set_xsdata(self, id: str, xsdata: dict[str, str]) -> str:
        return await self._begin(settings.SetXsdata(vm=id, xsdata=xsdata))

    async def run_script(self, id: str, script: str) -> str:
        return await self._begin(steps.RunScript(vm=id, script=script))

    async def export_metadata(self, id: str) -> Metadata:
        machine = self._machines.find(id)
        domains = await self._control.backend.vm.get_internal_state(machine.vm)
        metadata = machine.metadata()
        return metadata if domains is None else msgspec.structs.replace(metadata, domains=domains)

    async def import_metadata(self, metadata: dict[str, Any] | str) -> str:
        read = read_metadata(metadata)
        read = msgspec.structs.replace(read, vifs=[self._devices.with_mac(vif) for vif in read.vifs])
        await self._control.turns.take(read.vm.id, "VM.import_metadata", lambda: self._import(read))
        return read.vm.id

    async def _import(self, metadata: Metadata) -> None:
        for kind, id in self._devices.no_longer_in(metadata):
            if await self._devices.is_plugged(kind, id):
                raise DeviceIsConnected(kind.name, str(id))
        known = metadata.vm.id in self._machines
        async with self._machines.changing(metadata.vm.id) as revision:
            metadata = msgspec.structs.replace(metadata, vbds=self._devices.positioned(metadata))
            updated, gone = revision.put_metadata(metadata)
            if isinstance(metadata.domains, dict):
                await self._control.backend.vm.set_internal_state(metadata.vm, metadata.domains)
            with self._told_if_half_done(metadata.vm.id):
                try:
                    await self._control.commit(revision, metadata.vm.id)
                except IoError:
                    if not known:  # or whoever registers it next would find it suspended
                        await self._control.backend.vm.forget(metadata.vm)
                    raise
        self._announce(Kind.VM, metadata.vm.id, Change.CHANGED if updated else Change.ADDED)
        for kind, dev in gone:
            self._announce(kind, f"{metadata.vm.id}.{dev}", Change.REMOVED)

    async def generate_state_string(self, vm: Vm) -> str:
        return await self._control.backend.vm.generate_state_string(vm)
