# SPDX-License-Identifier: Apache-2.0
"""The commands on both brokers: what they print and how they end is the same."""

import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest

from tests import brokers

from .conftest import RUN_S, START, Place, needs_rabbitmq

pytestmark = pytest.mark.timeout(300)
PARAMS = '{"password": "hunter2", "id": "x"}'


def name() -> str:
    return f"t.{secrets.token_hex(4)}"


def until(look: Callable[[], Any]) -> Any:
    """RabbitMQ's figures are some seconds old."""
    end = time.monotonic() + RUN_S
    while not (found := look()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)
    return found


def test_a_service_is_called_listed_and_found_to_have_gone(cli: Any, serving: Any) -> None:
    queue = name()
    child = serving(queue, "--", "cat")
    assert json.loads(cli("call", queue, "hello", '{"a": 1}').out)["params"] == {"a": 1}
    until(lambda: json.loads(cli("list", queue, "--alive", "--json").out))
    (row,) = json.loads(cli("diagnostics", queue, "--json").out)
    assert (row["name"], row["verdict"], row["consumers"]) == (queue, "running", 1)
    child.send_signal(signal.SIGINT)
    assert child.wait(RUN_S) == 130
    assert until(lambda: "crashed" in cli("diagnostics", queue).out)
    assert json.loads(cli("list", queue, "--alive", "--json").out) == []
    assert cli("destroy", queue).code == 0
    assert cli("destroy", queue).code == 3


def test_a_request_to_nobody_waits_and_is_taken_away_by_hand(cli: Any, place: Place) -> None:
    queue = name()
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        for id in ("one", "two"):
            about = pika.BasicProperties(message_id=id, timestamp=int(time.time()) - 100)
            channel.basic_publish("", queue, b"x", about)

        def waiting() -> Any:
            rows = json.loads(cli("diagnostics", queue, "--json").out)
            return rows and rows[0]["ready"] == 2 and "oldest_s" in rows[0] and rows[0]

        row = until(waiting)
        assert row["verdict"] == "never started"
        # The switch goes by its own clock, RabbitMQ has nothing but what the message says.
        assert (row["oldest_s"] > 99) is (place.node is not None)
        assert cli("ack", queue, "three").code == 3
        assert cli("ack", queue, "two").code == 0
        assert cli("ack", queue, "two").code == 3
        assert cli("destroy", queue).code == 1
        assert cli("destroy", queue, "--force").code == 0


def test_where_nobody_has_served_nothing_is_dead(tmp_path: Path) -> None:
    broker = brokers.message_switch(tmp_path)
    broker.start()
    try:
        for words, code, out in ((["list", "--json"], 0, "[]\n"), (["show", "x"], 3, "")):
            ran = subprocess.run(
                [sys.executable, "-c", START, "dlq", *words],
                env={"XENOPS_URL": broker.url}, capture_output=True, text=True, check=False, timeout=RUN_S,
            )  # fmt: skip
            assert (ran.returncode, ran.stdout) == (code, out), ran
    finally:
        broker.kill()


def test_dead_letters_are_shown_without_secrets_sent_again_and_dropped(cli: Any, place: Place, serving: Any) -> None:
    queue = name()
    serving(name(), "--", "cat")  # who serves declares the queue of dead letters
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        channel = connection.channel()
        where = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "xenops.dead"}
        channel.queue_declare(queue, durable=True, arguments=where)
        body = f'{{"jsonrpc": "2.0", "id": 1, "method": "VM.add", "params": {PARAMS}}}'.encode()
        ids = [name(), name()]
        for id in ids:
            properties = pika.BasicProperties(content_type="application/json", message_id=id)
            channel.basic_publish("", queue, body, properties)
            method, _, _ = until(lambda: (got := channel.basic_get(queue))[0] and got)
            channel.basic_reject(method.delivery_tag, requeue=False)
        assert until(lambda: all(id in (out := cli("dlq", "list").out) and queue in out for id in ids))
        shown = cli("dlq", "show", ids[0])
        assert "hunter2" not in shown.out
        assert json.loads(shown.out)[0]["body"]["params"]["id"] == "x"
        assert cli("dlq", "requeue", ids[0]).code == 0
        method, properties, again = until(lambda: (got := channel.basic_get(queue, auto_ack=True))[0] and got)
        assert (again, properties.message_id) == (body, ids[0])
        assert cli("dlq", "drop", ids[1]).code == 0
        assert not {*ids} & {row["id"] for row in json.loads(cli("dlq", "list", "--json").out)}
        assert cli("dlq", "show", ids[1]).code == 3
        assert cli("dlq", "drop").code == 2
        channel.queue_delete(queue)


def test_bench_tells_rate_and_latency(cli: Any, serving: Any) -> None:
    queue = name()
    serving(queue, "--", "cat")
    figures = json.loads(cli("bench", queue, "--seconds", "0.5", "--callers", "2", "--json").out)
    assert figures["calls"] >= 2
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]


def test_a_program_that_fails_is_a_fault_by_name(cli: Any, serving: Any) -> None:
    queue = name()
    serving(queue, "--", "false")
    ran = cli("call", queue, "hello", "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["fault"]["name"] == "ProgramFailed"


def test_what_waits_is_shown_without_secrets_and_stays(cli: Any, place: Place) -> None:
    queue = name()
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        body = f'{{"jsonrpc": "2.0", "id": 1, "method": "VM.add", "params": {PARAMS}}}'
        channel.basic_publish("", queue, body.encode(), pika.BasicProperties(content_type="application/json"))
        (row,) = until(lambda: json.loads(cli("tail", queue, "--bodies", "--json").out))
        assert (row["method"], row["body"]["params"]) == ("VM.add", {"password": "(hidden)", "id": "x"})
        assert "VM.add" in cli("tail", queue).out
        assert channel.queue_delete(queue).method.message_count == 1
    assert cli("tail", queue).code == 3
    assert cli("tail").code == 2


def test_what_passes_is_shown_without_secrets(cli: Any, serving: Any, following: Any, traced: None) -> None:
    queue = name()
    serving(queue, "--", "cat")
    watcher = following(queue, "--bodies", "--json", "--count", "2")
    assert "watching" in watcher.stderr.readline()
    assert cli("call", queue, "hello", PARAMS).code == 0
    out, _ = watcher.communicate(timeout=RUN_S)
    published, delivered = map(json.loads, out.splitlines())
    assert (published["way"], published["to"], published["method"]) == ("publish", [queue], "hello")
    assert (delivered["way"], delivered["where"]) == ("deliver", queue)
    assert published["correlation_id"] == delivered["correlation_id"] != ""
    assert published["body"]["params"] == {"password": "(hidden)", "id": "x"}
    assert "hunter2" not in out
    assert watcher.returncode == 0


@pytest.mark.rabbitmq
@needs_rabbitmq
def test_a_broker_that_traces_nothing_is_told_by_name(rabbitmq_place: Place, following_on: Any) -> None:
    assert rabbitmq_place.node is not None
    brokers.trace(rabbitmq_place.node, on=False)
    watcher = following_on(rabbitmq_place)
    assert "rabbitmqctl trace_on" in watcher.stderr.readline()
    assert rabbitmq_place.node is not None
    for on, told in ((True, "watching"), (False, "rabbitmqctl trace_on")):  # in the middle of it
        brokers.trace(rabbitmq_place.node, on=on)
        assert told in watcher.stderr.readline()


@pytest.mark.parametrize("kind", ["text", "mscgen", "svg"])
def test_a_call_that_passes_is_drawn_without_its_body(
    cli: Any, serving: Any, following: Any, traced: None, kind: str
) -> None:
    queue = name()
    serving(queue, "--", "cat")
    watcher = following(queue, "--seconds", str(RUN_S), "--calls", "1", "--format", kind, word=("mscgen",))
    assert "watching" in watcher.stderr.readline()
    assert cli("call", queue, "hello", PARAMS).code == 0
    out, _ = watcher.communicate(timeout=RUN_S)
    assert watcher.returncode == 0
    assert all(word in out for word in (queue, "hello", " ms", "p99_ms"))
    assert "hunter2" not in out
    assert (kind == "svg") == out.startswith("<svg ")


def test_what_was_recorded_is_measured_without_a_broker(
    cli: Any, serving: Any, following: Any, traced: None, tmp_path: Path
) -> None:
    queue = name()
    serving(queue, "--", "cat")
    watcher = following("--json")
    assert "watching" in watcher.stderr.readline()
    assert cli("call", queue, "hello", PARAMS).code == 0
    assert cli("call", queue, "hello", PARAMS).code == 0
    lines, replies = [], 0
    while replies < 2:
        lines.append(watcher.stdout.readline())
        replies += json.loads(lines[-1])["way"] == "publish" and not json.loads(lines[-1])["reply_to"]
    recorded = tmp_path / "recorded"
    recorded.write_text("".join(lines))
    assert "hunter2" not in recorded.read_text()
    ran = cli("latency", queue, "--recorded", str(recorded), "--json", "--url", "amqp://127.0.0.1:1")
    assert ran.code == 0
    (row,) = json.loads(ran.out)["latency"]
    assert (row["method"], row["count"], row["no_reply"]) == ("hello", 2, 0)
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert cli("latency", "--recorded", str(tmp_path / "absent")).code == 1
    assert cli("latency", "--recorded", "-", stdin="{}\n").code == 2
