# SPDX-License-Identifier: Apache-2.0
"""The bus for scripts and short commands: no event loop, one thing at a time, and quick to be read.

kombu finds the switch again after it was lost, py-amqp below it speaks. It calls and listens, and serves nothing.
One object belongs to one thread. An exception of a signal's handler may come out of any call: it costs the connection.
"""

import itertools
import logging
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from amqp import AccessRefused, AMQPError, ChannelError, NotAllowed
from amqp import Connection as Wire
from amqp import Message as Content
from amqp.exceptions import MessageNacked
from kombu.connection import Connection  # `kombu.Connection` is looked up lazily, which two threads must not do at once

from xenops.bus.place import Place, address_of, places
from xenops.bus.port import EVENTS_EXCHANGE, JSON, Message, refuse_oversized
from xenops.errors import Busy, ConnectionLost, NoSuchService, SwitchUnreachable, TimedOut

log = logging.getLogger(__name__)

_REPLY_TO = "amq.rabbitmq.reply-to"
_CONNECT_S = 10.0  # for one attempt
_PAUSE_S = (0.05, 1.0)  # between attempts at a queue that nobody serves, and to connect: the first, and the longest
_GOODBYE_S = 2.0
_RETRY_AFTER_MS = 500
_KEPT_EVENTS = 10000
_BELIEVED_S = 2.0  # how long the refusals of a new channel are believed; of an older one they may be false (see `amqp`)
_REFUSED = "it refuses the user or the password"
_SHORT = "the switch (low on memory or disk)"  # py-amqp does not say of which
_LOST = (*Wire.recoverable_connection_errors, ChannelError)
_Connect: Any = Connection  # kombu is half typed


class BlockingBus:
    """A script's connection to the switch at `url` (see `place`); nothing is connected before it is needed."""

    def __init__(self, url: str) -> None:
        nodes = places(url)
        self.address = address_of(nodes)
        self._nodes = [_kombu(node) for node in nodes]
        self._connection: Any = None
        self._channel: Any = None
        self._channel_since = 0.0
        self._numbers = itertools.count(1)
        self._expected = ""
        self._reply: Message | None = None
        self._returned = False
        self._patterns: list[str] = []
        self._events: deque[Message] = deque(maxlen=_KEPT_EVENTS)
        self._events_channel: Any = None
        self._short = False  # of memory or disk is the switch, and reads nothing of who publishes

    def __enter__(self) -> "BlockingBus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, timeout_s: float) -> None:
        """Return once connected; keep trying until `timeout_s` is over, then raise `SwitchUnreachable`."""
        self._connect(time.monotonic() + timeout_s)

    def close(self) -> None:
        """Say goodbye. Idempotent."""
        connection, self._connection = self._connection, None
        self._channel = self._events_channel = None
        if connection is None or not connection.connected:
            return
        try:
            connection.transport.sock.settimeout(_GOODBYE_S)
            self._nodes[0].release()
        except (OSError, AMQPError):
            self._nodes[0].collect()  # it is gone either way

    def call(self, queue: str, request: Message, *, timeout_s: float) -> Message:
        """Send a request and wait for its reply; ends as `xenops.bus.port.Bus.call` does."""
        refuse_oversized(request)
        until = time.monotonic() + timeout_s
        self._expected, self._reply = str(next(self._numbers)), None
        sent, pauses = False, _pauses()
        while True:
            try:
                self._connect(until)
            except SwitchUnreachable as fault:
                unanswered = TimedOut(queue, timeout_s) if sent else NoSuchService(queue)
                raise fault if fault.why == _REFUSED else unanswered from None
            try:
                channel, before = self._ready(), sent
                if not self._relieved(until):
                    break  # the connection stays: on it is told when that is over
                sent = True  # unless it comes back: whether anybody has heard it is not known
                self._publish(channel, queue, request, until)
                if not self._returned:
                    return self._wait(queue, request, until, timeout_s)
                sent = before
            except MessageNacked:
                if time.monotonic() < self._channel_since + _BELIEVED_S:
                    raise Busy(queue, _RETRY_AFTER_MS) from None
                self._lose()
                sent = before
                continue
            except _LOST:
                self._lose()
                if sent and not request.message_id and time.monotonic() < until:
                    raise ConnectionLost(self.address) from None
            except BaseException:
                self._lose()  # a signal, perhaps in the middle of a frame
                raise
            pause = next(pauses)
            if time.monotonic() + pause >= until:
                raise TimedOut(queue, timeout_s) if sent else NoSuchService(queue)
            time.sleep(pause)
        raise TimedOut(queue, timeout_s) if sent else Busy(_SHORT, _RETRY_AFTER_MS)

    def events(
        self,
        patterns: list[str],
        timeout_s: float | None = None,
        *,
        lasting_s: float | None = None,
        on_gap: Callable[[], None] | None = None,
    ) -> Iterator[Message]:
        """The events that match, from this call on; ends when none has come for `timeout_s`, and after `lasting_s`.

        `on_gap` is called when some may have been missed: after a reconnection.
        """
        end = None if lasting_s is None else time.monotonic() + lasting_s
        self._patterns = list(patterns)
        self._events.clear()
        self._listen(time.monotonic() + (timeout_s if timeout_s is not None else 30.0))
        return self._receive(timeout_s, end, on_gap)

    def _receive(
        self, timeout_s: float | None, end: float | None, on_gap: Callable[[], None] | None
    ) -> Iterator[Message]:
        until = _sooner(timeout_s, end)
        while True:
            while self._events and (end is None or time.monotonic() < end):
                yield self._events.popleft()
                until = _sooner(timeout_s, end)
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            try:
                if self._events_channel is None:
                    self._listen(until)
                    if on_gap is not None:
                        on_gap()
                self._connection.drain_events(timeout=left)
            except TimeoutError:
                return
            except SwitchUnreachable:
                return
            except _LOST:
                self._lose()

    def _ready(self) -> Any:
        """The channel for calls."""
        if self._channel is None:
            channel = self._connection.channel()
            channel.events["basic_return"].add(self._on_return)
            channel.basic_consume(_REPLY_TO, no_ack=True, callback=self._on_reply)
            self._channel, self._channel_since = channel, time.monotonic()
        return self._channel

    def _listen(self, until: float | None) -> None:
        """The channel for events: an exclusive queue, bound to what is wanted."""
        self._connect(until)
        channel = self._connection.channel()
        channel.exchange_declare(EVENTS_EXCHANGE, "topic", durable=True, auto_delete=False)
        queue = channel.queue_declare("", exclusive=True, arguments={"x-max-length": _KEPT_EVENTS}).queue
        for pattern in self._patterns:
            channel.queue_bind(queue, EVENTS_EXCHANGE, pattern)
        channel.basic_consume(queue, no_ack=True, callback=self._on_event)
        self._events_channel = channel

    def _connect(self, until: float | None) -> None:
        """Connect, if need be, at the latest at `until`; a refusal is told at once."""
        if self._connection is not None and self._connection.connected:
            return
        self._lose()
        pauses = _pauses()
        while True:
            left = None if until is None else max(0.1, until - time.monotonic())
            node = self._nodes[0]
            node.connect_timeout = min(left or _CONNECT_S, _CONNECT_S)
            try:
                node.ensure_connection(
                    max_retries=1, interval_start=0, interval_max=0, timeout=left, reraise_as_library_errors=False
                )
                self._connection = node.connection
                self._connection.on_blocked, self._connection.on_unblocked = self._on_blocked, self._on_unblocked
                return
            except (AccessRefused, NotAllowed):
                raise SwitchUnreachable(self.address, _REFUSED) from None
            except (OSError, AMQPError) as error:
                self._nodes.append(self._nodes.pop(0))
                pause = next(pauses)
                if until is not None and time.monotonic() + pause >= until:
                    raise SwitchUnreachable(self.address, _explained(error)) from None
            time.sleep(pause)

    def _publish(self, channel: Any, queue: str, request: Message, until: float) -> None:
        """Hand it to the switch; `_returned` tells whether it came back."""
        self._returned = False
        properties = {"correlation_id": self._expected, "reply_to": _REPLY_TO, "message_id": request.message_id}
        content = Content(
            request.body,
            content_type=request.content_type,
            content_encoding="utf-8" if request.content_type == JSON else "binary",
            application_headers=request.headers,
            timestamp=int(time.time()),
            **{key: value for key, value in properties.items() if value is not None},
        )
        left = max(0.05, until - time.monotonic())
        channel.basic_publish(content, "", queue, mandatory=True, timeout=left, confirm_timeout=left)

    def _relieved(self, until: float) -> bool:
        """Wait as long as the switch takes nothing, and until then at most; what it has said meanwhile is heard first."""
        try:
            while True:
                self._connection.drain_events(timeout=max(0.0, until - time.monotonic()) if self._short else 0)
        except TimeoutError:
            return not self._short

    def _wait(self, queue: str, request: Message, until: float, timeout_s: float) -> Message:
        while self._reply is None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimedOut(queue, timeout_s)
            try:
                self._connection.drain_events(timeout=left)
            except TimeoutError:
                raise TimedOut(queue, timeout_s) from None
        self._reply.correlation_id = request.correlation_id
        return self._reply

    def _lose(self) -> None:
        """Forget the connection; the next use makes another."""
        self._short = False
        self._channel = self._events_channel = None
        self._connection = None
        for node in self._nodes:
            node.collect()

    def _on_reply(self, untrusted: Any) -> None:
        if untrusted.properties.get("correlation_id") == self._expected:
            self._reply = _message(untrusted)

    def _on_event(self, untrusted: Any) -> None:
        self._events.append(_message(untrusted))

    def _on_blocked(self, _: object) -> None:
        self._short = True
        log.warning("the switch takes no requests: it is low on memory or disk")

    def _on_unblocked(self) -> None:
        self._short = False
        log.warning("the switch takes requests again")

    def _on_return(self, *_: object) -> None:
        self._returned = True


def _kombu(node: Place) -> Any:
    """One node. Who it is and who we are is checked where there are certificates."""
    tls: dict[str, Any] | bool = False
    if node.scheme == "amqps":
        node.tls()  # what is wrong with the files is said at once
        files = {"ca_certs": node.cacertfile, "certfile": node.certfile, "keyfile": node.keyfile}
        tls = {"server_hostname": node.host.strip("[]"), "cert_reqs": ssl.CERT_REQUIRED}
        tls |= {key: path for key, path in files.items() if path}
    return _Connect(
        node.bare,
        heartbeat=0,
        login_method="PLAIN",
        ssl=tls,
        transport_options={"confirm_publish": True},
    )


def _pauses() -> Iterator[float]:
    """How long to wait before each new attempt: ever longer, and not in step with others."""
    pause = _PAUSE_S[0]
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 1.7, _PAUSE_S[1])


def _sooner(timeout_s: float | None, end: float | None) -> float | None:
    """When to give up: so long from now, or at `end`."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    return min((t for t in (until, end) if t is not None), default=None)


def _explained(why: BaseException) -> str:
    """Why there is no connection, as a person would say it."""
    if isinstance(why, TimeoutError):
        return "it does not answer"
    return "nobody listens there" if isinstance(why, ConnectionRefusedError) else (str(why) or type(why).__name__)[:200]


def _message(untrusted: Any) -> Message:
    body, properties = untrusted.body, untrusted.properties
    return Message(
        body.encode() if isinstance(body, str) else bytes(body),
        str(properties.get("content_type", "")),
        headers=properties.get("application_headers") or {},
        message_id=properties.get("message_id"),
        routing_key=str(untrusted.delivery_info.get("routing_key", "")),
    )
