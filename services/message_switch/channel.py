# SPDX-License-Identifier: Apache-2.0
"""One channel: messages in, messages out, and who has settled what.

Pure. Methods other than those of every message are looked up in `methods`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

from message_switch import properties
from message_switch.access.users import User
from message_switch.frames import (
    ACK,
    PUBLISH,
    confirm,
    content,
    decode_method,
    deliver,
    encode_method,
    method_id,
    parse_ack,
    parse_content_header,
    parse_publish,
    refuse,
    short,
    spec,
)
from message_switch.model.broker import REPLY_TO
from message_switch.model.faults import ChannelFault, Code, ConnectionFault
from message_switch.model.message import Entry, Message
from message_switch.model.queue import Consumer, Queue
from message_switch.model.trace import Peer
from message_switch.switch import REPLY_WATER, Outbox, Switch
from xenops.interfaces.switch import SWITCH_QUEUE

_REPLY_TO = REPLY_TO.encode()
_TTL_MAX = (1 << 32) - 1
Unsettled = tuple[Entry, Queue, Consumer | None]
Act = Callable[["Channel", Any], None]


class Channel:
    """See the module. `owner` is the connection, for what is exclusive to it."""

    def __init__(
        self,
        number: int,
        switch: Switch,
        outbox: Outbox,
        owner: Peer,
        user: User,
        *,
        methods: Mapping[type, Act],
        frame_max: int,
        tells_cancel: bool = False,
    ) -> None:
        self.number = number
        self.methods = methods
        self.switch = switch
        self.broker = switch.broker
        self.outbox = outbox
        self.owner = owner
        self.user = user
        self.tells_cancel = tells_cancel
        self.consumers: dict[str, Consumer] = {}
        self.unsettled: dict[int, Unsettled] = {}
        self.last_queue = ""
        self.prefetch = 0
        self.reply_name = ""
        self._frame_max = frame_max
        self._tag = 0
        self._confirming = False
        self._published = 0
        self._unconfirmed: deque[tuple[int, int]] = deque()
        self._publish: tuple[str, str, bool] | None = None
        self._header: dict[int, bytes] | None = None
        self._raw_header = b""
        self._body: list[bytes] = []
        self._missing = 0

    # -- frames in ---------------------------------------------------------------------------------------------------

    def on_method(self, untrusted: bytes) -> None:
        """A method frame of this channel."""
        if self._publish is not None:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "expected the content of basic.publish, got a method")
        number = method_id(untrusted)
        if number == PUBLISH:
            exchange, key, mandatory, immediate = parse_publish(untrusted)
            if immediate:
                raise ConnectionFault(Code.NOT_IMPLEMENTED, "immediate=true")
            self._publish = (exchange, key, mandatory)
        elif number == ACK:
            self._ack(*parse_ack(untrusted))
        else:
            method = decode_method(untrusted)
            act = self.methods.get(type(method))
            if act is None:
                raise ConnectionFault(Code.NOT_IMPLEMENTED, f"{method.NAME} is not for this switch")
            act(self, method)

    def on_header(self, untrusted: bytes) -> None:
        """A content header frame."""
        if self._publish is None or self._header is not None:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "content header without basic.publish")
        size, self._raw_header = parse_content_header(untrusted)
        if size > self.switch.limits.body_max:
            raise ChannelFault(
                Code.PRECONDITION_FAILED, f"message size {size} is larger than max size {self.switch.limits.body_max}"
            )
        self._header = properties.split(self._raw_header)
        self._missing = size
        if not size:
            self._complete(b"")

    def on_body(self, untrusted: bytes) -> None:
        """A piece of content."""
        if self._header is None:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "content body without its header")
        self._missing -= len(untrusted)
        if self._missing < 0:
            raise ConnectionFault(Code.FRAME_ERROR, "more content than its header said")
        if self._missing:
            self._body.append(untrusted)
        elif self._body:
            body, self._body = b"".join((*self._body, untrusted)), []
            self._complete(body)
        else:
            self._complete(untrusted)

    def _complete(self, body: bytes) -> None:
        assert self._publish is not None
        assert self._header is not None
        exchange, key, mandatory = self._publish
        parts = self._header
        self._publish = self._header = None
        self.user.may("write", "exchange", exchange)
        target = self.broker.publishable(exchange)
        if properties.USER_ID in parts and (said := properties.text(parts, properties.USER_ID)) != self.user.name:
            raise ChannelFault(
                Code.PRECONDITION_FAILED,
                f"user_id property set to '{said}' but authenticated user was '{self.user.name}'",
            )
        message = Message(
            exchange,
            key,
            self._addressed(parts),
            body,
            persistent=parts.get(properties.DELIVERY_MODE) == properties.PERSISTENT,
            ttl_ms=self._ttl(parts) if properties.EXPIRATION in parts else None,
        )
        if key == SWITCH_QUEUE and not self.switch.may_publish(self.user, exchange, key):
            raise ChannelFault(Code.ACCESS_REFUSED, f"user '{self.user.name}' is no administrator")
        if self.broker.trace.on:
            self.broker.trace.published(message, self)
        outcome = self.broker.publish(message, target)
        if mandatory and not outcome.routed:
            self._return(message)
        if self._confirming:
            self._published += 1
            if not outcome.accepted:
                self.outbox.send(refuse(self.number, self._published))
            elif outcome.wait_for > self.switch.synced:
                self._unconfirmed.append((self._published, outcome.wait_for))
                self.switch.waiting[self] = None
            else:
                self.broker.count.confirmed += 1
                self.outbox.send(confirm(self.number, self._published))

    def _addressed(self, parts: dict[int, bytes]) -> bytes:
        """Properties as they came, unless the answer is to come straight back to this channel."""
        reply_to = parts.get(properties.REPLY_TO)
        if reply_to is None or reply_to[1:] != _REPLY_TO:
            return self._raw_header
        if not self.reply_name:
            raise ChannelFault(Code.PRECONDITION_FAILED, "fast reply consumer does not exist")
        return properties.with_reply_to(parts, self.reply_name)

    def _ttl(self, parts: dict[int, bytes]) -> int:
        text = properties.text(parts, properties.EXPIRATION) or ""
        if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _TTL_MAX):
            raise ChannelFault(Code.PRECONDITION_FAILED, f"invalid expiration '{text}'")
        return int(text)

    # -- frames out --------------------------------------------------------------------------------------------------

    def send(self, method: Any) -> None:
        """Answer with a method."""
        self.outbox.send(encode_method(self.number, method))

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """See `Sink`."""
        if consumer.queue is None and self.outbox.behind > REPLY_WATER:
            return
        self._tag = tag = self._tag + 1
        if not consumer.no_ack and consumer.queue is not None:
            self.unsettled[tag] = (entry, consumer.queue, consumer)
        message = entry.message
        self.broker.count.delivered += 1
        self.outbox.deliver(
            deliver(
                self.number,
                short(consumer.tag),
                tag,
                entry.redelivered,
                short(message.exchange) + short(message.routing_key),
            ),
            content(self.number, message.header, message.body, self._frame_max),
            len(message.header) + len(message.body),
        )
        if consumer.queue is not None and self.broker.trace.on:
            self.broker.trace.delivered(entry, consumer.queue, self)

    def cancelled(self, consumer: Consumer) -> None:
        """See `Sink`."""
        del self.consumers[consumer.tag]
        if self.tells_cancel:
            self.send(spec.Basic.Cancel(consumer_tag=consumer.tag, nowait=True))

    def synced(self, up_to: int) -> bool:
        """See `Waiting`; one answer for all that became safe together."""
        last = count = 0
        while self._unconfirmed and self._unconfirmed[0][1] <= up_to:
            last = self._unconfirmed.popleft()[0]
            count += 1
        if count:
            self.broker.count.confirmed += count
            self.outbox.send(confirm(self.number, last, multiple=count > 1))
        return bool(self._unconfirmed)

    def _return(self, message: Message) -> None:
        self.send(spec.Basic.Return(Code.NO_ROUTE.value, "NO_ROUTE", message.exchange, message.routing_key))
        for part in content(self.number, message.header, message.body, self._frame_max):
            self.outbox.send(part)

    # -- settling ----------------------------------------------------------------------------------------------------

    def _ack(self, tag: int, multiple: bool) -> None:
        if not multiple:
            held = self.unsettled.pop(tag, None)
            if held is None:
                raise _unknown(tag)
            entry, queue, consumer = held
            queue.settle(entry)
            if consumer is not None:
                consumer.unsettled -= 1
            if queue.ready:
                queue.pump()
            return
        touched = self._take(tag, multiple=True)
        for entry, queue, _ in touched:
            queue.settle(entry)
        _pump(touched)

    def _take(self, tag: int, *, multiple: bool) -> list[Unsettled]:
        if multiple and tag == 0:
            tags = list(self.unsettled)
        elif tag not in self.unsettled:
            raise _unknown(tag)
        else:
            tags = list(takewhile(lambda t: t <= tag, self.unsettled)) if multiple else [tag]
        taken = [self.unsettled.pop(t) for t in tags]
        for _, _, consumer in taken:
            if consumer is not None:
                consumer.unsettled -= 1
        return taken

    def give_back(self, tag: int = 0, *, multiple: bool = True) -> list[Queue]:
        """Requeue what is unsettled; the queues that then want to be pumped."""
        queues: dict[Queue, list[Entry]] = {}
        for entry, queue, _ in self._take(tag, multiple=multiple):
            queues.setdefault(queue, []).append(entry)
        for queue, entries in queues.items():
            queue.requeue(entries)
        return list(queues)

    def reject(self, tag: int, *, multiple: bool, requeue: bool) -> None:
        """basic.nack and basic.reject."""
        if requeue:
            for queue in self.give_back(tag, multiple=multiple):
                queue.pump()
            return
        touched = self._take(tag, multiple=multiple)
        for entry, queue, _ in touched:
            queue.reject(entry)
        _pump(touched)

    def confirm_select(self, method: Any) -> None:
        """Publisher confirms, from here on."""
        self._confirming = True
        if not method.nowait:
            self.send(spec.Confirm.SelectOk())

    # -- consuming ---------------------------------------------------------------------------------------------------

    def consume(self, method: Any) -> None:
        """basic.consume."""
        tag = method.consumer_tag or "amq.ctag-" + self.broker.unique()
        if tag in self.consumers:
            raise ConnectionFault(Code.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
        consumer = Consumer(
            tag, self, self.outbox, no_ack=method.no_ack, prefetch=self.prefetch, exclusive=method.exclusive
        )
        if method.queue == REPLY_TO:
            self._expect_replies(consumer)
            queue = None
        else:
            queue = self.readable(method.queue)
            self.broker.consume(queue, consumer)
        self.consumers[tag] = consumer
        if not method.nowait:
            self.send(spec.Basic.ConsumeOk(consumer_tag=tag))
        if queue is not None:
            queue.pump()

    def _expect_replies(self, consumer: Consumer) -> None:
        if not consumer.no_ack:
            raise ChannelFault(Code.PRECONDITION_FAILED, "reply consumer cannot acknowledge")
        if self.reply_name:
            raise ChannelFault(Code.PRECONDITION_FAILED, "reply consumer already set")
        self.reply_name = f"{REPLY_TO}.{self.broker.unique()}"
        self.broker.repliers[self.reply_name] = consumer

    def named(self) -> str:
        """The queue last declared here, which a method without a queue means."""
        if not self.last_queue:
            raise ChannelFault(Code.NOT_FOUND, "no previously declared queue")
        return self.last_queue

    def queue(self, name: str) -> Queue:
        """The queue that a method means: without a name, the one last declared here."""
        return self.broker.queue(name or self.named(), self.owner)

    def readable(self, name: str) -> Queue:
        """The same, if this user may take messages from it."""
        self.user.may("read", "queue", name or self.named())
        return self.queue(name)

    def cancel(self, tag: str) -> None:
        """What it holds stays unsettled."""
        consumer = self.consumers.pop(tag, None)
        if consumer is None:
            return
        if consumer.queue is None:
            self.broker.repliers.pop(self.reply_name, None)
            self.reply_name = ""
        self.broker.leave(consumer)

    def get(self, method: Any) -> None:
        """basic.get."""
        queue = self.readable(method.queue)
        if (entry := queue.get(no_ack=method.no_ack)) is None:
            self.send(spec.Basic.GetEmpty())
            return
        self._tag += 1
        if not method.no_ack:
            self.unsettled[self._tag] = (entry, queue, None)
        message = entry.message
        self.broker.count.delivered += 1
        self.send(
            spec.Basic.GetOk(self._tag, entry.redelivered, message.exchange, message.routing_key, len(queue.ready))
        )
        for part in content(self.number, message.header, message.body, self._frame_max):
            self.outbox.send(part)
        if self.broker.trace.on:
            self.broker.trace.delivered(entry, queue, self)

    def qos(self, method: Any) -> None:
        """basic.qos: for consumers that start after it."""
        if method.global_qos:
            raise ConnectionFault(Code.NOT_IMPLEMENTED, "basic.qos with global=true: set a prefetch per consumer")
        if method.prefetch_size:
            raise ConnectionFault(Code.NOT_IMPLEMENTED, f"prefetch_size!=0 ({method.prefetch_size})")
        self.prefetch = method.prefetch_count
        self.send(spec.Basic.QosOk())

    def recover(self, method: Any) -> None:
        """basic.recover: everything unsettled goes back to its queue."""
        if not method.requeue:
            raise ConnectionFault(Code.NOT_IMPLEMENTED, "requeue=false")
        for queue in self.give_back():
            queue.pump()
        self.send(spec.Basic.RecoverOk())

    def stop(self) -> None:
        """No more deliveries; `give_back` after it hands on what was under way."""
        for tag in list(self.consumers):
            self.cancel(tag)
        self.switch.waiting.pop(self, None)


def _unknown(tag: int) -> ChannelFault:
    return ChannelFault(Code.PRECONDITION_FAILED, f"unknown delivery tag {tag}")


def _pump(touched: list[Unsettled]) -> None:
    for queue in {queue: None for _, queue, _ in touched}:
        queue.pump()
