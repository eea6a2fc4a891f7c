# SPDX-License-Identifier: Apache-2.0
"""One emulated computer that runs Xen and its dom0: started, watched until it answers, and always ended.

It reaches nothing but this machine's loopback address. Three things end its QEMU: the one who started it, that one's
death (setpriv), and a deadline (timeout).
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.xen.rig import remote
from tests.xen.rig.image import Image
from tests.xen.rig.places import BUILD
from tests.xen.rig.qmp import Monitor

XEN_CMDLINE = (
    "dom0_mem={dom0},max:{dom0} dom0_max_vcpus={vcpus} com1=115200,8n1 console=com1 bootscrub=0 "
    "loglvl=warning guest_loglvl=warning"
)
LINUX_CMDLINE = "rw console=hvc0 mitigations=off quiet panic=5"
SNAPSHOT = "up"
TCG_CPU = "qemu64,+svm,+npt,-smap,-smep"


@dataclass(frozen=True)
class Hardware:
    """What a saved state can only be restored into: the same again."""

    accelerator: str = "tcg"
    memory_mib: int = 2048
    dom0_mib: int = 768
    vcpus: int = 1

    def arguments(self) -> list[str]:
        accelerator = "kvm" if self.accelerator == "kvm" else "tcg,thread=multi,tb-size=256"
        cpu = "host" if self.accelerator == "kvm" else TCG_CPU
        return [
            *("-machine", "pc", "-accel", accelerator, "-cpu", cpu),
            *("-m", str(self.memory_mib), "-smp", str(self.vcpus)),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        ]


def hardware() -> Hardware:
    """The default, or what the environment asks for (XEN_RIG_MEMORY, XEN_RIG_DOM0_MEMORY in MiB, XEN_RIG_VCPUS)."""
    asked = {"memory_mib": "XEN_RIG_MEMORY", "dom0_mib": "XEN_RIG_DOM0_MEMORY", "vcpus": "XEN_RIG_VCPUS"}
    given = {field: int(os.environ[name]) for field, name in asked.items() if os.environ.get(name)}
    return Hardware(accelerator="kvm" if kvm_usable() else "tcg", **given)


def kvm_usable(device: Path = Path("/dev/kvm"), modules: Path = Path("/sys/module")) -> bool:
    """Whether KVM is here and lets a guest have guests of its own; without that, only emulation runs PVH and HVM."""
    nested = [modules / name / "parameters" / "nested" for name in ("kvm_intel", "kvm_amd")]
    return os.access(device, os.R_OK | os.W_OK) and any(
        path.exists() and path.read_text().strip() in {"Y", "1"} for path in nested
    )


def qemu_arguments(
    hardware: Hardware, image: Image, *, disk: Path, sockets: Path, log: Path, lan: int | None, restore: bool
) -> list[str]:
    """QEMU's whole command line. `lan` joins all machines that name the same port, over the loopback address."""
    xen = XEN_CMDLINE.format(dom0=f"{hardware.dom0_mib}M", vcpus=hardware.vcpus)
    peers = f"socket,id=n1,mcast=230.7.7.7:{lan},localaddr=127.0.0.1" if lan else "user,id=n1,restrict=on"
    return [
        *hardware.arguments(),
        *("-serial", f"file:{log}", "-qmp", f"unix:{sockets / 'qmp'},server=on,wait=off"),
        *("-kernel", str(image.xen), "-append", xen, "-initrd", f"{image.linux} {LINUX_CMDLINE},{image.initramfs}"),
        *("-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe,discard=unmap"),
        *("-netdev", "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,romfile="),
        *("-netdev", peers, "-device", "virtio-net-pci,netdev=n1,mac=52:54:00:00:01:01,romfile="),
        *("-object", "rng-builtin,id=r0", "-device", "virtio-rng-pci,rng=r0,vectors=0"),  # to be given to a guest
        *(("-loadvm", SNAPSHOT) if restore else ()),
    ]


class Machine:
    """A running machine; its folder holds disk, serial log and ssh configuration until it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "serial.log"
        state = json.loads((folder / "machine.json").read_text())
        self.pid: int = state["pid"]
        self._started_at: str = state["started_at"]
        self.sockets = Path(state["sockets"])
        self.shell = remote.Shell(folder / "ssh_config")

    @property
    def alive(self) -> bool:
        """Whether that very process still runs: its number alone may have become another's."""
        return started_at(self.pid) == self._started_at

    def wait_for_console(self, marker: str, *, timeout_s: float) -> None:
        """Until dom0 says so on the serial line."""

        def said() -> bool:
            return marker in self.log.read_text(errors="replace")

        self.until(said, f"{marker} on the console", timeout_s=timeout_s)

    def wait_for_ssh(self, *, timeout_s: float) -> None:
        """Until a command runs inside."""

        def answered() -> bool:
            try:
                return self.shell.run("true", check=False, timeout_s=timeout_s).returncode == 0
            except subprocess.TimeoutExpired:
                return False

        self.until(answered, "a shell over ssh", timeout_s=timeout_s)

    def wait_for_end(self, *, timeout_s: float) -> None:
        if not _ended(self.pid, timeout_s=timeout_s):
            raise RigError(f"QEMU did not end within {timeout_s:.0f} s", self)

    def monitor(self) -> Monitor:
        return Monitor(self.sockets / "qmp", timeout_s=120)

    def end(self) -> None:
        """Ends QEMU and removes what it used; a machine that has ended already is fine."""
        self.shell.close()
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)
            if not _ended(self.pid, timeout_s=20) and self.alive:
                os.killpg(self.pid, signal.SIGKILL)
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def until(self, condition: Callable[[], bool], what: str, *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if not self.alive:
                raise RigError(f"QEMU ended while waiting for {what}", self)
            if time.monotonic() > deadline:
                raise RigError(f"no {what} within {timeout_s:.0f} s", self)
            time.sleep(0.2)


class RigError(Exception):
    """The machine did not do what it should; its serial log's end is told."""

    def __init__(self, text: str, machine: Machine) -> None:
        tail = machine.log.read_text(errors="replace")[-2000:] if machine.log.exists() else ""
        errors = machine.folder / "qemu.log"
        said = errors.read_text(errors="replace")[-1000:] if errors.exists() else ""
        super().__init__(f"{text}\n--- serial line:\n{tail}\n--- QEMU:\n{said}")


def start(
    image: Image,
    hardware: Hardware,
    *,
    saved: Path | None,
    name: str | None = None,
    lan: int | None = None,
    deadline_s: int = 3600,
) -> Machine:
    """Starts QEMU, from a saved state or from power-on. With a name it outlives this process, until the deadline."""
    machines = BUILD / "machines"
    machines.mkdir(parents=True, exist_ok=True)
    folder = machines / name if name else Path(tempfile.mkdtemp(prefix="run-", dir=machines))
    folder.mkdir(exist_ok=bool(not name))
    sockets = Path(tempfile.mkdtemp(prefix="xen-rig-"))  # the system's own: a Unix socket's path has to be short
    disk = folder / "disk.qcow2"
    if saved:
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(saved), str(disk)], check=True, timeout=120)
    else:
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk), str(disk)]
        subprocess.run(command, check=True, timeout=60)
    command = ["timeout", "--kill-after=10", str(deadline_s), "qemu-system-x86_64"]
    if name is None:
        command = ["setpriv", "--pdeathsig", "TERM", *command]
    log = folder / "serial.log"
    command += qemu_arguments(hardware, image, disk=disk, sockets=sockets, log=log, lan=lan, restore=saved is not None)
    with (folder / "qemu.log").open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
    state = {"pid": process.pid, "started_at": started_at(process.pid), "sockets": str(sockets)}
    (folder / "machine.json").write_text(json.dumps(state))
    machine = Machine(folder)
    try:
        _configure(machine, image)
    except BaseException:
        machine.end()
        raise
    return machine


def sweep() -> None:
    """Removes what is left of machines that have ended without us."""
    for state in (BUILD / "machines").glob("*/machine.json"):
        machine = Machine(state.parent)
        if not machine.alive:
            machine.end()


def _configure(machine: Machine, image: Image) -> None:
    """Learns which port QEMU forwards, and writes what ssh has to know."""
    machine.until((machine.sockets / "qmp").is_socket, "QEMU's monitor", timeout_s=60)
    try:
        monitor = machine.monitor()
        port = forwarded_port(monitor.human("info usernet"))
        monitor.close()
    except OSError as problem:
        raise RigError(f"QEMU ended at once ({problem})", machine) from problem
    known = image.host_key.with_name("known_hosts")
    if not known.exists():
        kind, public = image.host_key.read_text().split()[:2]
        known.write_text(f"xen-rig {kind} {public}\n")
    text = remote.ssh_config(
        port=port, user_key=image.user_key, host_key=image.host_key, socket=machine.sockets / "ssh"
    )
    machine.shell.config.write_text(text)


def forwarded_port(usernet: str) -> int:
    """The port of this machine that leads to dom0's ssh, from what QEMU's `info usernet` prints."""
    found = re.search(r"TCP\[HOST_FORWARD\]\s+\S+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\s", usernet)
    if found is None:
        raise ValueError(f"QEMU forwards no port:\n{usernet}")
    return int(found[1])


def started_at(pid: int) -> str | None:
    """When a process started, in clock ticks since this machine's boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _ended(pid: int, *, timeout_s: float) -> bool:
    """Waits for a process, ours or not, without polling."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)
