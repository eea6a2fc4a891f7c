# SPDX-License-Identifier: Apache-2.0
"""What a channel does on each method but the two of every message: a table of functions of a channel and a method. Pure."""

from typing import Any

from message_switch.access.users import User
from message_switch.conversation.channel import Act, Channel
from message_switch.frames import spec
from message_switch.model.arguments import parse_alternate
from message_switch.model.broker import REPLY_TO
from message_switch.model.faults import ChannelFault, Code, ConnectionFault
from message_switch.model.names import not_default
from message_switch.model.trace import TRACE


def exchange_declare(channel: Channel, method: Any) -> None:
    """exchange.declare."""
    if method.passive:
        if method.exchange:
            channel.broker.exchanges.known(method.exchange)
    else:
        alternate = parse_alternate(method.arguments or {})
        channel.user.may("configure", "exchange", method.exchange)
        if alternate is not None:
            _not_traced(alternate)
            channel.user.may("read", "exchange", method.exchange)
            channel.user.may("write", "exchange", alternate)
        channel.broker.exchanges.declare(
            method.exchange,
            method.type,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            alternate=alternate,
        )
    if not method.nowait:
        channel.send(spec.Exchange.DeclareOk())


def exchange_delete(channel: Channel, method: Any) -> None:
    """exchange.delete."""
    channel.user.may("configure", "exchange", method.exchange)
    channel.broker.exchanges.delete(method.exchange, if_unused=method.if_unused)
    if not method.nowait:
        channel.send(spec.Exchange.DeleteOk())


def exchange_bind(channel: Channel, method: Any) -> None:
    """exchange.bind: what comes to the source with a key that fits goes on to the destination."""
    destination = _may_join(channel, method)
    exchanges = channel.broker.exchanges
    exchanges.bind(method.source, exchanges.known(destination), method.routing_key)
    if not method.nowait:
        channel.send(spec.Exchange.BindOk())


def exchange_unbind(channel: Channel, method: Any) -> None:
    """exchange.unbind; of what is not there, nothing, as in RabbitMQ."""
    destination = channel.broker.exchanges.get(_may_join(channel, method))
    if destination is not None and method.source in channel.broker.exchanges:
        channel.broker.exchanges.unbind(method.source, destination, method.routing_key)
    if not method.nowait:
        channel.send(spec.Exchange.UnbindOk())


def queue_declare(channel: Channel, method: Any) -> None:
    """queue.declare; a direct reply-to name can be declared to learn whether somebody still waits there."""
    name, ready, consumers = method.queue, 0, 1
    if name.startswith(REPLY_TO):
        if name != REPLY_TO and name not in channel.broker.repliers:
            raise ChannelFault(Code.NOT_FOUND, f"no queue '{name}' in vhost '/'")
    else:
        if method.passive:
            queue = channel.queue(name)
            queue.used_at = channel.broker.now
        else:
            name = name or channel.broker.fresh_name()
            _may_declare(channel.user, name, method.arguments or {})
            queue = channel.broker.declare_queue(
                name,
                channel.owner,
                durable=method.durable,
                exclusive=method.exclusive,
                auto_delete=method.auto_delete,
                server_named=not method.queue,
                untrusted=method.arguments or {},
            )
        queue.expire()
        name, ready, consumers = queue.name, len(queue.ready), len(queue.consumers)
    channel.last_queue = name
    if not method.nowait:
        channel.send(spec.Queue.DeclareOk(name, ready, consumers))


def queue_bind(channel: Channel, method: Any) -> None:
    """queue.bind; without queue and key, the key is the name of the queue last declared."""
    not_default(method.exchange)
    _may_bind(channel, method)
    channel.broker.exchanges.known(method.exchange)  # what is not there is told before whose the rest is
    channel.broker.exchanges.bind(method.exchange, channel.queue(method.queue), _key(channel, method))
    if not method.nowait:
        channel.send(spec.Queue.BindOk())


def queue_unbind(channel: Channel, method: Any) -> None:
    """queue.unbind; of what is not there, nothing, as in RabbitMQ."""
    not_default(method.exchange)
    _may_bind(channel, method)
    name, key, broker = method.queue or channel.named(), _key(channel, method), channel.broker
    queue, exchange = broker.queues.get(name), broker.exchanges.get(method.exchange)
    if queue is not None and exchange is not None and exchange.has(queue, key):
        broker.exchanges.unbind(method.exchange, channel.queue(name), key)
    channel.send(spec.Queue.UnbindOk())


def queue_purge(channel: Channel, method: Any) -> None:
    """queue.purge."""
    count = channel.readable(method.queue).purge()
    if not method.nowait:
        channel.send(spec.Queue.PurgeOk(count))


def queue_delete(channel: Channel, method: Any) -> None:
    """queue.delete; of a queue that is not there, nothing, as in RabbitMQ."""
    count = 0
    channel.user.may("configure", "queue", method.queue or channel.named())
    if not method.queue or method.queue in channel.broker.queues:
        count = channel.broker.delete_queue(
            channel.queue(method.queue), if_unused=method.if_unused, if_empty=method.if_empty
        )
    if not method.nowait:
        channel.send(spec.Queue.DeleteOk(count))


def _key(channel: Channel, method: Any) -> str:
    key: str = method.routing_key
    return channel.last_queue if not method.queue and not key else key


def _may_declare(user: User, name: str, arguments: dict[str, object]) -> None:
    """Who has dead letters sent somewhere must be allowed to send them there."""
    user.may("configure", "queue", name)
    dead = arguments.get("x-dead-letter-exchange")
    if isinstance(dead, str):
        _not_traced(dead)
        user.may("read", "queue", name)
        user.may("write", "exchange", dead)


def _may_bind(channel: Channel, method: Any) -> None:
    channel.user.may("write", "queue", method.queue or channel.named())
    channel.user.may("read", "exchange", method.exchange)
    if method.exchange == TRACE and not channel.user.administrator:
        raise ChannelFault(Code.ACCESS_REFUSED, f"user '{channel.user.name}' is no administrator: only one may trace")


def _may_join(channel: Channel, method: Any) -> str:
    destination: str = method.destination
    for name in (destination, method.source):
        not_default(name)
        _not_traced(name)
    channel.user.may("write", "exchange", destination)
    channel.user.may("read", "exchange", method.source)
    return destination


def _not_traced(name: str) -> None:
    """A trace shows what was said, and to nobody but an administrator: nothing else comes or goes by it."""
    if name == TRACE:
        raise ChannelFault(Code.ACCESS_REFUSED, f"exchange '{name}' takes nothing from elsewhere and gives nothing on")


def _cancel(channel: Channel, method: Any) -> None:
    channel.cancel(method.consumer_tag)
    if not method.nowait:
        channel.send(spec.Basic.CancelOk(consumer_tag=method.consumer_tag))


def _confirm_select(channel: Channel, method: Any) -> None:
    channel.publishing.confirm_select()
    if not method.nowait:
        channel.send(spec.Confirm.SelectOk())


def _flow(channel: Channel, method: Any) -> None:
    if not method.active:
        raise ConnectionFault(Code.NOT_IMPLEMENTED, "active=false")
    channel.send(spec.Channel.FlowOk(active=True))


METHODS: dict[type, Act] = {
    spec.Basic.Consume: Channel.consume,
    spec.Basic.Cancel: _cancel,
    spec.Basic.CancelOk: lambda channel, method: None,
    spec.Basic.Get: Channel.get,
    spec.Basic.Nack: lambda channel, m: channel.unsettled.reject(
        m.delivery_tag, multiple=m.multiple, requeue=m.requeue
    ),
    spec.Basic.Reject: lambda channel, m: channel.unsettled.reject(m.delivery_tag, multiple=False, requeue=m.requeue),
    spec.Basic.Qos: Channel.qos,
    spec.Basic.Recover: Channel.recover,
    spec.Channel.Flow: _flow,
    spec.Confirm.Select: _confirm_select,
    spec.Exchange.Declare: exchange_declare,
    spec.Exchange.Delete: exchange_delete,
    spec.Exchange.Bind: exchange_bind,
    spec.Exchange.Unbind: exchange_unbind,
    spec.Queue.Declare: queue_declare,
    spec.Queue.Bind: queue_bind,
    spec.Queue.Unbind: queue_unbind,
    spec.Queue.Purge: queue_purge,
    spec.Queue.Delete: queue_delete,
}
