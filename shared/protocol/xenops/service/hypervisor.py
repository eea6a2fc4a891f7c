# SPDX-License-Identifier: Apache-2.0
"""Which hypervisor is meant when nobody says: that of this machine, if there is one."""

from pathlib import Path

_CAPABILITIES = Path("/proc/xen/capabilities")  # xenfs: says control_d in a control domain


def default_backend() -> str:
    """The real hypervisor in its control domain, the simulator elsewhere; the usual xenopsd's instance is named after it."""
    try:
        return "xen" if "control_d" in _CAPABILITIES.read_text(encoding="ascii").split() else "simulator"
    except OSError:
        return "simulator"
