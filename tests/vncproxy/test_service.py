# SPDX-License-Identifier: Apache-2.0
"""vncproxy as others see it: beside a xenopsd on a bus, and as a process."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from vncproxy.config import VncproxySettings
from vncproxy.main import serve
from xenops import wire
from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import JSON, Delivery, Message
from xenops.errors import DoesNotExist, Fault, UnknownMethod
from xenops.events import Change, Event, Kind, encode, topic
from xenops.interfaces.console import CONSOLE
from xenops.interfaces.xenops.general import General
from xenops.rpc import stub
from xenops.types.console import Console, ConsoleProtocol
from xenops.types.vm import Hvm, PowerState, Vm, VmStat, VmState

COMMAND = [sys.executable, "-I", "-c", "import sys; from vncproxy.main import main; sys.exit(main())"]
QUEUE, XENOPSD = "console.here", "xenops.here.simulator"


class Machines:
    """What a xenopsd answers of its machines, and the events that it publishes."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus, self.known, self.seq = bus, dict[str, VmStat](), 0
        self.asked = asyncio.Queue[str]()

    async def answer(self, delivery: Delivery) -> Message:
        message = delivery.message
        method, raw, _ = wire.decode_call(message.body, message.content_type)
        self.asked.put_nowait(method)
        try:
            return Message(wire.encode_result(self._result(method, msgspec.msgpack.decode(raw))))
        except Fault as fault:
            return Message(wire.encode_fault(fault))

    def _result(self, method: str, params: dict[str, str]) -> object:
        if method == "VM.list":
            return list(self.known.values())
        if method != "VM.stat":
            raise UnknownMethod(method)
        if params["id"] not in self.known:
            raise DoesNotExist("VM", params["id"])
        return self.known[params["id"]]

    async def run(self, id: str, *consoles: Console) -> None:
        self.known[id] = VmStat(
            vm=Vm(id=id, name=id.upper(), ty=Hvm()),
            state=VmState(power_state=PowerState.RUNNING, consoles=list(consoles)),
        )
        await self.tell(id, Change.CHANGED)

    async def remove(self, id: str) -> None:
        del self.known[id]
        await self.tell(id, Change.REMOVED)

    async def tell(self, id: str, change: Change) -> None:
        self.seq += 1
        event = Event(
            epoch="e", seq=self.seq, host="here", instance="simulator", kind=Kind.VM, id=id, change=change, at=0
        )
        await self.bus.publish(topic("here", "simulator", Kind.VM, id), Message(encode(event)))


@asynccontextmanager
async def served(stop: asyncio.Event, *, xenopsd: bool = True) -> AsyncIterator[tuple[MemoryBus, Machines, MemoryBus]]:
    """A client's bus, a xenopsd, and the bus of the vncproxy that serves beside it."""
    switch, begun = MemorySwitch(), asyncio.Event()
    ours, theirs, machines_bus = MemoryBus(switch), MemoryBus(switch), MemoryBus(switch)
    for bus in (ours, theirs, machines_bus):
        await bus.connect()
    machines = Machines(machines_bus)
    if xenopsd:
        await machines_bus.serve(XENOPSD, machines.answer)
    await ours.subscribe(["here.vncproxy.service.#"], lambda _: begun.set())
    service = asyncio.create_task(serve(theirs, VncproxySettings(host="here"), stop, registry=CollectorRegistry()))
    try:
        await asyncio.wait_for(begun.wait(), 20)
        yield ours, machines, theirs
    finally:
        stop.set()
        await service
        for bus in (theirs, machines_bus, ours):
            await bus.close()


async def known(bus: MemoryBus, expected: set[tuple[str, str]], machines: Machines) -> None:
    """Whenever xenopsd was asked, the list may have changed; it must become as expected."""
    async with asyncio.timeout(20):
        while {(c.vm, c.console.path) for c in await stub(CONSOLE, bus, QUEUE).list()} != expected:
            await machines.asked.get()


def during(test: Callable[[MemoryBus, Machines, MemoryBus], object], *, xenopsd: bool = True) -> None:
    async def main() -> None:
        async with served(asyncio.Event(), xenopsd=xenopsd) as (bus, machines, theirs):
            await test(bus, machines, theirs)  # type: ignore[misc]

    asyncio.run(main())


def text(path: str) -> Console:
    return Console(protocol=ConsoleProtocol.VT100, path=path)


def test_the_list_follows_events_and_gaps() -> None:
    async def test(bus: MemoryBus, machines: Machines, theirs: MemoryBus) -> None:
        await known(bus, set(), machines)
        await machines.run("a", text("/a"))
        await machines.run("b", text("/b"))
        await known(bus, {("a", "/a"), ("b", "/b")}, machines)
        await machines.run("a", text("/a2"))
        await machines.remove("b")
        await known(bus, {("a", "/a2")}, machines)
        theirs.disconnect()
        await machines.run("c", text("/c"))  # an event that vncproxy never sees
        theirs.reconnect()
        await known(bus, {("a", "/a2"), ("c", "/c")}, machines)

    during(test)


def test_open_leads_to_the_console_even_before_the_event(tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"login: ")
        writer.close()

    async def test(bus: MemoryBus, machines: Machines, theirs: MemoryBus) -> None:
        path = tmp_path / "console"
        async with await asyncio.start_unix_server(greet, path):
            await machines.run("a", text(str(path)))
            route = await stub(CONSOLE, bus, QUEUE).open("a")
            reader, writer = await asyncio.open_connection(route.host, route.port)
            assert await reader.read() == b"login: "
            writer.close()

    during(test)


def test_what_is_not_there_is_named() -> None:
    async def test(bus: MemoryBus, machines: Machines, theirs: MemoryBus) -> None:
        await machines.run("a", text("/not/yet/there"))
        console = stub(CONSOLE, bus, QUEUE)
        for vm, protocol, kind in (
            ("a", ConsoleProtocol.VT100, "console that can be reached"),
            ("a", ConsoleProtocol.RFB, "console"),
            ("z", ConsoleProtocol.RFB, "VM"),
        ):
            with pytest.raises(DoesNotExist) as fault:
                await console.open(vm, protocol)
            assert fault.value.kind == kind
            assert fault.value.key.startswith(vm)

    during(test)


def test_general_calls_in_json() -> None:
    async def test(bus: MemoryBus, machines: Machines, theirs: MemoryBus) -> None:
        info = await stub(General, bus, QUEUE).query()
        assert (info.name, info.queue, info.instance) == ("vncproxy", QUEUE, "vncproxy")
        request = Message(b'{"jsonrpc":"2.0","method":"get_diagnostics","params":{},"id":1}', content_type=JSON)
        reply = msgspec.json.decode((await bus.call(QUEUE, request, timeout_s=10)).body)
        assert reply["result"] == {"consoles": 0, "sessions": 0}

    during(test)


def test_xenopsd_may_come_later() -> None:
    async def test(bus: MemoryBus, machines: Machines, theirs: MemoryBus) -> None:
        assert await stub(CONSOLE, bus, QUEUE).list() == []
        await machines.run("a", text("/a"))
        await machines.bus.serve(XENOPSD, machines.answer)
        await known(bus, {("a", "/a")}, machines)

    during(test, xenopsd=False)


def start(*flags: str) -> "subprocess.Popen[str]":
    environ = {"PATH": os.environ["PATH"]}
    return subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)


def test_sigterm_ends_the_process_while_the_switch_is_away() -> None:
    with start("--amqp-url", "amqp://127.0.0.1:1/%2F", "--host", "here") as process:
        assert process.stderr is not None
        assert "metrics on http://127.0.0.1:" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest


def test_help_explains_the_keys() -> None:
    with start("--help") as process:
        shown, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    for key in ("--amqp-url-file", "--host", "--instance", "--xenopsd-queue", "--expires", "--max-sessions"):
        assert key in shown


def test_the_queue_of_xenopsd_follows_host_and_instance() -> None:
    assert VncproxySettings(host="here").asked == XENOPSD
    assert VncproxySettings(host="here", instance="xen").asked == "xenops.here.xen"
    assert VncproxySettings(host="here", xenopsd_queue="mine").asked == "mine"
