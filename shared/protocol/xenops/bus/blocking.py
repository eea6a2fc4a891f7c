# SPDX-License-Identifier: Apache-2.0
"""The bus for scripts: no event loop, one thing at a time; kombu finds the switch again after it was lost.

It calls and listens, and serves nothing. One object belongs to one thread.
"""

import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from amqp.exceptions import ChannelError, MessageNacked
from kombu.connection import Connection  # `kombu.Connection` is looked up lazily, which two threads must not do at once
from kombu.exceptions import OperationalError

from xenops.bus.amqp import address
from xenops.bus.port import EVENTS_EXCHANGE, JSON, Message
from xenops.errors import Busy, ConnectionLost, NoSuchService, TimedOut

_Connect: Any = Connection  # kombu is half typed
_REPLY_TO = "amq.rabbitmq.reply-to"
_PROBE_S = (0.05, 1.0)
_RETRY_AFTER_MS = 500
_KEPT_EVENTS = 10000


class BlockingBus:
    """A script's connection to the switch at `url`; nothing is connected before it is needed."""

    def __init__(self, url: str) -> None:
        self.address = address(url)
        self._connection: Any = _Connect(url, heartbeat=0, transport_options={"confirm_publish": True})
        self._channel: Any = None
        self._numbers = itertools.count(1)
        self._expected = ""
        self._reply: Message | None = None
        self._returned = False
        self._patterns: list[str] = []
        self._events: deque[Message] = deque(maxlen=_KEPT_EVENTS)
        self._events_channel: Any = None

    def __enter__(self) -> "BlockingBus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye. Idempotent."""
        self._channel = self._events_channel = None
        self._connection.release()

    def call(self, queue: str, request: Message, *, timeout_s: float) -> Message:
        """Send a request and wait for its reply; ends as `xenops.bus.port.Bus.call` does."""
        until = time.monotonic() + timeout_s
        self._expected, self._reply = str(next(self._numbers)), None
        sent, pause = False, _PROBE_S[0]
        while True:
            try:
                channel = self._ready(until)
                self._publish(channel, queue, request, until)
                if not self._returned:
                    sent = True
                    return self._wait(queue, request, until, timeout_s)
            except MessageNacked:
                raise Busy(queue, _RETRY_AFTER_MS) from None
            except (*self._connection.recoverable_connection_errors, ChannelError):
                self._lose()
                if not request.message_id:
                    raise ConnectionLost(self.address) from None
            except (OperationalError, TimeoutError):
                self._lose()
            if time.monotonic() + pause >= until:
                raise TimedOut(queue, timeout_s) if sent else NoSuchService(queue)
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 1.7, _PROBE_S[1])

    def events(
        self, patterns: list[str], timeout_s: float | None = None, *, on_gap: Callable[[], None] | None = None
    ) -> Iterator[Message]:
        """The events that match, from this call on; ends when none has come for `timeout_s`.

        `on_gap` is called when some may have been missed: after a reconnection.
        """
        self._patterns = list(patterns)
        self._events.clear()
        self._listen(time.monotonic() + (timeout_s if timeout_s is not None else 30.0))
        return self._receive(timeout_s, on_gap)

    def _receive(self, timeout_s: float | None, on_gap: Callable[[], None] | None) -> Iterator[Message]:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            while self._events:
                yield self._events.popleft()
                until = None if timeout_s is None else time.monotonic() + timeout_s
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
            except OperationalError:
                self._lose()
                return
            except (*self._connection.recoverable_connection_errors, ChannelError):
                self._lose()

    def _ready(self, until: float) -> Any:
        """The channel for calls; connects if need be."""
        if self._channel is None:
            self._connect(until)
            channel = self._connection.channel()
            channel.events["basic_return"].add(self._on_return)
            channel.basic_consume(_REPLY_TO, no_ack=True, callback=self._on_reply)
            self._channel = channel
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
        left = None if until is None else max(0.1, until - time.monotonic())
        self._connection.connect_timeout = min(left or 10.0, 10.0)
        self._connection.ensure_connection(interval_start=0.05, interval_step=0.2, interval_max=1.0, timeout=left)

    def _publish(self, channel: Any, queue: str, request: Message, until: float) -> None:
        """Hand it to the switch; `_returned` tells whether it came back."""
        self._returned = False
        properties = {"correlation_id": self._expected, "reply_to": _REPLY_TO, "message_id": request.message_id}
        message = channel.prepare_message(
            request.body,
            content_type=request.content_type,
            content_encoding="utf-8" if request.content_type == JSON else "binary",
            headers=request.headers,
            properties={key: value for key, value in properties.items() if value is not None},
        )
        left = max(0.05, until - time.monotonic())
        channel.basic_publish(message, "", queue, mandatory=True, timeout=left, confirm_timeout=left)

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
        self._channel = self._events_channel = None
        self._connection.collect()

    def _on_reply(self, untrusted: Any) -> None:
        if untrusted.properties.get("correlation_id") == self._expected:
            self._reply = _message(untrusted)

    def _on_event(self, untrusted: Any) -> None:
        self._events.append(_message(untrusted))

    def _on_return(self, *_: object) -> None:
        self._returned = True


def _message(untrusted: Any) -> Message:
    body, properties = untrusted.body, untrusted.properties
    return Message(
        body.encode() if isinstance(body, str) else bytes(body),
        str(properties.get("content_type", "")),
        headers=properties.get("application_headers") or {},
        message_id=properties.get("message_id"),
        routing_key=str(untrusted.delivery_info.get("routing_key", "")),
    )
