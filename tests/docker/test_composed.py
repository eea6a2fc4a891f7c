# SPDX-License-Identifier: Apache-2.0
"""A machine's life through RabbitMQ, by each kind of client, and what Prometheus saw of it."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from typing import Any

import pytest

from tests.docker.conftest import TOP, Composed, compose
from tests.xenopsd.machines import plain_vm
from xenops.blocking import connect_blocking
from xenops.client import Xenops
from xenops.events import Kind
from xenops.interfaces.forkexec import FORKEXEC
from xenops.rpc import stub
from xenops.types.process import Program
from xenops.types.vm import PowerState

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]
SCRAPED_S = 45.0


def cli(composed: Composed, *arguments: str) -> str:
    ended = subprocess.run(
        [str(TOP / ".venv/bin/xenops-cli"), *arguments],
        cwd=TOP,
        env=composed.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def query(composed: Composed, expression: str) -> list[dict[str, Any]]:
    where = f"{composed.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(where, timeout=10) as reply:
        answer = json.load(reply)
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def eventually(composed: Composed, expression: str, wanted: dict[str, str], label: str) -> None:
    """Prometheus scrapes when it likes and tells nobody: ask until it says what is wanted, or time is up."""
    until, got = time.monotonic() + SCRAPED_S, {}
    while time.monotonic() < until:
        try:
            got = {row["metric"][label]: row["value"][1] for row in query(composed, expression)}
        except OSError as error:
            got = {"": str(error)}
        if got == wanted:
            return
        time.sleep(0.5)
    raise AssertionError(f"{expression}: {got}, not {wanted}")


def test_an_asynchronous_client_sees_a_machine_through_its_life(composed: Composed) -> None:
    async def work(xenops: Xenops) -> None:
        async with xenops.events([Kind.VM]) as events:
            await xenops.VM.add(plain_vm("asynchronous"))
            await xenops.finished(await xenops.VM.start("asynchronous", paused=False))
            assert (await xenops.VM.stat("asynchronous")).state.power_state is PowerState.RUNNING
            assert "asynchronous" in [machine.vm.id for machine in await xenops.VM.list()]
            await xenops.finished(await xenops.VM.shutdown("asynchronous", delay=20.0))
            await xenops.VM.remove("asynchronous")
            assert "asynchronous" not in [machine.vm.id for machine in await xenops.VM.list()]
            seen = [await anext(events)]
            while seen[-1].id != "asynchronous" or seen[-1].change.value != "removed":
                seen.append(await anext(events))

    composed.run(work)


def test_a_blocking_client_does_the_same(composed: Composed) -> None:
    with connect_blocking(composed.url, composed.queue, timeout_s=20.0) as xenops:
        assert xenops.query().host == "composed"
        xenops.VM.add(plain_vm("blocking"))
        xenops.finished(xenops.VM.start("blocking", paused=False), 20.0)
        assert xenops.VM.stat("blocking").state.power_state is PowerState.RUNNING
        xenops.finished(xenops.VM.shutdown("blocking", delay=20.0), 30.0)
        xenops.VM.remove("blocking")
        assert "blocking" not in [machine.vm.id for machine in xenops.VM.list()]


def test_the_command_line_from_outside_and_from_inside(composed: Composed) -> None:
    cli(composed, "add", "examples/myfirstvm.cfg")
    cli(composed, "start", "myfirstvm")
    (row,) = json.loads(cli(composed, "list", "--json"))
    assert (row["vm"]["name"], row["state"]["power_state"]) == ("myfirstvm", "Running")
    assert "myfirstvm" in compose("exec", "-T", "xenopsd", "xenops-cli", "list")
    login = compose(
        "exec", "-T", "vncproxy", "xenops-cli", "console", "myfirstvm", "--expect", "login:", "--timeout", "10"
    )
    assert "login:" in login
    cli(composed, "shutdown", "myfirstvm", "--timeout", "30")
    cli(composed, "remove", "myfirstvm")
    assert json.loads(cli(composed, "list", "--json")) == []


def test_prometheus_reaches_every_service_and_knows_the_machines(composed: Composed) -> None:
    up = dict.fromkeys(("xenopsd", "forkexecd", "vncproxy", "rabbitmq"), "1")
    eventually(composed, 'up{job="xenops"}', up, "service")

    async def add(xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("counted"))
        await xenops.finished(await xenops.VM.start("counted", paused=False))

    async def remove(xenops: Xenops) -> None:
        await xenops.finished(await xenops.VM.shutdown("counted"))
        await xenops.VM.remove("counted")

    composed.run(add)
    try:
        eventually(composed, 'xenopsd_vms{power_state="Running"}', {"Running": "1"}, "power_state")
    finally:
        composed.run(remove)


def test_forkexecd_runs_programs_as_an_ordinary_user(composed: Composed) -> None:
    async def work(xenops: Xenops) -> None:
        forkexecd = stub(FORKEXEC, xenops.bus, "forkexec.composed", timeout_s=20.0)
        ended = await forkexecd.run(Program(argv=["/usr/bin/id", "-un"]))
        assert (ended.code, ended.stdout) == (0, b"xenopsd\n")

    composed.run(work)


def test_state_survives_the_end_of_every_container(composed: Composed) -> None:
    async def add(xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("kept"))

    async def remove(xenops: Xenops) -> None:
        await xenops.VM.remove("kept")

    composed.run(add)
    compose("kill", "-s", "KILL", "xenopsd", "rabbitmq")
    compose("start", "rabbitmq", "xenopsd")
    composed.run(remove, 100.0)
