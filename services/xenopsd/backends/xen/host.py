# SPDX-License-Identifier: Apache-2.0
"""The host as Xen and Linux describe it."""

from pathlib import Path

from xenops.errors import Unimplemented
from xenops.types.host import ChipsetInfo, CpuInfo, Host, Hypervisor, NumaAffinityPolicy
from xenopsd.backends.xen.domctl import Featureset
from xenopsd.backends.xen.world import World, free_memory

_CPUINFO = Path("/proc/cpuinfo")


class XenHost:
    """Processors, memory, the hypervisor's console ring."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def stat(self) -> Host:
        xc = self._world.xc
        version, host, cpus = await xc.version(), await xc.physinfo(), await xc.cpus()
        pv, hvm = await xc.featureset(Featureset.PV), await xc.featureset(Featureset.HVM)
        model = _model()
        return Host(
            cpu_info=CpuInfo(
                cpu_count=host.nr_cpus,
                socket_count=len({cpu.socket for cpu in cpus}),
                threads_per_core=host.threads_per_core,
                nr_nodes=host.nr_nodes,
                vendor=model.get("vendor_id", "unknown"),
                speed=f"{host.cpu_khz / 1000:.3f}",
                modelname=model.get("model name", ""),
                family=model.get("cpu family", ""),
                model=model.get("model", ""),
                stepping=model.get("stepping", ""),
                flags=model.get("flags", ""),
                features=_words(await xc.featureset(Featureset.HOST)),
                features_pv=_words(pv),
                features_hvm=_words(hvm),
                features_pv_host=_words(pv),
                features_hvm_host=_words(hvm),
            ),
            hypervisor=Hypervisor(
                version=f"{version.major}.{version.minor}{version.extra}", capabilities=" ".join(version.capabilities)
            ),
            chipset_info=ChipsetInfo(iommu=host.directio, hvm=host.hvm),
            memory_total=host.total_memory_kib << 10,
            memory_free=await free_memory(xc) << 10,
        )

    async def get_console_data(self) -> str:
        return await self._world.xc.console_ring()

    async def get_total_memory_mib(self) -> int:
        return (await self._world.xc.physinfo()).total_memory_kib >> 10

    async def send_debug_keys(self, keys: str) -> None:
        await self._world.xc.send_debug_keys(keys)

    async def combine_cpu_policies(self, policy1: str, policy2: str) -> str:
        ours, theirs = _parse(policy1), _parse(policy2)
        return _words(tuple(left & right for left, right in zip(ours, theirs, strict=False)))

    async def is_compatible(self, vm_policy: str, host_policy: str) -> bool:
        wanted, there = _parse(vm_policy), _parse(host_policy)
        there += (0,) * (len(wanted) - len(there))
        return all(word & ~have == 0 for word, have in zip(wanted, there, strict=False))

    async def set_numa_affinity_policy(self, policy: NumaAffinityPolicy | None) -> None:
        if policy not in (None, NumaAffinityPolicy.ANY):
            raise Unimplemented(f"host.set_numa_affinity_policy {policy.value}")


def _model() -> dict[str, str]:
    """What Linux says of the first processor."""
    first = _CPUINFO.read_text(encoding="ascii", errors="replace").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _words(features: tuple[int, ...]) -> str:
    return "-".join(f"{word:08x}" for word in features)


def _parse(untrusted_policy: str) -> tuple[int, ...]:
    """The hexadecimal words of a policy; what is no word counts as no feature."""
    digits = set("0123456789abcdefABCDEF")
    return tuple(
        int(word, 16) if word and len(word) <= 8 and set(word) <= digits else 0
        for word in untrusted_policy.split("-" if "-" in untrusted_policy else ":")
    )
