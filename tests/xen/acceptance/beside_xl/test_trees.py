# SPDX-License-Identifier: Apache-2.0
"""The tree that we write for a guest, key by key against the one that xl writes for the same configuration.

Devices are compared by their own tests. What differs is in docs/xenstore.md, with the reason; nothing else may.
"""

import asyncio
import re
import uuid
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.contracts.backend.lab import Machine
from tests.contracts.backend.real_xen import XenLab
from tests.xen import guests
from tests.xen.acceptance import xl
from xenops.types.vm import Hvm

TABLE = Path(__file__).parents[4] / "docs" / "xenstore.md"
VIDEO_MIB = 8  # what xl gives a cirrus card at least
SETTINGS: dict[str, dict[str, object]] = {
    "pv": {"kernel": str(guests.GRUB_PV)},
    "pvh": {"kernel": str(guests.GRUB_PVH)},
    "hvm": {"boot": "c", "serial": "pty", "videoram": VIDEO_MIB},
}
OWN = {
    "domain/name",
    "vm/name",
    "vm/start_time",
    "domain/domid",
    "domain/console/ring-ref",
    "domain/store/ring-ref",
    "domain/serial/0/tty",
    "domain/image/device-model-pid",
}  # no two are alike
ROW = re.compile(r"^\| `([^`]+)` \| (ours|xl's|both) \|", re.MULTILINE)


def explained() -> dict[str, str]:
    """The rows of the table: a path, and who writes it (or both, with different values)."""
    return dict(ROW.findall(TABLE.read_text(encoding="utf-8")))


def tree(domid: int, handle: str) -> dict[str, str]:
    """A guest's nodes with permissions, by names that do not tell one guest from another."""
    found = {}
    tops = {f"/local/domain/{domid}": "domain", f"/vm/{handle}": "vm", f"/libxl/{domid}": "libxl"}
    if xl.store("list", "/local/domain/0/device-model").split().count(str(domid)):
        tops[f"/local/domain/0/device-model/{domid}"] = "device-model"
    for top, name in tops.items():
        for line in xl.store("ls", "-f", "-p", top).splitlines():
            path, _, rest = line.partition(" = ")
            value, _, perms = rest.rpartition("   (")
            value = value.replace(handle, "<uuid>")
            perms = re.sub(rf"\b([nrwb]){domid}\b", r"\1<domid>", perms.rstrip(")"))
            found[path.rstrip().replace(top, name, 1)] = f"{value} ({perms})"
    return found


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_is_written_is_what_xl_writes(kind: str, tmp_path: Path) -> None:
    async def story() -> dict[str, str]:
        lab = XenLab(tmp_path)
        async with lab.open() as backend:
            metadata = lab.a_vm(kind, disks=0, nics=0)
            if isinstance(metadata.vm.ty, Hvm):
                card = replace(metadata.vm.ty, video_mib=VIDEO_MIB)
                metadata = replace(metadata, vm=replace(metadata.vm, ty=card))
            machine = Machine(backend, metadata)
            await backend.vm.create(machine.metadata)
            await backend.vm.build(machine.metadata, force=False)
            await backend.vm.create_device_model(machine.metadata, restoring=False)
            await backend.vm.set_action(machine.vm, None)
            [domid] = (await machine.state()).domids
            xl.store("exists", f"/local/domain/{domid}/console/tty")
            try:
                return await asyncio.to_thread(tree, domid, machine.vm.id)
            finally:
                await machine.stop()

    ours = asyncio.run(story())
    handle = str(uuid.uuid4())
    settings = {"type": kind, "memory": 64, "vcpus": 2, "uuid": handle, **SETTINGS[kind]}
    with xl.domain(xl.config(tmp_path, "theirs", **settings), "-p") as domid:
        theirs = tree(domid, handle)
    differences = {path for path in {*ours, *theirs} if ours.get(path) != theirs.get(path)} - OWN
    who = {path: "ours" if path not in theirs else "xl's" if path not in ours else "both" for path in differences}
    known = explained()
    unexplained = [
        f"{path}: ours {ours.get(path)}, xl's {theirs.get(path)}"
        for path in sorted(who)
        if known.get(path) != who[path]
    ]
    assert not unexplained, "\n".join(unexplained)
