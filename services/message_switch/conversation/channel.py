# SPDX-License-Identifier: Apache-2.0
"""One channel: what it consumes, and to whom each frame of it goes.

Pure. Methods other than those of every message are looked up in `methods`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from message_switch.access.users import User
from message_switch.conversation.publishing import Publishing
from message_switch.conversation.settling import Unsettled
from message_switch.frames import (
    ACK,
    PUBLISH,
    content,
    decode_method,
    deliver,
    encode_method,
    method_id,
    parse_ack,
    short,
    spec,
)
from message_switch.model.broker import REPLY_TO
from message_switch.model.faults import ChannelFault, Code, ConnectionFault
from message_switch.model.message import Entry
from message_switch.model.queue import Consumer, Queue
from message_switch.model.trace import Peer
from message_switch.switch import Outbox, Switch

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
        self.unsettled = Unsettled()
        self.publishing = Publishing(number, switch, outbox, owner, user, frame_max=frame_max)
        self.last_queue = ""
        self.prefetch = 0
        self._frame_max = frame_max
        self._tag = 0

    # -- frames in ---------------------------------------------------------------------------------------------------

    def on_method(self, untrusted: bytes) -> None:
        """A method frame of this channel."""
        self._expect_method()
        number = method_id(untrusted)
        if number == PUBLISH:
            self.publishing.begin(untrusted)
        elif number == ACK:
            self.unsettled.ack(*parse_ack(untrusted))
        else:
            method = decode_method(untrusted)
            act = self.methods.get(type(method))
            if act is None:
                raise ConnectionFault(Code.NOT_IMPLEMENTED, f"{method.NAME} is not for this switch")
            act(self, method)

    def on_message(self, untrusted: bytes, header: bytes, body: bytes) -> None:
        """A basic.publish with all its content."""
        self._expect_method()
        self.publishing.whole(untrusted, header, body)

    def _expect_method(self) -> None:
        if self.publishing.awaited:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "expected the content of basic.publish, got a method")

    # -- frames out --------------------------------------------------------------------------------------------------

    def send(self, method: Any) -> None:
        """Answer with a method."""
        self.outbox.send(encode_method(self.number, method))

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """See `Sink`."""
        if consumer.queue is None and self.switch.loses_reply(self.outbox):
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
        if self.publishing.reply_name:
            raise ChannelFault(Code.PRECONDITION_FAILED, "reply consumer already set")
        self.publishing.reply_name = f"{REPLY_TO}.{self.broker.unique()}"
        self.broker.repliers[self.publishing.reply_name] = consumer

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
            self.broker.repliers.pop(self.publishing.reply_name, None)
            self.publishing.reply_name = ""
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
        for queue in self.unsettled.give_back():
            queue.pump()
        self.send(spec.Basic.RecoverOk())

    def stop(self) -> None:
        """No more deliveries; `unsettled.give_back` after it hands on what was under way."""
        for tag in list(self.consumers):
            self.cancel(tag)
        self.publishing.stop()
