# SPDX-License-Identifier: Apache-2.0
"""Memory over TLS 1.3: both ends are certified by one authority, or nothing is moved."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.xenopsd.machines import plain_vm
from tests.xenopsd.migration.pair import Host, two
from xenops.errors import MigrationFailed
from xenops.types.vm import PowerState

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make certificates")
VM = "vm-1"


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    """An authority of that name."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(folder, "req", "-x509", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")


def certificate(folder: Path, by: str, name: str) -> dict[str, Any]:
    """A host's, certified by that authority; the settings that use it."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, "req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ("-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return {
        "migration_certificate": str(folder / f"{name}.pem"),
        "migration_key": str(folder / f"{name}.key"),
        "migration_authority": str(folder / f"{by}.pem"),
    }


async def started(host: Host) -> None:
    await host.xenops.VM.add(plain_vm(VM))
    await host.xenops.finished(await host.xenops.VM.start(VM, paused=False))


def test_both_are_certified(tmp_path: Path) -> None:
    authority(tmp_path, "ca")
    settings = certificate(tmp_path, "ca", "host")

    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path, **settings) as (here, there):
            await started(here)
            await here.xenops.finished(await here.xenops.VM.migrate(VM, there.queue, compress=True))
            assert await there.power_state(VM) is PowerState.RUNNING

    asyncio.run(run())


@pytest.mark.parametrize("stranger", ["another authority", "none at all"])
def test_a_stranger_gets_nothing(stranger: str, tmp_path: Path) -> None:
    authority(tmp_path, "ca")
    authority(tmp_path, "other")
    ours = certificate(tmp_path, "ca", "host")
    theirs = certificate(tmp_path, "other", "stranger") if stranger == "another authority" else {}

    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path, **ours) as (here, there):
            await there.stop()
            there._settings = {**there._settings, **{key: "" for key in ours}, **theirs}
            await there.start()
            await started(here)
            with pytest.raises(MigrationFailed):
                await here.xenops.finished(await here.xenops.VM.migrate(VM, there.queue))
            assert await here.power_state(VM) is PowerState.RUNNING
            assert await there.power_state(VM) is None

    asyncio.run(run())


def test_nothing_older_than_1_3(tmp_path: Path) -> None:
    authority(tmp_path, "ca")
    settings = certificate(tmp_path, "ca", "host")

    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path, **settings) as (_, there):
            door = there.daemon.control.migration.door
            expected = await door.expect(VM, compress=False)
            old = ssl.create_default_context(cafile=settings["migration_authority"])
            old.load_cert_chain(settings["migration_certificate"], settings["migration_key"])
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(OSError):  # noqa: PT011 (an alert, or the connection is gone before it is read)
                await asyncio.open_connection("127.0.0.1", door.port, ssl=old)
            door.forget(expected)

    asyncio.run(run())
