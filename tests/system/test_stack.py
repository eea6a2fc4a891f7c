# SPDX-License-Identifier: Apache-2.0
"""The whole stack as real processes: foreign clients, hooks, metrics, and processes killed without warning."""

import asyncio
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pika
import pytest

from deploy.local.stack import BIN, Part, Stack
from tests.xenopsd.machines import plain_vm
from xenops.client import Xenops, connect
from xenops.errors import DeadlineExceeded, HookFailed
from xenops.idl import methods
from xenops.interfaces.xenops import VM
from xenops.rpc import request, stub
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.task import Failed
from xenops.types.vbd import Vbd
from xenops.types.vm import PowerState
from xenops.where import Where

Work = Callable[[Stack, Where, Xenops], Awaitable[None]]


def with_stack(path: Path, work: Work) -> None:
    async def run() -> None:
        stack = Stack(path, log_to=path / "log")
        try:
            async with asyncio.timeout(50):
                found = await stack.start()
                async with connect(url=found.amqp, queue=found.queue) as xenops:
                    await work(stack, found, xenops)
        except BaseException:
            print((path / "log").read_text(errors="replace"))
            raise
        finally:
            await stack.stop()

    asyncio.run(run())


async def power_state(xenops: Xenops, vm: str) -> PowerState:
    return (await xenops.VM.stat(vm)).state.power_state


async def used_memory(xenops: Xenops) -> int:
    host = await xenops.HOST.stat()
    return host.memory_total - host.memory_free


def test_json_rpc_from_a_foreign_client(tmp_path: Path) -> None:
    def ask(found: Where, *bodies: bytes) -> list[dict]:  # type: ignore[type-arg]
        connection = pika.BlockingConnection(pika.URLParameters(found.amqp))
        channel = connection.channel()
        answers: list[dict] = []  # type: ignore[type-arg]
        channel.basic_consume(
            "amq.rabbitmq.reply-to", lambda c, m, p, body: answers.append(json.loads(body)), auto_ack=True
        )
        properties = pika.BasicProperties(
            content_type="application/json", reply_to="amq.rabbitmq.reply-to", correlation_id="1"
        )
        for body in bodies:
            channel.basic_publish("", found.queue, body, properties)
            asked = len(answers)
            while len(answers) == asked:
                connection.process_data_events(time_limit=10)
        connection.close()
        return answers

    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        def request(method: str, **params: object) -> bytes:
            return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 7}).encode()

        pv = {"type": "PV", "boot": {"type": "Direct", "kernel": "/vmlinuz"}}
        answers = await asyncio.to_thread(
            ask,
            found,
            request("query"),
            request("VM.add", vm={"id": "vm-1", "name": "a", "ty": pv}),
            request("VM.add", vm={"id": "vm-1", "ty": pv, "vcpus": "many"}),
            request("VM.strat", id="vm-1"),
            request("VM.start", id="nobody"),
            b"[]",
            b"\xff\x00",
        )
        assert answers[0]["result"]["queue"] == found.queue
        assert answers[1]["result"] == {"id": "vm-1", "updated": False}
        assert answers[2]["error"]["data"] == {
            "name": "BadRequest",
            "fields": {"path": "params.vm.vcpus", "reason": "Expected `int`, got `str`"},
        }
        assert "did you mean VM.sta" in answers[3]["error"]["message"]
        assert answers[3]["error"]["code"] == -32601
        assert answers[4]["error"]["data"]["fields"] == {"kind": "VM", "key": "nobody"}
        assert [a["error"]["data"]["name"] for a in answers[5:]] == ["BadRequest", "BadRequest"]

    with_stack(tmp_path, work)


def test_xenopsd_killed_in_the_middle_of_a_start(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))
        await xenops.VBD.add(Vbd(id=DeviceId(vm="vm-1", dev="xvda"), backend=Local(path="/dev/a")))
        await xenops.VM.add(plain_vm("runs"))
        await xenops.finished(await xenops.VM.start("runs", paused=False))
        one = await used_memory(xenops)
        await xenops.DEBUG.trigger("pause-call", ["vbd.plug"])
        starting = await xenops.VM.start("vm-1")
        queued = await xenops.VM.start("vm-1")
        while "vbd.Plug xvda" not in [s.name for s in (await xenops.Task.stat(starting)).subtasks]:
            await xenops.Task.wait(starting, 0.05)
        assert await power_state(xenops, "vm-1") is PowerState.PAUSED
        await stack.start_again(await stack.kill("xenopsd"))
        ended = await xenops.Task.wait(starting, 10.0)
        assert isinstance(ended.state, Failed)
        assert ended.state.fault.name == "Interrupted"
        assert ended.state.fault.fields["step"] == "vbd.Plug xvda"
        assert await power_state(xenops, "runs") is PowerState.RUNNING
        await xenops.finished(queued)
        assert await power_state(xenops, "vm-1") is PowerState.PAUSED
        assert await used_memory(xenops) == 2 * one, "a half-built domain is left behind"

    with_stack(tmp_path, work)


def test_the_switch_killed_between_and_during_calls(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))
        task = await xenops.VM.delay("vm-1", 1.0)
        waiting = asyncio.create_task(xenops.Task.wait(task, 20.0))
        await stack.start_again(await stack.kill("message-switch"))
        assert (await waiting).id == task
        await xenops.finished(await xenops.VM.start("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.PAUSED

    with_stack(tmp_path, work)


def test_hooks_run_through_forkexecd(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        folder = tmp_path / "hooks.d" / "vm-pre-start"
        folder.mkdir(parents=True)
        hook = folder / "10-look"
        hook.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\necho no\nexit 3\n')
        hook.chmod(0o755)
        await xenops.VM.add(plain_vm("vm-1"))
        with pytest.raises(HookFailed) as failed:
            await xenops.finished(await xenops.VM.start("vm-1"))
        assert (failed.value.code, failed.value.stdout) == (3, "no\n")
        assert (tmp_path / "told").read_text() == "-vmuuid vm-1 -reason none\n"
        hook.write_text("#!/bin/sh\nexit 1\n")
        await xenops.finished(await xenops.VM.start("vm-1"))

    with_stack(tmp_path, work)


def test_a_deadline_and_a_repeated_request(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))
        with pytest.raises(DeadlineExceeded):
            await stub(VM, xenops.bus, xenops.queue, deadline_s=-1.0).start("vm-1")
        assert await power_state(xenops, "vm-1") is PowerState.HALTED
        start = request(methods(VM)["VM.start"], ("vm-1",), {})
        replies = [(await xenops.bus.call(xenops.queue, start, timeout_s=10.0)).body for _ in range(2)]
        assert replies[0] == replies[1], "the second gets the first one's outcome"
        assert len(await xenops.Task.list()) == 1

    with_stack(tmp_path, work)


def test_metrics_of_every_service_are_well_formed(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))
        await xenops.finished(await xenops.VM.start("vm-1", paused=False))
        texts = {name: await asyncio.to_thread(_get, url) for name, url in found.metrics.items()}
        assert set(texts) == {"message-switch", "forkexecd", "xenopsd", "vncproxy"}
        assert 'xenopsd_requests_total{method="VM.add",outcome="ok"} 1.0' in texts["xenopsd"]
        for wanted in (
            "xenopsd_queue_depth 0.0",
            'xenopsd_tasks{state="Pending"} 0.0',
            "xenopsd_atom_duration_seconds_bucket",
        ):
            assert wanted in texts["xenopsd"]
        for name, text in texts.items():
            assert f"{name.replace('-', '_')}_build_info" in text
        promtool = shutil.which("promtool")
        if promtool is None:
            return
        for name, text in texts.items():
            ended = await asyncio.to_thread(
                subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True
            )
            assert ended.returncode == 0, f"{name}: {ended.stdout}{ended.stderr}"

    with_stack(tmp_path, work)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:
        text: str = reply.read().decode()
        return text


def test_two_instances_on_one_host_leave_each_other_alone(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        url_file = f"--amqp-url-file={tmp_path / 'amqp-url'}"
        second = Part("xenopsd", (url_file, "--instance=second", f"--state-dir={tmp_path / 'second'}"))
        await stack.start_again(second)
        async with connect(url=found.amqp, queue=f"xenops.{found.host}.second") as other:
            await xenops.VM.add(plain_vm("vm-1"))
            await other.VM.add(plain_vm("vm-2"))
            await other.finished(await other.VM.start("vm-2", paused=False))
            assert [it.vm.id for it in await xenops.VM.list()] == ["vm-1"]
            assert [it.vm.id for it in await other.VM.list()] == ["vm-2"]
            assert (await other.query()).instance == "second"

    with_stack(tmp_path, work)


@pytest.mark.parametrize(
    ("program", "way_out"), [("xenopsd", "--instance"), ("forkexecd", "--host"), ("vncproxy", "--host")]
)
def test_no_second_one_takes_half_of_the_requests(tmp_path: Path, program: str, way_out: str) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        words = [f"--amqp-url-file={tmp_path / 'amqp-url'}"]
        if program == "xenopsd":
            words.append(f"--state-dir={tmp_path / 'second'}")
        ended = await asyncio.to_thread(
            subprocess.run, [str(BIN / program), *words], capture_output=True, text=True, timeout=40
        )
        assert ended.returncode == 1, ended.stderr
        assert f"another {program} serves the queue" in ended.stderr
        assert way_out in ended.stderr
        assert (await xenops.query()).queue == found.queue  # the first goes on

    with_stack(tmp_path, work)


def test_progress_comes_by_events(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        told: list[float] = []
        under_way = asyncio.Event()

        def tell(progress: float) -> None:
            told.append(progress)
            if 0.0 < progress < 1.0:
                under_way.set()

        await xenops.VM.add(plain_vm("vm-1"))
        await xenops.DEBUG.trigger("pause-call", ["vm.build"])
        task = await xenops.VM.start("vm-1")
        finishing = asyncio.create_task(xenops.finished(task, on_progress=tell))
        await under_way.wait()
        await xenops.DEBUG.trigger("release-call", ["vm.build"])
        await finishing
        assert told[-1] == 1.0

    with_stack(tmp_path, work)
