# SPDX-License-Identifier: Apache-2.0
"""The host as the hypervisor sees it."""

from typing import Annotated, ClassVar, Protocol

from msgspec import Meta

from xenops.errors import Unimplemented
from xenops.idl import Interface, rpc
from xenops.types.host import Host, NumaAffinityPolicy


class HOST(Interface, Protocol):
    """The host as the hypervisor sees it."""

    name: ClassVar[str] = "HOST"

    @rpc(reads=True)
    async def stat(self) -> Host:
        """Processors, hypervisor, chipset and memory."""

    @rpc(reads=True)
    async def get_console_data(self) -> str:
        """The hypervisor's console ring as text; what does not print is a blank."""

    @rpc(reads=True)
    async def get_total_memory_mib(self) -> int:
        """The host's memory in MiB."""

    @rpc()
    async def send_debug_keys(self, keys: Annotated[str, Meta(max_length=64)]) -> None:
        """Send debug keys to the hypervisor; what they print is in `get_console_data`."""

    @rpc()
    async def set_worker_pool_size(self, size: Annotated[int, Meta(ge=1, le=1024)]) -> None:
        """How many VMs are worked on side by side."""

    @rpc(raises=(Unimplemented,), reads=True)
    async def combine_cpu_policies(self, policy1: str, policy2: str) -> str:
        """The policy of a guest that could run on either of two hosts."""

    @rpc(raises=(Unimplemented,), reads=True)
    async def is_compatible(self, vm_policy: str, host_policy: str) -> bool:
        """Whether a guest with one policy can run on a host with the other."""

    @rpc(raises=(Unimplemented,))
    async def set_numa_affinity_policy(self, policy: NumaAffinityPolicy | None = None) -> None:
        """How guests that start from now on are placed; no policy means the default."""
