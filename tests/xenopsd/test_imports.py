# SPDX-License-Identifier: Apache-2.0
"""Metadata comes in as our own map or text, and as the original's JSON; everything else is refused by path."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xenopsd.machines import full_machine
from xenops.errors import BadRequest
from xenops.types.disk import Local, Vdi
from xenops.types.network import Remote
from xenops.types.vbd import Mode, Qos, VbdType
from xenops.types.vif import Locked, Static4
from xenops.types.vm import MIB, Action, Direct, Hvm, Pv
from xenopsd.imports.metadata import read_metadata, refuse_contradictions

ID = "vm-1"
ORIGINAL: dict[str, Any] = {
    "vm": {
        "id": ID,
        "name": "old",
        "ssidref": 0,
        "xsdata": {"vm-data/k": "v"},
        "platformdata": {"nx": "false"},
        "bios_strings": {},
        "ty": [
            "HVM",
            {
                "hap": True,
                "shadow_multiplier": 1.0,
                "boot_order": "dc",
                "video": "Standard_VGA",
                "firmware": ["Uefi", {"on_boot": "Reset", "backend": "b"}],
            },
        ],
        "memory_static_max": 268435456,
        "memory_dynamic_max": 268435456,
        "memory_dynamic_min": 134217728,
        "vcpu_max": 2,
        "vcpus": 1,
        "scheduler_params": {"priority": [512, 50], "affinity": [[0, 1]]},
        "on_crash": ["Coredump", "Start"],
        "on_shutdown": ["Shutdown"],
        "on_reboot": ["Start"],
        "suppress_spurious_page_faults": False,
        "machine_address_size": None,
    },
    "vbds": [
        {
            "id": [ID, "xvda"],
            "position": ["Ide", 0, 0],
            "mode": "ReadWrite",
            "backend": ["Local", "/dev/a"],
            "ty": "Disk",
            "qos": ["Ionice", ["BestEffort", "Low"]],
        },
        {"id": [ID, "xvdd"], "position": None, "mode": "ReadOnly", "backend": None, "ty": "CDROM"},
        {"id": [ID, "xvde"], "position": "xvde", "mode": "ReadOnly", "backend": ["VDI", "SR/VDI"], "ty": "Disk"},
    ],
    "vifs": [
        {
            "id": [ID, "0"],
            "position": 0,
            "mac": "00:16:3e:00:00:01",
            "rate": [1000, 5000],
            "backend": ["Remote", "driver", "xenbr0"],
            "locking_mode": ["Locked", {"ipv4": ["10.0.0.1"], "ipv6": []}],
            "ipv4_configuration": ["Static4", ["10.0.0.1/24"], "10.0.0.254"],
            "ipv6_configuration": "Unspecified6",
        }
    ],
    "pcis": [{"id": [ID, "0"], "position": 0, "address": {"domain": 0, "bus": 3, "dev": 0, "fn": 1}}],
    "vgpus": [],
    "vusbs": [],
    "domains": '{"an": "opaque state"}',
}


def test_the_original_is_translated() -> None:
    read = read_metadata(msgspec.json.encode(ORIGINAL).decode())
    assert isinstance(read.vm.ty, Hvm)
    assert (read.vm.ty.boot_order, read.vm.on_crash) == ("dc", [Action.COREDUMP, Action.START])
    assert read.vm.scheduler_params.priority.weight == 512  # type: ignore[union-attr]
    disk, cd, vdi = read.vbds
    assert (disk.position, disk.backend, disk.mode) == ("hda", Local(path="/dev/a"), Mode.READ_WRITE)
    assert isinstance(disk.qos, Qos)
    assert disk.qos.level == 6
    assert (cd.ty, cd.backend is msgspec.UNSET, vdi.backend) == (VbdType.CDROM, True, Vdi(name="SR/VDI"))
    (nic,) = read.vifs
    assert nic.backend == Remote(vm="driver", bridge="xenbr0")
    assert nic.locking_mode == Locked(ipv4=["10.0.0.1"])
    assert nic.ipv4_configuration == Static4(addresses=["10.0.0.1/24"], gateway="10.0.0.254")
    assert str(read.pcis[0].address) == "0000:03:00.1"


def test_a_pv_guest_of_the_original() -> None:
    boot = ["Direct", {"kernel": "/vmlinuz", "cmdline": "quiet", "ramdisk": "/initrd"}]
    facts = {
        **ORIGINAL,
        "vm": {**ORIGINAL["vm"], "ty": ["PV", {"boot": boot, "framebuffer": False, "vncterm_ip": None}]},
    }
    ty = read_metadata(facts).vm.ty
    assert ty == Pv(boot=Direct(kernel="/vmlinuz", cmdline="quiet", ramdisk="/initrd"), framebuffer=False)


def test_our_own_comes_back_as_it_went() -> None:
    metadata = full_machine().metadata()
    assert read_metadata(msgspec.to_builtins(metadata)) == metadata
    assert read_metadata(msgspec.json.encode(metadata).decode()) == metadata


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda m: m["vm"].update(vcpus="two"), "params.metadata.vm.vcpus"),
        (lambda m: m["vm"].update(ty={"type": "UML"}), "params.metadata.vm.ty.type"),
        (lambda m: m["vm"].pop("id"), "params.metadata.vm.id"),
        (lambda m: m["vm"].update(colour="red"), "params.metadata.vm.colour"),
        (lambda m: m["vbds"][1]["id"].update(vm="other"), "params.metadata.vbds[1].id.vm"),
        (lambda m: m["vbds"][1]["id"].update(dev="xvda"), "params.metadata.vbds[1].id.dev"),
    ],
)
def test_mistakes_are_named_by_path(change: Any, path: str) -> None:
    facts = msgspec.to_builtins(full_machine().metadata())
    change(facts)
    with pytest.raises(BadRequest) as refused:
        read_metadata(facts)
    assert refused.value.path == path


SMALL = 128 * MIB


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"vcpus": 3, "vcpu_max": 2}, "vcpus", "is 3, above vcpu_max, 2: raise that or lower this"),
        ({"memory_dynamic_max": 0, "memory_dynamic_min": 0}, "memory_dynamic_max", "needs 1048576 at least"),
        ({"memory_static_max": SMALL}, "memory_dynamic_max", f"above memory_static_max, {SMALL}"),
        ({"memory_dynamic_max": SMALL}, "memory_dynamic_min", f"above memory_dynamic_max, {SMALL}"),
    ],
)
def test_figures_that_cannot_all_be_true(change: dict[str, int], path: str, words: str) -> None:
    vm = msgspec.structs.replace(full_machine().vm, **change)
    with pytest.raises(BadRequest) as refused:
        refuse_contradictions(vm, "params.vm")
    assert refused.value.path == f"params.vm.{path}"
    assert words in refused.value.reason
    facts = msgspec.to_builtins(full_machine().metadata())
    facts["vm"].update(change)
    with pytest.raises(BadRequest) as refused:
        read_metadata(facts)
    assert refused.value.path == f"params.metadata.vm.{path}"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["vm", "ty", "id", "vbds", "qos", "position"]), inner)
        ),
    )
)
def test_nothing_crashes_the_reader(facts: Any) -> None:
    with pytest.raises(BadRequest):
        read_metadata(facts if isinstance(facts, dict) else msgspec.json.encode(facts).decode())


@given(st.text())
def test_no_text_crashes_the_reader(text: str) -> None:
    with pytest.raises(BadRequest):
        read_metadata(text)
