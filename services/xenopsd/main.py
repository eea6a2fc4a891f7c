# SPDX-License-Identifier: Apache-2.0
"""Puts xenopsd together: the only room that knows everyone.

Machines are looked after from the moment the daemon starts, whether the switch is there yet or not.
"""

import asyncio
import fcntl
import importlib
import logging
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry

from xenops import where
from xenops.bus.port import Bus
from xenops.errors import Fault
from xenops.events import Change, Kind
from xenops.interfaces import xenops
from xenops.rpc import Dispatcher
from xenops.service.bus import alone, announce, connected, describe, request_metrics
from xenops.service.log import configure
from xenops.service.process import notify_ready, run
from xenops.service.settings import load
from xenops.types.service import ServiceInfo
from xenops.types.vm import PowerState
from xenopsd.announcements import Announcements
from xenopsd.api.debug import DebugApi
from xenopsd.api.general import GeneralApi
from xenopsd.api.host import HostApi
from xenopsd.api.migration import MigrationApi
from xenopsd.api.pci import PciApi
from xenopsd.api.task import TaskApi
from xenopsd.api.updates import UpdatesApi
from xenopsd.api.vbd import VbdApi
from xenopsd.api.vgpu import VgpuApi
from xenopsd.api.vif import VifApi
from xenopsd.api.vm import VmApi
from xenopsd.api.vusb import VusbApi
from xenopsd.backends.port import Backend, RunProgram, Surroundings
from xenopsd.config import BACKENDS, PROGRAM, Settings, XenopsdSettings
from xenopsd.control import Control
from xenopsd.devices import Devices
from xenopsd.engine.tasks import Task, Tasks
from xenopsd.engine.workers import Workers
from xenopsd.forkexec import Forkexec
from xenopsd.metrics import Metrics
from xenopsd.migration.arrivals import Arrivals
from xenopsd.migration.resolution import mend
from xenopsd.migration.station import Station
from xenopsd.resources import RESOURCES, Missing, complain, scan, search_path
from xenopsd.store.database import Database
from xenopsd.store.journal import Journal
from xenopsd.store.machines import Machines
from xenopsd.store.migrations import Crossings
from xenopsd.store.outcomes import Outcomes
from xenopsd.updates import Updates

log = logging.getLogger(PROGRAM)

FEATURES = ["json-rpc", "deadline", "idempotency", "events", "barriers", "checkpoint"]
_HOUSEKEEPING_S = 60.0
_GIVEN_S = 2.0
MIGRATE = "VM.migrate"
_AGAIN_S = 1.0
# The event loop and the store's writer share one interpreter: hand it over sooner than the default of 5 ms.
_SWITCH_INTERVAL_S = 0.0005
# An answer of xenstored, of a builder or of a hypercall's thread wakes us, and does not push the sender off its processor
# before it has said the rest: a burst of answers is one change of turns rather than one each.
# Our children are ordinary processes again.
_SCHEDULING = os.SCHED_BATCH | os.SCHED_RESET_ON_FORK


class Daemon:
    """All rooms of one xenopsd, joined."""

    def __init__(self, settings: Settings, registry: CollectorRegistry = REGISTRY) -> None:
        instance = settings.instance or settings.backend
        queue = f"xenops.{settings.host}.{instance}"
        self.settings, self._registry = settings, registry
        self.info = describe(PROGRAM, settings, instance=instance, queue=queue, features=FEATURES)
        self.database = Database(settings.state_dir / "xenopsd.db")
        self.journal = Journal(self.database)
        self.outcomes = Outcomes(
            self.database, keep_s=settings.outcome_expiry, has_task=lambda id: self.control.has_task(id)
        )
        self.announce = Announcements(Updates(secrets.token_hex(6)), host=settings.host, instance=instance)
        started_ms = self.journal.next_life(int(time.time() * 1000))
        self.tasks = Tasks(started_ms=started_ms, changed=self._task_changed, removed=self._task_removed)
        self.workers = Workers(
            self.tasks, self.journal, size=settings.worker_pool_size, queue_limit=settings.queue_limit
        )
        self._forkexec = Forkexec(settings.host)
        self._seen: dict[str, PowerState] = {}
        self._begun = False
        self.metrics = Metrics(self.tasks, self.workers, self._power_states, registry)
        self._station = Station(
            queue, Crossings(self.database), settings.streams(), patience_s=settings.migration_patience
        )
        self.control = Control(
            backend=load_backend(settings, self._forkexec.run),
            machines=Machines(self.database),
            journal=self.journal,
            outcomes=self.outcomes,
            tasks=self.tasks,
            workers=self.workers,
            announce=self.announce,
            migration=self._station,
            limits=settings.limits(),
            run_program=self._forkexec.run,
            observe=self.metrics.observe,
        )
        self._station.attach(self.control.machines)
        self._arrivals = Arrivals(self.control)

    def use(self, bus: Bus) -> None:
        """This is the bus from now on."""
        self._forkexec.use(bus)
        self._station.peers.use(bus)

    async def begin(self) -> None:
        """Open the world, make good what an earlier life left, and look at every machine."""
        await self.control.backend.start(self.control.happened)
        for machine in self.control.machines:
            self.announce(Kind.VM, machine.id, Change.ADDED)
            for kind, devices in machine.devices.items():
                for device in devices.values():
                    self.announce(kind, str(device.record.id), Change.ADDED)
        await mend(self.control)
        machines = list(self.control.machines)
        states = await self.control.states(machines)
        self._seen = {machine.id: state.power_state for machine, state in zip(machines, states, strict=True)}
        await self._arrivals.recover()
        await self.control.recover(list(self.journal.entries()))
        self._begun = True
        log.info("%d machines registered; state in %s", len(self.control.machines), self.settings.state_dir)

    def dispatcher(self, stop: asyncio.Event) -> Dispatcher:
        """Who answers what."""
        control, devices = self.control, Devices(self.control)
        implementations = [
            (xenops.General, GeneralApi(self.info, self.diagnose)),
            (xenops.Task, TaskApi(control, self.journal)),
            (xenops.HOST, HostApi(control)),
            (xenops.VM, VmApi(control, devices)),
            (xenops.VBD, VbdApi(control, devices)),
            (xenops.VIF, VifApi(control, devices)),
            (xenops.PCI, PciApi(control, devices)),
            (xenops.VUSB, VusbApi(devices)),
            (xenops.VGPU, VgpuApi(devices)),
            (xenops.UPDATES, UpdatesApi(control)),
            (xenops.Migration, MigrationApi(control, self._arrivals)),
            (xenops.DEBUG, DebugApi(control, stop)),
        ]
        return Dispatcher(implementations, outcomes=self.outcomes, observe=request_metrics(PROGRAM, self._registry))

    async def describe_event(self, kind: Kind, id: str) -> dict[str, Any]:
        """What an event says; what was said of power states is what the metrics count."""
        facts = await self.control.describe(kind, id)
        if kind is Kind.VM:
            self._seen[id] = PowerState(facts["power_state"])
        return facts

    async def housekeeping(self) -> None:
        """Forget what is too old, every now and then, until cancelled."""
        while True:
            for task in self.tasks.expire(older_than_s=self.settings.task_expiry, newest=self.settings.task_limit):
                self.journal.forget(task)
            self.outcomes.expire()
            await self._arrivals.expire(older_than_s=self.settings.outcome_expiry)
            await asyncio.sleep(_HOUSEKEEPING_S)

    async def look_after_migrations(self) -> None:
        """Bring migrations to their end that could not be so far, such as for a destination's silence, until cancelled."""
        while True:
            for vm in self._station.crossings.unfinished():
                self.control.check(vm)
            await asyncio.sleep(_GIVEN_S)

    def diagnose(self) -> dict[str, Any]:
        """For `get_diagnostics`."""
        tasks = [
            {
                "id": t.id,
                "operation": t.operation,
                "vm": t.vm,
                "ctime": t.ctime,
                "dbg": t.dbg,
                "step": t.step,
                "state": type(t.state).__name__,
            }
            for t in self.tasks
        ]
        return {
            **self.workers.describe(),
            "updates": self.announce.updates.describe(),
            "tasks": tasks,
            "store": self._store(),
        }

    def _store(self) -> dict[str, Any]:
        """What the disk has done to the store."""
        return {"salvaged": self.database.salvaged, "damaged": self.control.machines.damaged}

    async def end(self) -> None:
        """Finish what runs, then close everything; machines run on. Idempotent."""
        await self.workers.stop(self.settings.stop_timeout)
        await self._arrivals.stop()
        await self.control.backend.stop()
        self.database.close()

    def _power_states(self) -> "Counter[PowerState]":
        self._seen = {id: state for id, state in self._seen.items() if id in self.control.machines}
        return Counter(self._seen.values())

    def _task_changed(self, task: Task) -> None:
        self.control.task_changed(task)
        if self._begun and task.ended and task.operation == MIGRATE:
            self.metrics.migrated(task.state)

    def _task_removed(self, task: Task) -> None:
        self.control.task_removed(task)


def load_backend(settings: Settings, run_program: RunProgram) -> Backend:
    """The configured hypervisor's backend; the settings that begin with its name are its options."""
    package = importlib.import_module(BACKENDS[settings.backend])
    prefix = f"{settings.backend}_"
    ours = msgspec.structs.asdict(settings).items()
    options = package.Options(**{key.removeprefix(prefix): value for key, value in ours if key.startswith(prefix)})
    programs, _ = find_resources(settings)
    surroundings = Surroundings(settings.state_dir / settings.backend, programs, run_program)
    backend: Backend = package.create(surroundings, options)
    return backend


def find_resources(settings: Settings) -> tuple[dict[str, Path], list[Missing]]:
    """Look for all helper programs: those found, and those missing."""
    chosen = {resource.key: str(getattr(settings, resource.key.replace("-", "_"))) for resource in RESOURCES}
    return scan(settings.backend, chosen, search_path(os.environ, settings.search_path))


def check_resources(settings: Settings) -> None:
    """Says everything that is missing, and exits if something essential is."""
    _, missing = find_resources(settings)
    if not missing:
        return
    text = complain(missing, program=PROGRAM, file=f"/etc/xenopsd/{PROGRAM}.conf")
    if any(it.resource.essential for it in missing):
        print(text, file=sys.stderr)
        raise SystemExit(1)
    log.warning("%s", text)


def lock(state_dir: Path) -> int:
    """Make sure that no other xenopsd works on the same state; held until the process ends."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{PROGRAM}: another one works on {state_dir}; stop it, or choose another --state-dir", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        print(
            f"{PROGRAM}: the state directory {state_dir} cannot be used: {error}; choose another --state-dir",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    return descriptor


async def serve(settings: Settings, stop: asyncio.Event) -> int:
    """Run the daemon until `stop`."""
    async with AsyncExitStack() as at_end:
        daemon = Daemon(settings)
        at_end.push_async_callback(daemon.end)
        await daemon.begin()
        bus = await connected(settings, PROGRAM, stop)
        if bus is None:
            return 0
        daemon.use(bus)
        at_end.push_async_callback(bus.close)
        background = [
            asyncio.create_task(kept_up("publishing", lambda: daemon.announce.publish(bus, daemon.describe_event))),
            asyncio.create_task(kept_up("housekeeping", daemon.housekeeping)),
            asyncio.create_task(kept_up("migrations", daemon.look_after_migrations)),
        ]
        at_end.push_async_callback(_cancel, background)
        await alone(bus, daemon.info, limit=settings.request_limit)
        serving = await bus.serve(daemon.info.queue, daemon.dispatcher(stop).answer, limit=settings.request_limit)
        await announce(bus, daemon.info, Change.ADDED)
        at_end.enter_context(found_by_clients(settings, daemon.info))
        notify_ready()
        _tell(daemon.info)
        await stop.wait()
        await serving.cancel()
        await daemon.workers.stop(settings.stop_timeout)  # while their hooks and their events still have a bus
        await announce(bus, daemon.info, Change.REMOVED)
    return 0


@contextmanager
def found_by_clients(settings: Settings, info: ServiceInfo) -> Iterator[None]:
    """Within this block clients on this host find us by a file, where one is wanted; without it we work all the same."""
    if not settings.where_file:
        yield
        return
    path = Path(settings.where_file)
    place = where.Where(
        amqp=settings.url(),
        queue=info.queue,
        host=info.host,
        instance=info.instance,
        forkexec=f"forkexec.{info.host}",
        console=f"console.{info.host}",
        state_dir=str(settings.state_dir),
        pid=os.getpid(),
    )
    try:
        where.write(path, place)
    except OSError as error:
        log.warning("xenops-cli will not find us by itself: where-file %s cannot be written: %s", path, error)
    try:
        yield
    finally:
        with suppress(OSError):  # its folder may have gone before us
            path.unlink(missing_ok=True)


async def kept_up(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do what must go on as long as the daemon does: a failure is logged, and it begins again a moment later."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("%s failed, and begins again", what)
        await asyncio.sleep(_AGAIN_S)


async def _cancel(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _tell(info: ServiceInfo) -> None:
    log.info("serving the queue %s (%s %s)", info.queue, info.name, info.version)


def main() -> int:
    """The command `xenopsd`."""
    settings: Settings = load(XenopsdSettings, program=PROGRAM, argv=sys.argv[1:], environ=os.environ)
    configure(PROGRAM, settings.log_level)
    check_resources(settings)
    lock(settings.state_dir)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with suppress(OSError):  # where that is forbidden, it is only a little slower
        os.sched_setscheduler(0, _SCHEDULING, os.sched_param(0))
    try:
        return run(lambda stop: serve(settings, stop))
    except Fault as fault:
        print(f"{PROGRAM}: {fault}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
