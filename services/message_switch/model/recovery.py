# SPDX-License-Identifier: Apache-2.0
"""A broker as a list of records, and back: for the journal's compaction and for the next start."""

import logging
from collections.abc import Iterable, Iterator

from message_switch.model import records
from message_switch.model.broker import Broker, stored
from message_switch.model.exchange import KINDS, Exchange
from message_switch.model.message import Message
from message_switch.model.names import RESERVED
from message_switch.model.queue import Queue

log = logging.getLogger(__name__)
_Waiting = dict[str, dict[int, records.Stored]]


def snapshot(broker: Broker) -> Iterator[records.Record]:
    """Everything durable, as the shortest list of records that gives it back."""
    yield records.LastId(broker.last_id)
    kept = [queue for queue in broker.queues.values() if queue.kept]
    durable = [exchange for exchange in broker.exchanges.values() if exchange.durable]
    for exchange in durable:
        if not exchange.name.startswith(RESERVED):
            e = exchange
            yield records.ExchangeDeclared(e.name, e.kind, e.auto_delete, e.internal, e.alternate)
    for queue in kept:
        yield records.QueueDeclared(queue.name, queue.auto_delete, queue.arguments)
    for exchange in durable:
        for key, bound in exchange.bindings.items():
            for each in bound:
                if each.kept:
                    kind = records.ExchangeBound if isinstance(each, Exchange) else records.Bound
                    yield kind(exchange.name, each.name, key)
    # A queue's order is that of these records, so each queue's hold on a message has one of its own.
    for queue in kept:
        for entry in sorted((*queue.held, *queue.ready), key=lambda e: e.position):
            if entry.message.id:
                yield stored(entry.message, [queue.name], entry.at)


def restore(broker: Broker, history: Iterable[records.Record]) -> None:
    """Do again what was written down, without writing it down again."""
    waiting: _Waiting = {}
    for record in history:
        try:
            _redo(broker, record, waiting)
        except KeyError as missing:
            # Only after damage: the record that would have declared it is lost.
            log.error("%s is about %s, which is not known: skipped", type(record).__name__, missing)
    shared: dict[int, Message] = {}
    for name, left in waiting.items():
        for record in left.values():
            message = shared.get(record.id) or _message(record)
            shared[record.id] = message
            broker.queued_bytes += message.size
            # It may have been delivered before we went down, and nobody wrote that down.
            broker.queues[name].push(message, record.at).redelivered = True
    broker.alarm(broker.now)


def _redo(broker: Broker, record: records.Record, waiting: _Waiting) -> None:
    match record:
        case records.QueueDeclared(name, auto_delete, arguments):
            broker.queues[name] = Queue(name, broker, durable=True, auto_delete=auto_delete, arguments=arguments)
            waiting[name] = {}
        case records.QueueDeleted(name):
            del waiting[name]
            _forget(broker, broker.queues.pop(name))
        case records.ExchangeDeclared(name, kind, auto_delete, internal, alternate):
            broker.exchanges[name] = KINDS[kind](name, auto_delete=auto_delete, internal=internal, alternate=alternate)
        case records.ExchangeDeleted(name):
            _forget(broker, broker.exchanges.pop(name))
        case records.ExchangeBound(exchange_name, name, key):
            broker.exchanges[exchange_name].bind(broker.exchanges[name], key)
        case records.ExchangeUnbound(exchange_name, name, key):
            broker.exchanges[exchange_name].unbind(broker.exchanges[name], key)
        case records.Bound(exchange_name, name, key):
            broker.exchanges[exchange_name].bind(broker.queues[name], key)
        case records.Unbound(exchange_name, name, key):
            broker.exchanges[exchange_name].unbind(broker.queues[name], key)
        case records.Stored(number, names):
            broker.last_id = max(broker.last_id, number)
            for name in names:
                if name in waiting:
                    waiting[name][number] = record
                else:  # only after damage, and no reason for the others to lose it as well
                    log.error("a message for queue %s, which is not known, is skipped", name)
        case records.Settled(number, name):
            waiting[name].pop(number, None)
        case records.LastId(number):
            broker.last_id = max(broker.last_id, number)


def _forget(broker: Broker, gone: Queue | Exchange) -> None:
    """What went with it has a record of its own."""
    for exchange in broker.exchanges.values():
        exchange.forget(gone)


def _message(r: records.Stored) -> Message:
    message = Message(
        r.exchange, r.routing_key, r.header, r.body, persistent=True, ttl_ms=r.ttl_ms, deaths=tuple(r.deaths)
    )
    message.id = r.id
    return message
