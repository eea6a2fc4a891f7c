# SPDX-License-Identifier: Apache-2.0
"""Every key of the configuration language that anybody may have written, and what becomes of it here.

The keys that take effect are those that `xenops.xlcfg.explain` and its neighbours read; a test sets each of them and
sees a change. Every other key is named here so that its warning can tell an old friend from a slip of the pen.
"""

import difflib


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TAKE_EFFECT = _words(
    """
    name uuid type builder pvshim pvshim_cmdline vcpus maxvcpus cpus cpu_weight cap memory maxmem
    on_poweroff on_reboot on_crash on_soft_reset kernel ramdisk cmdline root extra bootloader bootloader_args
    boot hap bios firmware acpi apic pae nx hpet viridian acpi_s3 acpi_s4 timer_mode nestedhvm vpmu msr_relaxed
    max_grant_frames max_maptrack_frames nomigrate passthrough videoram stdvga vga vnc vnclisten vncdisplay vncunused
    keymap serial localtime rtc_timeoffset usb hdtype disk vif pci pci_msitranslate pci_power_mgmt
    vendor_device has_vendor_device vtpm
    """
)

# xl.cfg(5) of Xen 4.17 and what xl reads beyond its manual.
NOT_SUPPORTED = _words(
    """
    pool cpus_soft vnuma period slice latency extratime on_watchdog pvshim_path pvshim_extra seclabel init_seclabel
    max_grant_version max_event_channels driver_domain device_tree xend_suspend_evtchn_compat vmtrace_buf_kb
    p9 pvcalls vfb channel rdm rdm_mem_boundary usbctrl usbdev usbdevice usbversion pci_permissive pci_seize
    gfx_passthru dtdev ioports iomem irqs vdispl dm_restrict vsnd vkb tee e820_host oos shadow_memory
    bios_path_override firmware_override acpi_laptop_slate altp2m cpuid acpi_firmware smbios_firmware ms_vm_genid
    tsc_mode vpt_align mmio_hole xen_platform_pci vncpasswd sdl opengl display xauthority nographic
    spice spicehost spiceport spicetls_port spicedisable_ticketing spicepasswd spiceagent_mouse spicevdagent
    spice_clipboard_sharing spiceusbredirection spice_image_compression spice_streaming_video soundhw vkb_device
    device_model_version device_model_override device_model_stubdomain_override device_model_stubdomain_seclabel
    device_model_args device_model_args_pv device_model_args_hvm device_model_user
    stubdomain_kernel stubdomain_cmdline stubdomain_ramdisk stubdomain_memory gic_version vuart mca_caps vif2
    """
)

DEPRECATED = {
    "altp2mhvm": "use altp2m",
    "device_model": "use device_model_override",
    "vncviewer": "open the console with a command instead",
    "cpu": "use cpus",
    "cpu_cap": "use cap",
    "bootargs": "use bootloader_args",
    "restart": "use on_poweroff, on_reboot and on_crash",
    "pvh": "use type = 'pvh'",
    "vncconsole": "open the console with a command instead",
    "nfs_server": "write nfsroot= in cmdline",
    "nfs_root": "write nfsroot= in cmdline",
    "ip": "write it in the entry of vif",
    "mac": "write it in the entry of vif",
    "bridge": "write it in the entry of vif",
    "script": "write it in the entry of vif or disk",
    "vifname": "write it in the entry of vif",
    "backend": "write it in the entry of vif or disk",
}

# What only xm knew: xl has never read these.
XM_ONLY = _words(
    """
    dhcp netmask gateway hostname interface nics features blkif netif tpmif irq usbport vscsi vhpt superpages
    monitor guest_os_type s3_integrity suppress_spurious_page_faults machine_address_size loader bootentry isa
    memory_sharing description cpuid_check access_control vcpu_avail fda fdb
    """
)

KNOWN = TAKE_EFFECT | NOT_SUPPORTED | DEPRECATED.keys() | XM_ONLY


def without_effect(key: str) -> str:
    """Why a key outside `TAKE_EFFECT` is passed over."""
    if key in NOT_SUPPORTED:
        return "not supported yet; it has no effect"
    if key in DEPRECATED:
        return f"deprecated, it has no effect; {DEPRECATED[key]}"
    if key in XM_ONLY:
        return "only xm knew this key; it has no effect"
    return f"there is no such key; it has no effect{nearest(key, KNOWN)}"


def nearest(word: str, known: frozenset[str] | tuple[str, ...]) -> str:
    """A suggestion to hang at the end of a sentence, or nothing when no word is near."""
    close = difflib.get_close_matches(word[:64], sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
