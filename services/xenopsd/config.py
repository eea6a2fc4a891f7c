# SPDX-License-Identifier: Apache-2.0
"""xenopsd's settings."""

from pathlib import Path
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from xenops.service.bus import BusSettings
from xenops.service.hypervisor import default_backend
from xenopsd.atoms.context import Limits
from xenopsd.migration.door import Streams
from xenopsd.resources import RESOURCES

PROGRAM = "xenopsd"
Seconds = Annotated[float, Meta(ge=0)]

# A backend is a module with `Options` and `create(surroundings, options)`; nobody imports it, it is loaded by name.
BACKENDS = {"simulator": "xenopsd.backends.simulator", "xen": "xenopsd.backends.xen.backend"}


class _Settings(BusSettings, frozen=True, kw_only=True):
    """The domain manager: registers, starts, watches and stops the VMs of one host."""

    backend: Annotated[
        str,
        Meta(
            pattern=rf"^({'|'.join(BACKENDS)})\Z",
            description=f"which hypervisor: {', '.join(BACKENDS)}; xen unless told otherwise in a control domain",
        ),
    ] = default_backend()
    instance: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]*\Z", max_length=64, description="name of this instance; unset: the backend's name"
        ),
    ] = ""
    state_dir: Annotated[Path, Meta(description="where machines and tasks are remembered")] = Path("/var/lib/xenopsd")
    where_file: Annotated[
        str,
        Meta(
            description="file that tells xenops-cli on this host where to ask, URL of the switch included; unset: none"
        ),
    ] = ""
    hooks_dir: Annotated[Path, Meta(description="folders of hook programs, one a hook")] = Path("/etc/xenopsd/hooks.d")
    worker_pool_size: Annotated[int, Meta(ge=1, le=1024, description="machines worked on side by side")] = 25
    queue_limit: Annotated[int, Meta(ge=1, description="operations that may wait for one machine")] = 1000
    request_limit: Annotated[int, Meta(ge=1, description="requests that may wait in our queue on the bus")] = 10000
    domain_shutdown_ack_timeout: Annotated[
        float, Meta(ge=0, description="seconds a guest has to acknowledge a request to shut down")
    ] = 60.0
    hook_timeout: Annotated[float, Meta(gt=0, description="seconds one hook program may run")] = 600.0
    reboot_loop_delay: Annotated[
        float, Meta(ge=0, description="seconds to wait before a machine that reboots too soon starts again")
    ] = 15.0
    task_expiry: Annotated[
        float, Meta(gt=0, description="seconds for which an ended task is remembered when nobody destroys it")
    ] = 86400.0
    task_limit: Annotated[
        int, Meta(ge=0, description="ended tasks, the newest, that are remembered when nobody destroys them")
    ] = 20_000
    outcome_expiry: Annotated[
        float, Meta(gt=0, description="seconds for which a repeated request gets its first outcome")
    ] = 86400.0
    stop_timeout: Annotated[
        float,
        Meta(ge=0, description="seconds that running operations have when we are told to stop, and then to go back"),
    ] = 10.0
    migration_address: Annotated[
        str, Meta(description="address to listen on for machines that come; the one that other hosts reach us by")
    ] = "127.0.0.1"
    migration_port: Annotated[int, Meta(ge=0, le=65535, description="port for that; 0: any that is free")] = 0
    migration_advertise: Annotated[
        str,
        Meta(description="what sources connect to, where it is not migration-address; with TLS our certificate's name"),
    ] = ""
    migration_certificate: Annotated[
        str, Meta(description="file with our certificate, for TLS between hosts; unset: memory travels in the clear")
    ] = ""
    migration_key: Annotated[str, Meta(description="file with its key; unset: it is in the same file")] = ""
    migration_authority: Annotated[
        str, Meta(description="file with the authority that other hosts must be certified by")
    ] = ""
    migration_stall_timeout: Annotated[
        float, Meta(gt=0, description="seconds for which a memory stream may stand still before it is given up")
    ] = 30.0
    migration_patience: Annotated[
        float, Meta(gt=0, description="seconds for which the other host of a migration may be silent")
    ] = 60.0
    search_path: Annotated[list[str], Meta(description="further folders to look for helper programs in")] = []
    simulator_memory_mib: Annotated[int, Meta(ge=1, description="memory of the simulated host")] = 1 << 20
    simulator_cpus: Annotated[int, Meta(ge=1, description="processors of the simulated host")] = 8
    simulator_minimum_reboot_delay_s: Annotated[
        float, Meta(ge=0, description="seconds a simulated guest must have run for its reboot or crash to be no loop")
    ] = 0.0
    simulator_guest: Annotated[
        str, Meta(description="how simulated guests behave, as the debug command guest takes it")
    ] = "cooperates"
    simulator_seed: Annotated[int, Meta(ge=0, description="what the simulator's chance begins with")] = 0
    simulator_latency: Annotated[list[str], Meta(description="milliseconds a backend call takes, as vm.create:50")] = []
    simulator_failures: Annotated[list[str], Meta(description="backend calls that fail, as vbd.plug:IoError")] = []

    xen_xenstore: Annotated[Path, Meta(description="xenstored's socket")] = Path("/run/xenstored/socket")
    xen_run_dir: Annotated[Path, Meta(description="sockets and the like of device models")] = Path("/run/xenopsd")
    xen_helpers: Annotated[int, Meta(ge=1, le=64, description="builder processes that are kept ready")] = 2
    xen_vif_script: Annotated[
        str, Meta(description="hotplug script of interfaces that name none; unset: xenopsd does it itself, on a bridge")
    ] = ""
    xen_minimum_reboot_delay: Annotated[
        float, Meta(ge=0, description="seconds a guest must have run for its reboot or crash to be no loop")
    ] = 120.0
    xen_suspend_timeout: Annotated[
        float, Meta(gt=0, description="seconds a guest has to acknowledge that it is to suspend, and to do it")
    ] = 60.0
    xen_hotplug_timeout: Annotated[float, Meta(gt=0, description="seconds a hotplug script may run")] = 60.0
    xen_pci_without_iommu: Annotated[
        bool,
        Meta(description="PV guests get PCI devices even where no IOMMU keeps those from all of the host's memory"),
    ] = False

    def streams(self) -> Streams:
        """How memory travels between hosts."""
        return Streams(
            address=self.migration_address,
            port=self.migration_port,
            advertise=self.migration_advertise,
            certificate=self.migration_certificate,
            key=self.migration_key,
            authority=self.migration_authority,
            stall_s=self.migration_stall_timeout,
        )

    def limits(self) -> Limits:
        """The settings that steps look at."""
        return Limits(
            shutdown_ack_s=self.domain_shutdown_ack_timeout,
            hook_s=self.hook_timeout,
            reboot_loop_delay_s=self.reboot_loop_delay,
            crash_dir=self.state_dir / "crash",
            hooks_dir=self.hooks_dir,
        )


# Every row of the table of resources is a key of its own.
_WithResources = msgspec.defstruct(
    "XenopsdSettings",
    [
        (
            resource.key.replace("-", "_"),
            Annotated[str, Meta(description=f"{resource.what} (backend {', '.join(resource.backends)})")],
            resource.default,
        )
        for resource in RESOURCES
    ],
    bases=(_Settings,),
    frozen=True,
    kw_only=True,
    namespace={"__doc__": _Settings.__doc__},
)
Settings = _Settings
XenopsdSettings = cast(type[Settings], _WithResources)
