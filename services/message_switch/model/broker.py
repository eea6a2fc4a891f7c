# SPDX-License-Identifier: Apache-2.0
"""The switch without its connections: what is declared, who is bound to whom, where a message goes.

Pure: the rim sets `now` before each call and sweeps when `alarm` asks for it; what must survive is told to the ledger.
"""

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from message_switch.model import records
from message_switch.model.arguments import named, parse_arguments
from message_switch.model.exchange import Exchange, Exchanges, predeclared
from message_switch.model.faults import ChannelFault, Code, ConnectionFault
from message_switch.model.message import Death, Entry, Message
from message_switch.model.names import equivalent, not_reserved
from message_switch.model.queue import FOREVER, Consumer, Queue
from message_switch.model.trace import Trace
from message_switch.properties import with_deaths

REPLY_TO = "amq.rabbitmq.reply-to"
# Shares of the memory: from where publishers are asked to wait, and from where they may go on.
_CROWDED, _RELIEVED = 0.8, 0.6


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    published: int = 0
    delivered: int = 0
    confirmed: int = 0
    unroutable: int = 0
    refused: int = 0
    dead_lettered: int = 0


@dataclass(slots=True, frozen=True)
class Outcome:
    """What became of a published message; with `wait_for`, only once the ledger has synced up to that number."""

    routed: bool = True
    accepted: bool = True
    wait_for: int = 0


ROUTED, UNROUTABLE, REFUSED = Outcome(), Outcome(routed=False), Outcome(accepted=False)


@dataclass
class Broker:
    """See the module."""

    ledger: records.Ledger = field(default_factory=records.Nowhere)
    now: float = 0.0
    bytes_max: int = 1 << 30
    alarm_clock: Callable[[float], None] = lambda at: None
    on_crowded: Callable[[], None] = lambda: None
    unique: Callable[[], str] = lambda: secrets.token_urlsafe(16)
    queues: dict[str, Queue] = field(default_factory=dict)
    exchanges: Exchanges = field(init=False)
    repliers: dict[str, Consumer] = field(default_factory=dict)
    count: Counters = field(default_factory=Counters)
    queued_bytes: int = 0
    short_of: dict[str, None] = field(default_factory=dict)
    last_id: int = 0

    def __post_init__(self) -> None:
        self.trace = Trace(self._routed)
        self.exchanges = Exchanges(self.ledger, (*predeclared(), self.trace.exchange))

    # -- queues ------------------------------------------------------------------------------------------------------

    def queue(self, name: str, owner: object) -> Queue:
        """The queue of that name; 404 if there is none, 405 if it belongs to another connection."""
        if (found := self.queues.get(name)) is None:
            raise ChannelFault(Code.NOT_FOUND, f"no queue '{name}' in vhost '/'")
        if found.owner is not None and found.owner is not owner:
            raise _locked(name)
        return found

    def fresh_name(self) -> str:
        """For a queue whose name is nobody's concern."""
        return "amq.gen-" + self.unique()

    def declare_queue(
        self,
        name: str,
        owner: object,
        *,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        untrusted: dict[str, object],
        server_named: bool = False,
    ) -> Queue:
        """Make it, or check that what is there is the same; a server-named one has a `fresh_name`."""
        arguments = parse_arguments(untrusted)
        if name in self.queues:
            old = self.queue(name, owner)
            if (old.owner is not None) != exclusive:
                raise _locked(name)
            current = {"durable": old.durable, "auto_delete": old.auto_delete} | named(old.arguments)
            equivalent("queue", name, {"durable": durable, "auto_delete": auto_delete} | named(arguments), current)
            old.used_at = self.now
            return old
        if not server_named:
            not_reserved("queue", name)
        if not durable and not exclusive:
            raise _transient()
        queue = Queue(
            name,
            self,
            durable=durable,
            auto_delete=auto_delete,
            owner=owner if exclusive else None,
            arguments=arguments,
            server_named=server_named,
        )
        self.queues[queue.name] = queue
        self.alarm(queue.due_at())
        if queue.kept:
            self.ledger.note(records.QueueDeclared(queue.name, auto_delete, arguments))
        return queue

    def delete_queue(self, queue: Queue, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Returns how many messages went with it; its consumers are told."""
        if if_unused and queue.consumers:
            raise ChannelFault(Code.PRECONDITION_FAILED, f"queue '{queue.name}' in vhost '/' in use")
        if if_empty and queue.ready:
            raise ChannelFault(Code.PRECONDITION_FAILED, f"queue '{queue.name}' in vhost '/' is not empty")
        if queue.deleted:
            return 0
        queue.deleted = True
        count = len(queue.ready)
        del self.queues[queue.name]
        if queue.kept:
            self.ledger.note(records.QueueDeleted(queue.name))
        self._forget(sum(entry.message.size for entry in (*queue.ready, *queue.held)))
        queue.ready.clear()
        queue.held.clear()
        self.exchanges.forget(queue)
        for consumer in list(queue.consumers):
            queue.consumers.remove(consumer)
            consumer.sink.cancelled(consumer)
        return count

    def consume(self, queue: Queue, consumer: Consumer) -> None:
        """Put a consumer to work; 403 if somebody has, or asks for, the queue alone."""
        if queue.consumers and (consumer.exclusive or queue.consumers[0].exclusive):
            raise ChannelFault(Code.ACCESS_REFUSED, f"queue '{queue.name}' in vhost '/' in exclusive use")
        queue.add(consumer)

    def leave(self, consumer: Consumer) -> None:
        """A consumer stops; the last one takes an auto-delete queue with it."""
        queue = consumer.queue
        if queue is None or queue.deleted:
            return
        queue.remove(consumer)
        if queue.auto_delete and not queue.consumers:
            self.delete_queue(queue)

    # -- messages ----------------------------------------------------------------------------------------------------

    def publishable(self, name: str) -> Exchange | None:
        """The exchange that somebody publishes to; None for the default one, where the queues themselves are the keys."""
        if name == "":
            return None
        exchange = self.exchanges.known(name)
        if exchange.internal:
            raise ChannelFault(Code.ACCESS_REFUSED, f"cannot publish to internal exchange '{name}' in vhost '/'")
        return exchange

    def publish(self, message: Message, exchange: Exchange | None) -> Outcome:
        """Send a message where its exchange (see `publishable`) and routing key say."""
        self.count.published += 1
        if exchange is not None:
            return self._enqueue(message, self.exchanges.route(exchange, message.routing_key))
        queue = self.queues.get(message.routing_key)
        if queue is None:
            return self._reply(message)
        return self._enqueue(message, (queue,))

    def _routed(self, message: Message) -> list[str]:
        if message.exchange:
            return [queue.name for queue in self.exchanges.route(self.exchanges[message.exchange], message.routing_key)]
        return [message.routing_key]  # whether there is such a queue or not, as in RabbitMQ

    def _reply(self, message: Message) -> Outcome:
        consumer = self.repliers.get(message.routing_key)
        if consumer is None:
            self.count.unroutable += 1
            return UNROUTABLE
        consumer.sink.deliver(consumer, Entry(message, 0, self.now, FOREVER))
        return ROUTED

    def _enqueue(self, message: Message, queues: Collection[Queue], *, moves: bool = False) -> Outcome:
        """To these queues, as far as they take it; what only `moves` was taken in before, and is not refused for lack of memory."""
        if not queues:
            self.count.unroutable += 1
            return UNROUTABLE
        takers = [queue for queue in queues if not queue.refuses()]
        if not moves and self.queued_bytes + message.size * len(takers) > self.bytes_max:
            takers = []
        outcome = ROUTED if len(takers) == len(queues) else REFUSED
        if outcome is REFUSED:
            self.count.refused += 1
        if message.persistent and (kept := [queue.name for queue in takers if queue.kept]):
            self._store(message, kept)
        for queue in takers:
            self.queued_bytes += message.size
            queue.push(message)
        if message.holds > 0:
            # What somebody has in hand already is often settled at once, and then never written.
            if any(queue.kept and queue.ready for queue in takers):
                self.ledger.hurry()
            outcome = Outcome(accepted=outcome.accepted, wait_for=message.noted)
        if self.queued_bytes > self.bytes_max * _CROWDED and "memory" not in self.short_of:
            self.lack("memory", True)
        return outcome

    def _store(self, message: Message, queues: list[str]) -> None:
        self.last_id += 1
        message.id = self.last_id
        message.holds = len(queues)
        message.noted = self.ledger.note(stored(message, queues, self.now))

    def settled(self, queue: Queue, entry: Entry) -> None:
        """See `Upkeep`."""
        message = entry.message
        self._forget(message.size)
        if not message.id or not queue.kept:
            return
        message.holds -= 1
        if message.holds or not self.ledger.forget(message.noted):
            self.ledger.note(records.Settled(message.id, queue.name))
        if not message.holds and message.on_safe is not None:
            message.on_safe()

    def lack(self, what: str, on: bool) -> None:
        """We are short of memory or disk, or no longer: `on_crowded` has publishers wait while there is anything in `short_of`."""
        if on:
            self.short_of[what] = None
        else:
            self.short_of.pop(what, None)
        self.on_crowded()

    def _forget(self, size: int) -> None:
        self.queued_bytes -= size
        if "memory" in self.short_of and self.queued_bytes < self.bytes_max * _RELIEVED:
            self.lack("memory", False)

    def discard(self, queue: Queue, entry: Entry, reason: str) -> None:
        """See `Upkeep`; as in RabbitMQ, a message that goes round without anybody rejecting it is dropped."""
        where = queue.arguments.dead_letter_exchange
        if where is not None and (where == "" or where in self.exchanges):
            self.count.dead_lettered += 1
            dead = self._dead_letter(queue, entry, reason, where)
            targets: Collection[Queue]
            if where == "":
                target = self.queues.get(dead.routing_key)
                targets = () if target is None else (target,)
            else:
                targets = self.exchanges.route(self.exchanges[where], dead.routing_key)
            onward = [target for target in targets if not _in_circle(dead.deaths, target.name)]
            self._enqueue(dead, onward, moves=True)
            self._moved(queue, entry.message)
        else:
            self.settled(queue, entry)

    def _moved(self, queue: Queue, message: Message) -> None:
        """It lives on elsewhere: until that is safe, what is written down here is what brings it back."""
        self._forget(message.size)
        if message.id and queue.kept:
            self.ledger.note(records.Settled(message.id, queue.name))

    def _dead_letter(self, queue: Queue, entry: Entry, reason: str, where: str) -> Message:
        old = entry.message
        seen = next((d for d in old.deaths if d.queue == queue.name and d.reason == reason), None)
        count = 1 if seen is None else seen.count + 1
        death = Death(queue.name, reason, count, self.now, old.exchange, old.routing_key)
        deaths = (death, *(d for d in old.deaths if d is not seen))
        key = queue.arguments.dead_letter_routing_key
        header = with_deaths(old.header, deaths, old.ttl_ms)
        key = old.routing_key if key is None else key
        return Message(where, key, header, old.body, persistent=old.persistent, deaths=deaths)

    # -- time --------------------------------------------------------------------------------------------------------

    def alarm(self, at: float) -> None:
        """See `Upkeep`."""
        if at < FOREVER:
            self.alarm_clock(at)

    def sweep(self) -> float:
        """Let go of what is too old; returns when to come again."""
        for queue in list(self.queues.values()):
            if queue.deleted:
                continue
            queue.expire()
            expires = queue.arguments.expires
            if expires is not None and not queue.consumers and self.now >= queue.used_at + expires / 1000:
                self.delete_queue(queue)
        return min((queue.due_at() for queue in self.queues.values()), default=FOREVER)


def _locked(name: str) -> ChannelFault:
    return ChannelFault(Code.RESOURCE_LOCKED, f"cannot obtain exclusive access to locked queue '{name}' in vhost '/'")


def _transient() -> ConnectionFault:
    return ConnectionFault(
        Code.INTERNAL_ERROR,
        "Feature `transient_nonexcl_queues` is not permitted: declare the queue durable (with x-expires if it should go "
        "away) or exclusive",
    )


def stored(message: Message, queues: list[str], at: float) -> records.Stored:
    """As it is written down."""
    m = message
    return records.Stored(m.id, queues, at, m.exchange, m.routing_key, m.header, m.body, m.ttl_ms, m.deaths)


def _in_circle(deaths: tuple[Death, ...], name: str) -> bool:
    for death in deaths:
        if death.reason == "rejected":
            return False
        if death.queue == name:
            return True
    return False
