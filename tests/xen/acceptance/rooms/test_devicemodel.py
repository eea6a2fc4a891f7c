# SPDX-License-Identifier: Apache-2.0
"""Device models of real HVM guests: their whole life, and that nothing is left of them whatever ends it."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest

from tests.xen import guests
from tests.xen.acceptance import console, xl
from tests.xen.acceptance.rooms.emulated import VM, built, cd, host, machine, ours
from xenops.errors import FailedToStartEmulator
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.process import Ended, Program
from xenops.types.vbd import Mode, Vbd
from xenops.types.vif import Vif
from xenops.types.vm import Direct, Pv, Video, Vm
from xenopsd.backends.xen.builder.orders import GuestKind, Restore, Save, Suspended
from xenopsd.backends.xen.devicemodel.arguments import drive_id
from xenopsd.backends.xen.devicemodel.qemu import DeviceModels
from xenopsd.backends.xen.devices import bridge
from xenopsd.backends.xen.domctl import DomainInfo, Domctl, Shutdown

CD_DEVID = 22 << 8  # hdc


async def shut_down(xc: Domctl, domid: int, within_s: float = 60) -> DomainInfo:
    deadline = time.monotonic() + within_s
    while not (info := await xc.get_info(domid)) or not info.shutdown:
        assert time.monotonic() < deadline, f"domain {domid} did not shut down"
        await asyncio.sleep(0.1)
    return info


def rfb(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as viewer:
        viewer.settimeout(20)
        viewer.connect(str(path))
        return viewer.recv(12)


def test_guest_boots_is_seen_paused_and_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with host(tmp_path) as (bench, world), built(bench, world) as domain:
            models = DeviceModels(world)
            taps: list[str] = []

            async def connect(domid: int, devid: int, tap: str) -> None:
                bridge.join(tap, guests.BRIDGE, mtu=1500, up=True)
                taps.append(tap)

            models.connect_tap = connect
            nic = Vif(id=DeviceId(vm=VM, dev="0"), mac="00:16:3e:00:00:07")
            await models.start(machine(cd(), vifs=[nic]), domain.domid, None)
            assert models.has(domain.domid)
            assert taps == [f"vif{domain.domid}.0-emu"]
            assert bridge.master(taps[0]) == guests.BRIDGE
            screen = models.screen(domain.domid)
            assert screen is not None
            assert (await asyncio.to_thread(rfb, screen)).startswith(b"RFB 003.")
            await bench.xc.unpause(domain.domid)
            with console.attached(domain.domid, "serial/0/tty") as serial:
                await asyncio.to_thread(serial.wait, guests.HVM_UP)
                # What it knows of its devices can be written down, and it goes on afterwards.
                await bench.xc.pause(domain.domid)
                state = await models.save_state(domain.domid)
                assert state is not None
                assert state.stat().st_size > 1000
                await models.set_log_dirty(domain.domid, True)
                await models.set_log_dirty(domain.domid, False)
                await models.go_on(domain.domid)
                assert not state.exists()
                await bench.xc.unpause(domain.domid)
                serial.send(guests.HVM_POWEROFF)
                assert (await shut_down(bench.xc, domain.domid)).shutdown_reason == Shutdown.POWEROFF
            await models.stop(domain.domid)
            await models.stop(domain.domid)
            assert not models.has(domain.domid)
            assert models.screen(domain.domid) is None
            assert not bridge.exists(taps[0])
            assert list((tmp_path / "run/qemu").iterdir()) == []
            await models.close()

    asyncio.run(scenario())


def test_the_next_life_of_ours_finds_it_and_changes_its_medium(tmp_path: Path) -> None:
    medium = tmp_path / "medium, with comma.iso"
    medium.write_bytes(bytes(1 << 20))

    async def inserted(models: DeviceModels, domid: int) -> str | None:
        running = models._find(domid)
        assert running is not None
        for block in await running.execute("query-block"):
            if block["device"] == drive_id(CD_DEVID):
                return str(block["inserted"]["file"]) if "inserted" in block else None
        raise AssertionError("there is no such drive")

    async def scenario() -> None:
        async with host(tmp_path) as (bench, world), built(bench, world) as domain:
            first = DeviceModels(world)
            await first.start(machine(cd()), domain.domid, None)
            await first.close()
            second = DeviceModels(world)
            await second.adopt()
            assert second.has(domain.domid)
            ejected: list[tuple[int, int]] = []

            async def note(domid: int, devid: int) -> None:
                ejected.append((domid, devid))

            second.on_eject = note
            assert await inserted(second, domain.domid) is None
            await second.change_medium(domain.domid, CD_DEVID, str(medium))
            assert await inserted(second, domain.domid) == str(medium)
            await second.change_medium(domain.domid, CD_DEVID, None)
            assert await inserted(second, domain.domid) is None
            await second.change_medium(domain.domid, 202 << 8, None)  # it has no such drive
            assert ejected == []
            # A domain that vanished while nobody looked: its QEMU goes at the next start.
            await second.close()
            world.domains.domid = None
            third = DeviceModels(world)
            await third.adopt()
            assert not third.has(domain.domid)
            await third.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("while_we_look", [True, False])
def test_its_crash_is_its_guests(tmp_path: Path, while_we_look: bool) -> None:
    async def scenario() -> None:
        async with host(tmp_path) as (bench, world), built(bench, world) as domain:
            models = DeviceModels(world)
            await models.start(machine(), domain.domid, None)
            await bench.xc.unpause(domain.domid)
            pid = int(xl.store("read", f"/local/domain/{domain.domid}/image/device-model-pid"))
            if not while_we_look:
                await models.close()
            os.kill(pid, signal.SIGKILL)
            if not while_we_look:
                models = DeviceModels(world)
                await models.adopt()
            assert (await shut_down(bench.xc, domain.domid)).shutdown_reason == Shutdown.CRASH
            async with asyncio.timeout(60):
                await world.told.wait()
            assert not models.has(domain.domid)
            await models.close()

    asyncio.run(scenario())


def test_one_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with host(tmp_path) as (bench, world), built(bench, world) as domain:
            models = DeviceModels(world)
            with pytest.raises(FailedToStartEmulator, match=r"missing\.iso"):
                await models.start(machine(cd(tmp_path / "missing.iso")), domain.domid, None)
            world.programs = {}
            with pytest.raises(FailedToStartEmulator, match="apt install"):
                await models.start(machine(), domain.domid, None)
            assert list((tmp_path / "run/qemu").iterdir()) == []
            await models.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["it begins", "it is in the background", "its taps are joined"])
def test_one_that_is_called_off_leaves_nothing(tmp_path: Path, when: str) -> None:
    async def scenario() -> None:
        async with host(tmp_path) as (bench, world), built(bench, world) as domain:
            models, reached = DeviceModels(world), asyncio.Event()
            models._launch._sandbox = False  # so that the first run is the one that matters
            run = world.run_program

            async def until_cancelled(program: Program) -> Ended:
                running = asyncio.create_task(run(program))  # forkexecd does not hear of it when a caller goes
                if when == "it is in the background":
                    await asyncio.shield(running)
                if when == "its taps are joined":
                    return await running
                reached.set()
                await asyncio.Event().wait()
                raise AssertionError

            async def connect(domid: int, devid: int, tap: str) -> None:
                reached.set()
                await asyncio.Event().wait()

            world.run_program = until_cancelled  # type: ignore[method-assign]
            models.connect_tap = connect
            nic = Vif(id=DeviceId(vm=VM, dev="0"), mac="00:16:3e:00:00:07")
            starting = asyncio.create_task(models.start(machine(vifs=[nic]), domain.domid, None))
            await reached.wait()
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert not models.has(domain.domid)
            assert list((tmp_path / "run/qemu").iterdir()) == []
            await models.close()

    asyncio.run(scenario())


def test_a_pv_guest_has_one_for_its_disks_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with host(tmp_path) as (bench, world), bench.empty(GuestKind.PV, guests.GRUB_MEMORY_MIB) as domain:
            world.domains.domid = domain.domid
            models = DeviceModels(world)
            async with bench.builders.take() as builder:
                await bench.introduce(domain, await builder.build(domain.order(guests.GRUB_PV)))
            vm = Vm(id=VM, name="pv", ty=Pv(boot=Direct()))
            assert await models.serves_disks(vm, domain.domid)
            assert await models.serves_disks(vm, domain.domid)
            assert not models.has(domain.domid)
            assert await models.save_state(domain.domid) is None
            await models.stop(domain.domid)
            assert list((tmp_path / "run/qemu").iterdir()) == []
            await models.close()

    asyncio.run(scenario())


def test_a_suspended_guest_goes_on_in_another_domain(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with host(tmp_path) as (bench, world):
            models, image = DeviceModels(world), tmp_path / "image"
            async with built(bench, world) as domain:
                await models.start(machine(), domain.domid, None)
                await bench.xc.unpause(domain.domid)
                with console.attached(domain.domid, "serial/0/tty") as serial:
                    await asyncio.to_thread(serial.wait, guests.HVM_UP)

                async def suspend() -> Suspended:
                    await bench.xc.shutdown(domain.domid, Shutdown.SUSPEND)
                    return Suspended(ok=True, qemu_state_path=str(await models.save_state(domain.domid)))

                async def log_dirty(enable: bool) -> bool:
                    await models.set_log_dirty(domain.domid, enable)
                    return True

                save = Save(domid=domain.domid, path=str(image), metadata=b"", hvm=True)
                async with bench.builders.take() as builder:
                    await builder.save(save, suspend, log_dirty=log_dirty)
                await models.stop(domain.domid)
            async with bench.empty(GuestKind.HVM, guests.HVM_MEMORY_MIB) as again, ours(bench, world, again.domid):
                state = models.saved_state(again.domid)
                order = Restore(
                    domid=again.domid,
                    path=str(image),
                    hvm=True,
                    store_port=again.store_port,
                    console_port=again.console_port,
                    qemu_state_path=str(state),
                )
                async with bench.builders.take() as builder:
                    restored = await builder.restore(order)
                assert restored.has_qemu_state
                await bench.introduce(again, restored)
                await models.start(machine(), again.domid, state)
                assert not state.exists()
                await bench.xc.unpause(again.domid)
                await models.go_on(again.domid)
                with console.attached(again.domid, "serial/0/tty") as serial:
                    serial.send(guests.HVM_POWEROFF)
                    assert (await shut_down(bench.xc, again.domid)).shutdown_reason == Shutdown.POWEROFF
                await models.close()

    asyncio.run(scenario())


def test_all_kinds_of_devices_are_emulated_at_once(tmp_path: Path) -> None:
    """As far as this QEMU starts with them: what a guest makes of them is not asked."""
    medium = tmp_path / "medium.iso"
    medium.write_bytes(bytes(1 << 20))

    def drive(position: str, **more: object) -> Vbd:
        disk = tmp_path / f"{position}.img"
        disk.write_bytes(bytes(1 << 20))
        id = DeviceId(vm=VM, dev=position)
        return Vbd(id=id, position=position, backend=Local(path=str(disk)), **more)  # type: ignore[arg-type]

    async def scenario() -> None:
        async with host(tmp_path) as (bench, world), built(bench, world) as domain:
            models = DeviceModels(world)
            nics = [
                Vif(id=DeviceId(vm=VM, dev=str(n)), position=n, mac=f"00:16:3e:00:01:0{n}", model=model)
                for n, model in enumerate(("e1000", "rtl8139"))
            ]
            rich = machine(
                drive("sda", mode=Mode.READ_ONLY),
                drive("sdb"),
                cd(medium),
                vifs=nics,
                video=Video.STANDARD_VGA,
                video_mib=8,
                keymap="de",
                acpi=False,
            )
            await models.start(rich, domain.domid, None)
            await models.stop(domain.domid)
            platform = {"hdtype": "ahci", "xen_platform_pci": "0", "usb": "0"}
            plain = machine(drive("hdb"))
            other = Metadata(vm=msgspec.structs.replace(plain.vm, platformdata=platform), vbds=plain.vbds)
            await models.start(other, domain.domid, None)
            await models.close()

    asyncio.run(scenario())
