# SPDX-License-Identifier: Apache-2.0
"""The rig's host side as far as it needs no Xen: keys, archives, command lines, what is read from QEMU and from logs."""

import gzip
import json
import lzma
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xen import guests
from tests.xen.rig import failures, guest_files, kernel, machine, places, remote, suite
from tests.xen.rig.image import Image
from tests.xen.rig.qmp import Monitor


@given(st.lists(st.binary(max_size=20), max_size=6), st.lists(st.binary(max_size=20), max_size=6))
def test_a_content_key_tells_lists_apart(one: list[bytes], other: list[bytes]) -> None:
    assert (places.content_key(one) == places.content_key(other)) == (one == other)


def test_a_content_key_goes_by_what_a_file_holds_and_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    assert places.content_key([tmp_path / "a"]) == places.content_key([tmp_path / "b"]) == places.content_key(["same"])


def test_an_artefact_is_made_once_and_only_whole(tmp_path: Path) -> None:
    target = tmp_path / "thing-1"

    def half() -> None:
        with places.made(target) as unfinished:
            assert unfinished is not None
            unfinished.write_text("half")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        half()
    assert not target.exists()
    with places.made(target) as unfinished:
        assert unfinished is not None
        unfinished.write_text("whole")
    with places.made(target) as unfinished:
        assert unfinished is None
    assert target.read_text() == "whole"


def test_two_artefacts_of_a_kind_stay(tmp_path: Path) -> None:
    for number in range(4):
        with places.made(tmp_path / f"thing-{number}") as unfinished:
            assert unfinished is not None
            unfinished.write_text("")
            os.utime(unfinished, (number, number))
    assert sorted(path.name for path in tmp_path.glob("thing-*")) == ["thing-2", "thing-3"]


def test_modules_come_after_what_they_need() -> None:
    dep = "fs/ext4.ko: lib/crc16.ko fs/jbd2.ko\nfs/jbd2.ko:\nlib/crc16.ko:\nnet/xen_front.ko:\n"
    assert kernel.load_order(dep, ["ext4", "xen-front"]) == [
        "fs/jbd2.ko",
        "lib/crc16.ko",
        "fs/ext4.ko",
        "net/xen_front.ko",
    ]


def test_the_elf_comes_out_of_a_bzimage() -> None:
    payload = lzma.compress(b"\x7fELF and more")
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    assert kernel.elf(bytes(setup) + bytes(16) + payload + b"tail") == b"\x7fELF and more"


def test_another_payload_than_xz_is_refused() -> None:
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    payload = gzip.compress(b"\x7fELF")
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    with pytest.raises(ValueError, match="not xz"):
        kernel.elf(bytes(setup) + payload)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio, to read what was written")
def test_an_initramfs_is_what_cpio_reads(tmp_path: Path) -> None:
    written = kernel.archive({"bin": None, "bin/busybox": b"program", "bin/sh": Path("busybox")})
    subprocess.run(["cpio", "-i", "--quiet"], input=written, cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")
    assert (tmp_path / "bin/sh").read_bytes() == b"program"
    assert os.access(tmp_path / "bin/busybox", os.X_OK)


def test_a_boot_sector_is_one_sector_that_holds_its_marker() -> None:
    sector = guest_files.boot_sector(guests.HVM_UP)
    assert len(sector) == 512
    assert sector.endswith(b"\x55\xaa")
    where = int.from_bytes(sector[12:14], "little") - 0x7C00
    assert sector[where:].startswith(guests.HVM_UP.encode() + b"\r\n\0")


def test_a_cd_leads_to_its_sector_by_way_of_its_catalogue() -> None:
    sector = guest_files.boot_sector(guests.HVM_CD_UP)
    cd = guest_files.boot_cd(sector)
    record = cd[17 * 2048 :]
    assert record[:30] == b"\0CD001\1EL TORITO SPECIFICATION"
    catalogue = cd[int.from_bytes(record[0x47:0x4B], "little") * 2048 :]
    assert sum(struct.unpack("<16H", catalogue[:32])) & 0xFFFF == 0
    assert (catalogue[0], catalogue[30:32], catalogue[32]) == (1, b"\x55\xaa", 0x88)
    assert cd[int.from_bytes(catalogue[40:44], "little") * 2048 :].startswith(sector)


def test_only_loopback_and_the_same_hardware_for_a_saved_state(tmp_path: Path) -> None:
    def line(*, restore: bool, lan: int | None) -> list[str]:
        sockets, log = tmp_path / "s", tmp_path / "log"
        image, disk = Image(tmp_path), tmp_path / "disk"
        return machine.qemu_arguments(
            machine.Hardware(), image, disk=disk, sockets=sockets, log=log, lan=lan, restore=restore
        )

    fresh = line(restore=False, lan=None)
    assert line(restore=True, lan=None) == [*fresh, "-loadvm", machine.SNAPSHOT]
    networks = [word for before, word in pairwise(fresh) if before == "-netdev"]
    assert all("restrict=on" in network for network in networks)
    joined = [word for word in line(restore=False, lan=17777) if word.startswith("socket,")]
    assert joined == ["socket,id=n1,mcast=230.7.7.7:17777,localaddr=127.0.0.1"]
    assert "hostfwd=tcp:127.0.0.1:0-:22" in networks[0]


@pytest.mark.parametrize(("nested", "usable"), [("Y\n", True), ("1\n", True), ("N\n", False), (None, False)])
def test_kvm_is_usable_when_guests_may_have_guests(tmp_path: Path, nested: str | None, *, usable: bool) -> None:
    device, parameters = tmp_path / "kvm", tmp_path / "kvm_intel/parameters"
    device.touch()
    parameters.mkdir(parents=True)
    if nested is not None:
        (parameters / "nested").write_text(nested)
    assert machine.kvm_usable(device, tmp_path) is usable
    assert not machine.kvm_usable(tmp_path / "missing", tmp_path)


def test_the_forwarded_port_is_read_from_what_qemu_prints() -> None:
    printed = (
        "Hub -1 (n0):\r\n"
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
        "  TCP[HOST_FORWARD]  14       127.0.0.1 38213       10.0.2.15    22     0     0\r\n"
    )
    assert machine.forwarded_port(printed) == 38213
    with pytest.raises(ValueError, match="forwards no port"):
        machine.forwarded_port("Hub -1 (n0):\r\n")


def test_a_machine_whose_number_was_given_to_another_process_is_not_alive(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = {"pid": process.pid, "started_at": machine.started_at(process.pid), "sockets": str(tmp_path)}
    (tmp_path / "machine.json").write_text(json.dumps(state))
    assert machine.Machine(tmp_path).alive
    (tmp_path / "machine.json").write_text(json.dumps(state | {"started_at": "1"}))
    assert not machine.Machine(tmp_path).alive
    process.communicate(b"\n", timeout=30)
    (tmp_path / "machine.json").write_text(json.dumps(state))
    assert not machine.Machine(tmp_path).alive


def test_a_file_of_the_suite_may_be_called_by_its_name_alone() -> None:
    rig = "tests/xen/acceptance/test_rig.py"
    assert suite.chosen(["test_rig.py", "-k", "grub"]) == [rig, "-k", "grub"]
    assert suite.chosen(["test_rig.py::test_it"]) == [f"{rig}::test_it"]
    assert suite.chosen([rig]) == [rig]
    assert suite.chosen(["-k", "grub"]) == ["-k", "grub", suite.SUITE]


def test_the_checkout_goes_over_as_git_sees_it() -> None:
    if shutil.which("git") is None or not (places.ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    with remote.checkout_archive() as packed, tarfile.open(fileobj=packed) as archive:
        members = {member.name: member for member in archive}
    assert "tests/xen/test_recipe.py" in members
    assert not [name for name in members if name.startswith((".git/", ".venv/", "build/"))]
    assert {member.uid for member in members.values()} == {0}


def test_ssh_is_bound_to_the_images_own_key(tmp_path: Path) -> None:
    text = remote.ssh_config(port=5, user_key=tmp_path / "user", host_key=tmp_path / "host.pub", socket=tmp_path / "s")
    assert "StrictHostKeyChecking yes" in text
    assert f"UserKnownHostsFile {tmp_path / 'known_hosts'}" in text


def test_the_telling_lines_are_found(tmp_path: Path) -> None:
    (tmp_path / "serial.log").write_text("fine\n[  1.0] Kernel panic - not syncing\nfine again\n")
    (tmp_path / "xenstore.log").write_text('/tool/x = "Kernel panic"\n')
    assert failures.telling(tmp_path) == ["serial.log: [  1.0] Kernel panic - not syncing"]


def test_what_failed_tests_said_last_is_found(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "test_vbd.xml").write_text(
        "<testsuites><testsuite><testcase classname='test_vbd' name='test_fine'/><testcase classname='test_vbd' name='test_bad'>"
        "<failure message='m'>def test_bad():\n\n&gt;   assert 1 == 2\nE   assert 1 == 2\n</failure></testcase></testsuite></testsuites>"
    )
    assert failures.problems(tmp_path) == ["test_vbd::test_bad", "    E   assert 1 == 2"]


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Path]:
    """One that greets, says an event before each answer, and refuses what it does not know."""
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as stream:
                stream.write(b'{"QMP": {}}\n')
                stream.flush()
                for line in stream:
                    known = json.loads(line)["execute"] in {"qmp_capabilities", "human-monitor-command"}
                    answer = {"return": "text"} if known else {"error": {"desc": "unknown"}}
                    stream.write(b'{"event": "RTC_CHANGE"}\n' + json.dumps(answer).encode() + b"\n")
                    stream.flush()

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join(30)


def test_a_monitor_skips_events_and_tells_a_refusal(qemu: Path) -> None:
    monitor = Monitor(qemu, timeout_s=30)
    assert monitor.human("info status") == "text"
    with pytest.raises(RuntimeError, match="refused nonsense: unknown"):
        monitor.execute("nonsense")
    monitor.close()
