# SPDX-License-Identifier: Apache-2.0
"""What changed."""

from xenops.events import Kind
from xenops.interfaces.xenops import UPDATES
from xenops.types.update import Updates
from xenopsd.control import Control


class UpdatesApi(UPDATES):
    """Long polls and barriers."""

    def __init__(self, control: Control) -> None:
        self._announce, self._machines = control.announce, control.machines

    async def get(self, last_id: str | None = None, timeout: float = 30.0) -> Updates:
        return await self._announce.after(last_id, timeout)

    async def last_id(self) -> str:
        return self._announce.updates.token()

    async def inject_barrier(self, vm_id: str, id: int) -> None:
        self._machines.find(vm_id)
        self._announce.barrier(vm_id, id)

    async def remove_barrier(self, id: int) -> None:
        self._announce.updates.remove_barrier(id)

    async def refresh_vm(self, vm: str) -> None:
        machine = self._machines.find(vm)
        self._announce(Kind.VM, vm)
        for kind, devices in machine.devices.items():
            for device in devices.values():
                self._announce(kind, str(device.record.id))
