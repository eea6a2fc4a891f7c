# SPDX-License-Identifier: Apache-2.0
"""The host."""

from xenops.interfaces.xenops import HOST
from xenops.types.host import Host, NumaAffinityPolicy
from xenopsd.control import Control


class HostApi(HOST):
    """Asks the backend about the host."""

    def __init__(self, control: Control) -> None:
        self._host, self._workers = control.backend.host, control.workers

    async def stat(self) -> Host:
        return await self._host.stat()

    async def get_console_data(self) -> str:
        text = await self._host.get_console_data()
        return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)

    async def get_total_memory_mib(self) -> int:
        return await self._host.get_total_memory_mib()

    async def send_debug_keys(self, keys: str) -> None:
        await self._host.send_debug_keys(keys)

    async def set_worker_pool_size(self, size: int) -> None:
        self._workers.resize(size)

    async def combine_cpu_policies(self, policy1: str, policy2: str) -> str:
        return await self._host.combine_cpu_policies(policy1, policy2)

    async def is_compatible(self, vm_policy: str, host_policy: str) -> bool:
        return await self._host.is_compatible(vm_policy, host_policy)

    async def set_numa_affinity_policy(self, policy: NumaAffinityPolicy | None = None) -> None:
        await self._host.set_numa_affinity_policy(policy)
