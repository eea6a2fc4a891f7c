# SPDX-License-Identifier: Apache-2.0
"""An AMQP client that costs next to nothing, so that what is measured is the switch and not the client.

    python raw.py echo URL QUEUE
    python raw.py load URL QUEUE IN_FLIGHT BYTES SECONDS [persistent]
    python raw.py idle URL COUNT

`echo` sends every request back, prints "ready" and runs until it is stopped. `load` keeps a number of requests in flight and
prints, as JSON, the rate and the latencies in ms; a persistent request is done once its reply and its confirm are here.
`idle` consumes from COUNT queues on as many channels, in which nothing ever comes, prints "ready" and stays.

It knows the frames that these three need, and no others; whatever it does not expect, it ends with.
"""

import json
import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from typing import NoReturn
from urllib.parse import urlsplit

from pika import BasicProperties, spec

REPLY_TO = "amq.rabbitmq.reply-to"
WARM_S = 0.3
_FRAME_MAX = 131072
_CHUNK = 1 << 18
_head = struct.Struct(">BHI")
_confirm = struct.Struct(">QB")
_DELIVER, _ACK = spec.Basic.Deliver.INDEX, spec.Basic.Ack.INDEX


def method(channel: int, it: spec.amqp_object.Method) -> bytes:
    """A method's frame."""
    payload = struct.pack(">I", it.INDEX) + b"".join(it.encode())
    return _head.pack(1, channel, len(payload)) + payload + b"\xce"


def content(channel: int, properties: bytes, body: bytes) -> bytes:
    """A content's frames."""
    header = struct.pack(">HHQ", spec.Basic.INDEX, 0, len(body)) + properties
    frames = [_head.pack(2, channel, len(header)), header, b"\xce"]
    if body:
        assert len(body) <= _FRAME_MAX - 8
        frames += [_head.pack(3, channel, len(body)), body, b"\xce"]
    return b"".join(frames)


class Line:
    """A connection that has been opened."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname or "127.0.0.1", place.port or 5672))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self.expect(spec.Connection.Start)
        login = f"\0{place.username}\0{place.password}"
        capabilities = {"capabilities": {"consumer_cancel_notify": True}}
        self.say(0, spec.Connection.StartOk(client_properties=capabilities, mechanism="PLAIN", response=login))
        self.expect(spec.Connection.Tune)
        self.say(0, spec.Connection.TuneOk(2047, _FRAME_MAX, 0))
        self.say(0, spec.Connection.Open("/"))
        self.expect(spec.Connection.OpenOk)

    def channel(self, number: int) -> None:
        """Open one."""
        self.ask(number, spec.Channel.Open(), spec.Channel.OpenOk)

    def say(self, channel: int, it: spec.amqp_object.Method) -> None:
        """Send a method."""
        self.send(method(channel, it))

    def ask(self, channel: int, it: spec.amqp_object.Method, answer: type) -> None:
        """Send a method that is answered."""
        self.say(channel, it)
        self.expect(answer)

    def send(self, data: bytes) -> None:
        """Whole frames."""
        self._socket.sendall(data)

    def expect(self, answer: type) -> None:
        """The next method, which must be this one."""
        for kind, payload in self._frames():
            if kind == 8:
                continue
            number = struct.unpack_from(">I", payload)[0]
            if number != answer.INDEX:
                _unexpected(payload)
            return

    def turns(self) -> Iterator[list[tuple[int, bytes]]]:
        """What one read brought, read by read."""
        while True:
            yield self._frames()

    def _frames(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        buffer = self._rest
        while not found:
            more = self._socket.recv(_CHUNK)
            if not more:
                raise SystemExit("the switch has closed the connection")
            buffer = buffer + more if buffer else more
            at, end = 0, len(buffer)
            while end - at >= 7:
                kind, _, size = _head.unpack_from(buffer, at)
                if end - at < size + 8:
                    break
                found.append((kind, buffer[at + 7 : at + 7 + size]))
                at += size + 8
            buffer = buffer[at:]
        self._rest = buffer
        return found


def _unexpected(payload: bytes) -> NoReturn:
    number = struct.unpack_from(">I", payload)[0]
    raise SystemExit(f"unexpected method {number >> 16}.{number & 0xFFFF}: {payload[4:]!r}")


def echo(url: str, queue: str) -> None:
    """Serve until stopped: the body of every request, to where it wants its reply."""
    line = Line(url)
    line.channel(1)
    line.ask(1, spec.Queue.Declare(queue=queue, durable=True), spec.Queue.DeclareOk)
    line.ask(1, spec.Basic.Qos(prefetch_count=256), spec.Basic.QosOk)
    line.ask(1, spec.Basic.Consume(queue=queue, consumer_tag="c"), spec.Basic.ConsumeOk)
    print("ready", flush=True)
    properties = b"".join(BasicProperties(content_type="application/msgpack").encode())
    answered, address, size = 0, "", 0
    for frames in line.turns():
        out: list[bytes] = []
        for kind, payload in frames:
            if kind == 1:
                if struct.unpack_from(">I", payload)[0] != _DELIVER:
                    _unexpected(payload)
            elif kind == 2:
                size = struct.unpack_from(">Q", payload, 4)[0]
                said = BasicProperties()
                said.decode(payload[12:])
                address = said.reply_to
            elif kind == 3 and len(payload) == size:
                out.append(method(1, spec.Basic.Publish(exchange="", routing_key=address)))
                out.append(content(1, properties, payload))
                answered += 1  # its delivery tag: they are counted from one on
        if out:
            out.append(method(1, spec.Basic.Ack(delivery_tag=answered, multiple=True)))
            line.send(b"".join(out))


def _asking(url: str, queue: str, size: int, *, persistent: bool) -> tuple[Line, bytes]:
    """A line on which replies and confirms come, and one request as it is sent."""
    line = Line(url)
    line.channel(1)
    line.ask(1, spec.Basic.Consume(queue=REPLY_TO, consumer_tag="r", no_ack=True), spec.Basic.ConsumeOk)
    if persistent:
        line.ask(1, spec.Confirm.Select(), spec.Confirm.SelectOk)
    properties = BasicProperties(
        reply_to=REPLY_TO, correlation_id="1", content_type="application/msgpack", delivery_mode=2 if persistent else 1
    )
    request = method(1, spec.Basic.Publish(exchange="", routing_key=queue))
    return line, request + content(1, b"".join(properties.encode()), b"x" * size)


def load(url: str, queue: str, in_flight: int, size: int, seconds: float, *, persistent: bool) -> dict[str, float]:
    """Requests answered, how many of them in a second, and how long they took, after a moment of warming up.

    Replies are told apart by their order: one queue, one server and one connection keep it.
    """
    line, request = _asking(url, queue, size, persistent=persistent)
    sent = [time.perf_counter()] * in_flight  # in the order of the requests
    began, counting_since, counted_at = sent[0], 0.0, 0
    latencies: list[float] = []
    replied = confirmed = done = 0
    line.send(request * in_flight)
    for frames in line.turns():
        for kind, payload in frames:
            if kind == 3:
                replied += 1
            elif kind == 1 and (number := struct.unpack_from(">I", payload)[0]) != _DELIVER:
                if number != _ACK:
                    _unexpected(payload)
                tag, multiple = _confirm.unpack_from(payload, 4)
                confirmed = tag if multiple else confirmed + 1
        now = time.perf_counter()
        both = min(replied, confirmed) if persistent else replied
        fresh = both - done
        if counting_since:
            latencies += [now - then for then in sent[:fresh]]
            if now - counting_since >= seconds:
                break
        elif now - began > WARM_S:
            counting_since, counted_at = now, both
        done = both
        sent[:fresh] = []
        sent += [now] * fresh
        if fresh:
            line.send(request * fresh)
    cuts = statistics.quantiles(latencies, n=100)
    rate = (both - counted_at) / (now - counting_since)
    return {"rate": rate, "answered": both, "p50": cuts[49] * 1000, "p99": cuts[98] * 1000}


def idle(url: str, count: int) -> None:
    """Hold consumers to which nothing ever comes."""
    line = Line(url)
    for number in range(1, count + 1):
        line.channel(number)
        line.ask(number, spec.Queue.Declare(queue=f"bench.idle.{number}", durable=True), spec.Queue.DeclareOk)
        line.ask(number, spec.Basic.Consume(queue=f"bench.idle.{number}", consumer_tag="c"), spec.Basic.ConsumeOk)
    print("ready", flush=True)
    for _ in line.turns():
        pass


if __name__ == "__main__":
    command, where, *rest = sys.argv[1:]
    if command == "echo":
        echo(where, rest[0])
    elif command == "idle":
        idle(where, int(rest[0]))
    else:
        found = load(where, rest[0], int(rest[1]), int(rest[2]), float(rest[3]), persistent=rest[4:] == ["persistent"])
        print(json.dumps(found))
