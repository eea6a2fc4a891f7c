# SPDX-License-Identifier: Apache-2.0
"""The table of keys against the reader: what is said to take effect does, and nothing of xl's is unknown."""

import pytest

from xenops.xlcfg import load
from xenops.xlcfg.keys import DEPRECATED, KNOWN, NOT_SUPPORTED, TAKE_EFFECT, XM_ONLY, nearest

HVM = "name = 'x'; uuid = 'u'; type = 'hvm'; memory = 512; vcpus = 4\n"
PV = "name = 'x'; uuid = 'u'; type = 'pv'; kernel = '/k'\n"
PVH = "name = 'x'; uuid = 'u'; type = 'pvh'; kernel = '/k'\n"
LOADER = "name = 'x'; uuid = 'u'; bootloader = 'pygrub'\n"

# For each key that takes effect, a configuration and a setting that changes what it means.
CHANGES = {
    "name": (HVM, "'y'"),
    "uuid": (HVM, "'v'"),
    "type": (PV, "'pvh'"),
    "builder": ("name = 'x'; uuid = 'u'; kernel = '/k'\n", "'hvm'"),
    "pvshim": (PVH, "1"),
    "pvshim_cmdline": (PVH + "pvshim = 1\n", "'pv'"),
    "vcpus": (HVM, "2"),
    "maxvcpus": (HVM, "8"),
    "cpus": (HVM, "'1-2'"),
    "cpu_weight": (HVM, "99"),
    "cap": (HVM, "99"),
    "memory": (HVM, "128"),
    "maxmem": (HVM, "1024"),
    "on_poweroff": (HVM, "'restart'"),
    "on_reboot": (HVM, "'destroy'"),
    "on_crash": (HVM, "'preserve'"),
    "on_soft_reset": (HVM, "'destroy'"),
    "kernel": (PV, "'/other'"),
    "ramdisk": (PV, "'/initrd'"),
    "cmdline": (PV, "'quiet'"),
    "root": (PV, "'/dev/xvda'"),
    "extra": (PV, "'quiet'"),
    "bootloader": (LOADER, "'other'"),
    "bootloader_args": (LOADER, "[ '-q' ]"),
    "bios": (HVM, "'ovmf'"),
    "firmware": (HVM, "'uefi'"),
    "timer_mode": (HVM, "1"),
    "max_grant_frames": (PV, "64"),
    "max_maptrack_frames": (PV, "64"),
    "passthrough": (PV, "'enabled'"),
    "videoram": (HVM, "16"),
    "vga": (HVM, "'stdvga'"),
    "vnclisten": (HVM, "'::1'"),
    "vnc": (PV, "1"),
    "vncdisplay": (HVM, "5"),
    "keymap": (HVM, "'de'"),
    "serial": (HVM, "'pty'"),
    "boot": (HVM, "'n'"),
    "rtc_timeoffset": (PV, "60"),
    "vtpm": (HVM, "'t'"),
    "disk": (HVM, "[ '/a,,xvda' ]"),
    "vif": (HVM, "[ '' ]"),
    "pci": (HVM, "[ '01:00.0' ]"),
    "vendor_device": (HVM, "'xenserver'"),
    "acpi": (HVM, "0"),
    "apic": (HVM, "0"),
    "pae": (HVM, "0"),
    "viridian": (HVM, "0"),
    "hap": (HVM, "0"),
    "hdtype": (HVM, "'ahci'"),
    "pci_msitranslate": (HVM, "0"),
}


@pytest.mark.parametrize("key", sorted(TAKE_EFFECT))
def test_every_key_that_takes_effect_does(key: str) -> None:
    text, value = CHANGES.get(key, (HVM, "1"))
    before, after = load(text), load(f"{text}{key} = {value}\n")
    assert after.metadata != before.metadata
    assert [
        str(w) for w in after.warnings if w.key == key and "given again" not in w.reason and "UUID" not in w.reason
    ] == []


def test_the_lists_do_not_overlap() -> None:
    lists = (TAKE_EFFECT, NOT_SUPPORTED, frozenset(DEPRECATED), XM_ONLY)
    assert sum(map(len, lists)) == len(KNOWN)


# Of xl.cfg(5), 4.17: every key that the manual gives a heading.
MANUAL = """
    name type builder pool vcpus maxvcpus cpus cpus_soft cpu_weight cap memory maxmem vnuma on_poweroff on_reboot
    on_watchdog on_crash on_soft_reset kernel ramdisk cmdline root extra firmware pvshim pvshim_path pvshim_cmdline
    pvshim_extra uuid seclabel init_seclabel max_grant_frames max_maptrack_frames max_grant_version nomigrate
    driver_domain device_tree passthrough xend_suspend_evtchn_compat vmtrace_buf_kb vpmu disk vif vtpm p9 pvcalls vfb
    channel rdm usbctrl usbdev pci pci_permissive pci_msitranslate pci_seize pci_power_mgmt gfx_passthru
    rdm_mem_boundary dtdev ioports iomem irqs max_event_channels vdispl dm_restrict device_model_user vsnd vkb tee
    bootloader bootloader_args e820_host boot hdtype hap oos shadow_memory bios bios_path_override pae acpi acpi_s3
    acpi_s4 acpi_laptop_slate apic nx hpet altp2m altp2mhvm nestedhvm cpuid acpi_firmware smbios_firmware ms_vm_genid
    tsc_mode localtime rtc_timeoffset vpt_align timer_mode mmio_hole xen_platform_pci viridian videoram stdvga vga vnc
    vnclisten vncdisplay vncunused vncpasswd keymap sdl opengl nographic spice spicehost spiceport spicetls_port
    spicedisable_ticketing spicepasswd spiceagent_mouse spicevdagent spice_clipboard_sharing spiceusbredirection
    spice_image_compression spice_streaming_video serial soundhw vkb_device usb usbversion usbdevice vendor_device
    device_model_version device_model_override stubdomain_kernel stubdomain_cmdline stubdomain_ramdisk
    stubdomain_memory device_model_stubdomain_override device_model_stubdomain_seclabel device_model_args
    device_model_args_pv device_model_args_hvm gic_version vuart mca_caps msr_relaxed
"""


def test_every_key_of_the_manual_is_known() -> None:
    assert [key for key in MANUAL.split() if key not in KNOWN] == []


def test_suggestions() -> None:
    assert nearest("vcpu", KNOWN) == "; did you mean vcpus?"
    assert nearest("qqqqqq", KNOWN) == ""
    assert nearest("memory" * 10_000, KNOWN) == ""
