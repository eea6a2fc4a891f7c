# SPDX-License-Identifier: Apache-2.0
"""All commands, by family: the one list of them that there is.

A family's module is read when one of its commands is wanted: most of the time of a short command is that of reading code.
"""

from importlib import import_module

from xenops_cli.command import Command

_FAMILIES: dict[str, tuple[str, str]] = {
    "machines": ("machines", "list vm-stat remove rename"),
    "machines as files": ("descriptions", "add create export import"),
    "life of a machine": (
        "lifecycle",
        "start shutdown reboot destroy pause unpause suspend resume checkpoint fast-resume migrate migrate-resolve "
        "vcpu-set mem-set delay",
    ),
    "consoles": ("consoles", "console console-list"),
    "CDs": ("drives", "cd-eject cd-insert"),
    "devices": (
        "devices",
        "vbd-list vbd-add vbd-plug vbd-unplug vbd-remove vif-list vif-add vif-plug vif-unplug vif-remove "
        "pci-list pci-add pci-plug pci-unplug pci-remove vusb-list vusb-plug vusb-unplug vusb-remove "
        "vgpu-list vgpu-remove",
    ),
    "tasks and events": ("tasks", "tasks task-cancel task-wait events"),
    "the host": ("host", "host dmesg debug-keys set-worker-pool-size query diagnostics debug"),
    "the stack and this program": ("stack", "where api api-list completion version"),
}


def families(word: str = "") -> dict[str, tuple[Command, ...]]:
    """The commands by family: only the family of that word if it is a command, else all."""
    found = {title: module for title, (module, words) in _FAMILIES.items() if word in words.split()}
    chosen = found or {title: module for title, (module, _) in _FAMILIES.items()}
    return {title: import_module(f"{__name__}.{module}").COMMANDS for title, module in chosen.items()}


def commands(word: str = "") -> dict[str, Command]:
    """The same, by name."""
    return {command.name: command for family in families(word).values() for command in family}
