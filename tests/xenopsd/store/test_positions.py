# SPDX-License-Identifier: Apache-2.0
"""A drive without a position gets one when it is registered, and keeps it whatever happens."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xenopsd.daemon import running, with_daemon
from tests.xenopsd.machines import full_machine, id_of, plain_vm
from xenops.client import Xenops
from xenops.errors import BadRequest
from xenops.events import Kind
from xenops.types.device_number import DeviceNumber
from xenops.types.disk import Local
from xenops.types.record import UNSET
from xenops.types.vbd import Vbd, VbdType
from xenops.types.vm import Vm
from xenopsd.main import Daemon
from xenopsd.store.positions import positioned

HVM, PV = full_machine().vm, plain_vm()


def drive(dev: str, position: str | None = None, ty: VbdType = VbdType.DISK) -> Vbd:
    place = UNSET if position is None else position
    return Vbd(id=id_of("vm-1", dev), position=place, ty=ty, backend=Local(path=f"/dev/{dev}"))


def chosen(vm: Vm, *drives: Vbd) -> list[object]:
    return [vbd.position for vbd in positioned(drives, vm)]


def test_the_first_free_place_by_kind_of_machine() -> None:
    five = [drive(str(n)) for n in range(5)]
    assert chosen(HVM, *five) == ["hda", "hdb", "hdc", "hdd", "xvde"]
    assert chosen(PV, *five) == ["xvda", "xvdb", "xvdc", "xvdd", "xvde"]
    assert chosen(HVM, drive("a"), drive("b", "hda"), drive("c", "xvdb")) == ["hdc", "hda", "xvdb"]
    assert chosen(PV, drive("a"), drive("b", "0"), drive("c", "d1p3"), drive("d", "sdc")) == [
        "xvdd",
        "0",
        "d1p3",
        "sdc",
    ]
    assert chosen(HVM, drive("a"), drive("f", ty=VbdType.FLOPPY), drive("g", ty=VbdType.FLOPPY)) == [
        "hda",
        "fda",
        "fdb",
    ]
    assert chosen(HVM, drive("a", "nonsense"), drive("b")) == ["nonsense", "hda"]


def test_a_place_that_another_asks_for_is_not_kept() -> None:
    before = positioned([drive("a"), drive("b")], PV)
    now = positioned([drive("a"), drive("b"), drive("c", "xvda")], PV, before)
    assert [it.position for it in now] == ["xvdc", "xvdb", "xvda"]


def test_no_place_is_left() -> None:
    with pytest.raises(BadRequest, match="no place"):
        positioned([drive(str(n), ty=VbdType.FLOPPY) for n in range(4)], HVM)


@given(st.lists(st.none() | st.sampled_from(["xvda", "hda", "hdc", "sdb", "xvdq", "d16", "3", "fda"]), max_size=9))
def test_no_choice_takes_a_place_that_is_taken(wishes: list[str | None]) -> None:
    drives = [drive(str(n), wish) for n, wish in enumerate(wishes)]
    for vm in (HVM, PV):
        once = positioned(drives, vm)
        numbers = [DeviceNumber.parse(str(vbd.position), hvm=vm is HVM) for vbd in once]
        free = [number for number, wish in zip(numbers, wishes, strict=True) if wish is None]
        for number in free:
            assert [other.disk for other in numbers if other.bus.value != "fd"].count(number.disk) == 1
        assert positioned(once, vm) == once
        assert positioned(drives, vm, once) == once, "registered again, it keeps its place"


async def positions(xenops: Xenops) -> dict[str, object]:
    listed = {stat.vbd.id.dev: stat.vbd.position for stat in await xenops.VBD.list("vm-1")}
    assert listed == {dev: (await xenops.VBD.stat(id_of("vm-1", dev))).vbd.position for dev in listed}
    return listed


async def seen_by_the_guest(daemon: Daemon) -> dict[str, int]:
    world = daemon.control.backend.world  # type: ignore[attr-defined]
    return {dev: it.devid for dev, it in world.domain("vm-1").vbds.items()}


@pytest.mark.parametrize("vm", [HVM, PV], ids=["hvm", "pv"])
def test_a_position_is_for_good(vm: Vm, tmp_path: Path) -> None:
    wanted = {"one": "hda", "two": "hdb"} if vm is HVM else {"one": "xvda", "two": "xvdb"}
    keys = {dev: DeviceNumber.parse(name).to_key() for dev, name in wanted.items()}
    kept: dict[str, str] = {}

    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(vm)
        for dev in wanted:
            await xenops.VBD.add(drive(dev))
        assert await positions(xenops) == wanted
        await xenops.finished(await xenops.VM.start("vm-1", paused=False))
        assert await seen_by_the_guest(daemon) == keys
        await xenops.finished(await xenops.VM.reboot("vm-1"))
        assert await seen_by_the_guest(daemon) == keys

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        assert await positions(xenops) == wanted
        assert await seen_by_the_guest(daemon) == keys
        await xenops.finished(await xenops.VBD.unplug(id_of("vm-1", "one"), force=True))
        await xenops.VBD.add(drive("one"))  # registered again, still without a wish
        assert await positions(xenops) == wanted
        await xenops.finished(await xenops.VM.reboot("vm-1"))
        assert await seen_by_the_guest(daemon) == keys
        await xenops.finished(await xenops.VM.shutdown("vm-1"))
        kept["metadata"] = msgspec.json.encode(await xenops.VM.export_metadata("vm-1")).decode()
        async with running(tmp_path / "elsewhere") as (_, other):
            await other.VM.import_metadata(kept["metadata"])
            assert await positions(other) == wanted
        await xenops.VBD.remove(id_of("vm-1", "one"))
        await xenops.VBD.add(drive("three"))
        assert await positions(xenops) == {"two": wanted["two"], "three": wanted["one"]}

    with_daemon(tmp_path / "here", first)
    with_daemon(tmp_path / "here", second)


def test_a_whole_machine_is_registered_without_positions(tmp_path: Path) -> None:
    metadata = msgspec.to_builtins(full_machine().metadata())
    for vbd in metadata["vbds"][:2]:
        del vbd["position"]

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.import_metadata(metadata)
        assert await positions(xenops) == {"xvda": "hda", "xvdb": "hdb", "xvdc": "xvdc", "xvdd": "xvdd"}
        await xenops.VM.import_metadata({**metadata, "vbds": metadata["vbds"][1:]})
        assert await positions(xenops) == {"xvdb": "hdb", "xvdc": "xvdc", "xvdd": "xvdd"}
        assert [it.position for it in daemon.control.machines.find("vm-1").of(Kind.VBD)] == ["hdb", "xvdc", "xvdd"]
        await xenops.finished(await xenops.VM.start("vm-1"))

    with_daemon(tmp_path, work)


def test_many_at_once_get_places_of_their_own(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(PV)
        await asyncio.gather(*(xenops.VBD.add(drive(str(n))) for n in range(20)))
        assert len(set((await positions(xenops)).values())) == 20

    with_daemon(tmp_path, work)
