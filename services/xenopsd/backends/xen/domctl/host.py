# SPDX-License-Identifier: Apache-2.0
"""Hypercalls about the host: what Xen it is, its processors and memory, its console."""

from typing import Any

from xenopsd.backends.xen.domctl.facts import Cpu, Featureset, NumaNode, PhysInfo, Version
from xenopsd.backends.xen.libxc import Xc

PAGE_KIB = 4
_EXTRAVERSION, _CAPABILITIES, _CHANGESET, _COMMANDLINE = (1, 16), (3, 1024), (4, 64), (9, 1024)
_CAP_HVM, _CAP_PV, _CAP_DIRECTIO, _CAP_HAP, _CAP_SHADOW, _CAP_VPMU, _CAP_GNTTAB_V2 = (
    1 << n for n in (0, 1, 2, 3, 4, 7, 9)
)
_CONSOLE_FIRST_GUESS = 1 << 15
_CONSOLE_LIMIT = 1 << 24


def version(xc: Xc) -> Version:
    """Which Xen this is."""
    number = xc.call("xc_version", 0, xc.ffi.NULL)
    return Version(
        major=number >> 16,
        minor=number & 0xFFFF,
        extra=_text(xc, *_EXTRAVERSION),
        capabilities=tuple(_text(xc, *_CAPABILITIES).split()),
        changeset=_text(xc, *_CHANGESET),
        cmdline=_text(xc, *_COMMANDLINE),
    )


def _text(xc: Xc, command: int, size: int) -> str:
    buffer = xc.ffi.new("char[]", size + 1)
    xc.call("xc_version", command, buffer)
    text: bytes = xc.ffi.string(buffer)
    return text.decode(errors="replace").strip()


def physinfo(xc: Xc) -> PhysInfo:
    """Processors and memory."""
    raw = xc.ffi.new("struct xen_sysctl_physinfo *")
    xc.call("xc_physinfo", raw)
    capabilities: int = raw.capabilities
    return PhysInfo(
        nr_cpus=raw.nr_cpus,
        max_cpu_id=raw.max_cpu_id,
        nr_nodes=raw.nr_nodes,
        threads_per_core=raw.threads_per_core,
        cores_per_socket=raw.cores_per_socket,
        cpu_khz=raw.cpu_khz,
        total_memory_kib=raw.total_pages * PAGE_KIB,
        free_memory_kib=raw.free_pages * PAGE_KIB,
        scrub_memory_kib=raw.scrub_pages * PAGE_KIB,
        claimed_memory_kib=raw.outstanding_pages * PAGE_KIB,
        hvm=bool(capabilities & _CAP_HVM),
        pv=bool(capabilities & _CAP_PV),
        directio=bool(capabilities & _CAP_DIRECTIO),
        hap=bool(capabilities & _CAP_HAP),
        shadow=bool(capabilities & _CAP_SHADOW),
        vpmu=bool(capabilities & _CAP_VPMU),
        gnttab_v2=bool(capabilities & _CAP_GNTTAB_V2),
        hw_cap=tuple(raw.hw_cap),
    )


def cpus(xc: Xc) -> list[Cpu]:
    """Where each processor sits."""
    count = xc.ffi.new("unsigned *")
    xc.call("xc_cputopoinfo", count, xc.ffi.NULL)
    raw = xc.ffi.new("struct xen_sysctl_cputopo[]", count[0])
    xc.call("xc_cputopoinfo", count, raw)
    return [Cpu(each.core, each.socket, each.node) for each in raw[0 : count[0]]]


def numa_nodes(xc: Xc) -> list[NumaNode]:
    """The memory of each node."""
    count = xc.ffi.new("unsigned *")
    xc.call("xc_numainfo", count, xc.ffi.NULL, xc.ffi.NULL)
    nodes: int = count[0]
    memory = xc.ffi.new("struct xen_sysctl_meminfo[]", nodes)
    distances = xc.ffi.new("uint32_t[]", nodes * nodes)
    xc.call("xc_numainfo", count, memory, distances)
    return [
        NumaNode(memory[n].memsize >> 10, memory[n].memfree >> 10, tuple(distances[n * nodes : (n + 1) * nodes]))
        for n in range(nodes)
    ]


def scheduler_id(xc: Xc) -> int:
    """Which scheduler runs."""
    number = xc.ffi.new("int *")
    xc.call("xc_sched_id", number)
    return int(number[0])


def console_ring(xc: Xc, clear: bool) -> str:
    """The hypervisor's messages; the buffer grows until they fit."""
    size = _CONSOLE_FIRST_GUESS
    while True:
        buffer: Any = xc.ffi.new("char[]", size)
        length = xc.ffi.new("unsigned int *", size)
        index = xc.ffi.new("uint32_t *", 0)
        xc.call("xc_readconsolering", buffer, length, 0, 0, index)
        if length[0] < size or size >= _CONSOLE_LIMIT:
            break
        size *= 2
    if clear:
        length[0] = size
        xc.call("xc_readconsolering", buffer, length, 1, 0, index)
    text: bytes = xc.ffi.buffer(buffer, length[0])[:]
    return text.decode(errors="replace")


def send_debug_keys(xc: Xc, keys: str) -> None:
    """Press debug keys."""
    xc.call("xc_send_debug_keys", keys.encode())


def featureset(xc: Xc, which: Featureset) -> tuple[int, ...]:
    """The features as 32-bit words."""
    count = xc.ffi.new("uint32_t *", xc.plain("xc_get_cpu_featureset_size"))
    words = xc.ffi.new("uint32_t[]", count[0])
    xc.call("xc_get_cpu_featureset", int(which), count, words)
    return tuple(words[0 : count[0]])
