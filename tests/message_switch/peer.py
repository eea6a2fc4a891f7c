# SPDX-License-Identifier: Apache-2.0
"""Plays the differential test's commands against one broker, through unmodified pika, and keeps what came back."""

import time
from collections.abc import Callable
from typing import Any

import pika
from pika import BasicProperties, exceptions
from pika.adapters.blocking_connection import BlockingChannel

from tests.message_switch import commands as c

REPLY_TO = "amq.rabbitmq.reply-to"
# Longer than any time to live that is drawn and meant to run out.
_OVERDUE_S = 0.06
DEATH = ("count", "reason", "queue", "exchange", "routing-keys", "original-expiration")
Seen = dict[str, Any]


class Peer:
    """Two connections with two channels each to the broker at `url`; names begin with `prefix`, which is not in what is seen."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._connections: dict[int, pika.BlockingConnection] = {}
        self._channels: dict[int, BlockingChannel] = {}
        self._probes: dict[int, BlockingChannel] = {}
        self._prefetch: dict[int, int] = {}
        # By channel: delivery tag to (queue, body), and consumer tag to queue.
        self._held: dict[int, dict[int, tuple[str, str]]] = {}
        self._consumed: dict[int, dict[str, str]] = {}
        self._question: str | None = None
        self._number = 0
        self._log: dict[str, list[Any]] = {}

    def close(self) -> None:
        """Take everything away again."""
        channel = self._probe(0)
        for queue in c.QUEUES:
            for number in (0, 1):
                try:
                    self._probe(number).queue_delete(self._prefix + queue)
                except exceptions.ChannelClosedByBroker:
                    continue  # another connection's own: it goes with that
        channel = self._probe(0)
        for exchange in c.EXCHANGES:
            channel.exchange_delete(self._prefix + exchange)
        for connection in self._connections.values():
            connection.close()

    def play(self, command: c.Command) -> object:
        """Do it, and return what came back at once: a value, or the code of the refusal."""
        who = command.who
        try:
            channel = self._channel(who)
            result = ACTS[type(command)](self, channel, command)
            if channel.is_open:
                channel.basic_qos(prefetch_count=self._prefetch.get(who, 0))  # a refusal would be here by now
            return result
        except exceptions.UnroutableError as returned:
            return ["returned", *(self._message("", m.method, m.properties, m.body) for m in returned.messages)]
        except exceptions.NackError:
            return "nack"
        except exceptions.ChannelClosedByBroker as closed:
            self._forget(who)
            return ("channel", closed.reply_code)
        except exceptions.ConnectionClosedByBroker as closed:
            self._lose(who // 2)
            return ("connection", closed.reply_code)

    def look(self) -> Seen:
        """Everything that came by itself so far, and the queues as they are."""
        for connection in self._connections.values():
            connection.process_data_events(time_limit=0)
        held = {who: sorted(held.values()) for who, held in self._held.items() if held}
        return {"log": dict(self._log), "held": held, "queues": {queue: self._stat(queue) for queue in c.QUEUES}}

    # -- connections and channels ------------------------------------------------------------------------------------

    def _connection(self, number: int) -> pika.BlockingConnection:
        if number not in self._connections:
            self._connections[number] = pika.BlockingConnection(pika.URLParameters(self._url))
        return self._connections[number]

    def _channel(self, who: int) -> BlockingChannel:
        if who not in self._channels:
            channel = self._connection(who // 2).channel()
            if who % 2 == 0:
                channel.confirm_delivery()
            channel.add_on_return_callback(
                lambda _, m, p, body: self._note(f"returns {who}", self._message("", m, p, body))
            )
            channel.add_on_cancel_callback(lambda frame: self._cancelled(who, frame.method.consumer_tag))
            self._channels[who] = channel
            self._held[who] = {}
            self._consumed[who] = {}
            self._prefetch[who] = 0
        return self._channels[who]

    def _probe(self, number: int) -> BlockingChannel:
        if number not in self._probes or not self._probes[number].is_open:
            self._probes[number] = self._connection(number).channel()
        return self._probes[number]

    def _forget(self, who: int) -> None:
        self._channels.pop(who, None)
        self._held.pop(who, None)
        self._consumed.pop(who, None)

    def _lose(self, number: int) -> None:
        for who in (2 * number, 2 * number + 1):
            self._forget(who)
        self._probes.pop(number, None)
        self._connections.pop(number, None)

    def _stat(self, queue: str) -> object:
        answer: object = None
        for number in (0, 1):
            try:
                ok = self._probe(number).queue_declare(self._prefix + queue, passive=True).method
                return (ok.message_count, ok.consumer_count)
            except exceptions.ChannelClosedByBroker as closed:
                answer = closed.reply_code
                if answer != 405:
                    return answer
        return answer

    # -- what comes --------------------------------------------------------------------------------------------------

    def _note(self, where: str, what: object) -> None:
        self._log.setdefault(where, []).append(what)

    def _cancelled(self, who: int, tag: str) -> None:
        self._consumed[who].pop(tag, None)
        self._note(f"cancels {who}", tag)

    def _message(self, queue: str, method: Any, properties: BasicProperties, body: bytes) -> tuple[object, ...]:
        headers = dict(properties.headers or {})
        deaths = [[self._bare(row.get(key)) for key in DEATH] for row in headers.pop("x-death", ())]
        redelivered = getattr(method, "redelivered", None)
        address = (queue, self._bare(method.exchange), self._bare(method.routing_key))
        if properties.reply_to:
            self._question = properties.reply_to
        rest = sorted((key, self._bare(value)) for key, value in headers.items())
        return (*address, body.decode(), redelivered, deaths, rest, properties.expiration, bool(properties.reply_to))

    def _bare(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self._bare(each) for each in value)
        if isinstance(value, str) and value.startswith(REPLY_TO):
            return REPLY_TO
        return value.removeprefix(self._prefix) if isinstance(value, str) else value

    def _name(self, name: str) -> str:
        return self._prefix + name if name in c.QUEUES + c.EXCHANGES else name

    # -- the acts ----------------------------------------------------------------------------------------------------

    def _declare_queue(self, channel: BlockingChannel, it: c.DeclareQueue) -> object:
        arguments = {
            key: self._name(value) if isinstance(value, str) and key.startswith("x-dead") else value
            for key, value in it.arguments.items()
        }
        ok = channel.queue_declare(
            self._name(it.queue),
            passive=it.passive,
            durable=True,
            exclusive=it.exclusive,
            auto_delete=it.auto_delete,
            arguments=arguments,
        ).method
        return (self._bare(ok.queue), ok.message_count, ok.consumer_count)

    def _declare_exchange(self, channel: BlockingChannel, it: c.DeclareExchange) -> object:
        arguments = {} if it.alternate is None else {"alternate-exchange": self._name(it.alternate)}
        options = (it.kind, it.passive, it.durable, it.auto_delete, it.internal)
        channel.exchange_declare(self._name(it.exchange), *options, arguments)
        return "ok"

    def _bind_exchange(self, channel: BlockingChannel, it: c.BindExchange) -> object:
        act = channel.exchange_unbind if it.undo else channel.exchange_bind
        act(self._name(it.destination), self._name(it.source), self._name(it.key))
        return "ok"

    def _bind(self, channel: BlockingChannel, it: c.Bind) -> object:
        act = channel.queue_unbind if it.undo else channel.queue_bind
        act(self._name(it.queue), self._name(it.exchange), self._name(it.key))
        return "ok"

    def _publish(self, channel: BlockingChannel, it: c.Publish) -> object:
        self._number += 1
        properties = BasicProperties(
            delivery_mode=2 if it.persistent else 1,
            expiration=it.expiration,
            priority=it.priority,
            headers=it.headers,
            reply_to=REPLY_TO if it.asks else None,
        )
        body = f"{self._number:03}".ljust(it.size, "x").encode()
        try:
            channel.basic_publish(self._name(it.exchange), self._name(it.key), body, properties, mandatory=it.mandatory)
        finally:
            if it.expiration == "20":
                time.sleep(_OVERDUE_S)
        return "ok"

    def _get(self, channel: BlockingChannel, it: c.Get) -> object:
        method, properties, body = channel.basic_get(self._name(it.queue), auto_ack=it.auto_ack)
        if method is None:
            return "empty"
        if not it.auto_ack:
            self._held[it.who][method.delivery_tag] = (it.queue, body.decode())
        return (*self._message(it.queue, method, properties, body), method.message_count)

    def _consume(self, channel: BlockingChannel, it: c.Consume) -> object:
        if it.tag in self._consumed[it.who]:
            return "pika itself refuses it"

        def came(_: object, method: Any, properties: BasicProperties, body: bytes) -> None:
            if not it.auto_ack:
                self._held[it.who][method.delivery_tag] = (it.queue, body.decode())
            self._note(f"consumer {it.who} {it.tag}", self._message(it.queue, method, properties, body))

        channel.basic_consume(self._name(it.queue), came, it.auto_ack, it.exclusive, it.tag)
        self._consumed[it.who][it.tag] = it.queue
        return "ok"

    def _cancel(self, channel: BlockingChannel, it: c.Cancel) -> object:
        self._consumed[it.who].pop(it.tag, None)
        channel.basic_cancel(it.tag)
        return "ok"

    def _qos(self, channel: BlockingChannel, it: c.Qos) -> object:
        self._prefetch[it.who] = it.prefetch
        return "ok"

    def _settle(self, channel: BlockingChannel, it: c.Settle) -> object:
        held = self._held[it.who]
        if not held:
            return "nothing to settle"
        tag = sorted(held, key=lambda tag: (held[tag], tag))[it.which % len(held)]
        # Which of two queues' messages came first is nobody's promise.
        multiple = it.multiple and it.how != "reject" and len({queue for queue, _ in held.values()}) == 1
        for gone in [t for t in held if t == tag or (multiple and t < tag)]:
            del held[gone]
        _settling(channel, it.how, tag, multiple=multiple, requeue=it.requeue)
        return "ok"

    def _settle_wrongly(self, channel: BlockingChannel, it: c.SettleWrongly) -> object:
        _settling(channel, it.how, 9999, multiple=it.multiple and it.how != "reject", requeue=True)
        return "ok"

    def _recover(self, channel: BlockingChannel, it: c.Recover) -> object:
        self._held[it.who].clear()
        channel.basic_recover(requeue=True)
        return "ok"

    def _listen(self, channel: BlockingChannel, it: c.Listen) -> object:
        if "replies" in self._consumed[it.who]:
            return "pika itself refuses it"

        def came(_: object, method: Any, properties: BasicProperties, body: bytes) -> None:
            self._note(f"replies {it.who}", self._message("", method, properties, body))

        channel.basic_consume(REPLY_TO, came, it.auto_ack, consumer_tag="replies")
        self._consumed[it.who]["replies"] = ""
        return "ok"

    def _reply(self, channel: BlockingChannel, it: c.Reply) -> object:
        if self._question is None:
            return "nobody asked"
        channel.basic_publish("", self._question, b"answer", mandatory=True)
        return "ok"

    def _close_channel(self, channel: BlockingChannel, it: c.CloseChannel) -> object:
        channel.close()
        self._forget(it.who)
        return "ok"

    def _close_connection(self, channel: BlockingChannel, it: c.CloseConnection) -> object:
        self._connections[it.who // 2].close()
        self._lose(it.who // 2)
        return "ok"


def _settling(channel: BlockingChannel, how: str, tag: int, *, multiple: bool, requeue: bool) -> None:
    if how == "ack":
        channel.basic_ack(tag, multiple)
    elif how == "nack":
        channel.basic_nack(tag, multiple, requeue)
    else:
        channel.basic_reject(tag, requeue)


ACTS: dict[type, Callable[[Peer, BlockingChannel, Any], object]] = {
    c.DeclareQueue: Peer._declare_queue,
    c.DeclareExchange: Peer._declare_exchange,
    c.Bind: Peer._bind,
    c.BindExchange: Peer._bind_exchange,
    c.DeleteQueue: lambda peer, channel, it: (
        channel.queue_delete(peer._name(it.queue), it.if_unused, it.if_empty).method.message_count
    ),
    c.DeleteExchange: lambda peer, channel, it: (
        channel.exchange_delete(peer._name(it.exchange), it.if_unused).method.NAME
    ),
    c.Purge: lambda peer, channel, it: channel.queue_purge(peer._name(it.queue)).method.message_count,
    c.Publish: Peer._publish,
    c.Get: Peer._get,
    c.Consume: Peer._consume,
    c.Cancel: Peer._cancel,
    c.Qos: Peer._qos,
    c.Settle: Peer._settle,
    c.SettleWrongly: Peer._settle_wrongly,
    c.Recover: Peer._recover,
    c.Listen: Peer._listen,
    c.Reply: Peer._reply,
    c.CloseChannel: Peer._close_channel,
    c.CloseConnection: Peer._close_connection,
}
