# SPDX-License-Identifier: Apache-2.0
"""xenopsd is killed (SIGKILL) at the steps of its operations on the real hypervisor; tests/xenopsd/kill has the story.

By default one death of some operations. XEN_KILL=all: at every step of every operation, for PV and HVM guests;
XEN_KILL=changes: within the steps, before every single change of the world.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance.faults import stacked
from tests.xen.acceptance.faults.stacked import VM, Stage, drive
from tests.xenopsd.kill.cases import Case, cases, chosen
from tests.xenopsd.kill.mortal import Death
from tests.xenopsd.kill.story import tell
from xenops.types.disk import Local
from xenops.types.vm import PowerState
from xenopsd.store.machine import Machine

WANTED = os.environ.get("XEN_KILL", "")
SAMPLE = ("start", "vbd-plug", "suspend")  # the last takes the domain away as a shutdown does
ON_HVM = ("start", "shutdown", "reboot", "suspend", "resume")


def machine(kind: str, folder: Path) -> Machine:
    """With two drives and an interface."""
    first = ("hda", str(guests.HVM_DISK)) if kind == "hvm" else ("xvda", str(folder / "first.img"))
    return stacked.machine(kind, drive("first", *first), drive("second", "xvdb", str(folder / "second.img")))


def all_of(image: Local) -> dict[str, Case]:
    return {case.name: case for case in cases(VM, image, drive="second", interface="0")}


def points() -> Iterator[tuple[str, str, Death]]:
    """Guest, operation and death."""
    for name, case in all_of(Local(path="/")).items():
        if not WANTED and name in SAMPLE:
            kind = "pv" if case.dev else "linux" if case.answers else "pv"
            yield kind, name, chosen(case, machine(kind, Path("/")))
        for kind in ("linux" if case.answers else "pv", *(["hvm"] if name in ON_HVM else [])):
            if WANTED == "changes":
                yield kind, name, Death("change", 0)
            elif WANTED:
                yield from ((kind, name, death) for death in case.deaths(machine(kind, Path("/"))))


def fitting(kind: str, case: Case) -> Case:
    """A device comes to a running Linux, which takes it, or to a GRUB that does not run, which is quicker."""
    return replace(case, before=PowerState.PAUSED, answers=False) if case.dev and kind == "pv" else case


POINTS = list(points())


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One stack for all deaths."""
    for stage in stacked.stage(tmp_path_factory.mktemp("kill"), module="tests.xen.acceptance.faults.mortal"):
        stage.lab.image("first.img")
        stage.lab.image("second.img")
        yield stage


@pytest.mark.parametrize(
    ("kind", "name", "death"), POINTS, ids=[f"{kind}-{name}-{death.words[5:]}" for kind, name, death in POINTS]
)
def test_killed(kind: str, name: str, death: Death, at: Stage, tmp_path: Path) -> None:
    image = Local(path=str(tmp_path / "image"))
    its, case = machine(kind, at.lab.folder), fitting(kind, all_of(image)[name])
    if death.when != "change":
        at.tell(died(at, case, its, image, death), tmp_path)
        return
    nth = 1
    while at.tell(tell(at.lab, case, its, image, Death("change", nth)), tmp_path):
        print(f"died before change {nth}, and all was well")
        nth += 1
    assert nth > 1, "it changes nothing"


async def died(at: Stage, case: Case, its: Machine, image: Local, death: Death) -> None:
    assert await tell(at.lab, case, its, image, death), "xenopsd did not die there"
