# SPDX-License-Identifier: Apache-2.0
"""Every command: its help, its JSON, and what it asks of the stack."""

import json
from pathlib import Path
from typing import Any

import pytest

from xenops import errors
from xenops.idl import methods
from xenops.interfaces.xenops import INTERFACES
from xenops_cli.commands import commands, families

CONFIG = "name='myfirstvm'\nbuilder='hvmloader'\nmemory=256\ndisk=[ 'phy:/dev/loop0,hda,w' ]\n"

# One command line for every command, and the method that it must have called.
COMMANDS = commands()
EXAMPLES: dict[str, tuple[list[str], str]] = {
    "list": ([], "VM.list"),
    "add": (["FILE"], "VM.import_metadata"),
    "create": (["FILE"], "VM.start"),
    "remove": (["myfirstvm"], "VM.remove"),
    "rename": (["myfirstvm", "renamed"], "VM.rename"),
    "vm-stat": (["myfirstvm"], "VM.list"),
    "export": (["myfirstvm"], "VM.export_metadata"),
    "import": (["--metadata-only", "--filename", "FILE"], "VM.import_metadata"),
    "start": (["myfirstvm"], "VM.start"),
    "shutdown": (["myfirstvm", "--timeout", "5"], "VM.shutdown"),
    "reboot": (["myfirstvm"], "VM.reboot"),
    "destroy": (["myfirstvm"], "VM.shutdown"),
    "pause": (["myfirstvm"], "VM.pause"),
    "unpause": (["myfirstvm"], "VM.unpause"),
    "suspend": (["myfirstvm", "--file", "/tmp/image"], "VM.suspend"),
    "resume": (["myfirstvm", "--block-device", "/dev/loop1"], "VM.resume"),
    "checkpoint": (["myfirstvm", "--file", "/tmp/image"], "VM.checkpoint"),
    "migrate": (["myfirstvm", "otherhost", "--compress"], "VM.migrate"),
    "migrate-resolve": (["myfirstvm", "--keep"], "VM.migrate_resolve"),
    "fast-resume": (["myfirstvm"], "VM.fast_resume"),
    "vcpu-set": (["myfirstvm", "2"], "VM.set_vcpus"),
    "mem-set": (["myfirstvm", "128", "1G"], "VM.set_memory_dynamic_range"),
    "delay": (["myfirstvm", "0.5"], "VM.delay"),
    "console": (["myfirstvm", "--expect", "login:"], "VM.list"),
    "console-list": ([], "VM.list"),
    "cd-eject": (["myfirstvm.hdb"], "VBD.eject"),
    "cd-insert": (["myfirstvm.hdb", "/tmp/cd.iso"], "VBD.insert"),
    "vbd-list": (["myfirstvm"], "VBD.list"),
    "vbd-add": (["myfirstvm", "phy:/dev/loop3,xvdc,w", "--plug"], "VBD.plug"),
    "vbd-plug": (["myfirstvm.hda"], "VBD.plug"),
    "vbd-unplug": (["myfirstvm", "hda", "--force"], "VBD.unplug"),
    "vbd-remove": (["myfirstvm.hda"], "VBD.remove"),
    "vif-list": (["myfirstvm"], "VIF.list"),
    "vif-add": (["myfirstvm", "bridge=xenbr0"], "VIF.add"),
    "vif-plug": (["myfirstvm.0"], "VIF.plug"),
    "vif-unplug": (["myfirstvm.0"], "VIF.unplug"),
    "vif-remove": (["myfirstvm.0"], "VIF.remove"),
    "pci-list": (["myfirstvm"], "PCI.list"),
    "pci-add": (["myfirstvm", "0000:03:00.1"], "PCI.add"),
    "pci-plug": (["myfirstvm.0"], "PCI.plug"),
    "pci-unplug": (["myfirstvm.0"], "PCI.unplug"),
    "pci-remove": (["myfirstvm.0"], "PCI.remove"),
    "vusb-list": (["myfirstvm"], "VUSB.list"),
    "vusb-plug": (["myfirstvm.u"], "VUSB.plug"),
    "vusb-unplug": (["myfirstvm.u"], "VUSB.unplug"),
    "vusb-remove": (["myfirstvm.u"], "VUSB.remove"),
    "vgpu-list": (["myfirstvm"], "VGPU.list"),
    "vgpu-remove": (["myfirstvm.g"], "VGPU.remove"),
    "tasks": ([], "Task.list"),
    "task-cancel": (["task-1"], "Task.cancel"),
    "task-wait": (["task-1"], "Task.wait"),
    "events": (["--count", "2", "--kind", "vm"], ""),
    "host": ([], "HOST.stat"),
    "dmesg": ([], "HOST.get_console_data"),
    "debug-keys": (["q"], "HOST.send_debug_keys"),
    "set-worker-pool-size": (["8"], "HOST.set_worker_pool_size"),
    "query": ([], "query"),
    "diagnostics": ([], "get_diagnostics"),
    "debug": (["set-cancel-trigger", "x", "1"], "DEBUG.trigger"),
    "where": ([], ""),
    "api": (["VM.exists", '{"id": "a"}'], "VM.exists"),
    "api-list": ([], ""),
    "completion": (["bash"], ""),
    "version": ([], ""),
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "vm.cfg"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def words(name: str, config: Path) -> list[str]:
    return [name, *(str(config) if word == "FILE" else word for word in EXAMPLES[name][0])]


def test_each_command_is_found_in_the_family_that_says_so() -> None:
    for name in COMMANDS:
        assert name in commands(name)
        assert len(commands(name)) < len(COMMANDS)


def test_every_command_has_an_example_and_a_name_of_its_own() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    assert len(COMMANDS) == sum(len(family) for family in families().values())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_works_and_has_one_json_document(cli: Any, world: Any, config: Path, name: str) -> None:
    ran = cli(*words(name, config), "--json")
    assert ran.code == 0, ran.err
    documents = ran.out.splitlines() if COMMANDS[name].streams else [ran.out]
    for document in documents:
        json.loads(document)
    wanted = EXAMPLES[name][1]
    assert not wanted or wanted in [method for method, _ in world.asked]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_works_for_a_person(cli: Any, config: Path, name: str) -> None:
    ran = cli(*words(name, config))
    assert ran.code == 0, ran.err
    assert "Traceback" not in ran.err
    assert "\x1b" not in ran.out  # this is no terminal


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli: Any, name: str) -> None:
    ran = cli(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: xenops-cli {name}")
    assert "--json" in ran.out
    assert COMMANDS[name].help.split()[0] in ran.out


def test_the_overview_names_every_command_and_every_exit_code(cli: Any) -> None:
    for ran in (cli("--help"), cli()):
        assert ran.code == 0
        assert all(f"\n  {name} " in ran.out for name in COMMANDS)
        assert all(f"\n  {code} " in ran.out for code in (0, 1, 2, 3, 4, 124, 130))


@pytest.mark.parametrize("before", [True, False])
def test_options_may_stand_before_or_behind_the_command(cli: Any, before: bool) -> None:
    ran = cli("--json", "list") if before else cli("list", "--json")
    assert [row["vm"]["name"] for row in json.loads(ran.out)] == ["myfirstvm", "other"]


def test_start_ends_running_and_resume_too(cli: Any, world: Any) -> None:
    assert cli("start", "myfirstvm").out == ""
    assert world.params("VM.start")["paused"] is False
    cli("resume", "myfirstvm", "--file", "/tmp/x")
    assert world.params("VM.resume")["paused"] is False
    cli("start", "myfirstvm", "--paused", "--force")
    assert (world.params("VM.start")["paused"], world.params("VM.start")["force"]) == (True, True)


def test_no_wait_prints_the_task_and_leaves(cli: Any, world: Any) -> None:
    assert cli("start", "myfirstvm", "--no-wait").out == "task-1\n"
    assert "Task.wait" not in [method for method, _ in world.asked]
    document = json.loads(cli("start", "myfirstvm", "--no-wait", "--json").out)
    assert (document["task"], document["state"]) == ("task-1", "Pending")


def test_a_paused_machine_of_the_original_spelling_is_hard_powered_off_without_a_timeout(cli: Any, world: Any) -> None:
    cli("shutdown", "myfirstvm")
    assert world.params("VM.shutdown")["delay"] is None
    cli("shutdown", "myfirstvm", "--timeout", "12.5")
    assert world.params("VM.shutdown")["delay"] == 12.5


def test_a_guest_that_does_not_obey_is_powered_off_with_force(cli: Any, world: Any, fake: Any) -> None:
    stubborn = errors.encode(errors.FailedToShutdown("x", 5.0))
    failed = fake.Task(id="task-1", operation="x", ctime=0, state=fake.Failed(fault=fake.FaultRecord(**stubborn)))
    ran = cli("shutdown", "myfirstvm", "--timeout", "5", "--force", Task_wait=["in turn", failed, fake.DONE])
    assert ran.code == 0
    assert [params["delay"] for method, params in world.asked if method == "VM.shutdown"] == [5.0, None]
    assert "powering off" in ran.err


def test_memory_is_in_mib_unless_it_has_a_unit(cli: Any, world: Any) -> None:
    cli("mem-set", "myfirstvm", "128")
    assert world.params("VM.set_memory_dynamic_range") == {"id": world.params("VM.set_memory_dynamic_range")["id"],
        "min": 128 << 20, "max": 128 << 20}  # fmt: skip
    cli("mem-set", "myfirstvm", "64M", "2GiB")
    assert world.params("VM.set_memory_dynamic_range")["max"] == 2 << 30


def test_devices_are_added_in_the_words_of_xl(cli: Any, world: Any) -> None:
    cli("vbd-add", "myfirstvm", "phy:/dev/loop3,xvdc,r")
    vbd = world.params("VBD.add")["vbd"]
    assert (vbd.id.dev, vbd.backend.path, vbd.mode.value) == ("xvdc", "/dev/loop3", "ReadOnly")
    cli("vif-add", "myfirstvm", "mac=00:16:3e:00:00:09,bridge=br1")
    vif = world.params("VIF.add")["vif"]
    assert (vif.id.dev, vif.position, vif.backend.bridge) == ("1", 1, "br1")  # 0 is taken
    cli("pci-add", "myfirstvm", "03:00.1")
    assert world.params("PCI.add")["pci"].position == 1


@pytest.mark.parametrize("spec", ["nonsense", "phy:/dev/x", "', 'a", "phy:/dev/a,hda,w', 'phy:/dev/b,hdb,w"])
def test_a_device_nobody_understands_is_refused_with_an_example(cli: Any, world: Any, spec: str) -> None:
    ran = cli("vbd-add", "myfirstvm", spec)
    assert ran.code == 2
    assert "write it like" in ran.err
    assert "VBD.add" not in [method for method, _ in world.asked]


def test_a_device_that_is_there_already_is_not_overwritten(cli: Any, world: Any) -> None:
    ran = cli("vbd-add", "myfirstvm", "phy:/dev/loop3,hda,w")
    assert ran.code == 1
    assert "exists already" in ran.err
    assert "VBD.add" not in [method for method, _ in world.asked]


def test_completion_knows_the_commands(cli: Any) -> None:
    for shell in ("bash", "zsh", "tcsh"):
        ran = cli("completion", shell)
        assert ran.code == 0
        assert "vbd-unplug" in ran.out


def test_api_reaches_every_method_and_checks_its_parameters(cli: Any, world: Any) -> None:
    listed = cli("api-list", "--json").out
    assert {row["method"] for row in json.loads(listed)} == {m for i in INTERFACES for m in methods(i)}
    assert cli("api", "VM.set_vcpus", '{"id": "a", "n": 2}').out == '"task-1"\n'
    assert world.params("VM.set_vcpus") == {"id": "a", "n": 2}
    for params in ('{"id": "a", "nn": 2}', "{", '{"id": 3}', "[]"):
        ran = cli("api", "VM.set_vcpus", params)
        assert ran.code == 2, params
        assert "takes id, n" in ran.err
    assert "did you mean VM.start?" in cli("api", "VM.startt").err


def test_where_shows_no_password_to_a_person(cli: Any) -> None:
    assert "secret" not in cli("where").out
    assert json.loads(cli("where", "--json").out)["amqp"] == "amqp://guest:secret@127.0.0.1:5672/"
    assert json.loads(cli("where", "--json", "--queue", "xenops.b.c").out)["queue"] == "xenops.b.c"
