# SPDX-License-Identifier: Apache-2.0
"""Loop devices and bridges of the kernel that runs the tests: skipped where it has none for us."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xenops.errors import IoError
from xenopsd.backends.xen.devices import loop

MIB = 1 << 20
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs_loops() -> None:
    try:
        os.close(os.open("/dev/loop-control", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"needs loop devices: {error}")


@as_root
def test_a_loop_device_goes_when_nobody_has_it_open(tmp_path: Path) -> None:
    needs_loops()
    file = tmp_path / "disk"
    file.write_bytes(b"x" * MIB)
    found = os.stat(file)

    async def story() -> None:
        try:
            held = await loop.attach(str(file), read_only=False)
        except IoError as error:
            pytest.skip(f"no loop device can be set up here: {error}")
        try:
            assert loop.backing(held.path) == (found.st_dev, found.st_ino)
            other = os.open(held.path, os.O_RDWR)
            held.close()
            assert loop.backing(held.path) == (found.st_dev, found.st_ino)
            os.write(other, b"written")
            os.close(other)
        finally:
            held.close()
        assert await loop.cleared(held.number)
        assert loop.backing(held.path) != (found.st_dev, found.st_ino)
        assert file.read_bytes()[:7] == b"written"
        with pytest.raises(IoError):
            await loop.attach(str(tmp_path / "missing"), read_only=True)

    asyncio.run(story())


BRIDGES = """
import fcntl, os, socket, struct
from xenopsd.backends.xen.devices import bridge
from xenops.errors import IoError
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"port", 0x0002 | 0x1000))  # TUNSETIFF: IFF_TAP, IFF_NO_PI
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for name in (b"one", b"two"):
    fcntl.ioctl(control, 0x89A0, name + b"\\0")  # SIOCBRADDBR
bridge.join("port", "one", mtu=1400, up=True)
read = lambda name: open(f"/sys/class/net/port/{name}").read().strip()
assert bridge.master("port") == "one", bridge.master("port")
assert (read("mtu"), read("address"), int(read("flags"), 16) & 1) == ("1400", "fe:ff:ff:ff:ff:ff", 1)
bridge.join("port", "one", mtu=1400, up=False)
assert int(read("flags"), 16) & 1 == 0
bridge.join("port", "two", mtu=1500, up=True)
assert bridge.master("port") == "two"
bridge.rename("port", "named")
assert bridge.exists("named") and not bridge.exists("port")
bridge.leave("named")
assert bridge.master("named") is None
bridge.leave("port")  # gone: that is as well
for broken in (lambda: bridge.join("named", "three", mtu=1500, up=True), lambda: bridge.set_link("nobody", up=True)):
    try:
        broken()
    except IoError:
        continue
    raise AssertionError("no fault")
print("as wished")
"""


@as_root
def test_ports_of_bridges_in_a_network_namespace_of_their_own() -> None:
    prefix = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh"]
    probe = subprocess.run([*prefix, "test", "-c", "/dev/net/tun"], capture_output=True, text=True, timeout=30)
    if probe.returncode != 0:
        pytest.skip(f"needs a network namespace and /dev/net/tun: {probe.stderr}")
    ran = subprocess.run([*prefix, sys.executable, "-c", BRIDGES], capture_output=True, text=True, timeout=60)
    if "Package not installed" in ran.stderr or "Operation not supported" in ran.stderr:
        pytest.skip("needs a kernel with bridges")
    assert ran.stdout == "as wished\n", ran.stderr
