# SPDX-License-Identifier: Apache-2.0
"""The whole stack on the real hypervisor, as an operator has it: five processes, one command line, xl beside it."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.xen import guests
from tests.xen.acceptance import xl
from tests.xen.acceptance.command_line import CommandLine
from tests.xen.acceptance.console import attached
from tests.xen.acceptance.desk import Desk, Story, stack_module

Tell = Callable[[Story], None]


def test_a_guests_whole_life(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        config = desk.linux(
            "linux",
            maxmem=guests.LINUX_MEMORY_MIB + 32,
            maxvcpus=2,
            cpu_weight=512,
            cap=180,
            disk=[f"{desk.image('root.img')},raw,xvda,rw"],
            vif=[f"bridge={guests.BRIDGE}"],
        )
        await desk.say("create", config)
        await desk.up("linux")
        domid = await desk.domid("linux")
        await _seen_by_xl("linux")
        scheduling = await asyncio.to_thread(xl.run, "sched-credit2", "-d", "linux")
        assert scheduling.split()[-2:] == ["512", "180"]
        await desk.say("vbd-add", "--plug", "linux", f"file:{desk.image('more.img')},xvdb,w")
        assert all(each["state"]["plugged"] for each in await desk.ask("vbd-list", "linux"))
        await desk.say("vbd-unplug", "linux.xvdb")
        await desk.say("vcpu-set", "linux", "2")
        with attached(domid) as console:
            online = "until echo 1 > /sys/devices/system/cpu/cpu1/online; do sleep 1; done 2> /dev/null; nproc"
            assert await asyncio.to_thread(console.run, online) == "2"
        larger = guests.LINUX_MEMORY_MIB + 24  # more than it began with
        await desk.say("mem-set", "linux", str(larger))
        with attached(domid) as console:
            grown = f"until [ $(cat /sys/devices/system/xen_memory/xen_memory0/info/current_kb) -ge {larger << 10} ]; "
            await asyncio.to_thread(console.run, grown + "do sleep 1; done")
        await desk.say("checkpoint", "linux", "--file", str(desk.folder / "then"))
        image = desk.folder / "memory"
        await desk.say("suspend", "linux", "--block-device", str(image))
        assert (await desk.state("linux"))["power_state"] == "Suspended"
        await desk.say("resume", "linux", "--block-device", str(image))
        with attached(await desk.domid("linux")) as console:
            assert await asyncio.to_thread(console.run, "nproc") == "2"
        assert (await desk.state("linux"))["memory_target"] == larger << 20
        await asyncio.to_thread(xl.run, "shutdown", "linux")  # xl asks, and we see to what becomes of it
        await desk.until("linux", power_state="Halted")

    tell(story)


async def _seen_by_xl(name: str) -> None:
    """xl's tools have their answers of our domain."""
    for words in (["list", name], ["vcpu-list", name], ["uptime", name], ["block-list", name], ["network-list", name]):
        out = await asyncio.to_thread(xl.run, *words)
        assert len(out.splitlines()) > 1, (words, out)
    domid = await asyncio.to_thread(xl.run, "domid", name)
    assert await asyncio.to_thread(xl.run, "domname", domid.strip()) == f"{name}\n"


def test_an_emulated_guest(tell: Tell) -> None:
    """As examples/myfirstvm.cfg has it, with a disk and a drive, in memory of this host's size."""

    async def story(desk: Desk) -> None:
        disk = desk.image("root.img", guests.HVM_DISK.read_bytes())
        config = desk.config(
            "emulated",
            builder="hvmloader",
            boot="dc",
            memory=guests.HVM_MEMORY_MIB,
            disk=[f"file:{disk},hda,w", ",hdb:cdrom,r"],
            vif=[f"mac=00:16:3E:74:3d:77,model=rtl8139,bridge={guests.BRIDGE}"],
            on_poweroff="destroy",
            on_reboot="restart",
        )
        await desk.say("create", config)
        assert (await desk.screen("emulated")).startswith(b"RFB 003.008\n")
        await desk.up("emulated", guests.HVM_UP)
        await _seen_by_xl("emulated")
        await desk.say("cd-insert", "emulated.hdb", desk.image("cd.iso"))
        [drive] = [each for each in await desk.ask("vbd-list", "emulated") if each["vbd"]["position"] == "hdb"]
        assert drive["state"]["backend_present"]["path"].endswith("cd.iso")
        await desk.say("cd-eject", "emulated.hdb")
        await desk.say("pause", "emulated")
        await desk.say("unpause", "emulated")
        first = await desk.domid("emulated")
        await desk.say("console", "emulated", "--send", guests.HVM_RESET.decode(), "--timeout", "1")
        state = await desk.until_other("emulated", first)
        assert state["power_state"] == "Running"
        await desk.up("emulated", guests.HVM_UP)
        await desk.say("console", "emulated", "--send", guests.HVM_POWEROFF.decode(), "--timeout", "1")
        await desk.until("emulated", power_state="Halted")

    tell(story)


def test_machines_live_through_the_death_of_xenopsd_and_others_are_left_alone(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        theirs = xl.config(tmp_path, "foreign", kernel=str(guests.GRUB_PV), memory=guests.GRUB_MEMORY_MIB)
        with xl.domain(theirs, "-p") as foreign:
            before = await asyncio.to_thread(xl.store, "ls", f"/local/domain/{foreign}")
            # GRUB looks for keys without end: it gets a fifth of the processor.
            config = desk.config("grub", kernel=str(guests.GRUB_PV), memory=guests.GRUB_MEMORY_MIB, cap=20)
            await desk.say("create", config)
            domid = await desk.domid("grub")
            part = await desk.stack.kill("xenopsd")
            await desk.stack.start_again(part)
            state = await desk.state("grub")
            assert (state["power_state"], state["domids"]) == ("Running", [domid])
            assert state["consoles"]
            assert [each["vm"]["name"] for each in await desk.ask("list")] == ["grub"]
            await desk.say("reboot", "grub")
            assert await desk.domid("grub") != domid
            await desk.say("shutdown", "grub")
            await desk.say("remove", "grub")
            assert await asyncio.to_thread(xl.store, "ls", f"/local/domain/{foreign}") == before

    async def run() -> None:
        stack = stack_module().Stack(
            tmp_path / "var",
            log_to=tmp_path / "stack.log",
            backend="xen",
            ready_s=180.0,
            further=(f"--xen-run-dir={tmp_path / 'run'}", "--xen-helpers=1", "--xen-minimum-reboot-delay=0"),
        )
        commands = CommandLine(tmp_path)
        await stack.start()
        try:
            await story(Desk(stack, tmp_path, commands))
        finally:
            await stack.stop()
            commands.close()

    asyncio.run(run())


def test_the_command_itself_is_installed() -> None:
    done = subprocess.run(["xenops-cli", "version"], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout
