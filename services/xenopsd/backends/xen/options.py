# SPDX-License-Identifier: Apache-2.0
"""The settings of the real hypervisor's backend: those of xenopsd that begin with `xen_`."""

from pathlib import Path

from msgspec import Struct


class XenOptions(Struct, frozen=True, kw_only=True):
    """How this host's Xen is reached, and how much is kept ready."""

    xenstore: Path = Path("/run/xenstored/socket")
    run_dir: Path = Path("/run/xenopsd")
    helpers: int = 2
    vif_script: str = ""
    minimum_reboot_delay: float = 120.0
    suspend_timeout: float = 60.0
    hotplug_timeout: float = 60.0
    pci_without_iommu: bool = False
