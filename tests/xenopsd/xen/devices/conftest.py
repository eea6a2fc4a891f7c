# SPDX-License-Identifier: Apache-2.0
"""A stage for each test, on one xenstored."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.xenopsd.xen.devices.stage import Actors, Stage
from tests.xenopsd.xen.xenstore import daemons
from xenopsd.backends.xen.devices import bridge, loop
from xenopsd.backends.xen.xenstore.client import XenStore

Story = Callable[[Stage, Actors], Awaitable[None]]


@pytest.fixture(scope="session", params=daemons.NAMES)
def socket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The daemon's, each in turn."""
    with daemons.running(request.param, tmp_path_factory.mktemp(request.param) / "run") as path:
        yield path


@pytest.fixture
def play(socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Story], None]:
    """Runs a story with kernel and guest on the stage; loop devices are pretended."""

    files: dict[str, tuple[int, int]] = {}

    async def attach(path: str, *, read_only: bool) -> loop.Loop:
        found, number = os.stat(path), 9 + len(files)
        files[f"/dev/loop{number}"] = found.st_dev, found.st_ino
        return loop.Loop(number, -1)

    async def cleared(number: int, *, sysfs: Path) -> bool:
        return True

    monkeypatch.setattr(loop, "attach", attach)
    monkeypatch.setattr(loop, "cleared", cleared)
    monkeypatch.setattr(loop, "backing", files.get)
    monkeypatch.setattr(loop, "serves", lambda device, *, sysfs: device in files)

    def played(story: Story) -> None:
        async def run() -> None:
            xs = await XenStore.connect(str(socket))
            stage = Stage(xs, tmp_path)
            try:
                async with asyncio.timeout(50), Actors(stage).playing() as actors:
                    await story(stage, actors)
            finally:
                for domid in stage.domains.domids.values():
                    for top in (f"/local/domain/{domid}", f"/libxl/{domid}", f"/xenopsd/domain/{domid}"):
                        await xs.rm(top)
                await xs.close()

        asyncio.run(run())

    return played


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The interfaces of a host that is pretended: what was done to each."""
    done: dict[str, object] = {}
    bridges = {"xenbr0", "xenbr1"}

    def check(name: str) -> None:
        if name not in bridges:
            raise bridge.IoError(name, "there is no such bridge")

    def join(port: str, name: str, *, mtu: int, up: bool) -> None:
        done[port] = (name, mtu, up)

    def set_link(port: str, *, up: bool) -> None:
        done[port] = (*done[port][:2], up)  # type: ignore[index]

    monkeypatch.setattr(bridge, "check", check)
    monkeypatch.setattr(bridge, "join", join)
    monkeypatch.setattr(bridge, "set_link", set_link)
    monkeypatch.setattr(bridge, "exists", lambda port: not port.endswith("-emu"))
    monkeypatch.setattr(bridge, "rename", lambda port, name: done.__setitem__(f"{port} renamed", name))
    return done
