# SPDX-License-Identifier: Apache-2.0
"""The simulated host, as the port asks for it."""

from typing import ClassVar

from xenops.types.host import ChipsetInfo, CpuInfo, Host, Hypervisor, NumaAffinityPolicy
from xenopsd.backends.simulator.injection import Gate, Noun, gated
from xenopsd.backends.simulator.world.world import World

_POLICY = "1fc9cbf5-f6f83203-2991cbf5-00000023"
_CONSOLE = "Xen simulator\n"


class SimulatedHost(Noun):
    """Processors, memory and a console ring."""

    noun: ClassVar[str] = "host"

    def __init__(self, world: World, gate: Gate, *, cpus: int) -> None:
        super().__init__(world, gate)
        self._cpus = cpus

    @gated
    async def stat(self) -> Host:
        return Host(
            cpu_info=CpuInfo(
                cpu_count=self._cpus,
                socket_count=1,
                threads_per_core=1,
                nr_nodes=1,
                vendor="Simulated",
                speed="2000",
                modelname="Simulated CPU",
                features=_POLICY,
                features_pv=_POLICY,
                features_hvm=_POLICY,
                features_pv_host=_POLICY,
                features_hvm_host=_POLICY,
            ),
            hypervisor=Hypervisor(version="4.17.0-simulated", capabilities="xen-3.0-x86_64 hvm-3.0-x86_64"),
            chipset_info=ChipsetInfo(iommu=True, hvm=True),
            memory_total=self._world.memory_kib << 10,
            memory_free=self._world.free_kib() << 10,
        )

    @gated
    async def get_console_data(self) -> str:
        return _CONSOLE + "".join(f"'{key}' pressed\n" for key in self._world.facts.debug_keys)

    @gated
    async def get_total_memory_mib(self) -> int:
        return self._world.memory_kib >> 10

    @gated
    async def send_debug_keys(self, keys: str) -> None:
        self._world.facts.debug_keys = (self._world.facts.debug_keys + keys)[-256:]
        self._world.commit_facts()

    @gated
    async def combine_cpu_policies(self, policy1: str, policy2: str) -> str:
        ours, theirs = _words(policy1), _words(policy2)
        return "-".join(f"{left & right:08x}" for left, right in zip(ours, theirs, strict=False))

    @gated
    async def is_compatible(self, vm_policy: str, host_policy: str) -> bool:
        wanted, there = _words(vm_policy), _words(host_policy)
        there += [0] * (len(wanted) - len(there))
        return all(word & ~have == 0 for word, have in zip(wanted, there, strict=False))

    @gated
    async def set_numa_affinity_policy(self, policy: NumaAffinityPolicy | None) -> None:
        self._world.facts.numa_policy = "" if policy is None else policy.value
        self._world.commit_facts()


def _words(untrusted_policy: str) -> list[int]:
    """The hexadecimal words of a policy; what is no word counts as no feature."""
    digits = set("0123456789abcdefABCDEF")
    return [
        int(word, 16) if word and len(word) <= 8 and set(word) <= digits else 0
        for word in untrusted_policy.split("-" if "-" in untrusted_policy else ":")
    ]
