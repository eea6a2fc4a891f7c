# SPDX-License-Identifier: Apache-2.0
"""What xenstore would hold of a domain, worked out from the domain itself: one truth, shown as paths. Pure."""

from collections.abc import Iterator

from xenops.types.disk import Disk, Vdi
from xenops.types.network import Sriov
from xenops.types.record import UNSET, Maybe
from xenops.types.vbd import Mode, VbdType
from xenops.types.vif import Disabled
from xenopsd.backends.port import ShutdownReason
from xenopsd.backends.simulator.world.domain import Domain, Drive, Nic

_CONNECTED = "4"


def tree(domain: Domain) -> dict[str, str]:
    """Absolute paths and their values, in order."""
    home = f"/local/domain/{domain.domid}"
    paths = {f"{home}/{key}": value for key, value in _home(domain)}
    for drive in domain.vbds.values():
        paths |= _drive(domain, drive)
    for nic in domain.vifs.values():
        paths |= _nic(domain, nic)
    for place, passed in enumerate(domain.pcis.values()):
        paths[f"/local/domain/0/backend/pci/{domain.domid}/0/dev-{place}"] = str(passed.pci.address)
    return dict(sorted(paths.items()))


def _home(domain: Domain) -> Iterator[tuple[str, str]]:
    yield "name", domain.name
    yield "domid", str(domain.domid)
    yield "domain-type", domain.kind.value.lower()
    yield "control/shutdown", _asked(domain.asked)
    if domain.vm:
        yield "vm", f"/vm/{domain.vm}"
    if domain.action is not None:
        yield "action-request", domain.action.value
    for number in range(domain.vcpu_max):
        yield f"cpu/{number}/availability", "online" if number < domain.vcpus else "offline"
    if domain.built:
        yield "memory/static-max", str(domain.static_max_kib)
        yield "memory/dynamic-min", str(domain.dynamic_min_kib)
        yield "memory/dynamic-max", str(domain.dynamic_max_kib)
        yield "memory/target", str(domain.target_kib)
    for key, value in domain.platform.items():
        yield f"platform/{key}", value
    for key, value in domain.xsdata.items():
        yield f"vm-data/{key.removeprefix('vm-data/')}", value
    yield from domain.guest.items()


def _asked(reason: ShutdownReason | None) -> str:
    return "" if reason is None else reason.value


def _drive(domain: Domain, drive: Drive) -> dict[str, str]:
    front = f"/local/domain/{domain.domid}/device/vbd/{drive.devid}"
    back = f"/local/domain/0/backend/vbd/{domain.domid}/{drive.devid}"
    return {
        f"{front}/backend": back,
        f"{front}/backend-id": "0",
        f"{front}/state": _CONNECTED,
        f"{front}/virtual-device": str(drive.devid),
        f"{front}/device-type": {VbdType.CDROM: "cdrom", VbdType.DISK: "disk", VbdType.FLOPPY: "floppy"}[drive.vbd.ty],
        f"{back}/frontend": front,
        f"{back}/frontend-id": str(domain.domid),
        f"{back}/online": "0" if drive.offline else "1",
        f"{back}/state": _CONNECTED,
        f"{back}/hotplug-status": "connected",
        f"{back}/mode": "r" if drive.vbd.mode is Mode.READ_ONLY else "w",
        f"{back}/params": _params(drive.medium),
        **{f"{back}/{key}": value for key, value in drive.vbd.extra_backend_keys.items()},
    }


def _params(medium: Maybe[Disk]) -> str:
    if medium is UNSET:
        return ""
    return medium.name if isinstance(medium, Vdi) else medium.path


def _nic(domain: Domain, nic: Nic) -> dict[str, str]:
    vif = nic.vif
    front = f"/local/domain/{domain.domid}/device/vif/{vif.position}"
    back = f"/local/domain/0/backend/vif/{domain.domid}/{vif.position}"
    silent = not vif.carrier or isinstance(vif.locking_mode, Disabled)
    return {
        f"{front}/backend": back,
        f"{front}/backend-id": "0",
        f"{front}/state": _CONNECTED,
        f"{front}/handle": str(vif.position),
        f"{front}/mac": vif.mac,
        f"{front}/mtu": str(vif.mtu),
        f"{front}/disconnect": "1" if silent else "0",
        f"{back}/frontend": front,
        f"{back}/frontend-id": str(domain.domid),
        f"{back}/online": "0" if nic.offline else "1",
        f"{back}/state": _CONNECTED,
        f"{back}/hotplug-status": "connected",
        f"{back}/bridge": "" if isinstance(vif.backend, Sriov) else vif.backend.bridge,
    }
