# SPDX-License-Identifier: Apache-2.0
"""What the original's simulator answered of devices: places, order, and what may be done twice."""

from pathlib import Path
from typing import Any

import pytest

from tests.xenopsd.daemon import power_state, with_daemon
from tests.xenopsd.machines import id_of, plain_vm
from tests.xenopsd.test_original_cases import failure, imported
from xenops.client import Xenops
from xenops.errors import (
    AlreadyExists,
    BadPowerState,
    DeviceIsConnected,
    Unimplemented,
)
from xenops.types.disk import Local
from xenops.types.network import Bridge
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenops.types.record import UNSET
from xenops.types.vbd import Mode, Vbd
from xenops.types.vif import Vif
from xenops.types.vm import PowerState
from xenopsd.main import Daemon


def drive(dev: str, position: str | None = None, **facts: Any) -> Vbd:
    place = UNSET if position is None else position
    return Vbd(id=id_of("vm-1", dev), position=place, backend=Local(path=f"/dev/{dev}"), **facts)


def test_positions_are_taken_once(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops, running=True)
        same = await xenops.VBD.add(drive("second", "xvda"))
        assert isinstance(await failure(xenops, await xenops.VBD.plug(same)), AlreadyExists)
        assert not (await xenops.VBD.stat(same)).state.plugged
        await xenops.VBD.remove(same)
        free = await xenops.VBD.add(drive("free"))
        await xenops.finished(await xenops.VBD.plug(free))
        assert (await xenops.VBD.stat(free)).state.plugged
        nic = await xenops.VIF.add(Vif(id=id_of(vm, "twin"), position=0, mac="random"))
        assert isinstance(await failure(xenops, await xenops.VIF.plug(nic)), AlreadyExists)
        card = await xenops.PCI.add(Pci(id=id_of(vm, "twin"), position=0, address=PciAddress(bus=4, dev=0, fn=0)))
        assert isinstance(await failure(xenops, await xenops.PCI.plug(card)), AlreadyExists)
        assert await power_state(xenops, vm) is PowerState.RUNNING

    with_daemon(tmp_path, work)


def test_devices_of_every_kind(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops, running=True)
        kinds: list[tuple[Any, str]] = [(xenops.VBD, "xvda"), (xenops.VIF, "0"), (xenops.PCI, "0"), (xenops.VUSB, "0")]
        for api, dev in kinds:
            before = [it for it in await api.list(vm)]
            assert (await api.stat(id_of(vm, dev))) in before
            with pytest.raises(DeviceIsConnected):
                await api.remove(id_of(vm, dev))
            for _ in range(2):
                await xenops.finished(await api.unplug(id_of(vm, dev)))
            assert not (await api.stat(id_of(vm, dev))).state.plugged
            await xenops.finished(await api.plug(id_of(vm, dev)))
            assert (await api.stat(id_of(vm, dev))).state.plugged
            await xenops.finished(await api.unplug(id_of(vm, dev)))
            await api.remove(id_of(vm, dev))
            assert len(await api.list(vm)) == len(before) - 1

    with_daemon(tmp_path, work)


def test_a_drive_of_a_halted_machine_waits_for_its_start(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        added = await xenops.VBD.add(drive("xvda"))
        with pytest.raises(BadPowerState):
            await xenops.VBD.plug(added)
        await xenops.finished(await xenops.VM.start("vm-1"))
        assert (await xenops.VBD.stat(added)).state.plugged

    with_daemon(tmp_path, work)


def test_writable_drives_are_plugged_first(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        for n, mode in enumerate((Mode.READ_ONLY, Mode.READ_WRITE, Mode.READ_ONLY, Mode.READ_WRITE)):
            await xenops.VBD.add(drive(f"xvd{'abcd'[n]}", f"xvd{'abcd'[n]}", mode=mode))
        await xenops.finished(await xenops.VM.start("vm-1", paused=False))
        await xenops.DEBUG.trigger("check-vbd-plug-ordering", ["vm-1"])
        await xenops.finished(await xenops.VM.reboot("vm-1"))
        await xenops.DEBUG.trigger("check-vbd-plug-ordering", ["vm-1"])
        with pytest.raises(Unimplemented):
            await xenops.DEBUG.trigger("no-such-trigger", ["vm-1"])

    with_daemon(tmp_path, work)


def test_an_interface_is_moved_while_its_machine_is_halted(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        await xenops.finished(await xenops.VIF.move(id_of(vm, "0"), Bridge(bridge="other")))
        await xenops.finished(await xenops.VIF.set_carrier(id_of(vm, "0"), False))
        await xenops.finished(await xenops.VIF.set_trunks(id_of(vm, "0"), [1, 2]))
        found = (await xenops.VIF.stat(id_of(vm, "0"))).vif
        assert (found.backend, found.carrier, found.trunks) == (Bridge(bridge="other"), False, [1, 2])

    with_daemon(tmp_path, work)
