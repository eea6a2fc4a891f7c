# SPDX-License-Identifier: Apache-2.0
"""A stack that answers what a test tells it to, over the real wire: for the command line's tests.

As a program (`fake.py COMMAND …`) it is the command line on such a stack, for tests that need a process and a
terminal of its own.
"""

import asyncio
import json
import os
import queue
import sys
import threading
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from xenops.blocking import BlockingXenops
from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import Message
from xenops.client import Xenops
from xenops.errors import Fault
from xenops.events import Change, Event, Kind, encode, topic
from xenops.idl import Method, methods
from xenops.interfaces.console import CONSOLE
from xenops.interfaces.xenops import INTERFACES
from xenops.rpc import Dispatcher, stub
from xenops.types.console import Console, ConsoleProtocol, ConsoleRoute
from xenops.types.disk import Local
from xenops.types.host import ChipsetInfo, CpuInfo, Host, Hypervisor
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.pci import Pci, PciStat, PciState
from xenops.types.pci_address import PciAddress
from xenops.types.service import ServiceInfo
from xenops.types.task import Completed, Failed, FaultRecord, Pending, Subtask, Task
from xenops.types.vbd import Vbd, VbdStat, VbdState, VbdType
from xenops.types.vgpu import Empty, Vgpu, VgpuStat, VgpuState
from xenops.types.vif import Vif, VifStat, VifState
from xenops.types.vm import Added, DomainType, Hvm, PowerState, Vm, VmStat, VmState
from xenops.types.vusb import Vusb, VusbStat, VusbState
from xenops_cli.console.talk import Parties
from xenops_cli.run import run
from xenops_cli.session import Stack

FIRST = "11111111-1111-4111-8111-111111111111"
SECOND = "22222222-2222-4222-8222-222222222222"
MIB = 1 << 20
QUEUE = "xenops.h.simulator"
T = TypeVar("T")


def vm(id: str, name: str, state: PowerState = PowerState.HALTED, **more: Any) -> VmStat:
    """A machine in some state."""
    machine = Vm(id=id, name=name, ty=Hvm(), memory_static_max=256 * MIB)
    if state is PowerState.HALTED:
        return VmStat(vm=machine, state=VmState(power_state=state))
    facts: dict[str, Any] = {
        "domids": [7],
        "memory_actual": 200 * MIB,
        "vcpu_target": 1,
        "domain_type": DomainType.HVM,
        "last_start_time": 1_700_000_000_000,
        "consoles": [Console(protocol=ConsoleProtocol.VT100, port=5901)],
        "guest_agent": {"os": "linux"},
    }
    return VmStat(vm=machine, state=VmState(power_state=state, **{**facts, **more}))


def _device(name: str) -> DeviceId:
    return DeviceId(vm=FIRST, dev=name)


MACHINES = [vm(FIRST, "myfirstvm", PowerState.RUNNING), vm(SECOND, "other")]
DONE = Task(
    id="task-1", operation="VM.start", vm=FIRST, dbg="test", ctime=1_700_000_000_000, state=Completed(duration_s=0.4),
    subtasks=[Subtask(name="vm.Create", state=Completed(duration_s=0.1))],
)  # fmt: skip
ADDRESS = PciAddress(bus=3, dev=0, fn=0)
ANSWERS: dict[str, Any] = {
    "query": ServiceInfo(
        name="xenopsd", version="1", interface="1.0", instance_id="i", host="h", instance="simulator",
        queue="xenops.h.simulator",
    ),
    "get_diagnostics": {"queues": [], "workers": 4},
    "VM.list": MACHINES,
    "VM.exists": True,
    "VM.stat": MACHINES[0],
    "VM.add": Added(id=FIRST, updated=False),
    "VM.export_metadata": Metadata(vm=MACHINES[0].vm, vifs=[Vif(id=_device("0"))]),
    "VM.import_metadata": FIRST,
    "VM.generate_state_string": "",
    "VBD.list": [
        VbdStat(vbd=Vbd(id=_device("hda"), position="xvda", backend=Local(path="/dev/loop0")), state=VbdState(plugged=True)),
        VbdStat(vbd=Vbd(id=_device("hdb"), ty=VbdType.CDROM), state=VbdState()),
    ],
    "VIF.list": [VifStat(vif=Vif(id=_device("0"), mac="00:16:3e:74:3d:77"), state=VifState(plugged=True))],
    "PCI.list": [PciStat(pci=Pci(id=_device("0"), address=ADDRESS), state=PciState())],
    "VUSB.list": [VusbStat(vusb=Vusb(id=_device("u"), hostbus="1", hostport="2"), state=VusbState())],
    "VGPU.list": [
        VgpuStat(vgpu=Vgpu(id=_device("g"), physical_pci_address=ADDRESS, implementation=Empty()), state=VgpuState())
    ],
    "VBD.add": _device("xvdb"), "VIF.add": _device("1"), "PCI.add": _device("1"), "VUSB.add": _device("u"),
    "VGPU.add": _device("g"),
    "HOST.stat": Host(
        cpu_info=CpuInfo(cpu_count=4), hypervisor=Hypervisor(version="4.17.3"), chipset_info=ChipsetInfo(hvm=True),
        memory_total=1 << 30,
    ),
    "HOST.get_console_data": "(XEN) hello\n(XEN) \x1b[31mworld",
    "Task.list": [
        DONE,
        Task(id="task-2", operation="VM.shutdown", ctime=0, state=Pending(progress=0.5)),
        Task(id="task-3", operation="VM.x", ctime=0, state=Failed(fault=FaultRecord(name="Busy", message="is busy"))),
    ],
    "Task.wait": DONE,
    "Task.stat": DONE,
}  # fmt: skip


class FakeBus:
    """What a command has of a switch: one thing at a time."""

    def __init__(self, bus: MemoryBus, there: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._bus, self._there = bus, there

    def call(self, queue: str, request: Message, *, timeout_s: float) -> Message:
        reply: Message = self._there(self._bus.call(queue, request, timeout_s=timeout_s))
        return reply

    def events(
        self, patterns: list[str], timeout_s: float | None, *, lasting_s: float | None, on_gap: Any
    ) -> Iterator[Message]:
        came: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._there(self._bus.subscribe(patterns, came.put, on_gap=on_gap))
        until = None if lasting_s is None else time.monotonic() + lasting_s
        while until is None or time.monotonic() < until:
            try:
                yield came.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return


class World:
    """What the stack answers, and what it was asked."""

    def __init__(
        self, answers: dict[str, Any] | None = None, spoken: tuple[bytes, ...] = (b"hello\r\nlogin: ",)
    ) -> None:
        self.answers = {**ANSWERS, **(answers or {})}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.spoken = list(spoken)  # what each connection to the console is told before it is closed
        self.typed = b""
        self.console: Any = None  # what the console service answers, where it is not a way to us
        self._talks: set[asyncio.Task[Any]] = set()
        self.hold = False  # keep the last console connection open

    def params(self, wire: str) -> dict[str, Any]:
        """With what a method was called last."""
        return next(params for name, params in reversed(self.asked) if name == wire)

    @contextmanager
    def connect(self, args: Namespace) -> Iterator[Stack]:
        """A connection of the command line to this stack, whose services run in a thread of their own."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def there(what: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(what, loop).result()

        services = self._services()
        try:
            client = there(services.__aenter__())
            try:
                yield Stack(BlockingXenops(FakeBus(client, there), QUEUE), self._parties)  # type: ignore[arg-type]
            finally:
                there(services.__aexit__(None, None, None))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    @asynccontextmanager
    async def _parties(self) -> AsyncIterator[Parties]:
        async with self._services() as client:
            yield Parties(Xenops(client, QUEUE), stub(CONSOLE, client, "console.h"))

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[MemoryBus]:
        switch = MemorySwitch()
        server, client = MemoryBus(switch), MemoryBus(switch)
        async with AsyncExitStack() as opened:
            for bus in (server, client):
                await bus.connect()
                opened.push_async_callback(bus.close)
            listener = await asyncio.start_server(self._talk, "127.0.0.1", 0)
            opened.push_async_callback(self._hang_up)
            opened.callback(listener.close)
            self.answers["CONSOLE.open"] = self.console or ConsoleRoute(
                host="127.0.0.1",
                port=listener.sockets[0].getsockname()[1],
                protocol=ConsoleProtocol.VT100,
                expires_s=30,
            )
            await server.serve(QUEUE, Dispatcher([(i, self._service(i)) for i in INTERFACES]).answer)
            await server.serve("console.h", Dispatcher([(CONSOLE, self._service(CONSOLE))]).answer)
            events = asyncio.create_task(self._announce(server))
            opened.callback(events.cancel)
            yield client

    def _service(self, interface: Any) -> object:
        members = {method.attribute: staticmethod(self._bound(method)) for method in methods(interface).values()}
        return type(interface.__name__, (), members)()

    def _bound(self, method: Method) -> Any:
        async def answer(**params: Any) -> Any:
            self.asked.append((method.wire, params))
            default = "task-1" if method.wire in _TASKS else None
            found = self.answers.get(method.wire, default)
            if isinstance(found, list) and found and found[0] == "in turn":
                found = found.pop(1) if len(found) > 2 else found[1]
            if isinstance(found, Fault):
                raise found
            return await found(**params) if callable(found) else found

        return answer

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (talk := asyncio.current_task()) is not None:
            self._talks.add(talk)
        try:
            writer.write(self.spoken.pop(0) if self.spoken else b"")
            while (self.hold and not self.spoken) and (data := await reader.read(100)):
                self.typed += data
                writer.write(data.upper())
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            writer.close()

    async def _hang_up(self) -> None:
        await asyncio.gather(*self._talks)
        self._talks.clear()

    async def _announce(self, bus: MemoryBus) -> None:
        for seq in range(10**6):
            event = Event(
                epoch="e", seq=seq, host="h", instance="simulator", kind=Kind.VM, id=FIRST, change=Change.CHANGED,
                at=1_700_000_000_000, name="myfirstvm", power_state="Running",
            )  # fmt: skip
            await bus.publish(topic("h", "simulator", Kind.VM, FIRST), Message(encode(event)))
            await asyncio.sleep(0.01)


_TASKS = {
    method.wire
    for interface in INTERFACES
    for method in methods(interface).values()
    if getattr(method.result, "__metadata__", None) and "task" in str(method.result.__metadata__)
}


def main() -> int:
    """The command line on a stack whose console stays open, or whose task never ends."""
    lives = int(os.environ.get("FAKE_LIVES", "2"))
    world = World(spoken=(b"first life\r\n", b"second life\r\n")[:lives])
    world.hold = True
    if os.environ.get("FAKE_ENDLESS"):
        world.answers["Task.wait"] = _endless(world)
    code = run(sys.argv[1:], world.connect)
    if os.environ.get("FAKE_REPORT"):
        with open(os.environ["FAKE_REPORT"], "w", encoding="utf-8") as report:
            json.dump({"asked": [name for name, _ in world.asked], "typed": world.typed.decode()}, report)
    return code


def _endless(world: World) -> Any:
    async def wait(id: str, timeout: float) -> Task:
        print("waiting", file=sys.stderr, flush=True)
        for _ in range(1000):
            if os.environ["FAKE_ENDLESS"] == "cancellable" and any(name == "Task.cancel" for name, _ in world.asked):
                fault = FaultRecord(name="Cancelled", fields={"task": id}, message="cancelled")
                return Task(id=id, operation="VM.start", ctime=0, state=Failed(fault=fault))
            await asyncio.sleep(0.01)
        return Task(id=id, operation="VM.start", ctime=0, state=Pending(progress=0.5))

    return wait


if __name__ == "__main__":
    sys.exit(main())
