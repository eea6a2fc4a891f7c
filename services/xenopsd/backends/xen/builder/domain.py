# SPDX-License-Identifier: Apache-2.0
"""The steps that fill a created domain with memory, a kernel and start-of-day pages: PV, PVH, HVM.

Everything that libxc is lent (kernel, tables, firmware) is taken back before it frees its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xenops.errors import HypercallFailed, IoError
from xenopsd.backends.xen.builder import acpi, e820
from xenopsd.backends.xen.builder.desk import Desk
from xenopsd.backends.xen.builder.kernel import Kernels
from xenopsd.backends.xen.builder.orders import Build, Built, GuestKind
from xenopsd.backends.xen.libxc import Xc

MIB = 1 << 20
_PAGES_PER_MIB = 256
_INVALID_KERNEL = "XC_INVALID_KERNEL"  # what libxenguest has instead of an errno
_OUT_OF_MEMORY, _DOES_NOT_FIT = "XC_OUT_OF_MEMORY", "xc_dom_chk_alloc_pages: segment"  # of the guest's own memory
_PV_CONTAINER, _HVM_CONTAINER = 0, 1
_VGA_HOLE_PAGES = 0x20
_INFO_PFN, _INFO_OFFSET = 0x9F, 0x800
STORE_PFN, STORE_EVTCHN, CONSOLE_PFN, CONSOLE_EVTCHN = 1, 2, 17, 18


def build(xc: Xc, kernels: Kernels, order: Build, desk: Desk) -> None:
    """Fill the domain and tell where its rings are; then let go of its memory. Raises `HypercallFailed`, `IoError`."""
    with _image(xc, order) as dom:
        try:
            match order.kind:
                case GuestKind.PV:
                    built = _pv(xc, kernels, order, dom)
                case GuestKind.PVH:
                    built = _pvh(xc, kernels, order, dom)
                case GuestKind.HVM:
                    built = _hvm(xc, order, dom)
        except HypercallFailed as failure:
            if failure.errno == _INVALID_KERNEL:
                raise IoError(order.kernel, f"this is no kernel that Xen can boot ({failure.reason})") from failure
            if failure.errno == _OUT_OF_MEMORY and _DOES_NOT_FIT in failure.reason:
                what = "with its ramdisk it does" if order.ramdisk else "it does"
                size = f"the {order.memory_target_mib} MiB of memory that this guest has"
                raise IoError(order.kernel, f"{what} not fit into {size} ({failure.reason})") from failure
            raise
        desk.tell(built)


@contextmanager
def _image(xc: Xc, order: Build) -> Iterator[Any]:
    """libxc's own record of the build. Freeing it unmaps the guest's memory, which takes a while."""
    features = xc.ffi.NULL if order.features is None else order.features.encode()
    cmdline = xc.ffi.NULL if order.kind is GuestKind.HVM else order.cmdline.encode()
    dom = xc.call("xc_dom_allocate", cmdline, features)
    try:
        dom.container_type = _PV_CONTAINER if order.kind is GuestKind.PV else _HVM_CONTAINER
        dom.device_model = order.kind is GuestKind.HVM
        dom.max_vcpus = order.vcpus
        dom.xenstore_evtchn, dom.xenstore_domid = order.store_port, order.store_domid
        dom.console_evtchn, dom.console_domid = order.console_port, order.console_domid
        dom.claim_enabled = int(order.claim)
        yield dom
    finally:
        dom.e820 = xc.ffi.NULL
        for module in (*dom.acpi_modules, dom.system_firmware_module):
            module.data = xc.ffi.NULL
        xc.plain("xc_dom_release", dom)


def _pv(xc: Xc, kernels: Kernels, order: Build, dom: Any) -> Built:
    lent = _load(xc, kernels, order, dom)
    xc.call_bare("xc_dom_boot_xen_init", dom, xc.handle, order.domid)
    xc.call_bare("xc_dom_parse_image", dom)
    xc.call_bare("xc_dom_mem_init", dom, order.memory_target_mib)
    xc.call_bare("xc_dom_boot_mem_init", dom)
    xc.call_bare("xc_dom_build_image", dom)
    xc.call_bare("xc_dom_boot_image", dom)
    xc.call_bare("xc_dom_gnttab_init", dom)
    del lent
    return Built(int(dom.pv_p2m[dom.xenstore_pfn]), int(dom.pv_p2m[dom.console_pfn]))


def _pvh(xc: Xc, kernels: Kernels, order: Build, dom: Any) -> Built:
    memory = e820.split(order.memory_max_mib * MIB, e820.ACPI_ADDRESS)
    _set_layout(order, dom, memory)
    lent = [_load(xc, kernels, order, dom)]
    tables = acpi.tables(order.vcpus, e820.ACPI_ADDRESS) if order.acpi else b""
    entries = e820.pvh_map(memory, len(tables))
    lent.append(_set_memory_map(xc, order, entries))
    dom.e820, dom.e820_entries = xc.ffi.cast("struct e820entry *", lent[-1]), len(entries)
    if tables:
        lent.append(_lend(xc, dom.acpi_modules[0], tables))
        dom.acpi_modules[0].guest_addr_out = e820.ACPI_ADDRESS
    xc.call_bare("xc_dom_boot_xen_init", dom, xc.handle, order.domid)
    xc.call_bare("xc_dom_parse_image", dom)
    return _finish_translated(xc, order, dom)


def _hvm(xc: Xc, order: Build, dom: Any) -> Built:
    memory = e820.split((order.memory_max_mib - order.video_mib) * MIB, e820.HVM_MMIO_START)
    _set_layout(order, dom, memory)
    _set_memory_map(xc, order, e820.hvm_map(memory))
    dom.vga_hole_size = _VGA_HOLE_PAGES
    xc.call_bare("xc_dom_kernel_file", dom, order.kernel.encode())
    lent = _lend(xc, dom.system_firmware_module, _read(order.firmware)) if order.firmware else None
    xc.call_bare("xc_dom_boot_xen_init", dom, xc.handle, order.domid)
    xc.call_bare("xc_dom_parse_image", dom)
    low_hvm = [(0x100000, memory.low_end - 0x100000, e820.RAM)]
    if memory.high_end:
        low_hvm.append((e820.FOUR_GIB, memory.high_end - e820.FOUR_GIB, e820.RAM))
    packed = xc.ffi.new("uint8_t[]", e820.pack(low_hvm))
    xc.on_domain(order.domid, "xc_domain_set_memory_map", xc.ffi.cast("struct e820entry *", packed), len(low_hvm))
    built = _finish_translated(xc, order, dom)
    del lent
    return built


def _set_memory_map(xc: Xc, order: Build, entries: list[tuple[int, int, int]]) -> Any:
    """What the hypervisor answers a guest that asks for its memory map; the packed map."""
    packed = xc.ffi.new("uint8_t[]", e820.pack(entries))
    xc.on_domain(order.domid, "xc_domain_set_memory_map", xc.ffi.cast("struct e820entry *", packed), len(entries))
    return packed


def _set_layout(order: Build, dom: Any, memory: e820.Split) -> None:
    dom.lowmem_end, dom.highmem_end = memory.low_end, memory.high_end
    dom.mmio_start, dom.mmio_size = memory.mmio_start, memory.mmio_size
    dom.target_pages = min(order.memory_target_mib, order.memory_max_mib - order.video_mib) * _PAGES_PER_MIB


def _finish_translated(xc: Xc, order: Build, dom: Any) -> Built:
    """PVH and HVM: all of the memory is laid out, and what is above the target is populated on demand."""
    xc.call_bare("xc_dom_mem_init", dom, order.memory_max_mib - order.video_mib)
    xc.call_bare("xc_dom_boot_mem_init", dom)
    xc.call_bare("xc_dom_build_image", dom)
    xc.call_bare("xc_dom_boot_image", dom)
    if order.kind is GuestKind.HVM:
        _tell_hvmloader(xc, order, dom)
    xc.call_bare("xc_dom_gnttab_init", dom)
    xc.on_domain(order.domid, "xc_hvm_param_set", STORE_EVTCHN, order.store_port)
    xc.on_domain(order.domid, "xc_hvm_param_set", CONSOLE_EVTCHN, order.console_port)
    return Built(*(ring_frame(xc, order.domid, param) for param in (STORE_PFN, CONSOLE_PFN)))


def ring_frame(xc: Xc, domid: int, param: int) -> int:
    """The guest's frame of one of its rings (PVH, HVM)."""
    value = xc.ffi.new("uint64_t *")
    xc.on_domain(domid, "xc_hvm_param_get", param, value)
    return int(value[0])


def _tell_hvmloader(xc: Xc, order: Build, dom: Any) -> None:
    """How many vCPUs there are, and which of them are there at boot; libxc has written one, and all."""
    page = xc.call_bare("xc_dom_pfn_to_ptr", dom, _INFO_PFN, 1)
    info = xc.ffi.cast("struct hvm_info_table *", xc.ffi.cast("char *", page) + _INFO_OFFSET)
    info.apic_mode = 1
    info.nr_vcpus = order.vcpus
    online = order.vcpus if order.vcpus_online is None else order.vcpus_online
    info.vcpu_online = list(((1 << online) - 1).to_bytes(len(info.vcpu_online), "little"))
    info.checksum = 0
    info.checksum = -sum(xc.ffi.buffer(info)[0 : info.length], start=0) & 0xFF


def _load(xc: Xc, kernels: Kernels, order: Build, dom: Any) -> Any:
    """Lend the kernel and give the ramdisk; what was lent must live until the guest is built."""
    kernel = xc.ffi.from_buffer(kernels.mapped(Path(order.kernel)))
    xc.call_bare("xc_dom_kernel_mem", dom, kernel, len(kernel))
    if order.ramdisk is not None:
        if not Path(order.ramdisk).is_file():
            raise IoError(order.ramdisk, "there is no such file for the ramdisk")
        xc.call_bare("xc_dom_module_file", dom, order.ramdisk.encode(), xc.ffi.NULL)
    return kernel


def _lend(xc: Xc, module: Any, data: bytes) -> Any:
    buffer = xc.ffi.new("uint8_t[]", data)
    module.data, module.length = buffer, len(data)
    return buffer


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise IoError(path, error.strerror or str(error)) from error
